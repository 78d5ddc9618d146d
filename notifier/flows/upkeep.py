"""Upkeep: what the periodic sweep does. It makes every lost wake and every dead worker harmless.

Each part is one short transaction and safe to run in two places at once.
"""

from __future__ import annotations

import structlog
from sqlalchemy import select

from notifier import observability
from notifier.db import ensure_partitions
from notifier.domain import batches, calendar, idempotency, webhooks
from notifier.flows import dossier_events as dossier
from notifier.flows.control import end_cancel
from notifier.queues import LANES, WEBHOOKS, deliver_queue
from notifier.schema import Campaign
from notifier.services import Services
from notifier.states import CampaignState, CampaignStep

log = structlog.get_logger(__name__)
_WAKE_AT_ONCE = 2_000


def sweep(services: Services) -> None:
    """Recover dead workers' batches, start what is due, finish what is done and wake what lies ready."""
    _recover(services)
    _start_scheduled(services)
    _end_campaigns(services)
    dossier.apologise(services)
    for lane in LANES:
        enqueue_lane(services, lane)
    enqueue_webhooks(services)


def _recover(services: Services) -> None:
    with services.session() as session:
        recovery = batches.recover(session.connection())
    if recovery.batches:
        log.warning(
            "batches_recovered",
            batches=recovery.batches,
            in_doubt=recovery.in_doubt,
            dead_letter=recovery.dead_letter,
        )
        observability.recovered(recovery.batches)
        observability.in_doubt(recovery.in_doubt)


def _start_scheduled(services: Services) -> None:
    now = services.clock()
    with services.session() as session:
        due = select(Campaign).where(
            Campaign.state == CampaignState.SCHEDULED, Campaign.launch_at <= now
        )
        for campaign in session.scalars(due.with_for_update(skip_locked=True)):
            campaigns.take(campaign, CampaignStep.START)
            log.info("campaign_started", campaign=campaign.id)


def _end_campaigns(services: Services) -> None:
    with services.session() as session:
        open_ones = session.execute(
            select(Campaign.id, Campaign.state).where(
                Campaign.kind == "campaign",
                Campaign.state.in_([CampaignState.RUNNING, CampaignState.CANCELLING]),
            )
        ).all()
        for campaign_id, state in open_ones:
            if state is CampaignState.RUNNING:
                batches.finish(session.connection(), campaign_id)
    for campaign_id, state in open_ones:
        if state is CampaignState.CANCELLING:
            end_cancel(services, campaign_id)


def enqueue_lane(services: Services, lane: str) -> int:
    """Wake what lies ready in `lane` when its queue is empty, so that a long queue is never doubled; return how many batches."""
    if services.queues.depth(deliver_queue(lane)) != 0:
        return 0
    with services.session() as session:
        ready = batches.ready_batches(session.connection(), lane, limit=_WAKE_AT_ONCE)
        waiting = batches.anything_waits(session.connection(), lane)
    services.queues.enqueue_batches(lane, ready)
    if waiting:
        services.queues.enqueue_gather(lane)
    return len(ready)


def enqueue_webhooks(services: Services) -> list[int]:
    """Wake a worker for each key whose receiver is to be told something now, when none is woken already; return the keys."""
    with services.session() as session:
        due = webhooks.keys_due(session.connection(), services.clock())
    if due and services.queues.depth(WEBHOOKS) == 0:
        services.queues.enqueue_webhooks(due)
    return due


def gather(services: Services, lane: str) -> list[int]:
    """Put single messages that wait in `lane` and are due into batches; return the batches. More that wait are woken for."""
    with services.session() as session:
        made = batches.gather(
            session.connection(), lane, route_of=services.routes.of_domain, now=services.clock()
        )
        more = bool(made) and batches.anything_waits(session.connection(), lane)
    if more:
        services.queues.enqueue_gather(lane)
    return made


def daily(services: Services) -> None:
    """Make the coming months' partitions and the coming years' calendar, and forget answers and events that nobody asks for any more."""
    now = services.clock()
    with services.session() as session:
        made = ensure_partitions(session.connection(), now)
        calendar.seed(session.connection(), range(now.year, now.year + 2))
        idempotency.forget(session.connection(), now)
        webhooks.forget(session.connection(), now - webhooks.KEPT)
    if made:
        log.info("partitions_made", names=made)
