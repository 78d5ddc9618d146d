"""The statements that a sending worker awaits: lease, load, settle, release; each one round trip.

The watermark `batch.started_through` moves in the same statement that records finished messages and
never runs more than `WINDOW` unsettled messages ahead. After a crash it therefore splits a batch
exactly: positions beyond it were never started, positions with an outcome are done, and the few
between are in doubt. The statements themselves stand beside their tables' other verbs, in
`domain/batches.py` and `domain/messages.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import orjson
import psycopg
from psycopg.rows import class_row, namedtuple_row

from notifier.domain import batches, campaigns, messages
from notifier.domain.campaigns import Terms
from notifier.states import BatchState, CampaignState, MessageState

# At most this many messages of one worker process can be in doubt after it is killed.
WINDOW = 64


@dataclass(frozen=True, slots=True)
class Lease:
    """One worker's right to send one batch until `lease_until`, which every settle moves on."""

    batch_id: int
    campaign_id: int
    owner: uuid.UUID
    route: str
    lane: str
    started_through: int


@dataclass(slots=True)
class Row:
    """A message as loaded for sending.

    `suppressed` is the reason it must not be sent, if any; `expires_at` (epoch seconds) its own
    end.
    """

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
    """What is to be written of one message.

    `due` (epoch seconds) makes it wait for another batch.
    """

    position: int
    state: MessageState
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
    """What a settle learns.

    Whether the lease still holds, whether the campaign still runs, and who opted out meanwhile.
    """

    lease_holds: bool
    campaign_state: CampaignState | None
    suppressed: frozenset[int]


def _literal(values: Iterable[object]) -> str:
    """Return a PostgreSQL array literal of numbers and plain words; None is NULL."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _text_literal(values: Iterable[str]) -> str:
    """Return a PostgreSQL array literal of texts. NUL, which it cannot store, becomes a space."""
    quoted = [
        value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", " ") for value in values
    ]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


class Ledger:
    """The statements over one connection, opened again when the server was unavailable."""

    def __init__(self, url: str, *, lease_seconds: float) -> None:
        """Remember where to connect; `lease_seconds` is how long a lease lasts without a settle."""
        self._url = url
        self._lease_seconds = lease_seconds
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        connection = await self._open()
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        connection = self._connection
        if connection is None or connection.closed:
            connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                prepare_threshold=1,
                connect_timeout=5,
                application_name="notifier-sender",
                row_factory=namedtuple_row,
                # Every statement here finds its rows by key. Without statistics (a campaign
                # inserted a second ago) the planner may prefer to read the whole month instead.
                options="-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off "
                "-c jit=off -c plan_cache_mode=force_generic_plan "
                "-c max_parallel_workers_per_gather=0 -c timezone=UTC",
            )
            self._connection = connection
        return connection

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def lease(self, batch_id: int) -> Lease | None:
        """Take the batch if it is ready, due, and its campaign runs; None when it must wait."""
        owner = uuid.uuid4()
        rows = await self._fetch(batches.LEASE, (owner, self._lease_seconds, batch_id))
        if not rows:
            return None
        (row,) = rows
        if row.is_first:
            await self._fetch(campaigns.MARK_STARTED, (row.campaign_id,))
        return Lease(
            batch_id=batch_id,
            campaign_id=row.campaign_id,
            owner=owner,
            route=row.route,
            lane=row.lane,
            started_through=row.started_through,
        )

    async def campaign(self, campaign_id: int) -> tuple[Terms, dict[str, Any], dict[date, bool]]:
        """Return a campaign's terms, its frozen template's content, and the calendar's days."""
        (row,) = await self._fetch(campaigns.FROZEN, (campaign_id,))
        days = await self._fetch("SELECT day, working FROM calendar_day", ())
        return Terms.from_row(row._asdict()), row.content, {each.day: each.working for each in days}

    async def load(self, lease: Lease, topic: str) -> list[Row]:
        """Return the batch's messages without an outcome, in order of position.

        Each has the reason not to send it, if there is one.
        """
        connection = await self._open()
        cursor = connection.cursor(row_factory=class_row(Row))
        await cursor.execute(messages.LOAD, (topic, lease.batch_id))
        return await cursor.fetchall()

    async def settle(
        self, lease: Lease, mark: int, outcomes: Sequence[Outcome], loaded_at: datetime
    ) -> Settled:
        """Record `outcomes`, move the watermark up to `mark` and renew the lease, all or nothing.

        `suppressed` of the answer holds the addresses that opted out since `loaded_at`. Raise
        psycopg.Error when the database is unavailable; repeating the call is safe.
        """
        rows = await self._fetch(
            messages.SETTLE,
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
            return Settled(lease_holds=False, campaign_state=None, suppressed=frozenset())
        (row,) = rows
        return Settled(
            lease_holds=True,
            campaign_state=CampaignState(row.campaign_state),
            suppressed=frozenset(row.suppressed or ()),
        )

    async def release(self, lease: Lease, *, due: float | None = None) -> bool:
        """Give the batch back: done when all has an outcome, else ready from `due` (epoch seconds).

        Say whether it is done: the campaign may then be finished.
        """
        rows = await self._fetch(batches.RELEASE, (due, due, lease.batch_id, lease.owner))
        return bool(rows) and rows[0].state == BatchState.DONE


def decode_data(raw: str) -> dict[str, Any]:
    """Return a recipient's data from its stored JSON."""
    value: dict[str, Any] = orjson.loads(raw)
    return value
