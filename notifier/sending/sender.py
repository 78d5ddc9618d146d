"""Deliver one batch: lease it, load it, let a `BatchRun` send it.

What outlives a batch is here: event loop, connections, budgets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import structlog

from notifier.channel import Channel
from notifier.sending.budgets import Throttle
from notifier.sending.jobs import Jobs
from notifier.sending.ledger import Ledger
from notifier.sending.pool import Pool
from notifier.sending.routes import Route, Routes
from notifier.sending.run import BatchRun, Means

log = structlog.get_logger(__name__)

_COMMIT_MARGIN = timedelta(seconds=10)


class Sender:
    """One worker process's means of sending, which outlive a batch."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        jobs: Jobs,
        routes: Routes,
        throttle: Throttle,
        channel_of: Callable[[Route], Channel],
        connections: int,
        lease_seconds: float,
        retry_minutes: tuple[float, ...],
        stopping: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Use `connections` per batch at most; `stopping` is asked before each message."""
        self.ledger = ledger
        self.jobs = jobs
        self.routes = routes
        self.throttle = throttle
        self.channel_of = channel_of
        self.connections = connections
        self.lease_seconds = lease_seconds
        self.retry_minutes = retry_minutes
        self.stopping = stopping
        self.pool = Pool()
        self._loop = loop
        self._slow_replies: dict[str, int] = {}  # by route, in a row

    def deliver(self, batch_id: int) -> int | None:
        """Deliver the batch if it is to be had; return when it is given back.

        Return its campaign when the batch is done: that may be finished now. Safe to call twice for
        one batch, also at once.
        """
        return self._loop.run_until_complete(self._guarded(batch_id))

    def close(self) -> None:
        """Say goodbye to the servers and close everything."""
        self._loop.run_until_complete(self._close())

    async def _close(self) -> None:
        self.pool.close()
        await asyncio.sleep(0)
        await self.throttle.close()
        await self.ledger.close()

    async def _guarded(self, batch_id: int) -> int | None:
        try:
            return await self._deliver(batch_id)
        except psycopg.OperationalError as error:
            # The database is unavailable: nothing was started that is not covered by a lease, and
            # the sweep enqueues the batch again.
            log.warning("database_unavailable", batch=batch_id, error=type(error).__name__)
            await self.ledger.close()
            return None

    async def _deliver(self, batch_id: int) -> int | None:
        if self.stopping():
            return None
        lease = await self.ledger.lease(batch_id)
        if lease is None:
            return None
        with structlog.contextvars.bound_contextvars(campaign=lease.campaign_id, batch=batch_id):
            route = self.routes.get(lease.route)
            job = await self.jobs.get(self.ledger, lease.campaign_id)
            habits = await self.throttle.habits(route.name)
            due = job.next_open(time.time())
            if due is None and habits.pause:
                due = time.time() + habits.pause
            if due is not None and (job.not_after is None or time.time() < job.not_after):
                await self.ledger.release(lease, due=due)
                return None
            # An opt-out is stamped before it is committed: one that was under way while the batch
            # was loaded must be seen by a settle.
            loaded_at = datetime.now(UTC) - _COMMIT_MARGIN
            rows = await self.ledger.load(lease, job.terms.topic.code)
            run = BatchRun(
                self._means(route),
                lease,
                route,
                job,
                rows,
                loaded_at=loaded_at,
                habits=habits,
                slow_replies=self._slow_replies.pop(route.name, 0),
            )
            try:
                await run.go()
            finally:
                self._slow_replies[route.name] = run.core.slow_replies
            return lease.campaign_id if run.done else None

    def _means(self, route: Route) -> Means:
        return Means(
            ledger=self.ledger,
            throttle=self.throttle,
            pool=self.pool,
            channel=self.channel_of(route),
            connections=self.connections,
            lease_seconds=self.lease_seconds,
            retry_minutes=self.retry_minutes,
            stopping=self.stopping,
        )
