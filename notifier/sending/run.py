"""One batch under way: messages are handed to connections, their outcomes settled in groups, the rest given back.

The order that makes a crash harmless is kept here: a message is handed to a connection only below the watermark, the watermark moves only
in a settle that the database has committed, and it never runs more than `WINDOW` unsettled messages ahead.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING

import aiosmtplib
import psycopg
import structlog

from notifier import observability
from notifier.domain.messages import MAX_DOUBTS
from notifier.sending.budgets import SLOT_SECONDS
from notifier.sending.jobs import Job
from notifier.sending.ledger import WINDOW, Lease, Outcome, Row, Settled
from notifier.sending.retries import next_due
from notifier.sending.routes import Route
from notifier.smtp.connection import Connection, Outgoing, connect
from notifier.smtp.verdicts import Fate, Stage, Verdict, judge_failure
from notifier.states import CampaignState, MessageState

if TYPE_CHECKING:
    from notifier.sending.sender import Sender

log = structlog.get_logger(__name__)

# A settle waits for this many outcomes while more are under way: few enough that the window never runs dry, enough to share a commit.
GROUP = 32
_TICK = 0.05
_RETRIES_UNSENT = 2
_CONNECT_FAILURES = 3
_MESSAGES_PER_CONNECTION = 8  # below this, opening another connection costs more than it gains
_PATIENCE = 5.0


class BatchRun:
    """One batch under way. Connections pull messages from it and tell it their fate; `go` settles and decides when it is over."""

    def __init__(
        self,
        sender: Sender,
        lease: Lease,
        route: Route,
        job: Job,
        rows: list[Row],
        loaded_at: datetime,
    ) -> None:
        """Send `rows` of `lease` over `route` with the means of `sender`; opt-outs since `loaded_at` are heeded."""
        self.sender = sender
        self.lease = lease
        self.route = route
        self.job = job
        self.rows = rows
        self.loaded_at = loaded_at
        self.loop = asyncio.get_running_loop()
        self.next = 0  # index of the first row that was not handed out
        self.committed = 0  # rows whose outcome is in the database
        self.outcomes: list[Outcome] = []
        self.under_way: dict[
            int, tuple[Row, str, float]
        ] = {}  # position → row, hash of the text, loop time
        self.again: deque[Outgoing] = deque()  # handed out, but the server never heard of them
        self.spare: dict[int, tuple[Row, str, float]] = {}  # what `under_way` held of those
        self.tries: dict[int, int] = {}
        self.suppressed: frozenset[int] = frozenset()
        self.connections: set[Connection] = set()
        self.resting: list[Connection] = []
        self.opening: set[asyncio.Task[None]] = set()
        self.failures = 0
        self.halted = False  # hand out nothing more; what is under way is finished
        self.slow = False  # the route asked for a pause
        self.accepted = False
        self.limit = 0
        self.paced = bool(route.per_minute or job.terms.pace_per_minute)
        self.changed = asyncio.Event()
        self.due: float | None = None  # the batch is to rest until then (epoch seconds)
        self.tokens_at = 0.0  # when to ask for tokens again (loop time)
        self.slots_at = 0.0
        self.renewed = time.monotonic()
        self.done = False  # every message of the batch has an outcome

    # --- what connections call ------------------------------------------------------------------------------------------------

    def pull(self) -> Outgoing | None:
        """Return the next message to start, or None when none may start now."""
        if self.halted or self.sender.stopping():
            self.halted = True
            self.changed.set()
            return None
        if self.again:
            outgoing = self.again.popleft()
            self.under_way[outgoing.position] = self.spare.pop(outgoing.position)
            return outgoing
        while self.next < self.limit:
            row = self.rows[self.next]
            self.next += 1
            prepared = self._prepare(row)
            if prepared is not None:
                return prepared
        if self.outcomes:
            self.changed.set()
        return None

    def _prepare(self, row: Row) -> Outgoing | None:
        """Render a message; None when it is not to be sent, its outcome is then noted."""
        now = time.time()
        if now > self.job.deadline(row):
            self._note(row, MessageState.EXPIRED, "", now, tried=False)
            return None
        reason = row.suppressed or ("unsubscribed" if row.address_id in self.suppressed else None)
        if reason is not None:
            self._note(row, MessageState.SKIPPED, reason, now, tried=False)
            return None
        try:
            envelope, content = self.job.render(row, now)
        except Exception as error:  # noqa: BLE001
            # Whatever a template or one row's data does, it must cost that row alone and never the batch.
            log.error("unrenderable", message=str(row.id), error=type(error).__name__)  # noqa: TRY400 - a traceback may hold data
            self._note(row, MessageState.SKIPPED, "unrenderable", now, tried=False)
            return None
        self.under_way[row.position] = (row, hashlib.sha256(content).hexdigest(), self.loop.time())
        return Outgoing(row.position, envelope, content)

    def _note(
        self,
        row: Row,
        state: MessageState,
        detail: str,
        now: float,
        *,
        tried: bool = True,
        host: str = "",
        sha256: str = "",
        due: float | None = None,
        doubt: bool = False,
        dead: bool = False,
    ) -> None:
        self.outcomes.append(
            Outcome(
                row.position,
                state,
                now,
                row.attempts + tried,
                row.doubts + doubt,
                detail,
                host,
                sha256,
                due,
                dead,
            )
        )

    def settled(self, message: Outgoing, verdict: Verdict, host: str) -> None:
        """Hear the fate of a message that was pulled; called once for each."""
        now = time.time()
        if verdict.fate is Fate.ACCEPTED:
            row, digest, began = self.under_way.pop(message.position)
            self.outcomes.append(
                Outcome(
                    row.position,
                    MessageState.ACCEPTED,
                    now,
                    row.attempts + 1,
                    row.doubts,
                    verdict.detail,
                    host,
                    digest,
                )
            )
            self.accepted = True
            self.failures = 0
            if len(self.outcomes) >= GROUP and not self.changed.is_set():
                observability.observe_send(self.loop.time() - began)
                self.changed.set()
            return
        self.slow = self.slow or verdict.slow_route
        self.halted = self.halted or verdict.slow_route
        if verdict.unsent:
            tries = self.tries.get(message.position, 0) + 1
            self.tries[message.position] = tries
            if tries > _RETRIES_UNSENT:
                # The server hangs up whenever this message comes: others of the batch must not wait for it for ever.
                self._put_off(message, verdict, host, now)
            else:
                self.spare[message.position] = self.under_way.pop(message.position)
                self.again.append(message)
        elif verdict.fate is Fate.REFUSED:
            row, digest, _ = self.under_way.pop(message.position)
            # A refusal that a sandbox plays says nothing of the address.
            dead = verdict.dead_address and not self.job.terms.sandbox
            self._note(
                row, MessageState.REFUSED, verdict.detail, now, host=host, sha256=digest, dead=dead
            )
        else:
            self._put_off(message, verdict, host, now)
        self.changed.set()

    def _put_off(self, message: Outgoing, verdict: Verdict, host: str, now: float) -> None:
        """Note that a message is to be tried again later, held, or has run out of time."""
        row, digest, _ = self.under_way.pop(message.position)
        doubt = verdict.fate is Fate.UNKNOWN
        common = {"host": host, "sha256": digest, "doubt": doubt}
        if doubt and (self.job.hold or row.doubts + 1 >= MAX_DOUBTS):
            self._note(row, MessageState.IN_DOUBT, verdict.detail, now, **common)  # type: ignore[arg-type]
            return
        due = next_due(
            row.attempts + 1,
            now,
            minutes=self.sender.retry_minutes,
            expires_at=self.job.deadline(row),
        )
        state = MessageState.EXPIRED if due is None else MessageState.DEFERRED
        self._note(row, state, verdict.detail, now, due=due, **common)  # type: ignore[arg-type]

    def idle(self, connection: Connection) -> None:
        """Keep the connection until the window opens again."""
        self.resting.append(connection)
        self.changed.set()

    def closed(self, connection: Connection, verdict: Verdict | None) -> None:
        """Forget the connection; open another one later if there is work for it."""
        self.connections.discard(connection)
        if connection in self.resting:
            self.resting.remove(connection)
        if verdict is not None:
            # A server that takes some messages and hangs up is no failure: many limit what one connection may send.
            self.failures += connection.taken == 0
            if verdict.slow_route:
                self.slow = self.halted = True
        self.changed.set()

    # --- the life of the batch ---------------------------------------------------------------------------------------------------

    @property
    def _left(self) -> int:
        return len(self.rows) - self.next + len(self.again)

    async def go(self) -> None:
        """Send what can be sent now and give the batch back."""
        try:
            if self.rows and await self._settle():
                await self._send_all()
        finally:
            for task in self.opening:
                task.cancel()
            self.sender.park(self.route, [c for c in self.connections if c in self.resting])
            for connection in list(self.connections - set(self.resting)):
                connection.source = None
                connection.close()

    async def _send_all(self) -> None:
        wanted = await self._connections_wanted()
        for connection in self.sender.take_idle(self.route, wanted):
            self._adopt(connection)
        while True:
            self._open_more(wanted)
            self._wake_resting()
            if (
                not self.under_way
                and not self.outcomes
                and not self.opening
                and (self.halted or not self._left)
            ):
                break
            if self.failures >= _CONNECT_FAILURES and not self.connections and not self.opening:
                self.halted = self.slow = True
            await self._wait()
            await self._heartbeat()
            if self._settle_is_due() and not await self._settle():
                return
        await self._give_back()

    async def _wait(self) -> None:
        """Wait until something happened, or a short while."""
        if not self.changed.is_set():
            handle = self.loop.call_later(_TICK, self.changed.set)
            await self.changed.wait()
            handle.cancel()
        else:
            await asyncio.sleep(0)
        self.changed.clear()

    async def _heartbeat(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.check_timeout(now)
        if self.route.connections and now - self.slots_at > SLOT_SECONDS / 3:
            self.slots_at = now
            await self.sender.throttle.slots(
                self.route.name, len(self.connections), self.route.connections
            )

    def _settle_is_due(self) -> bool:
        since = time.monotonic() - self.renewed
        if self.outcomes:
            all_rest = len(self.resting) == len(self.connections)
            if (
                len(self.outcomes) >= GROUP
                or not self.under_way
                or all_rest
                or self.halted
                or since > _TICK
            ):
                return True
        elif (
            self.paced
            and not self.halted
            and self.next == self.limit < len(self.rows)
            and self.loop.time() >= self.tokens_at
        ):
            return True
        return since > self.sender.lease_seconds / 4

    def _wake_resting(self) -> None:
        if self.resting and not self.halted and (self.again or self.next < self.limit):
            resting, self.resting = self.resting, []
            for connection in resting:
                connection.kick()

    async def _connections_wanted(self) -> int:
        wanted = max(1, min(self.sender.connections, len(self.rows) // _MESSAGES_PER_CONNECTION))
        if self.route.connections:
            wanted = await self.sender.throttle.slots(
                self.route.name, wanted, self.route.connections
            )
            if wanted == 0:
                # All of the route's connections are in other workers' hands; the batch is tried again shortly.
                self.halted = True
                self.due = time.time() + 1
            self.slots_at = self.loop.time()
        return wanted

    def _open_more(self, wanted: int) -> None:
        if self.halted or self.failures >= _CONNECT_FAILURES:
            return
        missing = min(wanted, self._left) - len(self.connections) - len(self.opening)
        for _ in range(missing):
            task = self.loop.create_task(self._open())
            self.opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self.opening.discard(task)
        self.changed.set()

    async def _open(self) -> None:
        try:
            connection = await connect(
                self.route.server,
                hostname=self.sender.hostname,
                timeout=self.sender.timeout,
                limit=self.route.messages_per_connection,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            self.failures += 1
            verdict = judge_failure(Stage.CONNECT, error)
            log.warning(
                "smtp_connect_failed",
                route=self.route.name,
                detail=verdict.detail,
                error=type(error).__name__,
            )
            return
        self._adopt(connection)

    def _adopt(self, connection: Connection) -> None:
        connection.source = self
        self.connections.add(connection)
        connection.kick()

    async def _settle(self) -> bool:
        """Write the outcomes so far and open the window further; False when the batch is no longer ours."""
        batch, self.outcomes = self.outcomes, []
        limit = min(self.committed + len(batch) + WINDOW, len(self.rows))
        if self.paced and limit > self.limit:
            limit = self.limit + await self._tokens(limit - self.limit)
        mark = self.rows[limit - 1].position if limit else -1
        settled = await self._write(mark, batch)
        if settled is None or not settled.lease_holds:
            log.error("lease_lost", unsettled=len(batch) + len(self.under_way))
            for connection in list(self.connections):
                connection.source = None
                connection.close()
            self.connections.clear()
            return False
        self.renewed = time.monotonic()
        self.committed += len(batch)
        self.limit = max(self.limit, limit)
        if settled.campaign_state is not CampaignState.RUNNING:
            self.halted = True
        self.suppressed = settled.suppressed
        if batch:
            self._count(batch)
        return True

    async def _write(self, mark: int, batch: list[Outcome]) -> Settled | None:
        """Settle, and go on trying while the database is away and the lease could still be ours."""
        while True:
            try:
                return await self.sender.ledger.settle(self.lease, mark, batch, self.loaded_at)
            except psycopg.OperationalError as error:
                log.warning("database_unavailable", error=type(error).__name__)
                await self.sender.ledger.close()
                if time.monotonic() - self.renewed > self.sender.lease_seconds:
                    return None
                await asyncio.sleep(0.2)

    def _count(self, batch: list[Outcome]) -> None:
        counts: dict[str, int] = {}
        for outcome in batch:
            counts[outcome.state] = counts.get(outcome.state, 0) + 1
        observability.count_outcomes(self.route.name, self.lease.lane, counts)

    async def _tokens(self, wanted: int) -> int:
        """Ask the shared budgets for up to `wanted` messages; note when to ask again when there is none."""
        granted, wait = wanted, 0.0
        if self.route.per_minute:
            granted, wait = await self.sender.throttle.take(
                f"route:{self.route.name}", self.route.per_minute, granted
            )
        if granted and self.job.terms.pace_per_minute:
            key = f"campaign:{self.lease.campaign_id}"
            granted, wait = await self.sender.throttle.take(
                key, self.job.terms.pace_per_minute, granted
            )
        if not granted:
            self.tokens_at = self.loop.time() + wait
            if wait > _PATIENCE and not self.under_way:
                # The lease is better given back than held for so long.
                self.halted = True
                self.due = time.time() + wait
        return granted

    async def _give_back(self) -> None:
        due = self.due
        if self.slow:
            due = time.time() + await self.sender.route_failed(self.route)
        elif self.accepted:
            await self.sender.route_works(self.route)
        if self.route.connections:
            # A parked connection would hold a slot that other workers wait for.
            for connection in list(self.connections):
                connection.close()
            await self.sender.throttle.slots(self.route.name, 0, self.route.connections)
        self.done = await self.sender.ledger.release(self.lease, due=due)
