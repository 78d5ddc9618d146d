"""The shell around `core.Core`: one batch under way between connections, database and budgets.

What may start, what is written and when it is over are the core's decisions. Here are the clocks,
the event loop, the rendering, the settles and the connections.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg
import structlog

from notifier import observability
from notifier.channel import Channel, Connection, Fate, Go, Outgoing, Unreachable, Verdict
from notifier.retries import next_due
from notifier.sending.budgets import SLOT_SECONDS, Habits, Sign, Throttle
from notifier.sending.core import GROUP, Core, Moment, Settle, Terms
from notifier.sending.jobs import Job
from notifier.sending.ledger import Lease, Ledger, Row, Settled
from notifier.sending.pool import Pool
from notifier.sending.routes import Route
from notifier.states import CampaignState

log = structlog.get_logger(__name__)

_TICK = 0.05
_NOW, _ACCEPTED = Go.NOW, Fate.ACCEPTED  # looking up a member of an enumeration takes its time
# Below this, opening another connection costs more than it gains.
_MESSAGES_PER_CONNECTION = 8
# A round of the loop that comes later than this (seconds) found the process asleep.
_ASLEEP = 1.0
# A batch that is over waits so long (seconds) for connections that are being opened.
_LAST_OPENING = 1.0
# The monotonic clock stands still while a machine is suspended; this one, where there is one, does
# not.
boot_time = functools.partial(
    time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)


@dataclass(frozen=True, slots=True)
class Means:
    """What a run sends with; all of it outlives the batch. Times are in seconds.

    `connections` at most at once; `stopping` is asked before each message.
    """

    ledger: Ledger
    throttle: Throttle
    pool: Pool
    channel: Channel
    connections: int
    lease_seconds: float
    retry_minutes: tuple[float, ...]
    stopping: Callable[[], bool]


def _least(*limits: int) -> int:
    """Return the smallest limit; 0 stands for none."""
    return min([limit for limit in limits if limit], default=0)


def _now() -> Moment:
    return Moment(time.time(), boot_time())


class BatchRun:
    """One batch under way. Connections pull messages from it and tell it their fate; `go` does all.

    A `channel.Source`.
    """

    def __init__(
        self,
        means: Means,
        lease: Lease,
        route: Route,
        job: Job,
        rows: list[Row],
        *,
        loaded_at: datetime,
        habits: Habits,
        slow_replies: int = 0,
    ) -> None:
        """Send `rows` of `lease` over `route`; opt-outs since `loaded_at` are heeded.

        `habits` of the route's server are as they were just read; `slow_replies` as in `Core`.
        """
        self.means = means
        self.lease = lease
        self.route = route
        self.job = job
        self.loaded_at = loaded_at
        self.habits = habits
        self.core = Core(
            rows,
            Terms(
                deadline=job.deadline,
                next_due=self._next_due,
                lease_seconds=means.lease_seconds,
                hold=job.hold,
                sandbox=job.terms.sandbox,
            ),
            _now(),
            slow_replies=slow_replies,
        )
        self.core.paced = bool(route.per_minute or job.terms.pace_per_minute or habits.per_minute)
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.resting: list[Connection] = []
        self.opening: set[asyncio.Task[None]] = set()
        self.signs: list[tuple[Sign, int]] = []  # felt, and not yet shared with other workers
        self.done = False  # every message of the batch has an outcome
        self.wanted = 0
        self.accepted = 0
        self.changed = asyncio.Event()
        self._slotted = False
        self._slots_at = 0.0
        self._asleep = False
        self._began = self._beat = self.loop.time()

    def _next_due(
        self, attempts: int, now: float, expires_at: float, retry_after: float
    ) -> float | None:
        return next_due(
            attempts,
            now,
            minutes=self.means.retry_minutes,
            expires_at=expires_at,
            retry_after=retry_after,
        )

    # --- what connections call --------------------------------------------------------------------

    def pull(self) -> Outgoing | None:
        """Return the next message to start, or None when none may start now."""
        core = self.core
        if core.halted or self.means.stopping():
            core.stop()
            self.changed.set()
            return None
        wall, boot = time.time(), boot_time()
        if wall >= core.good_wall or boot >= core.good_boot:
            self.changed.set()
            return None
        if core.again and (flight := core.take_again(wall)) is not None:
            return flight.message
        while (row := core.take(wall)) is not None:
            try:
                message = self.job.render(row, wall)
            except Exception as error:  # noqa: BLE001
                # Whatever a template or one row's data does, it must cost that row alone and never
                # the batch. A traceback may hold data.
                name = type(error).__name__
                log.error("unrenderable", message=str(row.id), error=name)  # noqa: TRY400
                core.unrenderable(row, wall)
                continue
            core.started(row, message, hashlib.sha256(message.content).hexdigest(), boot)
            return message
        if core.outcomes:
            self.changed.set()
        return None

    def may_go(self, message: Outgoing) -> Go:
        """Say whether the content of a message that was pulled may be handed over now."""
        core = self.core
        wall, boot = time.time(), boot_time()
        if (
            wall < core.good_wall
            and boot < core.good_boot
            and not core.suppressed
            and not core.withdrawn
        ):
            return _NOW  # the usual case of `Core.may_go` without a call: this is the hot path
        answer = core.may_go(message.position, wall, boot)
        if answer is Go.WAIT:
            self.changed.set()
        return answer

    def settled(self, message: Outgoing, verdict: Verdict, host: str) -> None:
        """Hear the fate of a message that was pulled; called once for each."""
        core = self.core
        if verdict.fate is _ACCEPTED:
            flight = core.accepted(message.position, verdict.detail, host, time.time())
            self.accepted += 1
            if len(core.outcomes) >= GROUP and not self.changed.is_set():
                observability.observe_send(boot_time() - flight.began)
                self.changed.set()
            return
        core.failed(message.position, verdict, host, time.time())
        if core.hurried:
            core.hurried = False
            seconds = max(_TICK, self.loop.time() - self._began)
            self.signs.append((Sign.HURRIED, int(self.accepted / seconds * 60)))
        self.changed.set()

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
            self.core.connection_lost(connection.taken)
            if connection.taken:
                self.signs.append((Sign.PARTED, connection.taken))
        self.changed.set()

    # --- the life of the batch --------------------------------------------------------------------

    async def go(self) -> None:
        """Send what can be sent now and give the batch back."""
        try:
            if self.core.rows and not await self._settle():
                return
            await self._send_all()
        finally:
            for task in self.opening:
                task.cancel()
            self.means.pool.park(
                self.route.name, [each for each in self.connections if each in self.resting]
            )
            for connection in self.connections - set(self.resting):
                connection.source = None
                connection.close()

    async def _send_all(self) -> None:
        core = self.core
        self.wanted = await self._connections_wanted()
        for connection in self.means.pool.take(self.route.name, self.wanted):
            self._adopt(connection)
        over_at = 0.0
        while not core.lost:
            self._open_more()
            self._wake_resting()
            if not self.connections and not self.opening:
                core.all_connections_gone()
            if core.over:
                # Connections that are nearly open serve the next batch.
                over_at = over_at or self.loop.time()
                if not self.opening or self.loop.time() - over_at > _LAST_OPENING:
                    break
            await self._wait()
            await self._heartbeat()
            await self._learn()
            core.give_up_waiting(_now())
            if core.settle_is_due(_now(), idle=len(self.resting) == len(self.connections)):
                await self._settle()
        if not core.lost:
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
        if now - self._beat > _ASLEEP and not self._asleep:
            # This process was asleep, not the server: its replies may be here, yet unread.
            self._asleep = True
        else:
            self._asleep = False
            for connection in list(self.connections):
                connection.check_timeout(now)
        self._beat = now
        if self._slotted and now - self._slots_at > SLOT_SECONDS / 3:
            self._slots_at = now
            await self.means.throttle.slots(
                self.route.name, len(self.connections), self._connections_limit
            )

    def _wake_resting(self) -> None:
        core = self.core
        if self.resting and not core.halted and (core.again or core.next < core.limit):
            resting, self.resting = self.resting, []
            for connection in resting:
                connection.send(self)

    # --- connections and the server's habits ------------------------------------------------------

    @property
    def _connections_limit(self) -> int:
        """How many connections all workers together may have (0: no limit)."""
        return _least(self.route.connections, self.habits.connections)

    async def _connections_wanted(self) -> int:
        most = max(1, min(self.means.connections, len(self.core.rows) // _MESSAGES_PER_CONNECTION))
        if limit := self._connections_limit:
            self._slotted = True
            self._slots_at = self.loop.time()
            most = await self.means.throttle.slots(self.route.name, most, limit)
            if most == 0:
                # All of the route's connections are in other workers' hands; the batch is tried
                # again shortly.
                self.core.rest(time.time() + 1)
        return most

    def _open_more(self) -> None:
        if not self.core.may_connect():
            return
        missing = min(self.wanted, self.core.left) - len(self.connections) - len(self.opening)
        for _ in range(missing):
            task = self.loop.create_task(self._open())
            self.opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self.opening.discard(task)
        self.changed.set()

    async def _open(self) -> None:
        limit = _least(self.route.messages_per_connection, self.habits.messages)
        try:
            connection = await self.means.channel.connect(limit=limit)
        except Unreachable as error:
            self.core.connect_failed()
            if self.connections and self.accepted:
                # It takes mail, only not over so many connections.
                self.signs.append((Sign.CROWDED, self.means.connections))
                self.wanted = min(self.wanted, len(self.connections))
            log.warning(
                "connect_failed",
                route=self.route.name,
                detail=error.verdict.detail,
                error=type(error.__cause__).__name__,
            )
            return
        self._adopt(connection)

    def _adopt(self, connection: Connection) -> None:
        self.connections.add(connection)
        connection.send(self)

    async def _learn(self) -> None:
        """Share what the server let us feel, and heed what all workers know of it."""
        signs, self.signs = self.signs, []
        for sign, number in dict.fromkeys(signs):
            self.habits = await self.means.throttle.habits(self.route.name, sign, number)
            log.debug("habit", route=self.route.name, sign=sign, number=number)
        if signs:
            self.core.paced = self.core.paced or bool(self.habits.per_minute)
            if self.habits.connections:
                self.wanted = min(self.wanted, self.habits.connections)

    # --- settling ---------------------------------------------------------------------------------

    async def _settle(self) -> bool:
        """Write the outcomes so far and open the window further; False: no longer our batch."""
        core = self.core
        room = core.room()
        if core.paced and room:
            room = await self._tokens(room) if core.may_ask_tokens(boot_time()) else 0
        settle = core.begin_settle(_now(), room)
        settled = await self._write(settle)
        if settled is None or not settled.lease_holds:
            log.error("lease_lost", unsettled=len(settle.outcomes) + len(core.under_way))
            core.lose()
            for connection in list(self.connections):
                connection.source = None
                connection.close()
            self.connections.clear()
            return False
        core.settled(
            _now(),
            running=settled.campaign_state is CampaignState.RUNNING,
            suppressed=settled.suppressed,
        )
        if settle.outcomes:
            self._count(settle)
        for connection in list(self.connections):
            connection.resume()
        return True

    async def _write(self, settle: Settle) -> Settled | None:
        """Settle; try on while the database is unavailable and the lease may still be ours."""
        while True:
            try:
                return await self.means.ledger.settle(
                    self.lease, settle.mark, settle.outcomes, self.loaded_at
                )
            except psycopg.OperationalError as error:
                log.warning("database_unavailable", error=type(error).__name__)
                await self.means.ledger.close()
                if settle.begun.age(_now()) > self.means.lease_seconds:
                    return None
                await asyncio.sleep(0.2)

    def _count(self, settle: Settle) -> None:
        counts: dict[str, int] = {}
        for outcome in settle.outcomes:
            counts[outcome.state] = counts.get(outcome.state, 0) + 1
        observability.count_outcomes(self.route.name, self.lease.lane, counts)

    async def _tokens(self, wanted: int) -> int:
        """Ask the shared budgets for up to `wanted` messages; note when to ask again for more."""
        granted, wait = wanted, 0.0
        if per_minute := _least(self.route.per_minute, self.habits.per_minute):
            granted, wait = await self.means.throttle.take(
                f"route:{self.route.name}", per_minute, granted
            )
        if granted and self.job.terms.pace_per_minute:
            key = f"campaign:{self.lease.campaign_id}"
            granted, wait = await self.means.throttle.take(
                key, self.job.terms.pace_per_minute, granted
            )
        if not granted:
            self.core.no_tokens(wait, _now())
        return granted

    async def _give_back(self) -> None:
        core, throttle, name = self.core, self.means.throttle, self.route.name
        due = core.due
        if self.accepted and self.habits.pauses:
            await throttle.works(name)
        if core.slow:
            seconds = await throttle.pause(name)
            log.warning("route_pauses", route=name, seconds=round(seconds, 1))
            due = time.time() + seconds
        if self._slotted:
            # A parked connection would hold a slot that other workers wait for.
            for connection in list(self.connections):
                connection.close()
            await throttle.slots(name, 0, 1)
        self.done = await self.means.ledger.release(self.lease, due=due)
