"""The one module of verbs for `batch`: up to 500 messages of one route, which one worker leases.

The statements in capitals are those that a sending worker runs over its own connection
(`sending/ledger.py`) or that other owners' statements contain; they stay SQL because each is one
round trip and one transaction. The rest runs in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, exists, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from notifier.schema import Batch, Campaign, Message
from notifier.states import BatchState, CampaignState, Lane, MessageState

BATCH_SIZE = 500
MAX_RECOVERIES = 3

# --- what a sending worker runs (psycopg's %s) ---------------------------------------------------

LEASE = f"""
UPDATE batch b
   SET state = '{BatchState.LEASED}', lease_owner = %s,
       lease_until = clock_timestamp() + make_interval(secs => %s)
  FROM campaign c
 WHERE b.id = %s AND b.state = '{BatchState.READY}' AND b.due_at <= clock_timestamp()
   AND c.id = b.campaign_id AND c.state = '{CampaignState.RUNNING}'
RETURNING b.campaign_id, b.route, b.lane, b.started_through, c.started_at IS NULL AS is_first
"""

# Part of the settle: renews the lease and moves the watermark, and finds no row when the lease is
# lost, so that then nothing else of the statement happens either.
RENEW = f"""
    UPDATE batch SET started_through = greatest(started_through, %s),
                     lease_until = clock_timestamp() + make_interval(secs => %s),
                     recoveries = CASE WHEN %s THEN 0 ELSE recoveries END
     WHERE id = %s AND lease_owner = %s AND state = '{BatchState.LEASED}'
    RETURNING id, campaign_id, route"""

_ANY_QUEUED = (
    f"EXISTS (SELECT FROM message m WHERE m.batch_id = b.id AND m.state = '{MessageState.QUEUED}')"
)

RELEASE = f"""
UPDATE batch b
   SET state = CASE WHEN {_ANY_QUEUED} THEN '{BatchState.READY}'::batch_state
                    ELSE '{BatchState.DONE}' END,
       lease_owner = NULL, lease_until = NULL, recoveries = 0,
       due_at = CASE WHEN %s::float8 IS NULL THEN b.due_at ELSE to_timestamp(%s) END
 WHERE b.id = %s AND b.lease_owner = %s AND b.state = '{BatchState.LEASED}'
RETURNING b.state::text AS state
"""

# Part of the plan: batches of `numbered`, which has a route and a place in it for each message.
PLANNED = """
    INSERT INTO batch (campaign_id, lane, route, size, due_at, created_at)
    SELECT :campaign_id, :lane, route, count(*), :due_at, :now FROM numbered
     GROUP BY route, place / :size ORDER BY route, place / :size
    RETURNING id, route"""


# --- what may be leased --------------------------------------------------------------------------


def _may_be_leased() -> ColumnElement[bool]:
    return (
        (Batch.state == BatchState.READY)
        & (Batch.due_at <= func.clock_timestamp())
        & (Campaign.state == CampaignState.RUNNING)
    )


def ready(
    connection: Connection,
    lane: str,
    *,
    campaign_id: int | None = None,
    limit: int = 10_000,
) -> list[int]:
    """Return the batches of `lane` that may be leased now, oldest first."""
    query = (
        select(Batch.id)
        .join(Campaign, Campaign.id == Batch.campaign_id)
        .where(Batch.lane == lane, _may_be_leased())
        .order_by(Batch.due_at, Batch.id)
        .limit(limit)
    )
    if campaign_id is not None:
        query = query.where(Batch.campaign_id == campaign_id)
    return list(connection.scalars(query))


def longest_wait(connection: Connection) -> dict[str, float]:
    """Return for each lane how many seconds the batch that waits longest could have been sent."""
    rows = connection.execute(
        select(
            Batch.lane,
            func.max(func.extract("epoch", func.clock_timestamp() - Batch.due_at)).label("age"),
        )
        .join(Campaign, Campaign.id == Batch.campaign_id)
        .where(_may_be_leased())
        .group_by(Batch.lane)
    )
    return {row.lane: float(row.age) for row in rows}


def add(
    connection: Connection, *, campaign_id: int, lane: Lane, route: str, size: int, now: datetime
) -> int:
    """Add a batch that may be leased at once; return its number."""
    return connection.scalars(
        insert(Batch)
        .values(
            campaign_id=campaign_id,
            lane=lane.value,
            route=route,
            size=size,
            due_at=now,
            created_at=now,
        )
        .returning(Batch.id)
    ).one()


def lock_ready_of(connection: Connection, message_ids: Sequence[object]) -> list[int]:
    """Lock the ready batches of these messages, leaving out those that a worker is leasing."""
    of_messages = select(Message.batch_id).where(Message.id.in_(message_ids))
    return list(
        connection.scalars(
            select(Batch.id)
            .where(Batch.state == BatchState.READY, Batch.id.in_(of_messages))
            .order_by(Batch.id)
            .with_for_update(skip_locked=True)
        )
    )


# --- dead workers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A batch whose worker died: positions up to `mark` may have been handed to a connection."""

    id: int
    campaign_id: int
    route: str
    mark: int
    recoveries: int
    in_doubt_policy: str


def lock_abandoned(connection: Connection) -> list[Abandoned]:
    """Return the batches whose lease has run out, locked.

    Those that others recover are left out.
    """
    rows = connection.execute(
        select(
            Batch.id,
            Batch.campaign_id,
            Batch.route,
            Batch.started_through.label("mark"),
            Batch.recoveries,
            Campaign.in_doubt_policy,
        )
        .join(Campaign, Campaign.id == Batch.campaign_id)
        .where(Batch.state == BatchState.LEASED, Batch.lease_until < func.clock_timestamp())
        .with_for_update(of=Batch, skip_locked=True)
    )
    return [Abandoned(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name


def recover(connection: Connection, abandoned: Abandoned) -> BatchState:
    """Take a locked batch back: ready again, done, or a dead letter; return which.

    One that ends MAX_RECOVERIES workers in a row without getting on is likely the cause.
    """
    any_queued = exists().where(
        Message.batch_id == abandoned.id, Message.state == MessageState.QUEUED
    )
    if not connection.scalar(select(any_queued)):
        after = BatchState.DONE
    elif abandoned.recoveries + 1 >= MAX_RECOVERIES:
        after = BatchState.DEAD_LETTER
    else:
        after = BatchState.READY
    connection.execute(
        update(Batch)
        .where(Batch.id == abandoned.id)
        .values(state=after, recoveries=Batch.recoveries + 1, lease_owner=None, lease_until=None)
    )
    return after


def retry_dead_letters(connection: Connection, campaign_id: int) -> int:
    """Give a campaign's dead letters back to the workers; return how many batches."""
    return connection.execute(
        update(Batch)
        .where(Batch.campaign_id == campaign_id, Batch.state == BatchState.DEAD_LETTER)
        .values(state=BatchState.READY, recoveries=0)
    ).rowcount


# --- the end of a campaign -----------------------------------------------------------------------


def lock_all(connection: Connection, campaign_id: int) -> None:
    """Lock the batches of a campaign that are not done, in order, until the transaction ends.

    Without this a batch that a worker gives back between two statements of a cancel would be seen
    by neither of them, and its messages would wait for ever.
    """
    connection.execute(
        select(Batch.id)
        .where(Batch.campaign_id == campaign_id, Batch.state != BatchState.DONE)
        .order_by(Batch.id)
        .with_for_update()
    )


def cancel_unleased(connection: Connection, campaign_id: int) -> bool:
    """Let no batch that is not leased be leased any more; say whether a leased one is left."""
    connection.execute(
        update(Batch)
        .where(
            Batch.campaign_id == campaign_id,
            Batch.state.in_([BatchState.READY, BatchState.DEAD_LETTER]),
        )
        .values(state=BatchState.DONE)
    )
    return bool(leased(connection, campaign_id))


def leased(connection: Connection, campaign_id: int) -> int:
    """Return how many batches of a campaign workers hold now."""
    return (
        connection.scalar(
            select(func.count()).where(
                Batch.campaign_id == campaign_id, Batch.state == BatchState.LEASED
            )
        )
        or 0
    )


def dead_letters(connection: Connection, campaign_id: int) -> int:
    """Return how many messages were in batches when those became dead letters."""
    return (
        connection.scalar(
            select(func.sum(Batch.size)).where(
                Batch.campaign_id == campaign_id, Batch.state == BatchState.DEAD_LETTER
            )
        )
        or 0
    )


def any_left(connection: Connection, campaign_id: int) -> bool:
    """Say whether a batch of the campaign is not done."""
    return bool(
        connection.scalar(
            select(exists().where(Batch.campaign_id == campaign_id, Batch.state != BatchState.DONE))
        )
    )
