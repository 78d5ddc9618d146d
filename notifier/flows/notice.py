"""A single notice: one mail to one address, outside any campaign, in the lane that campaigns never hold up.

It is a message like any other. It waits without a batch until a worker of the lane gathers what waits, a few milliseconds later.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from notifier.domain.campaigns import Campaign, State
from notifier.domain.templates import freeze
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template

if TYPE_CHECKING:
    from notifier.services import Services

LANE = "notice"


def stream(
    session: Session, services: Services, template: Template, *, sender: Sender | None = None, data: dict[str, Any] | None = None
) -> int:
    """Return the id of the endless campaign to which notices of this template version, sender and data belong; made when it is missing."""
    topic = services.topics[template.topic]
    office = asdict(sender or services.sender)
    key = uuid.uuid5(uuid.NAMESPACE_OID, orjson.dumps([office, data or {}, asdict(topic.info)], option=orjson.OPT_SORT_KEYS).decode())
    name = f"stream/{template.name}/{template.version[:16]}/{key.hex[:12]}"
    found = session.scalar(select(Campaign.id).where(Campaign.name == name))
    if found is not None:
        return found
    now = services.clock()
    freeze(session, template, now)
    session.execute(
        text("""INSERT INTO campaign (name, kind, title, topic, lane, template_version, state, sender, topic_info, data,
                                      in_doubt_policy, definition, created_at, launched_at)
                VALUES (:name, 'stream', :title, :topic, :lane, :version, :state, cast(:sender AS jsonb), cast(:info AS jsonb),
                        cast(:data AS jsonb), :policy, '', :now, :now) ON CONFLICT (name) DO NOTHING"""),
        {
            "name": name,
            "title": template.title["vi"],
            "topic": template.topic,
            "lane": LANE,
            "version": template.version,
            "state": State.RUNNING.value,
            "sender": orjson.dumps(office).decode(),
            "info": orjson.dumps(asdict(topic.info)).decode(),
            "data": orjson.dumps(data or {}).decode(),
            "policy": topic.in_doubt,
            "now": now,
        },
    )
    return session.scalars(select(Campaign.id).where(Campaign.name == name)).one()


def queue_notice(
    session: Session,
    services: Services,
    *,
    template: str,
    address_id: int,
    name: str,
    language: str,
    data: dict[str, Any],
    tax_code: str | None = None,
    due_at: datetime | None = None,
    campaign_id: int | None = None,
) -> uuid.UUID:
    """Plan one mail in the caller's transaction and return its id; after the commit call `queues.wake_gather_soon("notice")`.

    `data` must fit the template's fields. `campaign_id` names the stream when the caller made one of its own.
    """
    if campaign_id is None:
        campaign_id = stream(session, services, services.catalogue[template])
    row = session.execute(
        text("""WITH r AS (
                    INSERT INTO recipient (tax_code, name, language, address_ids, data)
                    VALUES (:tax_code, :name, :language, ARRAY[cast(:address_id AS bigint)], cast(:data AS json)) RETURNING id)
                INSERT INTO message (campaign_id, recipient_id, address_id, due_at)
                SELECT :campaign_id, r.id, :address_id, :due_at FROM r RETURNING id"""),
        {
            "tax_code": tax_code,
            "name": name,
            "language": language,
            "address_id": address_id,
            "data": orjson.dumps(data).decode(),
            "campaign_id": campaign_id,
            "due_at": due_at or services.clock(),
        },
    )
    return uuid.UUID(str(row.scalar_one()))
