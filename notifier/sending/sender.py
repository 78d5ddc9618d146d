"""Deliver one batch: lease it, load it, let a `BatchRun` send it. What outlives a batch is here: event loop, connections, budgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import structlog

from notifier.sending.budgets import Throttle
from notifier.sending.jobs import Jobs
from notifier.sending.ledger import Ledger
from notifier.sending.routes import Route, Routes
from notifier.sending.run import BatchRun
from notifier.smtp.connection import Connection

log = structlog.get_logger(__name__)

_IDLE_SECONDS = 20.0
_COMMIT_MARGIN = timedelta(seconds=10)


class Sender:
    """One worker process's means of sending: an event loop, a database connection and open SMTP connections that outlive a batch."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        jobs: Jobs,
        routes: Routes,
        throttle: Throttle,
        hostname: str,
        connections: int,
        timeout: float,
        lease_seconds: float,
        retry_minutes: tuple[float, ...],
        stopping: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Use `connections` per batch at most; `timeout` seconds per SMTP reply; `stopping` is asked before each message."""
        self.ledger = ledger
        self.jobs = jobs
        self.routes = routes
        self.throttle = throttle
        self.hostname = hostname
        self.connections = connections
        self.timeout = timeout
        self.lease_seconds = lease_seconds
        self.retry_minutes = retry_minutes
        self.stopping = stopping
        self._loop = loop
        self._idle: dict[str, list[tuple[float, Connection]]] = {}
        self._troubled: set[str] = set()

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
        for pool in self._idle.values():
            for _, connection in pool:
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)
        await self.throttle.close()
        await self.ledger.close()

    async def _guarded(self, batch_id: int) -> int | None:
        try:
            return await self._deliver(batch_id)
        except psycopg.OperationalError as error:
            # The database is away: nothing was started that is not covered by a lease, and the sweep wakes the batch again.
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
            due = job.next_open(time.time())
            if due is None and (held := await self.throttle.held(route.name)):
                due = time.time() + held
            if due is not None and (job.not_after is None or time.time() < job.not_after):
                await self.ledger.release(lease, due=due)
                return None
            # An opt-out is stamped before it is committed: one that was under way while the batch was loaded must be seen by a settle.
            loaded_at = datetime.now(UTC) - _COMMIT_MARGIN
            rows = await self.ledger.load(lease, job.terms.topic.code)
            run = BatchRun(self, lease, route, job, rows, loaded_at)
            await run.go()
            return lease.campaign_id if run.done else None

    async def route_failed(self, route: Route) -> float:
        """Let every worker leave `route` alone for a while; return for how many seconds."""
        self._troubled.add(route.name)
        seconds = await self.throttle.back_off(route.name)
        log.warning("route_backs_off", route=route.name, seconds=round(seconds, 1))
        return seconds

    async def route_works(self, route: Route) -> None:
        """Note that `route` takes mail."""
        if route.name in self._troubled:
            self._troubled.discard(route.name)
            await self.throttle.all_well(route.name)

    def take_idle(self, route: Route, wanted: int) -> list[Connection]:
        """Return up to `wanted` open connections of `route` that were used a short while ago."""
        pool = self._idle.pop(route.name, [])
        fresh: list[Connection] = []
        now = self._loop.time()
        for parked_at, connection in pool:
            if connection.usable and now - parked_at < _IDLE_SECONDS and len(fresh) < wanted:
                fresh.append(connection)
            else:
                connection.close()
        return fresh

    def park(self, route: Route, connections: list[Connection]) -> None:
        """Keep open connections for the next batch of `route`."""
        now = self._loop.time()
        pool = self._idle.setdefault(route.name, [])
        for connection in connections:
            connection.source = None
            if connection.usable:
                pool.append((now, connection))
