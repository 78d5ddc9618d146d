"""Campaigns, batches and messages in any order of steps, by workers whose statements interleave.

Hypothesis plays what officers, workers and the sweep do against a real PostgreSQL. Before any
statement of a story another worker may slip in a step of its own, over a connection of its own; one
that would have to wait for a lock happens another time. After every step the books are checked.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from notifier.db import plain_url
from notifier.domain import addresses, batches, campaigns, messages, suppressions
from notifier.domain.campaigns import Terms
from notifier.domain.templates import freeze
from notifier.errors import TransitionError
from notifier.flows import control, transactional, upkeep
from notifier.queues import Queues
from notifier.schema import Campaign
from notifier.sending.ledger import WINDOW, Lease, Ledger, Outcome
from notifier.services import Services
from notifier.settings import Settings
from notifier.states import (
    BATCH_TRANSITIONS,
    CAMPAIGN_TRANSITIONS,
    MESSAGE_TRANSITIONS,
    BatchState,
    CampaignState,
    CampaignStep,
    InDoubtPolicy,
    Lane,
    MessageState,
)

MAILS = 7
BATCH = 3
TABLES = (
    "tally, message_problem, message_event, message, batch, campaign, recipient, audience, "
    "suppression, address, template_version, webhook_event"
)
_names = itertools.count()


class Recorder(Queues):
    """The broker, as far as the stories need it: what was enqueued."""

    def __init__(self) -> None:
        self.batches: set[int] = set()
        self.lanes: set[str] = set()

    def enqueue_batches(self, lane: str, batch_ids: Iterable[int]) -> bool:
        self.batches |= set(batch_ids)
        return bool(lane)

    def enqueue_gather(self, lane: str, *, requests: Iterable[str] = ()) -> bool:
        self.lanes.add(lane)
        return not requests or True

    def depth(self, queue: str) -> int:
        return len(queue) * 0


@dataclass
class Worker:
    """A worker as the database sees it: it leases, settles and gives back, or dies."""

    ledger: Ledger
    lease: Lease | None = None
    rows: list[Any] = field(default_factory=list)
    sent: int = 0
    mark: int = -1


class World:
    """What the machine plays with; one for all examples, emptied before each."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.recorder = Recorder()
        services.__dict__["queues"] = self.recorder
        self.loop = asyncio.new_event_loop()
        url = plain_url(services.settings.require_database()) + "?options=-c%20lock_timeout%3D40ms"
        self.workers = [Worker(Ledger(url, lease_seconds=60)) for _ in range(2)]
        self.interlude: Callable[[], None] | None = None
        self.entered = False
        event.listen(services.engine, "before_cursor_execute", self._before)

    def _before(self, *_: Any) -> None:
        if self.interlude is not None and not self.entered:
            self.entered = True
            try:
                self.interlude()
            finally:
                self.entered = False

    @contextmanager
    def interrupted(self, interlude: Callable[[], None]) -> Iterator[None]:
        """Let `interlude` happen before every statement of the block."""
        self.interlude = interlude
        try:
            yield
        finally:
            self.interlude = None

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Run a statement of the test's own."""
        with self.services.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def wait(self, work: Any) -> Any:
        """Run a worker's statement; None when it would have to wait for a lock."""
        with suppress(psycopg.errors.LockNotAvailable):
            return self.loop.run_until_complete(work)
        return None

    def empty(self) -> None:
        """Begin anew."""
        self.sql(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
        self.recorder.batches.clear()
        self.recorder.lanes.clear()
        self.services.transactional.clear()
        for worker in self.workers:
            worker.lease = None

    def close(self) -> None:
        """Close what is open."""
        for worker in self.workers:
            self.loop.run_until_complete(worker.ledger.close())
        self.loop.close()


WORLD: list[World] = []


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    services = Services(settings)
    made = World(services)
    yield made
    made.close()
    services.close()


class Life(RuleBasedStateMachine):
    """Any order of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.world = WORLD[0]
        self.services = self.world.services
        self.world.empty()
        self.names: list[str] = []
        self.checked: dict[str, CampaignState] = {}

    # --- what officers do ------------------------------------------------------------------------

    @precondition(lambda self: len(self.names) < 3)
    @rule(hold=st.booleans(), later=st.booleans())
    def launch(self, hold: bool, later: bool) -> None:
        name = f"c{next(_names)}"
        template = self.services.catalogue["tax-policy"]
        topic = self.services.topics["tax-policy"]
        terms = Terms(
            title=name,
            topic=topic.info,
            lane=Lane.CAMPAIGN,
            sender=self.services.sender,
            data={},
            in_doubt=InDoubtPolicy.HOLD if hold else InDoubtPolicy.RESEND,
        )
        now = datetime.now(UTC)
        with self.services.session() as session:
            emails = [f"{name}-{number}@example.test" for number in range(MAILS)]
            numbers = addresses.ids(session, emails)
            audience_id = session.scalar(
                text("""INSERT INTO audience (file_name, sha256, template, template_version,
                               rows_read, accepted, rejected, merged, header, unused_columns,
                               totals, created_at)
                        VALUES ('x', '', 't', 'v', 0, 0, 0, 0, '[]', '[]', '{}', now())
                        RETURNING id""")
            )
            for row, email in enumerate(emails):
                session.execute(
                    text("""INSERT INTO recipient (audience_id, row_no, name, language,
                                                   address_ids, data)
                            VALUES (:audience_id, :row, 'n', 'vi', ARRAY[:number], '{}')"""),
                    {"audience_id": audience_id, "row": row, "number": numbers[email]},
                )
            draft = campaigns.create_draft(session, name, terms, "", now=now)
            draft.template_version = freeze(session, template, now)
            draft.launch_at = now if later else None
            draft.total = messages.plan(
                session.connection(),
                campaign_id=draft.id,
                audience_id=audience_id or 0,
                lane=Lane.CAMPAIGN,
                routes={},
                default_route="relay",
                due_at=now - timedelta(seconds=1),
                now=now,
            )
            campaigns.take(draft, CampaignStep.SCHEDULE if later else CampaignStep.LAUNCH)
            session.flush()
            ready = batches.ready(session.connection(), Lane.CAMPAIGN, campaign_id=draft.id)
        self.services.queues.enqueue_batches(Lane.CAMPAIGN, ready)
        self.names.append(name)

    @precondition(lambda self: self.names)
    @rule(
        data=st.data(),
        step=st.sampled_from([control.pause, control.resume, control.cancel]),
        other=st.integers(0, 5),
    )
    def steer(self, data: Any, step: Callable[..., Campaign], other: int) -> None:
        name = data.draw(st.sampled_from(self.names))
        with suppress(TransitionError), self.world.interrupted(lambda: self.meanwhile(other)):
            step(self.services, name)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), resend=st.booleans())
    def decide(self, data: Any, resend: bool) -> None:
        with suppress(TransitionError):
            control.decide_in_doubt(
                self.services, data.draw(st.sampled_from(self.names)), resend=resend
            )

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        control.retry_dead_letters(self.services, data.draw(st.sampled_from(self.names)))

    @rule(number=st.integers(0, MAILS - 1))
    def opt_out(self, number: int) -> None:
        with self.services.session() as session:
            for name in self.names:
                address_id = addresses.ids(session, [f"{name}-{number}@example.test"])
                suppressions.suppress(
                    session,
                    next(iter(address_id.values())),
                    "tax-policy",
                    reason="unsubscribed",
                    source="link",
                    now=datetime.now(UTC),
                )

    @rule()
    def notice(self) -> None:
        template = self.services.catalogue["tax-policy"]
        with self.services.session() as session:
            terms = transactional.terms_of(self.services, template)
            campaign_id = transactional.campaign_for(session, self.services, template, terms)
            address = addresses.ids(session, [f"n{next(_names)}@example.test"])
            notice = transactional.Notice(
                campaign_id=campaign_id,
                address_id=next(iter(address.values())),
                name="n",
                language="vi",
                data={},
                due_at=datetime.now(UTC),
            )
            transactional.queue_notices(session, [notice])
        self.services.queues.enqueue_gather(Lane.NOTICE)

    # --- what workers do -------------------------------------------------------------------------

    @rule(which=st.integers(0, 1))
    def lease(self, which: int) -> None:
        worker = self.world.workers[which]
        if worker.lease is not None:
            return
        ready = self.world.sql("SELECT id FROM batch WHERE state = 'ready' ORDER BY id")
        for row in ready[which::2] + ready:
            worker.lease = self.world.wait(worker.ledger.lease(row.id))
            if worker.lease is not None:
                worker.rows = self.world.wait(worker.ledger.load(worker.lease, "tax-policy")) or []
                worker.sent, worker.mark = 0, -1
                return

    @rule(which=st.integers(0, 1), outcome=st.sampled_from(["accept", "refuse", "defer", "hold"]))
    def settle(self, which: int, outcome: str) -> None:
        worker = self.world.workers[which]
        if worker.lease is None:
            return
        outcomes = []
        if worker.mark >= 0 and worker.sent < len(worker.rows):
            row = worker.rows[worker.sent]
            now = time.time()
            state = {
                "accept": MessageState.ACCEPTED,
                "refuse": MessageState.REFUSED,
                "defer": MessageState.DEFERRED,
                "hold": MessageState.IN_DOUBT,
            }[outcome]
            outcomes = [
                Outcome(
                    position=row.position,
                    state=state,
                    at=now,
                    attempts=row.attempts + 1,
                    doubts=row.doubts + (outcome == "hold"),
                    due=now - 1 if outcome == "defer" else None,
                    detail="250 ok",
                )
            ]
        mark = worker.rows[-1].position if worker.rows else -1
        settled = self.world.wait(
            worker.ledger.settle(worker.lease, mark, outcomes, datetime.now(UTC))
        )
        if settled is None:
            return
        if not settled.lease_holds:
            worker.lease = None
            return
        worker.sent += len(outcomes)
        worker.mark = mark

    @rule(which=st.integers(0, 1))
    def release(self, which: int) -> None:
        worker = self.world.workers[which]
        if worker.lease is None:
            return
        done = self.world.wait(worker.ledger.release(worker.lease))
        if done is None:
            return
        campaign_id, worker.lease = worker.lease.campaign_id, None
        if done and not self.world.entered:
            control.finish(self.services, campaign_id)

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        worker = self.world.workers[which]
        if worker.lease is not None:
            self.world.sql(
                "UPDATE batch SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :id",
                id=worker.lease.batch_id,
            )
            worker.lease = None

    def meanwhile(self, other: int) -> None:
        """What slips in between two statements of a story."""
        which = other % 2
        with suppress(OperationalError):
            if other < 2:
                self.release(which)
            elif other < 4:
                self.settle(which, "accept")
            else:
                self.lease(which)

    # --- what the sweep does ---------------------------------------------------------------------

    @rule(other=st.integers(0, 5))
    def sweep(self, other: int) -> None:
        with self.world.interrupted(lambda: self.meanwhile(other)):
            upkeep.sweep(self.services)

    @rule(lane=st.sampled_from(list(Lane)))
    def gather(self, lane: Lane) -> None:
        made = upkeep.gather(self.services, lane)
        self.services.queues.enqueue_batches(lane, made)

    # --- the books -------------------------------------------------------------------------------

    @invariant()
    def states_add_up(self) -> None:
        for row in self.world.sql("SELECT id, total, kind FROM campaign"):
            with self.services.engine.begin() as connection:
                from notifier.domain import tallies

                counted = tallies.counts(connection, row.id)
                rows = connection.execute(
                    text("""SELECT state::text, count(*) AS n FROM message
                             WHERE campaign_id = :id GROUP BY 1"""),
                    {"id": row.id},
                )
                there = {MessageState(each.state): each.n for each in rows}
            assert counted == there
            assert row.kind != "campaign" or sum(there.values()) == row.total

    @invariant()
    def nothing_waits_in_a_campaign_that_is_over(self) -> None:
        waiting = self.world.sql(
            """SELECT c.name, c.state::text, m.state::text FROM message m
                 JOIN campaign c ON c.id = m.campaign_id
                WHERE c.state IN ('cancelled', 'finished') AND m.state IN ('queued', 'deferred')"""
        )
        assert waiting == []

    @invariant()
    def what_can_go_is_enqueued(self) -> None:
        """Nothing in good health waits for the sweep: each step enqueues what it made ready."""
        ready = self.world.sql(
            """SELECT b.id FROM batch b JOIN campaign c ON c.id = b.campaign_id
                WHERE b.state = 'ready' AND b.due_at <= clock_timestamp()
                  AND c.state = 'running' AND b.recoveries = 0"""
        )
        # A batch that a worker gave back of a campaign that goes on was enqueued when it was made.
        assert {row.id for row in ready} <= self.world.recorder.batches

    @invariant()
    def doubt_is_bounded(self) -> None:
        rows = self.world.sql(
            "SELECT batch_id, count(*) AS n FROM message WHERE state = 'in_doubt' GROUP BY 1"
        )
        assert all(row.n <= WINDOW for row in rows)


def test_any_order_of_steps_keeps_the_books(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_SIZE", BATCH)
    WORLD[:] = [world]
    case = Life.TestCase
    case.settings = settings(
        max_examples=30,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case("runTest").runTest()


@pytest.mark.parametrize("table", [CAMPAIGN_TRANSITIONS, BATCH_TRANSITIONS, MESSAGE_TRANSITIONS])
def test_every_state_that_is_not_final_is_moved_on_by_some_step(table: dict[Any, Any]) -> None:
    states = type(next(iter(table))[0])
    moved = {state for state, _ in table}
    assert {state for state in states if not state.is_final} <= moved
    assert issubclass(states, (CampaignState, BatchState, MessageState))
