"""The statements that a sending worker awaits: lease, load, settle, release, each one round trip and one transaction.

The watermark `batch.started_through` moves in the same statement that records finished messages and never runs more than `WINDOW`
unsettled messages ahead. After a crash it therefore splits a batch exactly: positions beyond it were never started, positions with an
outcome are done, and the few between are in doubt. `batches.py` holds the other verbs of these tables.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import orjson
import psycopg
from psycopg.rows import TupleRow

from notifier.domain.suppressions import SUPPRESS_DEAD
from notifier.domain.webhooks import NOTIFY_SETTLED

# At most this many messages of one worker process can be in doubt after it is killed.
WINDOW = 64
MAX_DOUBTS = 3


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
    """A message as loaded for sending. `suppressed` is the reason it must not be sent, if any; `expires_at` (epoch seconds) its own end."""

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
    expires_at: float | None = None


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
         WHERE s.address_id = m.address_id AND s.topic IN (%s, '*') AND s.lifted_at IS NULL LIMIT 1),
       extract(epoch FROM m.expires_at)::float8
  FROM message m JOIN recipient r ON r.id = m.recipient_id JOIN address a ON a.id = m.address_id
 WHERE m.batch_id = %s AND m.state = 'queued'
 ORDER BY m.position
"""

# One statement, so one transaction and one round trip. The outcomes are written only while the lease holds, and only over 'queued': a
# settle whose reply was lost may be repeated. A message that waits again leaves its batch. OFFSET 0 keeps batch and position together: a
# planner without statistics would else read the whole batch once for each outcome.
_SETTLE = f"""
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
      FROM (SELECT lease.id AS batch_id, u.*
              FROM lease, unnest(%s::int[], %s::text[], %s::float8[], %s::int2[], %s::int2[], %s::text[], %s::text[], %s::text[],
                                 %s::float8[], %s::bool[])
                   AS u (position, state, at, attempts, doubts, detail, host, sha256, due, dead)
            OFFSET 0) o
     WHERE m.batch_id = o.batch_id AND m.position = o.position AND m.state = 'queued'
    RETURNING m.id, m.address_id, m.state, m.settled_at, m.host, m.detail, m.doubts > 0 AS doubted, o.dead, m.key_id, m.attempts,
              m.doubts > old.doubts AS new_doubt),
history AS (
    INSERT INTO message_event (message_id, at, kind, host, detail)
    SELECT id, settled_at, state::text, host, detail FROM done WHERE state IN ('deferred', 'in_doubt') OR doubted),
dead AS ({SUPPRESS_DEAD.format(settled="done")}),
told AS ({NOTIFY_SETTLED.format(settled="done")})
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
FINISH = """
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
    quoted = [
        value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", " ") for value in values
    ]
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
        columns = "topic, lane, sender, topic_info, data, send_window, not_after, pace_per_minute, in_doubt_policy, sandbox"
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

    async def settle(
        self, lease: Lease, mark: int, outcomes: Sequence[Outcome], loaded_at: datetime
    ) -> Settled:
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
        return Settled(
            lease_holds=True, campaign_state=state, suppressed=frozenset(suppressed or ())
        )

    async def release(self, lease: Lease, *, due: float | None = None) -> bool:
        """Give the batch back: done when all has an outcome, else ready (from `due`, epoch seconds). Say whether it is done."""
        rows = await self._fetch(_RELEASE, (due, due, lease.batch_id, lease.owner))
        done = bool(rows) and rows[0][0] == "done"
        if done:
            await self._fetch(FINISH.format(campaign="%s"), (lease.campaign_id,))
        return done


def decode_data(raw: str) -> dict[str, Any]:
    """Return a recipient's data from its stored JSON."""
    value: dict[str, Any] = orjson.loads(raw)
    return value
