"""A campaign under way: watched, paused, resumed, cancelled, finished, doubts decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from notifier.domain import batches, campaigns, message_lookups, messages, tallies
from notifier.schema import Campaign
from notifier.services import Services
from notifier.states import WAITING, CampaignState, CampaignStep, MessageState

log = structlog.get_logger(__name__)

CANCELLED = "campaign cancelled"
"""The reason of messages that a cancelled campaign keeps back."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages of a campaign are in which state: disjoint, and adding up to its total.

    Beside them: `skipped` by reason, `doubted` (their fate was unknown at some time), `dead_letter`
    (in batches over which workers died), and the batches that workers hold now.
    """

    states: dict[MessageState, int]
    skipped: dict[str, int]
    doubted: int
    dead_letter: int
    in_flight_batches: int

    def of(self, state: MessageState) -> int:
        """Return how many messages are in a state."""
        return self.states.get(state, 0)


@dataclass(frozen=True, slots=True)
class Status:
    """A campaign and the counts of its messages at one moment."""

    campaign: Campaign
    counts: Counts

    def to_json(self) -> dict[str, Any]:
        """Return what `status --json` prints: a figure for every state (`MessageState.figure`).

        They add up to `total`, always. `in_doubt` counts beside them: the messages whose fate was
        unknown at some time, whether they were then sent again, held or given up.
        """
        campaign = self.campaign

        def moment(value: datetime | None) -> str | None:
            return value.isoformat() if value else None

        return {
            "name": campaign.name,
            "title": campaign.title,
            "state": campaign.state.value,
            "total": campaign.total,
            **{state.figure: self.counts.of(state) for state in MessageState},
            "skipped": self.counts.skipped,
            "in_doubt": self.counts.doubted,
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
        return self.campaign.total - sum(self.counts.of(state) for state in WAITING)

    @property
    def over(self) -> bool:
        """Say whether the campaign has come to its end."""
        return self.campaign.state.is_final


def status(services: Services, name: str, *, key_id: int | None = None) -> Status:
    """Return where a campaign stands, also a draft; raise NotFoundError."""
    with services.session() as session:
        campaign = campaigns.get(session, name, key_id=key_id)
        return Status(campaign, _counts(session, campaign))


def _counts(session: Session, campaign: Campaign) -> Counts:
    connection = session.connection()
    states = tallies.counts(connection, campaign.id)
    skipped = MessageState.SKIPPED
    return Counts(
        states=states,
        skipped=(
            message_lookups.problems_by_reason(connection, campaign.id, skipped)
            if states.get(skipped)
            else {}
        ),
        doubted=tallies.doubted(connection, campaign.id),
        dead_letter=batches.dead_letters(connection, campaign.id),
        in_flight_batches=batches.leased(connection, campaign.id),
    )


def listed(
    services: Services,
    *,
    key_id: int | None = None,
    state: CampaignState | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Sequence[Campaign]:
    """Return campaigns, the newest first, older than the one numbered `before`."""
    with services.session() as session:
        return campaigns.listed(session, key_id=key_id, state=state, before=before, limit=limit)


@contextmanager
def _changing(
    services: Services, name: str, key_id: int | None = None
) -> Iterator[tuple[Session, Campaign]]:
    with services.session() as session:
        yield session, campaigns.get(session, name, lock=True, key_id=key_id)


def pause(services: Services, name: str, *, key_id: int | None = None) -> Campaign:
    """Let nothing more of the campaign start; what is on the wire is finished.

    Workers see it at their next settle.
    """
    with _changing(services, name, key_id) as (_, campaign):
        campaigns.take(campaign, CampaignStep.PAUSE)
    return campaign


def resume(services: Services, name: str, *, key_id: int | None = None) -> Campaign:
    """Let a paused campaign go on."""
    with _changing(services, name, key_id) as (session, campaign):
        campaigns.take(campaign, CampaignStep.RESUME)
        session.flush()
        ready = batches.ready(session.connection(), campaign.lane, campaign_id=campaign.id)
    _enqueue(services, campaign, ready)
    return campaign


def _enqueue(services: Services, campaign: Campaign, ready: list[int]) -> None:
    services.queues.enqueue_batches(campaign.lane, ready)
    # What waits without a batch, such as deferred messages that came due meanwhile.
    services.queues.enqueue_gather(campaign.lane)


def cancel(services: Services, name: str, *, key_id: int | None = None) -> Campaign:
    """Let nothing more of the campaign leave, for good."""
    with _changing(services, name, key_id) as (_, campaign):
        campaigns.take(campaign, CampaignStep.CANCEL)
    end_cancel(services, campaign.id)
    with services.session() as session:
        return campaigns.get(session, name)


def end_cancel(services: Services, campaign_id: int) -> None:
    """Cancel what is left of a campaign that is being cancelled.

    It is final once no worker holds a batch of it; else the sweep goes on.
    """
    with services.session() as session:
        campaign = session.get_one(Campaign, campaign_id, with_for_update=True)
        if campaign.state is CampaignState.CANCELLING and messages.cancel_rest(
            session.connection(), campaign_id, reason=CANCELLED
        ):
            _end(services, campaign, CampaignStep.END_CANCEL)


def finish(services: Services, campaign_id: int) -> bool:
    """Finish a running campaign of which nothing is left to send; say whether that was so.

    Called when a batch is done, and by the sweep.
    """
    with services.session() as session:
        if messages.any_left(session.connection(), campaign_id):
            return False
        campaign = session.get_one(Campaign, campaign_id, with_for_update=True)
        if (
            campaign.kind != campaigns.KIND
            or campaign.state is not CampaignState.RUNNING
            or messages.any_left(session.connection(), campaign_id)
        ):
            return False
        _end(services, campaign, CampaignStep.FINISH)
    return True


def _end(services: Services, campaign: Campaign, step: CampaignStep) -> None:
    """Take the last step of a campaign: the one place where anybody can be notified of its end."""
    campaigns.end(campaign, step, services.clock())
    log.info("campaign_ended", campaign=campaign.id, state=campaign.state.value)


def decide_in_doubt(services: Services, name: str, *, resend: bool) -> int:
    """Send the campaign's held messages again, with the same Message-ID, or give them up.

    Return how many.
    """
    with _changing(services, name) as (session, campaign):
        if resend:
            campaigns.reopen(campaign)
        decided = messages.decide_in_doubt(session.connection(), campaign.id, resend=resend)
        if resend and not decided:
            session.rollback()
    if resend and decided:
        services.queues.enqueue_gather(campaign.lane)
    return decided


def retry_dead_letters(services: Services, name: str) -> int:
    """Give the campaign's dead letters back to the workers; return how many batches."""
    with _changing(services, name) as (session, campaign):
        number = batches.retry_dead_letters(session.connection(), campaign.id)
        ready = batches.ready(session.connection(), campaign.lane, campaign_id=campaign.id)
    services.queues.enqueue_batches(campaign.lane, ready)
    return number
