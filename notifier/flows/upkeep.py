"""Upkeep: what the periodic sweep does. It makes every lost task and every dead worker harmless.

Each part is one short transaction and safe to run in two places at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta

import structlog

from notifier import observability
from notifier.db import ensure_partitions
from notifier.domain import batches, calendar, campaigns, idempotency, messages, tallies, webhooks
from notifier.flows import control
from notifier.flows import dossier_events as dossier
from notifier.queues import WEBHOOKS, deliver_queue
from notifier.sending.routes import SANDBOX
from notifier.services import Services
from notifier.states import BatchState, CampaignState, CampaignStep, Lane

log = structlog.get_logger(__name__)
_ENQUEUED_AT_ONCE = 2_000


def sweep(services: Services) -> None:
    """Recover dead workers' batches, start what is due, finish what is done, enqueue the ready."""
    recover(services)
    _start_scheduled(services)
    _end_campaigns(services)
    dossier.apologise(services)
    with services.session() as session:
        tallies.sum_up(session.connection(), services.clock())
    for lane in Lane:
        enqueue_lane(services, lane)
    enqueue_webhooks(services)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of the batches of workers that died; `in_doubt` counts messages."""

    batches: int
    in_doubt: int
    dead_letters: int


def recover(services: Services) -> Recovery:
    """Take back the batches whose lease has run out; what they had started is in doubt."""
    doubted = dead_letters = 0
    with services.session() as session:
        connection = session.connection()
        abandoned = batches.lock_abandoned(connection)
        for each in abandoned:
            doubted += messages.doubt(connection, each)
            dead_letters += batches.recover(connection, each) is BatchState.DEAD_LETTER
    found = Recovery(batches=len(abandoned), in_doubt=doubted, dead_letters=dead_letters)
    if abandoned:
        log.warning("batches_recovered", **asdict(found))
        observability.recovered(found.batches)
        observability.in_doubt(found.in_doubt)
    return found


def _start_scheduled(services: Services) -> None:
    now = services.clock()
    with services.session() as session:
        for campaign in campaigns.lock_due(session, now):
            campaigns.take(campaign, CampaignStep.START)
            log.info("campaign_started", campaign=campaign.id)


def _end_campaigns(services: Services) -> None:
    with services.session() as session:
        running = campaigns.numbers(session, CampaignState.RUNNING)
        cancelling = campaigns.numbers(session, CampaignState.CANCELLING)
    for campaign_id in running:
        control.finish(services, campaign_id)
    for campaign_id in cancelling:
        control.end_cancel(services, campaign_id)


def enqueue_lane(services: Services, lane: Lane) -> int:
    """Enqueue what lies ready in `lane` when its queue is empty; return how many batches.

    So a long queue is never doubled.
    """
    if services.queues.depth(deliver_queue(lane)) != 0:
        return 0
    with services.session() as session:
        ready = batches.ready(session.connection(), lane, limit=_ENQUEUED_AT_ONCE)
        waiting = messages.any_to_gather(session.connection(), lane)
    services.queues.enqueue_batches(lane, ready)
    if waiting:
        services.queues.enqueue_gather(lane)
    return len(ready)


def enqueue_webhooks(services: Services) -> list[int]:
    """Enqueue the keys whose receivers are to be notified now, when none is queued; return them."""
    with services.session() as session:
        due = webhooks.keys_due(session.connection(), services.clock())
    if due and services.queues.depth(WEBHOOKS) == 0:
        services.queues.enqueue_webhooks(due)
    return due


def gather(services: Services, lane: Lane) -> list[int]:
    """Put single messages that wait in `lane` and are due into batches; return the batches.

    When more wait, that is enqueued.
    """
    routes = services.routes

    def route_of(domain: str, sandbox: bool) -> str:  # noqa: FBT001 - the form of a route's lookup
        return SANDBOX if sandbox else routes.of_domain(domain)

    with services.session() as session:
        connection = session.connection()
        made = messages.gather(connection, lane, route_of=route_of, now=services.clock())
        more = bool(made) and messages.any_to_gather(connection, lane)
    if more:
        services.queues.enqueue_gather(lane)
    return made


def daily(services: Services) -> None:
    """Make the coming months' partitions and the coming years' calendar, and forget what is old.

    Forgotten are answers and events that nobody asks for any more.
    """
    now = services.clock()
    with services.session() as session:
        made = ensure_partitions(session.connection(), now)
        calendar.seed(session.connection(), range(now.year, now.year + 2))
        idempotency.forget(session.connection(), now)
        webhooks.forget(session.connection(), now - webhooks.KEPT)
        tallies.sum_up(session.connection(), now, back=timedelta(days=2))
    if made:
        log.info("partitions_made", names=made)
