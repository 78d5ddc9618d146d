"""The story of a launch: everything looked up and checked, the list read, all frozen and planned.

What was checked is what is sent: the texts, the terms and the list are frozen in one transaction
with the plan of every message, and nothing is launched when anything is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from notifier.domain import batches, calendar, campaigns, messages
from notifier.domain.campaign_files import DEFAULT_EXPIRY, Definition, check_data
from notifier.domain.campaigns import Terms
from notifier.domain.templates import freeze
from notifier.domain.topics import Topic
from notifier.errors import CampaignError, NotFoundError
from notifier.flows.lists import Audience, ProgressCallback, load_list
from notifier.rendering.catalogue import Template
from notifier.schema import Campaign
from notifier.services import Services
from notifier.states import CampaignStep, InDoubtPolicy, Lane

LANE = Lane.CAMPAIGN


@dataclass(frozen=True, slots=True)
class Plan:
    """A campaign's definition with everything it names looked up and checked against each other."""

    definition: Definition
    template: Template
    topic: Topic
    terms: Terms
    audience_file: Path | None

    @property
    def data(self) -> Mapping[str, Any]:
        """The values that are the same for everybody."""
        return self.terms.data

    def list_file(self) -> Path:
        """Return the list's file; raise CampaignError when the campaign names none."""
        if self.audience_file is None:
            raise CampaignError(
                f"The campaign {self.definition.name} names no list.",
                fix="Give one with --audience FILE.",
            )
        return self.audience_file

    def terms_from(self, start: datetime) -> Terms:
        """Return the terms of a campaign that starts then: it ends somewhen in any case."""
        return replace(self.terms, not_after=self.terms.not_after or start + DEFAULT_EXPIRY)


def make_plan(services: Services, definition: Definition, audience: Path | None = None) -> Plan:
    """Look up what `definition` names; raise CampaignError or NotFoundError naming what is wrong.

    `audience` replaces the list that the definition names.
    """
    template = services.catalogue.get(definition.template)
    if template is None:
        known = ", ".join(sorted(services.catalogue))
        raise NotFoundError(
            f"There is no template {definition.template}.", fix=f"Known are: {known}."
        )
    topic = services.topics.get(definition.topic)
    if topic is None:
        known = ", ".join(sorted(services.topics))
        raise NotFoundError(f"There is no topic {definition.topic}.", fix=f"Known are: {known}.")
    if template.topic != definition.topic:
        # The topic decides who has opted out: a newsletter sent under a statutory topic would reach
        # those who declined it.
        raise CampaignError(
            f"The template {template.name} is of the topic {template.topic}, "
            f"not {definition.topic}.",
            fix="Correct topic or template.",
        )
    sender = replace(services.sender, **definition.sender)
    if services.dkim is not None and (refusal := services.dkim.refusal(sender.address)):
        # Receivers would take it for a forgery (DMARC).
        raise CampaignError(refusal, fix="Correct the sender's address, or NOTIFIER_DKIM_DOMAIN.")
    terms = Terms(
        title=definition.title,
        topic=topic.info,
        lane=LANE,
        sender=sender,
        data=check_data(definition, template),
        in_doubt=InDoubtPolicy(definition.in_doubt or topic.in_doubt),
        window=definition.window,
        not_after=definition.not_after,
        pace_per_minute=definition.pace_per_minute,
    )
    return Plan(
        definition=definition,
        template=template,
        topic=topic,
        terms=terms,
        audience_file=audience or definition.audience,
    )


def refuse_moment(definition: Definition, now: datetime, at: datetime | None) -> None:
    """Raise CampaignError when the campaign would start in the past or after its end."""
    if at is not None and at <= now:
        raise CampaignError(
            "The moment to launch at has passed.",
            fix="Give a later --at, or leave it out to launch now.",
        )
    if definition.not_after is not None and definition.not_after <= (at or now):
        raise CampaignError(
            f"{definition.name}: not_after has passed when it starts.", fix="Give a later moment."
        )


def launch(
    services: Services,
    definition: Definition,
    *,
    audience: Path | None = None,
    at: datetime | None = None,
    progress: ProgressCallback | None = None,
) -> Campaign:
    """Launch a campaign from its file, or schedule it for `at`.

    The list is loaded first (and reused when the same file was loaded before for the same
    template); the rest is one transaction. Raise CampaignError, TransitionError or TableError;
    nothing is launched then.
    """
    plan = make_plan(services, definition, audience)
    refuse_moment(definition, services.clock(), at)
    with services.session() as session:
        campaigns.refuse_taken(session, definition.name)
    listed = load_list(services, plan.list_file(), plan.template, progress=progress)
    with services.session() as session:
        campaign = campaigns.create_draft(
            session, definition.name, plan.terms, definition.text, now=services.clock()
        )
        ready = start(session, services, campaign, plan, listed, at)
    services.queues.enqueue_batches(LANE, ready)
    return campaign


def start(
    session: Session,
    services: Services,
    campaign: Campaign,
    plan: Plan,
    listed: Audience,
    at: datetime | None,
) -> list[int]:
    """Freeze a draft and plan its messages; return the batches to enqueue after the commit.

    The draft's row is locked by the caller's transaction. Raise CampaignError when nobody would be
    written to.
    """
    if not listed.accepted:
        raise CampaignError(
            "No row of the list was accepted.", fix="See why with: notifier campaign check."
        )
    connection = session.connection()
    now = services.clock()
    campaigns.put_terms(campaign, plan.terms_from(at or now))
    campaign.template_version = freeze(session, plan.template, now)
    campaign.audience_id = listed.id
    campaign.totals = dict(listed.totals)
    campaign.launch_at = at
    campaign.launched_at = now
    opens = at or now
    if plan.terms.window:
        opens = plan.terms.window.next_open(opens, calendar.load(connection))
    campaign.total = messages.plan(
        connection,
        campaign_id=campaign.id,
        audience_id=listed.id,
        lane=LANE,
        routes=dict(services.routes.domains),
        default_route=services.routes.default.name,
        due_at=opens,
        now=now,
    )
    campaigns.take(campaign, CampaignStep.LAUNCH if at is None else CampaignStep.SCHEDULE)
    # What may be leased is asked of the database, which must know by now that the campaign runs.
    session.flush()
    return batches.ready(connection, LANE, campaign_id=campaign.id)
