"""The door to PostgreSQL: engine, time-ordered ids and the monthly partitions of messages.

PostgreSQL holds the truth; everything else in this system may be lost. Messages are partitioned by
month on their id: a UUIDv7 begins with the milliseconds of its birth (RFC 9562 section 5.7), so the
id alone finds the partition and stays unique across all of them.
"""

from __future__ import annotations

import secrets
import uuid
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url

from notifier.errors import SettingsError

POOL, OVERFLOW = 16, 4


def make_engine(url: str, *, pool_size: int = POOL, application: str = "notifier") -> Engine:
    """Open a pool of at most `pool_size` + `OVERFLOW` connections to the PostgreSQL at `url`.

    Raise SettingsError for another dialect.
    """
    try:
        parsed = make_url(url)
    except Exception as error:
        raise SettingsError("NOTIFIER_DATABASE_URL is not a database address.") from error
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise SettingsError(
            "NOTIFIER_DATABASE_URL is not a PostgreSQL address.",
            fix="Write it as postgresql://user:password@host/name.",
        )
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        # Those beyond the pool are closed after use, and making one anew costs more than most
        # requests do.
        max_overflow=OVERFLOW,
        # A connection that a restarted server dropped is replaced before a statement is lost on it.
        pool_pre_ping=True,
        connect_args={
            "application_name": application,
            "connect_timeout": 5,
            "options": "-c timezone=UTC",
        },
    )


def plain_url(url: str) -> str:
    """Return the URL without SQLAlchemy's driver suffix, as psycopg itself takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def id_floor(moment: datetime) -> uuid.UUID:
    """Return the smallest UUIDv7 of that millisecond.

    Every id born at or after `moment` is greater or equal.
    """
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


def new_id(moment: datetime) -> uuid.UUID:
    """Return a new UUIDv7 born at `moment` (RFC 9562 section 5.7)."""
    milliseconds = int(moment.timestamp() * 1000)
    noise = secrets.randbits(74)
    return uuid.UUID(
        int=milliseconds << 80
        | 0x7 << 76
        | (noise >> 62) << 64
        | 0b10 << 62
        | noise & (1 << 62) - 1
    )


def born_at(message_id: uuid.UUID) -> datetime:
    """Return the moment at which a UUIDv7 was made (UTC, to the millisecond)."""
    return datetime.fromtimestamp((message_id.int >> 80) / 1000, UTC)


def _month(moment: datetime, offset: int) -> datetime:
    index = moment.year * 12 + moment.month - 1 + offset
    return datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC)


def ensure_partitions(connection: Connection, now: datetime, *, months_ahead: int = 2) -> list[str]:
    """Create this month's partition of `message` and the next `months_ahead` where missing.

    Return the names made. Idempotent, and safe to run from several processes at once: an advisory
    lock serialises them.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(7264311)"))
    present = set(
        connection.scalars(
            text(
                "SELECT inhrelid::regclass::text FROM pg_inherits "
                "WHERE inhparent = 'message'::regclass"
            )
        )
    )
    made = []
    for offset in range(months_ahead + 1):
        first = _month(now.astimezone(UTC), offset)
        name = f"message_{first:%Y_%m}"
        if name in present:
            continue
        low, high = id_floor(first), id_floor(_month(first, 1))
        # Identifiers and bounds come from the clock alone, never from a person, so they may stand
        # in the statement. Rows are updated once after insertion and grow by the reply and the
        # hash: the free space keeps that update on the page (HOT), which spares three index entries
        # a message.
        connection.execute(
            text(
                f"CREATE TABLE {name} PARTITION OF message FOR VALUES FROM ('{low}') TO ('{high}') "
                "WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.5, "
                "autovacuum_analyze_scale_factor = 0.2)"
            )
        )
        made.append(name)
    return made
