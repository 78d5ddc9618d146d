"""The decisions of a batch under way: what may start, what is written when, when it is over.

Pure: no clock, no socket, no SQL. `run.py` is the shell around it, which tells it what happened and
at which time, and does what it answers. The order that makes a crash harmless is kept here:

* A message starts only below the watermark; the watermark moves only in a settle that the database
  has committed, and it never runs more than `WINDOW` unsettled messages ahead.
* Nothing is handed over on an old look at the database. A settle renews the lease and tells who
  opted out and whether the campaign still runs; when the last one is older than `STALE_SECONDS`,
  another must come first. So a process that was stopped, or whose machine was paused, finds out
  that its lease is over before it sends, and an opt-out counts however slow the server is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from notifier.channel import Fate, Go, Outgoing, Verdict
from notifier.domain.messages import MAX_DOUBTS
from notifier.sending.ledger import WINDOW, Outcome, Row
from notifier.states import MessageState

# A settle waits for this many outcomes while more are under way: few enough that the window never
# runs dry, enough to share a commit.
GROUP = 32
# Outcomes do not wait longer than this (seconds) for others.
MAX_OUTCOME_SECONDS = 0.05
# While anything is to be sent, the database is looked at this often, and nothing is handed over
# when the last look is older than the second figure (seconds).
RENEW_SECONDS = 0.25
STALE_SECONDS = 0.5
# Of a database that takes longer than that to answer, each answer is good for this much longer.
_GRACE_SECONDS = 0.1
# So often a message whose connection broke before the server heard of it goes over another one;
# then others of the batch must not wait for it: it may be the reason.
_RETRIES_UNSENT = 2
# Likewise when the server only had enough of that connection, which is no fault of the message.
_RETRIES_ENOUGH = 8
# So many connections may fail in a row without an accepted message between; then no more is opened.
MAX_CONNECT_FAILURES = 3
# So many replies in a row may ask to slow down without an accepted message between; then the route
# is paused.
MAX_SLOW_REPLIES = 5
# A reply that asks to slow down weighs as much as so many accepted messages, and when as many of
# them have come as make the second figure, this sender is too fast. A few among many are no reason:
# one recipient's rate limit, one content that a filter dislikes.
_SLOW_WEIGHT = 8
_HURRIED = 80
# Waiting longer than this (seconds) for a token is done without holding the lease.
MAX_TOKEN_WAIT = 5.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A time by two clocks, in seconds: `wall` since the epoch, `boot` by one that never goes back.

    An age is the larger of both differences: the one may be set back, the other stand still.
    """

    wall: float
    boot: float

    def age(self, now: Moment) -> float:
        """Return how many seconds have passed until `now`."""
        return max(now.wall - self.wall, now.boot - self.boot)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the core must know of campaign, lease and route. Times are seconds.

    `deadline` says until when (epoch) a row may be sent. `next_due` says when (epoch) to try again
    after so many attempts, given the time, the deadline and the wait that the server asked for;
    None: not before the deadline. `hold`: a message in doubt waits for a person. `sandbox`: all
    refusals are played.
    """

    deadline: Callable[[Row], float]
    next_due: Callable[[int, float, float, float], float | None]
    lease_seconds: float
    hold: bool = False
    sandbox: bool = False
    window: int = WINDOW


@dataclass(frozen=True, slots=True)
class Settle:
    """What one settle writes: outcomes, and the position up to which messages may start."""

    mark: int
    outcomes: list[Outcome]
    limit: int
    begun: Moment


@dataclass(slots=True)
class Flight:
    """A message that a connection was handed. `sha256` is of its content, `began` a boot time."""

    row: Row
    message: Outgoing
    sha256: str
    began: float


class Core:
    """One batch under way. Times are given by the caller; see `Moment` and `Terms`."""

    __slots__ = (
        "_deadline",
        "_hurry",
        "_looked",
        "_tokens_at",
        "_tries",
        "again",
        "committed",
        "due",
        "failures",
        "good_boot",
        "good_wall",
        "halted",
        "hurried",
        "limit",
        "lost",
        "next",
        "outcomes",
        "paced",
        "rows",
        "settling",
        "slow",
        "slow_replies",
        "suppressed",
        "terms",
        "under_way",
        "withdrawn",
    )

    def __init__(
        self, rows: Sequence[Row], terms: Terms, now: Moment, *, slow_replies: int = 0
    ) -> None:
        """Send `rows`, in order of position; `slow_replies` in a row came before this batch."""
        self.rows = rows
        self.terms = terms
        self._deadline = terms.deadline
        self.next = 0  # index of the first row that was not started
        self.limit = 0  # rows before this index may start
        self.committed = 0  # rows whose outcome is in the database
        self.outcomes: list[Outcome] = []  # not yet in a settle
        self.settling: Settle | None = None
        self.under_way: dict[int, Flight] = {}
        self.again: deque[Flight] = deque()  # were started, but the server never heard of them
        self.suppressed: frozenset[int] = frozenset()
        self.halted = False  # nothing more starts; what is under way is finished
        self.paced = False  # messages start only with tokens
        self.withdrawn = False  # the campaign runs no more: what can be held back is held back
        self.lost = False  # the batch is somebody else's
        self.slow = False  # the route is to be paused
        self.hurried = False  # this sender is too fast; who reads it takes it back
        self._hurry = 0
        self.failures = 0
        self.slow_replies = slow_replies
        self.due: float | None = None  # the batch is to rest until then (epoch seconds)
        self._tries: dict[int, int] = {}
        self._tokens_at = 0.0
        self._looked = now
        self.good_wall = self.good_boot = 0.0  # until then the last look is good

    # --- what may start ---------------------------------------------------------------------------

    def stop(self) -> None:
        """Start nothing more."""
        self.halted = True

    def rest(self, until: float) -> None:
        """Start nothing more; the batch is to rest until then (epoch seconds)."""
        self.halted = True
        self.due = until

    def fresh(self, wall: float, boot: float) -> bool:
        """Say whether the last look at the database is new enough to hand something over."""
        return wall < self.good_wall and boot < self.good_boot

    def may_go(self, position: int, wall: float, boot: float) -> Go:
        """Say whether the content of a message that was started may be handed over now."""
        if self.lost:
            return Go.NEVER
        if wall >= self.good_wall or boot >= self.good_boot:
            return Go.WAIT
        if self.withdrawn or (
            self.suppressed and self.under_way[position].row.address_id in self.suppressed
        ):
            return Go.NEVER
        return Go.NOW

    def take_again(self, wall: float) -> Flight | None:
        """Return a message that must be started anew, which is under way then."""
        while self.again:
            flight = self.again.popleft()
            if not self._barred(flight.row, wall):
                self.under_way[flight.row.position] = flight
                return flight
        return None

    def take(self, wall: float) -> Row | None:
        """Return the next row to start (`started` or `unrenderable` must follow), None for now."""
        while self.next < self.limit:
            row = self.rows[self.next]
            self.next += 1
            # The usual case without a call: this is the hot path.
            if (
                row.suppressed is None
                and row.address_id not in self.suppressed
                and wall <= self._deadline(row)
            ):
                return row
            self._barred(row, wall)
        return None

    def _barred(self, row: Row, wall: float) -> bool:
        """Note the outcome of a message that is not to be sent; say whether it is one."""
        if wall > self._deadline(row):
            self._note(row, MessageState.EXPIRED, "", wall, tried=False)
            return True
        reason = row.suppressed or ("unsubscribed" if row.address_id in self.suppressed else None)
        if reason is not None:
            self._note(row, MessageState.SKIPPED, reason, wall, tried=False)
        return reason is not None

    def started(self, row: Row, message: Outgoing, sha256: str, boot: float) -> None:
        """Note that a row which `take` returned is handed to a connection."""
        self.under_way[row.position] = Flight(row, message, sha256, boot)

    def unrenderable(self, row: Row, wall: float) -> None:
        """Note that a row which `take` returned cannot be made into a message."""
        self._note(row, MessageState.SKIPPED, "unrenderable", wall, tried=False)

    # --- what became of it ------------------------------------------------------------------------

    def accepted(self, position: int, detail: str, host: str, wall: float) -> Flight:
        """Note that a message was taken; return what was under way."""
        flight = self.under_way.pop(position)
        row = flight.row
        self.outcomes.append(
            Outcome(
                position,
                MessageState.ACCEPTED,
                wall,
                row.attempts + 1,
                row.doubts,
                detail,
                host,
                flight.sha256,
            )
        )
        self.failures = self.slow_replies = 0
        if self._hurry:
            self._hurry -= 1
        return flight

    def failed(self, position: int, verdict: Verdict, host: str, wall: float) -> None:
        """Note any other fate."""
        flight = self.under_way.pop(position)
        if verdict.slow_route and not verdict.enough:
            self.slow_replies += 1
            if self.slow_replies >= MAX_SLOW_REPLIES:
                self.pause_route()
            self._hurry += _SLOW_WEIGHT
            if self._hurry >= _HURRIED:
                self._hurry = 0
                self.hurried = True
        if verdict.unsent:
            self._start_anew(flight, verdict, host, wall)
        elif verdict.fate is Fate.REFUSED:
            # A refusal that a sandbox plays says nothing of the address.
            dead = verdict.dead_address and not self.terms.sandbox
            self._note(
                flight.row,
                MessageState.REFUSED,
                verdict.detail,
                wall,
                host=host,
                sha256=flight.sha256,
                dead=dead,
            )
        else:
            self._put_off(flight, verdict, host, wall)

    def _start_anew(self, flight: Flight, verdict: Verdict, host: str, wall: float) -> None:
        position = flight.row.position
        tries = self._tries[position] = self._tries.get(position, 0) + 1
        most = _RETRIES_ENOUGH if verdict.enough and not verdict.slow_route else _RETRIES_UNSENT
        if self.withdrawn or tries <= most:
            self.again.append(flight)
        elif not self._barred(flight.row, wall):
            self._put_off(flight, verdict, host, wall)

    def _put_off(self, flight: Flight, verdict: Verdict, host: str, wall: float) -> None:
        """Note that a message is to be tried again later, held, or has run out of time."""
        row = flight.row
        doubt = verdict.fate is Fate.UNKNOWN
        due = None
        if doubt and (self.terms.hold or row.doubts + 1 >= MAX_DOUBTS):
            state = MessageState.IN_DOUBT
        else:
            due = self.terms.next_due(
                row.attempts + 1, wall, self._deadline(row), verdict.retry_after
            )
            state = MessageState.EXPIRED if due is None else MessageState.DEFERRED
        self._note(
            row,
            state,
            verdict.detail,
            wall,
            host=host,
            sha256=flight.sha256,
            due=due,
            doubt=doubt,
        )

    def _note(
        self,
        row: Row,
        state: MessageState,
        detail: str,
        wall: float,
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
                position=row.position,
                state=state,
                at=wall,
                attempts=row.attempts + tried,
                doubts=row.doubts + doubt,
                detail=detail,
                host=host,
                sha256=sha256,
                due=due,
                dead_address=dead,
            )
        )

    # --- connections ------------------------------------------------------------------------------

    def connect_failed(self) -> None:
        """Note that a connection did not come about."""
        self.failures += 1

    def connection_lost(self, taken: int) -> None:
        """Note that a connection is gone, not by our wish, which took so many messages."""
        # A server that takes some and hangs up is no failure: many limit what a connection sends.
        self.failures += taken == 0

    def may_connect(self) -> bool:
        """Say whether another connection is worth a try."""
        return not self.halted and self.failures < MAX_CONNECT_FAILURES

    def all_connections_gone(self) -> None:
        """Note that none is open or being opened: after too many failures the route is paused."""
        if self.failures >= MAX_CONNECT_FAILURES:
            self.pause_route()

    def pause_route(self) -> None:
        """Start nothing more and leave the route alone for a while."""
        self.halted = self.slow = True

    # --- settling ---------------------------------------------------------------------------------

    def settle_is_due(self, now: Moment, *, idle: bool) -> bool:
        """Say whether to settle now; `idle`: no connection has anything to do."""
        if self.lost or self.settling is not None:
            return False
        since = self._looked.age(now)
        if self.outcomes:
            if (
                len(self.outcomes) >= GROUP
                or not self.under_way
                or idle
                or self.halted
                or since > MAX_OUTCOME_SECONDS
            ):
                return True
        elif self.wants_tokens(now.boot):
            return True
        return since > self._renew_after or not self.fresh(now.wall, now.boot)

    @property
    def _renew_after(self) -> float:
        return min(RENEW_SECONDS, self.terms.lease_seconds / 4)

    def wants_tokens(self, boot: float) -> bool:
        """Say whether rows wait for nothing but tokens, and it is time to ask for some."""
        return (
            self.paced
            and not self.halted
            and self.next == self.limit < len(self.rows)
            and self.may_ask_tokens(boot)
        )

    def may_ask_tokens(self, boot: float) -> bool:
        """Say whether there can be tokens again."""
        return boot >= self._tokens_at

    def room(self) -> int:
        """Return how many more rows than now the next settle may let start."""
        end = min(self.committed + len(self.outcomes) + self.terms.window, len(self.rows))
        return max(0, end - self.limit)

    def no_tokens(self, wait: float, now: Moment) -> None:
        """Note that the next token comes in `wait` seconds."""
        self._tokens_at = now.boot + wait

    def give_up_waiting(self, now: Moment) -> None:
        """Rest when only tokens are waited for, and for long: the lease is better given back."""
        wait = self._tokens_at - now.boot
        if wait > MAX_TOKEN_WAIT and not self.under_way and not self.halted:
            self.rest(now.wall + wait)

    def begin_settle(self, now: Moment, granted: int) -> Settle:
        """Return what to write; `granted` more rows, of `room`, may start once it is committed."""
        limit = self.limit + min(granted, self.room())
        mark = self.rows[limit - 1].position if limit else -1
        self.settling = Settle(mark, self.outcomes, limit, now)
        self.outcomes = []
        return self.settling

    def settled(self, now: Moment, *, running: bool, suppressed: frozenset[int]) -> None:
        """Note that the settle is committed, and what it learnt about campaign and opt-outs."""
        settle = self.settling
        if settle is None:
            return
        self.settling = None
        self.committed += len(settle.outcomes)
        self.limit = settle.limit
        self.suppressed = suppressed
        if not running:
            self.halted = self.withdrawn = True
        # What was learnt is as old as the question. A database that needs longer for each answer
        # must not stop everything, so that its answer is good for a moment; but never for longer
        # than the lease, in which somebody else may be at work.
        self._looked = settle.begun
        good = max(STALE_SECONDS, settle.begun.age(now) + _GRACE_SECONDS)
        good = min(good, self.terms.lease_seconds / 2)
        self.good_wall = settle.begun.wall + good
        self.good_boot = settle.begun.boot + good

    def lose(self) -> None:
        """Note that the batch is no longer ours: nothing more is sent or written."""
        self.settling = None
        self.lost = self.halted = True
        self.good_wall = self.good_boot = 0.0

    # --- the end ----------------------------------------------------------------------------------

    @property
    def left(self) -> int:
        """How many messages are still to be started."""
        return len(self.rows) - self.next + len(self.again)

    @property
    def over(self) -> bool:
        """Say whether all that was started is written, and nothing more is to be started."""
        return self.lost or (
            not self.under_way
            and not self.outcomes
            and self.settling is None
            and (self.halted or not self.left)
        )
