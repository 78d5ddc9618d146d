"""The tasks: ids in, one call out.

Each is safe to run twice at once; leases in the database decide who works.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery import shared_task

from notifier.flows import upkeep
from notifier.queues import DELIVER, GATHER, HOUSEKEEPING, NOTIFY, REQUESTS, WEBHOOKS
from notifier.states import Lane
from notifier.worker import lifecycle
from notifier.worker.schedule import DAILY, SWEEP

log = structlog.get_logger(__name__)


@shared_task(name=DELIVER)
def deliver(batch_id: int) -> None:
    """Deliver one batch."""
    lifecycle.deliver(batch_id)


@shared_task(name=GATHER, bind=True)
def gather(self: Any, lane: str) -> None:
    """Put the messages of `lane` that wait alone into batches and deliver the first.

    Others are enqueued.
    """
    # The requests that caused this stand in every line of its log.
    caused = self.request.get(REQUESTS)
    with structlog.contextvars.bound_contextvars(**({REQUESTS: caused} if caused else {})):
        made = upkeep.gather(lifecycle.services(), Lane(lane))
        log.debug("gathered", lane=lane, batches=made)
        if len(made) > 1:
            lifecycle.services().queues.enqueue_batches(lane, made[1:])
        if made:
            lifecycle.deliver(made[0])


@shared_task(name=NOTIFY, queue=WEBHOOKS)
def webhooks(key_id: int) -> None:
    """Tell the receiver of a key what is due.

    What is left for another call is enqueued at once, behind what other keys wait for.
    """
    if lifecycle.tell(key_id):
        lifecycle.services().queues.enqueue_webhooks([key_id])


@shared_task(name=SWEEP, queue=HOUSEKEEPING)
def sweep() -> None:
    """Recover, start, finish and enqueue what needs it."""
    upkeep.sweep(lifecycle.services())


@shared_task(name=DAILY, queue=HOUSEKEEPING)
def daily() -> None:
    """Make the coming months' partitions and calendar."""
    upkeep.daily(lifecycle.services())
