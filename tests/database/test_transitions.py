"""Every verb moves messages and batches from exactly the states that the tables of steps name."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from notifier.db import new_id, plain_url
from notifier.domain import batches, campaigns, messages, tallies
from notifier.domain.templates import freeze
from notifier.flows import transactional, upkeep
from notifier.schema import Campaign
from notifier.sending.ledger import Lease, Ledger, Outcome
from notifier.services import Services
from notifier.states import (
    BATCH_TRANSITIONS,
    MESSAGE_TRANSITIONS,
    BatchState,
    BatchStep,
    CampaignState,
    Lane,
    MessageState,
    MessageStep,
)

NOW = datetime.now(UTC)


class World:
    """One running campaign with one message in a batch, both in whatever state a test wants."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.owner = uuid.uuid4()
        template = services.catalogue["tax-policy"]
        with services.session() as session:
            terms = transactional.terms_of(services, template)
            draft = campaigns.create_draft(session, "c", terms, "", now=NOW)
            draft.template_version = freeze(session, template, NOW)
            draft.state = CampaignState.RUNNING
            self.campaign_id = draft.id
            address_id = session.scalar(
                text("INSERT INTO address (email) VALUES ('a@example.test') RETURNING id")
            )
            notice = transactional.Notice(
                campaign_id=draft.id,
                address_id=address_id or 0,
                name="n",
                language="vi",
                data={},
                due_at=NOW,
                id=new_id(NOW),
            )
            (self.message_id,) = transactional.queue_notices(session, [notice])
        (self.batch_id,) = upkeep.gather(services, Lane.NOTICE)

    def put(self, message: MessageState, batch: BatchState, *, alone: bool = False) -> None:
        """Put the message and its batch into states, whatever led there."""
        self.sql(
            """UPDATE message SET state = cast(:state AS message_state),
                      settled_at = now(),
                      batch_id = CASE WHEN :alone THEN NULL ELSE batch_id END,
                      due_at = CASE WHEN :alone THEN now() - interval '1 s' END""",
            state=message.value,
            alone=alone,
        )
        self.sql(
            """UPDATE batch SET state = cast(:state AS batch_state), started_through = 0,
                      lease_owner = CASE WHEN :state = 'leased' THEN cast(:owner AS uuid) END,
                      lease_until = CASE WHEN :state = 'leased' THEN now() + interval '1 h' END""",
            state=batch.value,
            owner=self.owner,
        )

    def sql(self, statement: str, **values: object) -> None:
        """Run a statement of the test's own."""
        with self.services.engine.begin() as connection:
            connection.execute(text(statement), values)

    def message(self) -> MessageState:
        """Return where the message is now."""
        with self.services.engine.connect() as connection:
            found = connection.scalar(text("SELECT state::text FROM message"))
        return MessageState(str(found))

    def batch(self) -> BatchState:
        """Return where the batch is now."""
        with self.services.engine.connect() as connection:
            found = connection.scalar(
                text("SELECT state::text FROM batch WHERE id = :id"), {"id": self.batch_id}
            )
        return BatchState(str(found))

    def settle(self, state: MessageState) -> None:
        """Record an outcome as a worker that holds the lease does."""
        outcome = Outcome(position=0, state=state, at=NOW.timestamp(), attempts=1, doubts=0)
        if state is MessageState.DEFERRED:
            outcome.due = NOW.timestamp() + 60
        self.work(lambda ledger, lease: ledger.settle(lease, 0, [outcome], NOW))

    def work(self, statement: Callable[[Ledger, Lease], object]) -> None:
        """Run a worker's statement."""

        async def run() -> None:
            ledger = Ledger(plain_url(self.services.settings.require_database()), lease_seconds=60)
            lease = Lease(self.batch_id, self.campaign_id, self.owner, "relay", "notice", -1)
            await statement(ledger, lease)  # type: ignore[misc]
            await ledger.close()

        asyncio.run(run())

    def verb(self, work: Callable[..., object], *arguments: object, **named: object) -> None:
        """Run a verb in a transaction."""
        with self.services.engine.begin() as connection:
            work(connection, *arguments, **named)


@pytest.fixture
def world(services: Services) -> World:
    return World(services)


def act(world: World, step: MessageStep) -> None:
    """Do what the step names."""
    outcomes = {
        MessageStep.ACCEPT: MessageState.ACCEPTED,
        MessageStep.REFUSE: MessageState.REFUSED,
        MessageStep.DEFER: MessageState.DEFERRED,
        MessageStep.SKIP: MessageState.SKIPPED,
        MessageStep.EXPIRE: MessageState.EXPIRED,
        MessageStep.HOLD: MessageState.IN_DOUBT,
    }
    reports = {
        MessageStep.BOUNCE: MessageState.BOUNCED,
        MessageStep.COMPLAIN: MessageState.COMPLAINED,
    }
    if step in outcomes:
        world.settle(outcomes[step])
    elif step in reports:
        world.verb(messages.record_report, world.message_id, reports[step], at=NOW, detail="5.1.1")
    elif step is MessageStep.GATHER:
        upkeep.gather(world.services, Lane.NOTICE)
    elif step is MessageStep.CANCEL:
        world.verb(messages.withdraw, [world.message_id], reason="asked")
    else:
        resend = step is MessageStep.RESEND
        world.verb(messages.decide_in_doubt, world.campaign_id, resend=resend)


@pytest.mark.parametrize(
    ("before", "step"),
    list(itertools.product(MessageState, MessageStep)),
    ids=lambda each: each.value,
)
def test_a_message_takes_the_steps_of_its_table_and_no_others(
    world: World, before: MessageState, step: MessageStep
) -> None:
    by_worker = step in list(MessageStep)[:6]
    world.put(
        before,
        BatchState.LEASED if by_worker else BatchState.READY,
        alone=step is MessageStep.GATHER,
    )
    act(world, step)
    assert world.message() is MESSAGE_TRANSITIONS.get((before, step), before)


BATCH_ACTS: dict[BatchStep, tuple[MessageState, Callable[[World], None]]] = {
    BatchStep.RELEASE: (
        MessageState.QUEUED,
        lambda world: world.work(lambda ledger, lease: ledger.release(lease)),
    ),
    BatchStep.COMPLETE: (
        MessageState.ACCEPTED,
        lambda world: world.work(lambda ledger, lease: ledger.release(lease)),
    ),
    BatchStep.LEASE: (
        MessageState.QUEUED,
        lambda world: world.work(lambda ledger, _: ledger.lease(world.batch_id)),
    ),
    BatchStep.RECOVER: (MessageState.QUEUED, lambda world: recover(world, recoveries=0)),
    BatchStep.BURY: (
        MessageState.QUEUED,
        lambda world: recover(world, recoveries=batches.MAX_RECOVERIES),
    ),
    BatchStep.RETRY: (
        MessageState.QUEUED,
        lambda world: world.verb(batches.retry_dead_letters, world.campaign_id),
    ),
    BatchStep.CANCEL: (
        MessageState.QUEUED,
        lambda world: world.verb(messages.cancel_rest, world.campaign_id, reason="cancelled"),
    ),
}


def recover(world: World, *, recoveries: int) -> None:
    """Let the lease have run out, if there is one, and sweep."""
    world.sql(
        """UPDATE batch SET recoveries = :recoveries, lease_until = now() - interval '1 s'
            WHERE state = 'leased'""",
        recoveries=recoveries,
    )
    upkeep.recover(world.services)


@pytest.mark.parametrize(
    ("before", "step"), list(itertools.product(BatchState, BatchStep)), ids=lambda each: each.value
)
def test_a_batch_takes_the_steps_of_its_table_and_no_others(
    world: World, before: BatchState, step: BatchStep
) -> None:
    message, work = BATCH_ACTS[step]
    world.put(message, before)
    work(world)
    assert world.batch() is BATCH_TRANSITIONS.get((before, step), before)


@pytest.mark.parametrize(
    ("states", "name"),
    [
        (MessageState, "message_state"),
        (BatchState, "batch_state"),
        (CampaignState, "campaign_state"),
    ],
)
def test_the_database_knows_the_same_states(
    services: Services, states: type[MessageState], name: str
) -> None:
    with services.engine.connect() as connection:
        known = connection.scalars(text(f"SELECT unnest(enum_range(NULL::{name}))::text"))
        assert set(known) == {state.value for state in states}


def test_the_tally_follows_every_step_of_a_message(world: World) -> None:
    world.put(MessageState.QUEUED, BatchState.LEASED)
    for step in (MessageStep.DEFER, MessageStep.GATHER):
        act(world, step)
        world.sql("UPDATE message SET due_at = now() - interval '1 s' WHERE due_at IS NOT NULL")
        with world.services.engine.connect() as connection:
            counted = tallies.counts(connection, world.campaign_id)
        assert counted == {world.message(): 1}
    with world.services.session() as session:
        assert session.get_one(Campaign, world.campaign_id).state is CampaignState.RUNNING
