"""The story of a campaign: launched, watched, paused, resumed, cancelled, and its messages in doubt decided."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier.domain import batches, calendar, campaigns
from notifier.domain.campaign_files import DEFAULT_EXPIRY, Definition, check_data
from notifier.domain.templates import freeze
from notifier.domain.topics import Topic
from notifier.errors import CampaignError, NotFoundError, TransitionError
from notifier.flows.lists import Audience, ProgressCallback, load_list
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template
from notifier.schema import Campaign
from notifier.services import Services
from notifier.states import CampaignState, CampaignStep

LANE = "campaign"


@dataclass(frozen=True, slots=True)
class Plan:
    """A campaign file with everything it names looked up and checked against each other."""

    definition: Definition
    template: Template
    topic: Topic
    sender: Sender
    data: dict[str, Any]
    policy: str
    audience_file: Path


def make_plan(services: Services, definition: Definition, audience: Path | None) -> Plan:
    """Look up what `definition` names; raise CampaignError naming what is missing. `audience` replaces the file's own list."""
    template = services.catalogue.get(definition.template)
    if template is None:
        known = ", ".join(sorted(services.catalogue))
        raise NotFoundError(
            f"There is no template {definition.template}.", fix=f"Known are: {known}."
        )
    topic = services.topics.get(definition.topic)
    if topic is None:
        raise NotFoundError(
            f"There is no topic {definition.topic}.",
            fix=f"Known are: {', '.join(sorted(services.topics))}.",
        )
    if template.topic != definition.topic:
        # The topic decides who has opted out: a newsletter sent under a statutory topic would reach those who declined it.
        raise CampaignError(
            f"The template {template.name} is of the topic {template.topic}, not {definition.topic}.",
            fix="Correct topic or template.",
        )
    chosen = audience or definition.audience
    if chosen is None:
        raise CampaignError(
            f"The campaign {definition.name} names no list.", fix="Give one with --audience FILE."
        )
    sender = replace(services.sender, **definition.sender)
    if services.dkim is not None and (refusal := services.dkim.refusal(sender.address)):
        # Receivers would take it for a forgery (DMARC).
        raise CampaignError(refusal, fix="Correct the sender's address, or NOTIFIER_DKIM_DOMAIN.")
    return Plan(
        definition=definition,
        template=template,
        topic=topic,
        sender=sender,
        data=check_data(definition, template),
        policy=definition.in_doubt or topic.in_doubt,
        audience_file=chosen,
    )


def campaign_columns(plan: Plan, now: datetime) -> dict[str, Any]:
    """Return the columns of a campaign row that follow from its plan."""
    window = plan.definition.window
    return {
        "title": plan.definition.title,
        "topic": plan.topic.code,
        "lane": LANE,
        "sender": asdict(plan.sender),
        "topic_info": asdict(plan.topic.info),
        "data": plan.data,
        "send_window": window.to_json() if window else None,
        "not_after": plan.definition.not_after or now + DEFAULT_EXPIRY,
        "pace_per_minute": plan.definition.pace_per_minute,
        "in_doubt_policy": plan.policy,
    }


def refuse_known(session: Session, name: str) -> None:
    """Raise TransitionError when a campaign called `name` was launched before."""
    known = session.scalar(select(Campaign).where(Campaign.name == name))
    if known is not None:
        raise TransitionError(
            f"The campaign {name} was launched before and is {known.state.value}.",
            fix=f"See it with: notifier campaign status {name}. To send again, launch it under a new name with --name.",
        )


def launch(
    services: Services,
    definition: Definition,
    *,
    audience: Path | None = None,
    at: datetime | None = None,
    progress: ProgressCallback | None = None,
) -> Campaign:
    """Freeze the campaign, plan every message and start it, or schedule it for `at`.

    All in one transaction beside the list, which is loaded first (and reused when the same file was loaded before for the same template).
    Raise CampaignError or TableError; nothing is launched then.
    """
    plan = make_plan(services, definition, audience)
    now = services.clock()
    if at is not None and at <= now:
        raise CampaignError(
            "The moment to launch at has passed.",
            fix="Give a later --at, or leave it out to launch now.",
        )
    not_after = plan.definition.not_after
    if not_after is not None and not_after <= (at or now):
        raise CampaignError(
            f"{definition.name}: not_after has passed when it starts.", fix="Give a later moment."
        )
    with services.session() as session:
        refuse_known(session, definition.name)
    listed = load_list(services, plan.audience_file, plan.template, progress=progress)
    if not listed.accepted:
        raise CampaignError(
            "No row of the list was accepted.", fix="See why with: notifier campaign check."
        )
    with services.session() as session:
        refuse_known(session, definition.name)
        campaign = _create(session, services, plan, listed, now, at)
        lane, campaign_id = campaign.lane, campaign.id
        ready = (
            batches.ready_batches(session.connection(), lane, campaign_id=campaign_id)
            if at is None
            else []
        )
    services.queues.enqueue_batches(lane, ready)
    return campaign


def _create(
    session: Session,
    services: Services,
    plan: Plan,
    listed: Audience,
    now: datetime,
    at: datetime | None,
) -> Campaign:
    version = freeze(session, plan.template, now)
    campaign = Campaign(
        **campaign_columns(plan, now if at is None else at),
        name=plan.definition.name,
        kind="campaign",
        template_version=version,
        audience_id=listed.id,
        state=CampaignState.DRAFT,
        definition=plan.definition.text,
        totals=dict(listed.totals),
        launch_at=at,
        created_at=now,
        launched_at=now,
    )
    session.add(campaign)
    session.flush()
    opens = at or now
    if plan.definition.window:
        opens = plan.definition.window.next_open(opens, calendar.load(session.connection()))
    campaign.total = batches.plan(
        session.connection(),
        campaign_id=campaign.id,
        audience_id=listed.id,
        lane=LANE,
        routes=dict(services.routes.domains),
        default_route=services.routes.default.name,
        due_at=opens,
        now=now,
    )
    campaigns.take(campaign, CampaignStep.LAUNCH if at is None else CampaignStep.SCHEDULE)
    return campaign


@dataclass(frozen=True, slots=True)
class Status:
    """A campaign and the counts of its messages at one moment."""

    campaign: Campaign
    counts: batches.Counts

    def to_json(self) -> dict[str, Any]:
        """Return what `status --json` prints.

        queued + deferred + accepted + refused + skipped_total + expired + cancelled + held + given_up = total, always. `in_doubt` counts
        beside them: the messages whose fate was unknown at some time, whether they were then sent again, held or given up.
        """
        campaign, states = self.campaign, self.counts.states

        def moment(value: datetime | None) -> str | None:
            return value.isoformat() if value else None

        return {
            "name": campaign.name,
            "title": campaign.title,
            "state": campaign.state.value,
            "total": campaign.total,
            "queued": states.get("queued", 0),
            "accepted": states.get("accepted", 0),
            "deferred": states.get("deferred", 0),
            "refused": states.get("refused", 0),
            "skipped": self.counts.skipped,
            "skipped_total": states.get("skipped", 0),
            "in_doubt": self.counts.doubted,
            "held": states.get("in_doubt", 0),
            "given_up": states.get("given_up", 0),
            "expired": states.get("expired", 0),
            "cancelled": states.get("cancelled", 0),
            "dead_letter": self.counts.dead_letter,
            "control_totals": campaign.totals,
            "in_doubt_policy": campaign.in_doubt_policy,
            "template_version": campaign.template_version,
            "launch_at": moment(campaign.launch_at),
            "launched_at": moment(campaign.launched_at),
            "started_at": moment(campaign.started_at),
            "finished_at": moment(campaign.finished_at),
            "not_after": moment(campaign.not_after),
        }

    @property
    def done(self) -> int:
        """How many messages need nothing more."""
        states = self.counts.states
        return self.campaign.total - states.get("queued", 0) - states.get("deferred", 0)

    @property
    def over(self) -> bool:
        """Say whether the campaign has come to its end."""
        return self.campaign.state in {CampaignState.FINISHED, CampaignState.CANCELLED}


def status(services: Services, name: str) -> Status:
    """Return where the campaign stands; raise NotFoundError."""
    with services.session() as session:
        campaign = campaigns.get(session, name)
        return Status(campaign, batches.count(session.connection(), campaign.id))


def newest(services: Services, *, limit: int = 50) -> list[Campaign]:
    """Return the newest campaigns, the newest first."""
    with services.session() as session:
        query = (
            select(Campaign)
            .where(Campaign.kind == "campaign")
            .order_by(Campaign.id.desc())
            .limit(limit)
        )
        return list(session.scalars(query))


@contextmanager
def _changing(services: Services, name: str) -> Iterator[tuple[Session, Campaign]]:
    with services.session() as session:
        yield session, campaigns.get(session, name, lock=True)


def pause(services: Services, name: str) -> Campaign:
    """Let nothing more of the campaign start; what is on the wire is finished. Workers see it at their next settle."""
    with _changing(services, name) as (_, campaign):
        campaigns.take(campaign, CampaignStep.PAUSE)
    return campaign


def resume(services: Services, name: str) -> Campaign:
    """Let a paused campaign go on."""
    with _changing(services, name) as (session, campaign):
        campaigns.take(campaign, CampaignStep.RESUME)
        session.flush()
        ready = batches.ready_batches(session.connection(), campaign.lane, campaign_id=campaign.id)
    services.queues.enqueue_batches(campaign.lane, ready)
    return campaign


def cancel(services: Services, name: str) -> Campaign:
    """Let nothing more of the campaign leave, for good."""
    with _changing(services, name) as (_, campaign):
        campaigns.take(campaign, CampaignStep.CANCEL)
    end_cancel(services, campaign.id)
    with services.session() as session:
        return campaigns.get(session, name)


def end_cancel(services: Services, campaign_id: int) -> None:
    """Cancel what is left of a campaign that is being cancelled; final once no worker holds a batch of it (else the sweep goes on)."""
    with services.session() as session:
        campaign = session.get_one(Campaign, campaign_id, with_for_update=True)
        if campaign.state is CampaignState.CANCELLING and batches.cancel_rest(
            session.connection(), campaign_id
        ):
            campaigns.take(campaign, CampaignStep.END_CANCEL)
            campaign.finished_at = services.clock()


def decide_in_doubt(services: Services, name: str, *, resend: bool) -> int:
    """Send the campaign's held messages again, with the same Message-ID, or give them up; return how many."""
    with _changing(services, name) as (session, campaign):
        if resend:
            campaigns.take(campaign, CampaignStep.REOPEN)
        decided = batches.decide_in_doubt(session.connection(), campaign.id, resend=resend)
        if resend and decided:
            campaign.finished_at = None
        elif resend:
            session.rollback()
    if resend and decided:
        services.queues.enqueue_gather(campaign.lane)
    return decided


def retry_dead_letters(services: Services, name: str) -> int:
    """Give the campaign's batches that were set aside back to the workers; return how many."""
    with _changing(services, name) as (session, campaign):
        number = batches.retry_dead_letters(session.connection(), campaign.id)
        session.flush()
        ready = batches.ready_batches(session.connection(), campaign.lane, campaign_id=campaign.id)
    services.queues.enqueue_batches(campaign.lane, ready)
    return number
