"""The core of a batch, played through in any order of replies, losses, settles and stops."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from notifier.channel import Fate, Go, Outgoing, Verdict
from notifier.domain.messages import MAX_DOUBTS
from notifier.sending import core as rules
from notifier.sending.core import Core, Moment, Terms
from notifier.sending.ledger import WINDOW, Outcome, Row

NEVER = 1e12
START = Moment(1_000_000.0, 500.0)
LEASE = 30.0
HOST = "mx.example.test"


def row(number: int, **values: object) -> Row:
    """Return a row at an odd position, so that positions and indices are told apart."""
    made = Row(
        position=number * 3 + 1,
        id=uuid.uuid4(),
        address_id=number % 40,
        email=f"u{number}@example.test",
        name="",
        tax_code=None,
        language="vi",
        data="{}",
        attempts=0,
        doubts=0,
        suppressed=None,
    )
    return replace(made, **values)  # type: ignore[arg-type]


def next_due(attempts: int, now: float, expires_at: float, retry_after: float) -> float | None:
    """Wait a minute a try, or as long as the reply asks."""
    due = now + max(60.0 * attempts, retry_after)
    return None if due >= expires_at else due


def terms(*, hold: bool = False) -> Terms:
    return Terms(
        deadline=lambda row: row.expires_at or NEVER,
        next_due=next_due,
        lease_seconds=LEASE,
        hold=hold,
    )


def message(row: Row) -> Outgoing:
    return Outgoing(row.position, "b@example.test", row.email, b"text")


verdicts = st.sampled_from(
    [
        Verdict(Fate.LATER, "451 later"),
        Verdict(Fate.LATER, "452 4.2.2 full", retry_after=21_600),
        Verdict(Fate.LATER, "451 4.7.1 too fast", slow_route=True),
        Verdict(Fate.LATER, "421 closing", slow_route=True, unsent=True, enough=True),
        Verdict(Fate.LATER, "421 enough", unsent=True, enough=True),
        Verdict(Fate.LATER, "connection lost at mail", unsent=True),
        Verdict(Fate.REFUSED, "550 5.1.1 nobody", dead_address=True),
        Verdict(Fate.REFUSED, "550 5.7.1 blocked", slow_route=True),
        Verdict(Fate.UNKNOWN, "connection lost after the final dot"),
    ]
)


class BatchMachine(RuleBasedStateMachine):
    """A shell that does whatever a shell may do, and remembers what must not be forgotten."""

    @initialize(
        rows=st.lists(
            st.sampled_from(["", "", "", "", "unsubscribed", "expires", "doubted"]),
            min_size=1,
            max_size=200,
        ),
        paced=st.booleans(),
        hold=st.booleans(),
    )
    def lease(self, rows: list[str], paced: bool, hold: bool) -> None:
        self.rows = [
            row(
                number,
                suppressed="unsubscribed" if kind == "unsubscribed" else None,
                expires_at=START.wall + 20 if kind == "expires" else None,
                doubts=MAX_DOUBTS - 1 if kind == "doubted" else 0,
            )
            for number, kind in enumerate(rows)
        ]
        self.now = START
        self.hold = hold
        self.core = Core(self.rows, terms(hold=hold), self.now)
        self.core.paced = paced
        self.by_position = {each.position: each for each in self.rows}
        self.mark = -1  # as committed
        self.settled: set[int] = set()  # positions whose outcome is committed
        self.outcomes: dict[int, Outcome] = {}
        self.handed: set[int] = set()  # positions that a server may have heard of
        self.doubts: Counter[int] = Counter()
        self.looked = START
        self.gone: frozenset[int] = frozenset()  # opted out, and a settle has said so
        self.stopped = False

    # --- what a shell does ------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.2, 0.6, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now = Moment(self.now.wall + seconds, self.now.boot + seconds)

    @rule(seconds=st.sampled_from([-3600.0, -1.0, 40.0]), wall=st.booleans())
    def one_clock_jumps(self, seconds: float, wall: bool) -> None:
        if wall:
            self.now = Moment(self.now.wall + seconds, self.now.boot)
        elif seconds > 0:
            self.now = Moment(self.now.wall, self.now.boot + seconds)

    @rule(most=st.integers(1, 80))
    def pull(self, most: int) -> None:
        """Hand out as `BatchRun.pull` does."""
        core = self.core
        for _ in range(most):
            if core.halted or not core.fresh(self.now.wall, self.now.boot):
                return
            flight = core.take_again(self.now.wall)
            if flight is None:
                taken = core.take(self.now.wall)
                if taken is None:
                    return
                core.started(taken, message(taken), "ab", self.now.boot)
                position = taken.position
            else:
                position = flight.row.position
            assert not self.stopped, "something started after a stop"
            assert position <= self.mark, "something started beyond the committed mark"
            assert position not in self.settled
            assert self.by_position[position].address_id not in self.gone
            assert self.looked.age(self.now) <= LEASE / 2, "something started on an old look"
            self.handed.add(position)

    def _some(self, choice: int) -> int:
        return sorted(self.core.under_way)[choice % len(self.core.under_way)]

    @precondition(lambda self: self.core.under_way)
    @rule(choice=st.integers(0, 1000), many=st.integers(1, 40))
    def accepted(self, choice: int, many: int) -> None:
        for _ in range(min(many, len(self.core.under_way))):
            position = self._some(choice)
            self.core.accepted(position, "250 ok", HOST, self.now.wall)

    @precondition(lambda self: self.core.under_way)
    @rule(choice=st.integers(0, 1000), verdict=verdicts)
    def failed(self, choice: int, verdict: Verdict) -> None:
        position = self._some(choice)
        self.doubts[position] += verdict.fate is Fate.UNKNOWN
        self.core.failed(position, verdict, HOST, self.now.wall)

    @precondition(lambda self: self.core.under_way)
    @rule(choice=st.integers(0, 1000))
    def last_moment(self, choice: int) -> None:
        position = self._some(choice)
        answer = self.core.may_go(position, self.now.wall, self.now.boot)
        if answer is Go.WAIT:
            assert self.core.settle_is_due(self.now, idle=False) or self.core.settling is not None
        elif answer is Go.NEVER:
            gone = self.by_position[position].address_id in self.gone
            assert gone or self.core.withdrawn or self.core.lost
            withdrawn = Verdict(Fate.LATER, "withdrawn", unsent=True)
            self.core.failed(position, withdrawn, HOST, self.now.wall)
        else:
            assert self.by_position[position].address_id not in self.gone
            assert self.looked.age(self.now) <= LEASE / 2

    @rule(taken=st.integers(0, 3))
    def connection_gone(self, taken: int) -> None:
        self.core.connection_lost(taken)

    @rule()
    def cannot_connect(self) -> None:
        self.core.connect_failed()
        if not self.core.under_way:
            self.core.all_connections_gone()

    @rule(wait=st.sampled_from([0.5, 60.0]))
    def tokens_run_out(self, wait: float) -> None:
        if self.core.paced:
            self.core.no_tokens(wait, self.now)
            self.core.give_up_waiting(self.now)

    @rule()
    def stop_is_asked(self) -> None:
        self.core.stop()
        self.stopped = True

    # --- settling, which takes time ---------------------------------------------------------------

    @precondition(lambda self: self.core.settling is None and not self.core.lost)
    @rule(granted=st.integers(0, 100))
    def settle_begins(self, granted: int) -> None:
        room = self.core.room()
        settle = self.core.begin_settle(self.now, min(granted, room) if self.core.paced else room)
        positions = [outcome.position for outcome in settle.outcomes]
        assert len(positions) == len(set(positions)), "two outcomes of one message in a settle"
        assert settle.mark >= self.mark
        assert all(position <= self.mark for position in positions)

    @precondition(lambda self: self.core.settling is not None)
    @rule(
        running=st.sampled_from([True, True, True, True, False]),
        opted_out=st.frozensets(st.integers(0, 60), max_size=3),
    )
    def settle_is_committed(self, running: bool, opted_out: frozenset[int]) -> None:
        settle = self.core.settling
        assert settle is not None
        for outcome in settle.outcomes:
            assert outcome.position not in self.settled, "a message has two outcomes"
            self.settled.add(outcome.position)
            self.outcomes[outcome.position] = outcome
        self.mark = settle.mark
        self.looked = settle.begun
        self.gone |= opted_out
        self.core.settled(self.now, running=running, suppressed=self.gone)
        self.stopped = self.stopped or not running

    @precondition(lambda self: self.core.settling is not None)
    @rule()
    def lease_is_lost(self) -> None:
        self.core.lose()
        self.stopped = True

    # --- what must hold after each step -----------------------------------------------------------

    @invariant()
    def window_is_kept(self) -> None:
        if not hasattr(self, "core"):
            return
        started = [each for each in self.rows[: self.core.next] if each.position in self.handed]
        unsettled = [each for each in started if each.position not in self.settled]
        assert len(unsettled) <= WINDOW
        ahead = [each for each in self.rows if each.position <= self.mark]
        assert len(ahead) - len(self.settled) <= WINDOW
        assert all(position <= self.mark for position in self.core.under_way)

    @invariant()
    def what_waits_is_asked_for(self) -> None:
        """Whenever nothing can go on by itself, a settle is due or the batch is over."""
        if not hasattr(self, "core"):
            return
        core = self.core
        stuck = not core.under_way and core.settling is None and core.outcomes
        if stuck and not core.lost:
            assert core.settle_is_due(self.now, idle=True)

    def teardown(self) -> None:
        """Answer what is under way and settle until it is over; then all books must be right."""
        if not hasattr(self, "core"):
            return
        core = self.core
        for _ in range(3 * len(self.rows) + 20):
            if core.over:
                break
            if core.settling is None:
                self.settle_begins(100)
            self.settle_is_committed(running=not core.withdrawn, opted_out=frozenset())
            self.now = Moment(self.now.wall + 0.01, self.now.boot + 0.01)
            self.pull(1000)
            for position in list(core.under_way):
                core.accepted(position, "250 ok", HOST, self.now.wall)
        assert core.over, "the run does not end"
        if core.lost:
            return
        assert not core.under_way
        back = {flight.row.position for flight in core.again}
        for each in self.rows:
            outcome = self.outcomes.get(each.position)
            if outcome is None:
                # It was not started, or the server never heard of it, and the batch is given back.
                assert core.halted
                assert each.position not in self.handed or each.position in back
                continue
            assert each.position not in back
            assert outcome.doubts == each.doubts + self.doubts[each.position]
            if outcome.state == "in_doubt":
                assert self.doubts[each.position]
                assert self.hold or outcome.doubts >= MAX_DOUBTS
            elif self.doubts[each.position]:
                assert outcome.state in {"deferred", "expired"}
            if outcome.state == "skipped":
                assert each.suppressed or each.address_id in self.gone
            if each.position not in self.handed:
                assert outcome.state in {"skipped", "expired"}
                assert outcome.attempts == each.attempts
            assert (outcome.due is not None) == (outcome.state == "deferred")
        if not core.halted:
            assert len(self.outcomes) == len(self.rows)


BatchMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestBatch = BatchMachine.TestCase


def begun(count: int = 100) -> Core:
    """Return a core whose window is open."""
    core = Core([row(number) for number in range(count)], terms(), START)
    core.begin_settle(START, core.room())
    core.settled(START, running=True, suppressed=frozenset())
    return core


def start(core: Core, now: Moment = START) -> int:
    taken = core.take(now.wall)
    assert taken is not None
    core.started(taken, message(taken), "ab", now.boot)
    return taken.position


@pytest.mark.parametrize("clock", ["wall", "boot"])
def test_nothing_goes_out_on_an_old_look_by_either_clock(clock: str) -> None:
    core = begun()
    position = start(core)
    later = replace(START, **{clock: getattr(START, clock) + rules.STALE_SECONDS + 0.01})
    assert not core.fresh(later.wall, later.boot)
    assert core.may_go(position, later.wall, later.boot) is Go.WAIT
    assert core.settle_is_due(later, idle=False)


def test_an_answer_that_was_read_after_the_lease_is_not_believed() -> None:
    core = Core([row(0)], terms(), START)
    core.begin_settle(START, core.room())
    woken = Moment(START.wall + LEASE * 2, START.boot + LEASE * 2)
    core.settled(woken, running=True, suppressed=frozenset())
    assert not core.fresh(woken.wall, woken.boot)


def test_a_slow_database_does_not_stop_everything() -> None:
    core = Core([row(0)], terms(), START)
    core.begin_settle(START, core.room())
    answered = Moment(START.wall + 2, START.boot + 2)
    core.settled(answered, running=True, suppressed=frozenset())
    assert core.fresh(answered.wall + 0.05, answered.boot + 0.05)


def test_who_opted_out_after_the_hand_over_began_is_held_back() -> None:
    core = begun()
    first, second = start(core), start(core)
    core.begin_settle(START, core.room())
    core.settled(START, running=True, suppressed=frozenset({core.rows[0].address_id}))
    assert core.may_go(first, START.wall, START.boot) is Go.NEVER
    assert core.may_go(second, START.wall, START.boot) is Go.NOW
    core.failed(first, Verdict(Fate.LATER, "withdrawn", unsent=True), HOST, START.wall)
    assert core.take_again(START.wall) is None
    assert [(o.position, o.state, o.attempts) for o in core.outcomes] == [(first, "skipped", 0)]


def test_the_route_is_paused_only_when_nothing_is_accepted() -> None:
    slow = Verdict(Fate.LATER, "451 4.7.1 too fast", slow_route=True)
    core = begun()
    for _ in range(10):
        for _ in range(rules.MAX_SLOW_REPLIES - 1):
            core.failed(start(core), slow, HOST, START.wall)
        core.accepted(start(core), "250 ok", HOST, START.wall)
    assert not core.slow
    for _ in range(rules.MAX_SLOW_REPLIES):
        core.failed(start(core), slow, HOST, START.wall)
    assert core.slow
    assert core.halted


def test_enough_on_a_connection_is_no_attempt_and_no_failure() -> None:
    enough = Verdict(Fate.LATER, "421 enough", unsent=True, enough=True)
    core = begun()
    position = start(core)
    for _ in range(5):
        core.failed(position, enough, HOST, START.wall)
        core.connection_lost(3)
        assert core.take_again(START.wall) is not None
    assert core.may_connect()
    core.accepted(position, "250 ok", HOST, START.wall)
    assert [outcome.attempts for outcome in core.outcomes] == [1]


def test_a_message_at_which_the_server_always_hangs_up_waits_for_another_batch() -> None:
    gone = Verdict(Fate.LATER, "connection lost at mail", unsent=True)
    core = begun()
    position = start(core)
    core.failed(position, gone, HOST, START.wall)
    while core.take_again(START.wall) is not None:
        core.failed(position, gone, HOST, START.wall)
    assert [(o.state, o.attempts) for o in core.outcomes] == [("deferred", 1)]


def test_a_reply_says_how_long_to_wait() -> None:
    core = begun()
    full = Verdict(Fate.LATER, "452 4.2.2 full", retry_after=21_600)
    core.failed(start(core), full, HOST, START.wall)
    assert core.outcomes[0].due == START.wall + 21_600
