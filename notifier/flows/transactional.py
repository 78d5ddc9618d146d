"""A single notice: one mail to one address, outside any campaign, in the lane that never waits.

It is a message like any other. It waits without a batch until a worker of the lane gathers what
waits, a few milliseconds later.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.domain import campaigns, messages
from notifier.domain.campaigns import Terms
from notifier.domain.messages import REPLACED, Notice
from notifier.domain.templates import freeze
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template
from notifier.services import Services
from notifier.states import InDoubtPolicy, Lane

LANE = Lane.NOTICE

__all__ = [
    "LANE",
    "REPLACED",
    "Notice",
    "campaign_for",
    "campaign_of",
    "queue_notices",
    "terms_of",
    "withdrawn",
]


def terms_of(
    services: Services,
    template: Template,
    *,
    sender: Sender | None = None,
    data: Mapping[str, Any] | None = None,
    sandbox: bool = False,
) -> Terms:
    """Return the terms on which single notices of a template are sent."""
    topic = services.topics[template.topic]
    return Terms(
        title=template.title["vi"],
        topic=topic.info,
        lane=LANE,
        sender=sender or services.sender,
        data=dict(data or {}),
        in_doubt=InDoubtPolicy(topic.in_doubt),
        sandbox=sandbox,
    )


def campaign_for(session: Session, services: Services, template: Template, terms: Terms) -> int:
    """Return the endless campaign of these terms and this template version; made when missing."""
    now = services.clock()
    version = freeze(session, template, now)
    return campaigns.transactional(session, template, terms, version, now=now)


def campaign_of(services: Services, name: str, *, sandbox: bool = False) -> int:
    """Return the endless campaign of the template `name`, looked up once.

    It is made in a transaction of its own, and known only once it is there.
    """
    template = services.catalogue[name]
    found = services.transactional.get((template.version, sandbox))
    if found is None:
        with services.session() as session:
            session.execute(text("SET LOCAL lock_timeout = '3s'"))
            terms = terms_of(services, template, sandbox=sandbox)
            found = campaign_for(session, services, template, terms)
        services.transactional[template.version, sandbox] = found
    return found


def withdrawn(planned: Notice) -> Notice:
    """Return the notice as one that is recorded and never sent."""
    return replace(planned, withdrawn=True)


def queue_notices(session: Session, notices: Sequence[Notice]) -> list[uuid.UUID]:
    """Plan one mail each in the caller's transaction; return the messages' ids in order.

    After the commit call `queues.enqueue_gather_soon(LANE)`.
    """
    return messages.queue(session.connection(), notices)
