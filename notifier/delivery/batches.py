"""The one file of verbs for `batch` and `message`: plan, lease, load, settle, release, gather, recover.

Each worker does: lease (commit), load (commit), send, settle in groups (commit each), release (commit). The watermark
`batch.started_through` moves in the same statement that records finished messages and never runs more than `WINDOW` unsettled messages
ahead. After a crash it therefore splits a batch exactly: positions beyond it were never started, positions with an outcome are done, and
the few between are in doubt.

What a single worker awaits on its event loop is in `Ledger`; what a flow, the sweep or an operator does is synchronous, in functions.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import orjson
import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import String, Uuid

BATCH_SIZE = 500
# At most this many messages of one worker process can be in doubt after it is killed.
WINDOW = 64
MAX_RECOVERIES = 3
MAX_DOUBTS = 3


# --- what one worker awaits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one worker to send one batch until `lease_until`, which every settle moves on."""

    batch_id: int
    campaign_id: int
    owner: uuid.UUID
    route: str
    lane: str
    started_through: int


@dataclass(slots=True)
class Row:
    """A message as loaded for sending. `suppressed` is the reason it must not be sent, if any."""

    position: int
    id: uuid.UUID
    address_id: int
    email: str
    name: str
    tax_code: str | None
    language: str
    data: str
    attempts: int
    doubts: int
    suppressed: str | None


@dataclass(slots=True)
class Outcome:
    """What is to be written of one message: `state` is a message_state; `due` (epoch seconds) makes it wait for another batch."""

    position: int
    state: str
    at: float
    attempts: int
    doubts: int
    detail: str = ""
    host: str = ""
    sha256: str = ""
    due: float | None = None
    dead_address: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settle learns: whether the lease still holds, whether the campaign still runs, and who opted out meanwhile."""

    lease_holds: bool
    campaign_state: str
    suppressed: frozenset[int]


_LEASE = """
UPDATE batch b
   SET state = 'leased', lease_owner = %s, lease_until = clock_timestamp() + make_interval(secs => %s)
  FROM campaign c
 WHERE b.id = %s AND b.state = 'ready' AND b.due_at <= clock_timestamp() AND c.id = b.campaign_id AND c.state = 'running'
RETURNING b.campaign_id, b.route, b.lane, b.started_through, c.started_at IS NULL
"""

_STARTED = "UPDATE campaign SET started_at = clock_timestamp() WHERE id = %s AND started_at IS NULL"

_LOAD = """
SELECT m.position, m.id, m.address_id, a.email, r.name, r.tax_code, r.language, r.data::text, m.attempts, m.doubts,
       (SELECT s.reason FROM suppression s
         WHERE s.address_id = m.address_id AND s.topic IN (%s, '*') AND s.lifted_at IS NULL LIMIT 1)
  FROM message m JOIN recipient r ON r.id = m.recipient_id JOIN address a ON a.id = m.address_id
 WHERE m.batch_id = %s AND m.state = 'queued'
 ORDER BY m.position
"""

# One statement, so one transaction and one round trip. The outcomes are written only while the lease holds, and only over 'queued': a
# settle whose reply was lost may be repeated. A message that waits again leaves its batch.
_SETTLE = """
WITH lease AS (
    UPDATE batch SET started_through = greatest(started_through, %s),
                     lease_until = clock_timestamp() + make_interval(secs => %s),
                     recoveries = CASE WHEN %s THEN 0 ELSE recoveries END
     WHERE id = %s AND lease_owner = %s AND state = 'leased'
    RETURNING id, campaign_id),
done AS (
    UPDATE message m
       SET state = o.state::message_state, settled_at = to_timestamp(o.at), attempts = o.attempts, doubts = o.doubts,
           detail = o.detail, host = o.host, sha256 = decode(o.sha256, 'hex'), due_at = to_timestamp(o.due),
           batch_id = CASE WHEN o.due IS NULL THEN m.batch_id END
      FROM lease, unnest(%s::int[], %s::text[], %s::float8[], %s::int2[], %s::int2[], %s::text[], %s::text[], %s::text[],
                         %s::float8[], %s::bool[])
           AS o (position, state, at, attempts, doubts, detail, host, sha256, due, dead)
     WHERE m.batch_id = lease.id AND m.position = o.position AND m.state = 'queued'
    RETURNING m.id, m.address_id, m.state, m.settled_at, m.host, m.detail, m.doubts > 0 AS doubted, o.dead),
history AS (
    INSERT INTO message_event (message_id, at, kind, host, detail)
    SELECT id, settled_at, state::text, host, detail FROM done WHERE state IN ('deferred', 'in_doubt') OR doubted),
dead AS (
    INSERT INTO suppression (address_id, topic, reason, source, created_at)
    SELECT DISTINCT address_id, '*', 'hard_bounce', 'reply', clock_timestamp() FROM done WHERE dead
    ON CONFLICT (address_id, topic) WHERE lifted_at IS NULL DO NOTHING)
SELECT c.state::text,
       (SELECT array_agg(s.address_id) FROM suppression s
         WHERE s.created_at >= %s AND s.topic IN (c.topic, '*') AND s.lifted_at IS NULL)
  FROM lease JOIN campaign c ON c.id = lease.campaign_id
"""

_RELEASE = """
UPDATE batch b
   SET state = CASE WHEN EXISTS (SELECT FROM message m WHERE m.batch_id = b.id AND m.state = 'queued')
                    THEN 'ready'::batch_state ELSE 'done' END,
       lease_owner = NULL, lease_until = NULL, recoveries = 0,
       due_at = CASE WHEN %s::float8 IS NULL THEN b.due_at ELSE to_timestamp(%s) END
 WHERE b.id = %s AND b.lease_owner = %s AND b.state = 'leased'
RETURNING b.state::text
"""

# In a statement of its own, after the release is committed: of two workers that release the last two batches at once, the later one
# then sees both as done.
_FINISH = """
UPDATE campaign c SET state = 'finished', finished_at = clock_timestamp()
 WHERE c.id = {campaign} AND c.kind = 'campaign' AND c.state = 'running'
   AND NOT EXISTS (SELECT FROM batch b WHERE b.campaign_id = c.id AND b.state <> 'done')
   AND NOT EXISTS (SELECT FROM message m WHERE m.campaign_id = c.id AND m.batch_id IS NULL AND m.state IN ('queued', 'deferred'))
"""


def _literal(values: Iterable[object]) -> str:
    """Return a PostgreSQL array literal of numbers and words without special characters; None is NULL."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _text_literal(values: Iterable[str]) -> str:
    """Return a PostgreSQL array literal of arbitrary texts. NUL, which PostgreSQL cannot store, becomes a space."""
    quoted = [value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", " ") for value in values]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


class Ledger:
    """The statements that a sending worker awaits, over one connection of its own that is opened again when the server was away."""

    def __init__(self, url: str, *, lease_seconds: float) -> None:
        """Remember where to connect; `lease_seconds` is how long a lease lasts without a settle."""
        self._url = url
        self._lease_seconds = lease_seconds
        self._connection: psycopg.AsyncConnection[TupleRow] | None = None

    async def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[TupleRow]:
        connection = self._connection
        if connection is None or connection.closed:
            connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                prepare_threshold=1,
                connect_timeout=5,
                application_name="notifier-sender",
                # Every statement here finds its rows by key. Without statistics (a campaign inserted a second ago) the planner may
                # prefer to read the whole month instead.
                options="-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off -c jit=off "
                "-c plan_cache_mode=force_generic_plan "
                "-c max_parallel_workers_per_gather=0 -c timezone=UTC",
            )
            self._connection = connection
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def lease(self, batch_id: int) -> Lease | None:
        """Take the batch if it is ready, due, and its campaign runs; None when somebody else has it or it must wait."""
        owner = uuid.uuid4()
        rows = await self._fetch(_LEASE, (owner, self._lease_seconds, batch_id))
        if not rows:
            return None
        campaign_id, route, lane, started_through, first = rows[0]
        if first:
            await self._fetch(_STARTED, (campaign_id,))
        return Lease(batch_id, campaign_id, owner, route, lane, started_through)

    async def campaign(self, campaign_id: int) -> tuple[dict[str, Any], dict[date, bool]]:
        """Return a campaign's columns with the `content` of its frozen template, and the calendar's days."""
        columns = "topic, lane, sender, topic_info, data, send_window, not_after, pace_per_minute, in_doubt_policy"
        rows = await self._fetch(
            f"SELECT {columns}, (SELECT content FROM template_version v WHERE v.version = c.template_version) "
            "FROM campaign c WHERE c.id = %s",
            (campaign_id,),
        )
        days = await self._fetch("SELECT day, working FROM calendar_day", ())
        return dict(zip([*columns.split(", "), "content"], rows[0], strict=True)), dict(days)

    async def load(self, lease: Lease, topic: str) -> list[Row]:
        """Return the batch's messages without an outcome, in order of position, each with the reason not to send it if there is one."""
        return [Row(*row) for row in await self._fetch(_LOAD, (topic, lease.batch_id))]

    async def settle(self, lease: Lease, mark: int, outcomes: Sequence[Outcome], loaded_at: datetime) -> Settled:
        """Record `outcomes`, move the watermark up to `mark` and renew the lease, all or nothing.

        `suppressed` of the answer holds the addresses that opted out since `loaded_at`. Raise psycopg.Error when the database is away;
        repeating the call is safe.
        """
        rows = await self._fetch(
            _SETTLE,
            (
                mark,
                self._lease_seconds,
                bool(outcomes),
                lease.batch_id,
                lease.owner,
                _literal(o.position for o in outcomes),
                _literal(o.state for o in outcomes),
                _literal(o.at for o in outcomes),
                _literal(o.attempts for o in outcomes),
                _literal(o.doubts for o in outcomes),
                _text_literal(o.detail for o in outcomes),
                _text_literal(o.host for o in outcomes),
                _text_literal(o.sha256 for o in outcomes),
                _literal(o.due for o in outcomes),
                _literal(o.dead_address for o in outcomes),
                loaded_at,
            ),
        )
        if not rows:
            return Settled(lease_holds=False, campaign_state="", suppressed=frozenset())
        state, suppressed = rows[0]
        return Settled(lease_holds=True, campaign_state=state, suppressed=frozenset(suppressed or ()))

    async def release(self, lease: Lease, *, due: float | None = None) -> bool:
        """Give the batch back: done when all has an outcome, else ready (from `due`, epoch seconds). Say whether it is done."""
        rows = await self._fetch(_RELEASE, (due, due, lease.batch_id, lease.owner))
        done = bool(rows) and rows[0][0] == "done"
        if done:
            await self._fetch(_FINISH.format(campaign="%s"), (lease.campaign_id,))
        return done


# --- what flows, the sweep and operators do ----------------------------------------------------------------------------------------

_PLAN = text("""
WITH numbered AS (
    SELECT r.id AS recipient_id, x.address_id, coalesce(d.route, :default_route) AS route,
           row_number() OVER (PARTITION BY coalesce(d.route, :default_route) ORDER BY r.row_no, r.id, x.place) - 1 AS place
      FROM recipient r CROSS JOIN LATERAL unnest(r.address_ids) WITH ORDINALITY AS x (address_id, place)
      JOIN address a ON a.id = x.address_id
      LEFT JOIN unnest(:domains, :routes) AS d (domain, route) ON d.domain = a.domain
     WHERE r.audience_id = :audience_id),
batches AS (
    INSERT INTO batch (campaign_id, lane, route, size, due_at, created_at)
    SELECT :campaign_id, :lane, route, count(*), :due_at, :now FROM numbered GROUP BY route, place / :size ORDER BY route, place / :size
    RETURNING id, route),
keyed AS (SELECT id, route, row_number() OVER (PARTITION BY route ORDER BY id) - 1 AS number FROM batches),
inserted AS (
    INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position)
    SELECT :campaign_id, k.id, n.recipient_id, n.address_id, n.place % :size
      FROM numbered n JOIN keyed k ON k.route = n.route AND k.number = n.place / :size
     ORDER BY k.id, n.place
    RETURNING 1)
SELECT count(*) FROM inserted
""").bindparams(bindparam("domains", type_=ARRAY(String)), bindparam("routes", type_=ARRAY(String)))


def plan(
    connection: Connection,
    *,
    campaign_id: int,
    audience_id: int,
    lane: str,
    routes: dict[str, str],
    default_route: str,
    due_at: datetime,
    now: datetime,
) -> int:
    """Insert a message for every address of every recipient, in batches of one route each; return how many messages.

    `routes` maps address domains to route names; the rest goes by `default_route`. Batches may be leased from `due_at` on.
    """
    count = connection.scalar(
        _PLAN,
        {
            "campaign_id": campaign_id,
            "audience_id": audience_id,
            "lane": lane,
            "domains": list(routes),
            "routes": list(routes.values()),
            "default_route": default_route,
            "size": BATCH_SIZE,
            "due_at": due_at,
            "now": now,
        },
    )
    return int(count or 0)


def ready_batches(connection: Connection, lane: str, *, campaign_id: int | None = None, limit: int = 10_000) -> list[int]:
    """Return the batches of `lane` that may be leased now, oldest first."""
    rows = connection.scalars(
        text("""SELECT b.id FROM batch b JOIN campaign c ON c.id = b.campaign_id
                 WHERE b.lane = :lane AND b.state = 'ready' AND b.due_at <= clock_timestamp() AND c.state = 'running'
                   AND (cast(:campaign_id AS bigint) IS NULL OR b.campaign_id = :campaign_id)
                 ORDER BY b.due_at, b.id LIMIT :limit"""),
        {"lane": lane, "campaign_id": campaign_id, "limit": limit},
    )
    return list(rows)


def gather(connection: Connection, lane: str, *, route_of: Callable[[str], str], now: datetime, limit: int = BATCH_SIZE) -> list[int]:
    """Put up to `limit` messages that wait alone and are due into new batches; return the batches' ids.

    Waiting are single notices, deferred messages whose time has come and held ones that an operator released. Safe to run in several
    workers at once: each takes other rows.
    """
    rows = connection.execute(
        text("""SELECT m.id, m.campaign_id, a.domain FROM message m
                  JOIN campaign c ON c.id = m.campaign_id JOIN address a ON a.id = m.address_id
                 WHERE m.batch_id IS NULL AND m.state IN ('queued', 'deferred') AND m.due_at <= clock_timestamp()
                   AND c.lane = :lane AND c.state = 'running'
                 ORDER BY m.due_at LIMIT :limit FOR UPDATE OF m SKIP LOCKED"""),
        {"lane": lane, "limit": limit},
    ).all()
    groups: dict[tuple[int, str], list[uuid.UUID]] = {}
    for message_id, campaign_id, domain in rows:
        groups.setdefault((campaign_id, route_of(domain)), []).append(message_id)
    made: list[int] = []
    for (campaign_id, route), ids in groups.items():
        batch_id = connection.scalar(
            text("""INSERT INTO batch (campaign_id, lane, route, size, due_at, created_at)
                    VALUES (:campaign_id, :lane, :route, :size, :now, :now) RETURNING id"""),
            {"campaign_id": campaign_id, "lane": lane, "route": route, "size": len(ids), "now": now},
        )
        connection.execute(
            text("""UPDATE message m SET batch_id = :batch_id, position = o.place - 1, state = 'queued', due_at = NULL
                      FROM unnest(:ids) WITH ORDINALITY AS o (id, place) WHERE m.id = o.id""").bindparams(
                bindparam("ids", type_=ARRAY(Uuid()))
            ),
            {"batch_id": batch_id, "ids": ids},
        )
        made.append(int(batch_id or 0))
    return made


def anything_waits(connection: Connection, lane: str) -> bool:
    """Say whether a message of `lane` waits to be gathered now."""
    return bool(
        connection.scalar(
            text("""SELECT EXISTS (SELECT FROM message m JOIN campaign c ON c.id = m.campaign_id
                     WHERE m.batch_id IS NULL AND m.state IN ('queued', 'deferred') AND m.due_at <= clock_timestamp()
                       AND c.lane = :lane AND c.state = 'running')"""),
            {"lane": lane},
        )
    )


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of the batches of workers that died."""

    batches: int
    in_doubt: int
    set_aside: int


_DEAD = text("""
SELECT b.id, b.started_through, b.recoveries, c.in_doubt_policy
  FROM batch b JOIN campaign c ON c.id = b.campaign_id
 WHERE b.state = 'leased' AND b.lease_until < clock_timestamp()
   FOR UPDATE OF b SKIP LOCKED
""")

_DOUBT = text("""
WITH doubted AS (
    UPDATE message SET doubts = doubts + 1, settled_at = clock_timestamp(),
           detail = 'the worker stopped before the reply was recorded',
           state = CASE WHEN :hold OR doubts + 1 >= :most THEN 'in_doubt'::message_state ELSE state END
     WHERE batch_id = :batch_id AND position <= :mark AND state = 'queued'
    RETURNING id, settled_at, detail)
INSERT INTO message_event (message_id, at, kind, detail) SELECT id, settled_at, 'in_doubt', detail FROM doubted
""")


def recover(connection: Connection) -> Recovery:
    """Take back the batches whose lease has run out; messages started and not settled become in doubt.

    By the campaign's policy they are sent again with the same Message-ID (`resend`, at most MAX_DOUBTS times) or wait for an operator
    (`hold`). A batch that ends MAX_RECOVERIES workers in a row without getting on is set aside: it is likely the cause.
    """
    batches = in_doubt = set_aside = 0
    for batch_id, mark, recoveries, policy in connection.execute(_DEAD).all():
        result = connection.execute(_DOUBT, {"batch_id": batch_id, "mark": mark, "hold": policy == "hold", "most": MAX_DOUBTS})
        in_doubt += result.rowcount
        aside = recoveries + 1 >= MAX_RECOVERIES
        connection.execute(
            text("""UPDATE batch b SET recoveries = recoveries + 1, lease_owner = NULL, lease_until = NULL,
                      state = CASE WHEN NOT EXISTS (SELECT FROM message m WHERE m.batch_id = b.id AND m.state = 'queued')
                                   THEN 'done'::batch_state
                                   WHEN :aside THEN 'set_aside' ELSE 'ready' END
                     WHERE id = :batch_id"""),
            {"aside": aside, "batch_id": batch_id},
        )
        batches += 1
        set_aside += aside
    return Recovery(batches, in_doubt, set_aside)


def finish(connection: Connection, campaign_id: int) -> None:
    """Mark a running campaign as finished when nothing of it is left to send."""
    connection.execute(text(_FINISH.format(campaign=":campaign_id")), {"campaign_id": campaign_id})


def cancel_rest(connection: Connection, campaign_id: int) -> bool:
    """Cancel what is not started and not leased; say whether no lease is left, so that all is final."""
    connection.execute(
        text("""UPDATE message m SET state = 'cancelled', settled_at = clock_timestamp(), due_at = NULL
                 WHERE m.campaign_id = :campaign_id AND m.state IN ('queued', 'deferred')
                   AND NOT EXISTS (SELECT FROM batch b WHERE b.id = m.batch_id AND b.state = 'leased')"""),
        {"campaign_id": campaign_id},
    )
    connection.execute(
        text("UPDATE batch SET state = 'done' WHERE campaign_id = :campaign_id AND state IN ('ready', 'set_aside')"),
        {"campaign_id": campaign_id},
    )
    left = connection.scalar(
        text("SELECT count(*) FROM batch WHERE campaign_id = :campaign_id AND state = 'leased'"), {"campaign_id": campaign_id}
    )
    return not left


def decide_in_doubt(connection: Connection, campaign_id: int, *, resend: bool) -> int:
    """Send the held messages of a campaign again (they wait to be gathered) or give them up for good; return how many."""
    change = "state = 'queued', batch_id = NULL, due_at = clock_timestamp()" if resend else "state = 'given_up'"
    result = connection.execute(
        text(f"UPDATE message SET {change} WHERE campaign_id = :campaign_id AND state = 'in_doubt'"), {"campaign_id": campaign_id}
    )
    return result.rowcount


def retry_set_aside(connection: Connection, campaign_id: int) -> int:
    """Give batches that were set aside back to the workers; return how many."""
    return connection.execute(
        text("UPDATE batch SET state = 'ready', recoveries = 0 WHERE campaign_id = :campaign_id AND state = 'set_aside'"),
        {"campaign_id": campaign_id},
    ).rowcount


def postpone(connection: Connection, campaign_id: int, due_at: datetime) -> None:
    """Let no batch of the campaign be leased before `due_at`."""
    connection.execute(
        text("UPDATE batch SET due_at = :due_at WHERE campaign_id = :campaign_id AND state = 'ready'"),
        {"campaign_id": campaign_id, "due_at": due_at},
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages of a campaign are in which state. The states are disjoint; `doubted` counts beside them."""

    states: dict[str, int]
    skipped: dict[str, int]
    doubted: int
    set_aside: int
    in_flight_batches: int


def count(connection: Connection, campaign_id: int) -> Counts:
    """Count the messages of a campaign from the rows themselves (about 30 ms for 114,072)."""
    states: dict[str, int] = {}
    skipped: dict[str, int] = {}
    doubted = 0
    rows = connection.execute(
        text("""SELECT state::text, CASE WHEN state = 'skipped' THEN detail END, count(*), count(*) FILTER (WHERE doubts > 0)
                  FROM message WHERE campaign_id = :campaign_id GROUP BY 1, 2"""),
        {"campaign_id": campaign_id},
    )
    for state, reason, number, with_doubt in rows:
        states[state] = states.get(state, 0) + number
        if reason is not None:
            skipped[reason] = number
        doubted += with_doubt
    aside, leased = connection.execute(
        text("""SELECT coalesce(sum(size) FILTER (WHERE state = 'set_aside'), 0), count(*) FILTER (WHERE state = 'leased')
                  FROM batch WHERE campaign_id = :campaign_id"""),
        {"campaign_id": campaign_id},
    ).one()
    return Counts(states, skipped, doubted, int(aside), int(leased))


def decode_data(raw: str) -> dict[str, Any]:
    """Return a recipient's data from its stored JSON."""
    value: dict[str, Any] = orjson.loads(raw)
    return value
