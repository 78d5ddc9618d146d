"""The verbs of `dossier` and `dossier_event`: how far a dossier is, and every change of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, bindparam, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Boolean, DateTime, Integer, LargeBinary, String, Uuid

from notifier import schema
from notifier.domain import calendar
from notifier.domain.calendar import HANOI
from notifier.domain.event_results import CONFLICT, EventResult, Outcome, Refusal
from notifier.domain.sources import Source, Status

# An apology leaves in the morning, when somebody is there to be asked about it.
_MORNING = time(8, 0)


class DossierKey(NamedTuple):
    """What makes a dossier the same dossier."""

    source: str
    code: str
    sandbox: bool


class EventKey(NamedTuple):
    """What makes an event the same event."""

    source: str
    code: str
    status: str
    occurred_at: datetime
    sandbox: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of a dossier, checked: the one form of it from the request to the row.

    `data` are values of the notice's template, `fingerprint` is the hash of all that was reported;
    `key_id` is the system that reported it.
    """

    key_id: int
    sandbox: bool
    source: Source
    status: Status
    code: str
    occurred_at: datetime
    name: str
    email: str | None = None
    tax_code: str | None = None
    language: str = "vi"
    promised_at: datetime | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: bytes

    @property
    def dossier(self) -> DossierKey:
        """The dossier that changed."""
        return DossierKey(self.source.name, self.code, self.sandbox)

    @property
    def key(self) -> EventKey:
        """What makes it this event."""
        return EventKey(
            self.source.name, self.code, self.status.code, self.occurred_at, self.sandbox
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event that was recorded before, with the hash of what was reported then."""

    fingerprint: bytes
    result: EventResult

    def for_event(self, event: Event) -> EventResult | Refusal:
        """Return what became of the event, or that it was another one."""
        return self.result if event.fingerprint == self.fingerprint else CONFLICT


@dataclass(slots=True)
class Dossier:
    """How far a dossier is.

    `seen_at` is the moment of its newest event, `notified_at` of the newest that its applicant was
    notified of. `waits`: the clock of the promised date stands still. `message_id` is the newest
    notice.
    """

    id: int
    source: str
    code: str
    sandbox: bool
    status: str
    seen_at: datetime
    notified_at: datetime
    message_id: uuid.UUID | None
    address_id: int | None
    name: str
    language: str
    tax_code: str | None
    data: dict[str, Any]
    promised_at: datetime | None
    new_promised_at: datetime | None
    waits: bool
    closed: bool
    apologised_at: datetime | None
    key_id: int

    @property
    def key(self) -> DossierKey:
        """What makes it this dossier."""
        return DossierKey(self.source, self.code, self.sandbox)

    def see(self, event: Event, address_id: int | None) -> None:
        """Take over what the newest event says of the dossier; what it leaves out stays."""
        self.seen_at, self.status = event.occurred_at, event.status.code
        self.key_id = event.key_id
        self.waits, self.closed = event.status.waits, event.status.closes
        self.name, self.language = event.name, event.language
        self.tax_code = event.tax_code or self.tax_code
        self.address_id = address_id if address_id is not None else self.address_id
        self.data = self.data | {
            key: event.data[key] for key in _KEPT if event.data.get(key) is not None
        }
        if event.promised_at is not None:
            if self.promised_at is None:
                self.promised_at = event.promised_at
            elif event.promised_at > self.promised_at:
                self.new_promised_at = event.promised_at

    def apology_data(self, now: datetime) -> dict[str, Any]:
        """Return the values of the apology: what is known, with the old and the new date."""
        dates = {
            "promised_at": self.promised_at,
            "new_promised_at": self.new_promised_at,
            "status_at": now,
        }
        shown = {
            key: moment.astimezone(HANOI).isoformat(timespec="seconds")
            for key, moment in dates.items()
            if moment is not None
        }
        return {**self.data, **shown, "dossier_code": self.code}


_KEPT = ("procedure", "office", "reason")
# Psycopg cannot return -infinity; a dossier of which nothing is known began before everything.
_BEGAN = literal_column("timestamptz '0002-01-01Z'", schema.Dossier.seen_at.type)
_COLUMNS = tuple(
    func.greatest(each, _BEGAN).label(each.name)
    if each.name in {"seen_at", "notified_at"}
    else each
    for each in schema.Dossier.__table__.columns
)

_KEYS = (
    bindparam("sources", type_=ARRAY(String)),
    bindparam("codes", type_=ARRAY(String)),
    bindparam("sandboxes", type_=ARRAY(Boolean)),
)
_EVENT_KEYS = (
    *_KEYS,
    bindparam("statuses", type_=ARRAY(String)),
    bindparam("moments", type_=ARRAY(DateTime(timezone=True))),
)

# The four statements below take thousands of rows at once by unnest, which SQLAlchemy would spell
# out row by row; they stay SQL.
# The empty update locks what is there and returns it: whoever comes later waits here until this
# transaction ends.
_LOCK = text(f"""
INSERT INTO dossier (source, code, sandbox, key_id)
SELECT * FROM unnest(:sources, :codes, :sandboxes, :key_ids) AS o (source, code, sandbox, key_id)
 ORDER BY 1, 2, 3
ON CONFLICT (source, code, sandbox) DO UPDATE SET source = excluded.source
RETURNING {", ".join(f"{each} AS {each.name}" for each in _COLUMNS)}
""").bindparams(*_KEYS, bindparam("key_ids", type_=ARRAY(Integer)))

_KNOWN = text("""
SELECT e.id, e.source, e.code, e.status, e.occurred_at, e.sandbox, e.fingerprint, e.outcome,
       e.message_id
  FROM unnest(:sources, :codes, :statuses, :moments, :sandboxes)
       AS o (source, code, status, occurred_at, sandbox)
  JOIN dossier_event e USING (source, code, status, occurred_at, sandbox)
""").bindparams(*_EVENT_KEYS)

_INSERT = text("""
INSERT INTO dossier_event (id, source, code, status, occurred_at, sandbox, received_at, key_id,
                           fingerprint, outcome, message_id)
SELECT o.id, o.source, o.code, o.status, o.occurred_at, o.sandbox, :received_at, o.key_id,
       o.fingerprint, o.outcome, o.message_id
  FROM unnest(:ids, :sources, :codes, :statuses, :moments, :sandboxes, :key_ids, :fingerprints,
              :outcomes, :message_ids)
       AS o (id, source, code, status, occurred_at, sandbox, key_id, fingerprint, outcome,
             message_id)
""").bindparams(
    *_EVENT_KEYS,
    bindparam("ids", type_=ARRAY(Uuid())),
    bindparam("received_at", type_=DateTime(timezone=True)),
    bindparam("key_ids", type_=ARRAY(Integer)),
    bindparam("fingerprints", type_=ARRAY(LargeBinary)),
    bindparam("outcomes", type_=ARRAY(String)),
    bindparam("message_ids", type_=ARRAY(Uuid())),
)

_CHANGED: dict[str, Any] = {
    "status": String(),
    "seen_at": DateTime(timezone=True),
    "notified_at": DateTime(timezone=True),
    "message_id": Uuid(),
    "address_id": BigInteger(),
    "name": String(),
    "language": String(),
    "tax_code": String(),
    "promised_at": DateTime(timezone=True),
    "new_promised_at": DateTime(timezone=True),
    "waits": Boolean(),
    "closed": Boolean(),
    "apologised_at": DateTime(timezone=True),
    "key_id": Integer(),
}
_SAVE = text(f"""
UPDATE dossier d
   SET data = cast(o.data AS jsonb), {", ".join(f"{name} = o.{name}" for name in _CHANGED)}
  FROM unnest(:id, :data, {", ".join(f":{name}" for name in _CHANGED)})
       AS o (id, data, {", ".join(_CHANGED)})
 WHERE d.id = o.id
""").bindparams(
    bindparam("id", type_=ARRAY(BigInteger)),
    bindparam("data", type_=ARRAY(String)),
    *(bindparam(name, type_=ARRAY(kind)) for name, kind in _CHANGED.items()),
)


def _dossiers(rows: Iterable[Row[Any]]) -> dict[DossierKey, Dossier]:
    found = (Dossier(**row._mapping) for row in rows)  # noqa: SLF001 - SQLAlchemy's public name
    return {each.key: each for each in found}


def lock(connection: Connection, wanted: Mapping[DossierKey, int]) -> dict[DossierKey, Dossier]:
    """Return the dossiers, locked until the transaction ends.

    One that is new begins, for its key.
    """
    if not wanted:
        return {}
    return _dossiers(
        connection.execute(
            _LOCK,
            {
                "sources": [each.source for each in wanted],
                "codes": [each.code for each in wanted],
                "sandboxes": [each.sandbox for each in wanted],
                "key_ids": list(wanted.values()),
            },
        )
    )


def save(connection: Connection, dossiers: Sequence[Dossier]) -> None:
    """Write back dossiers that this transaction has locked."""
    if not dossiers:
        return
    values: dict[str, list[Any]] = {
        name: [getattr(each, name) for each in dossiers] for name in ("id", *_CHANGED)
    }
    connection.execute(
        _SAVE, values | {"data": [orjson.dumps(each.data).decode() for each in dossiers]}
    )


def _event_keys(keys: Sequence[EventKey]) -> dict[str, list[Any]]:
    return {
        "sources": [key.source for key in keys],
        "codes": [key.code for key in keys],
        "statuses": [key.status for key in keys],
        "moments": [key.occurred_at for key in keys],
        "sandboxes": [key.sandbox for key in keys],
    }


def known_events(connection: Connection, keys: Sequence[EventKey]) -> dict[EventKey, Recorded]:
    """Return those of the events that were recorded before."""
    if not keys:
        return {}
    return {
        EventKey(row.source, row.code, row.status, row.occurred_at, row.sandbox): Recorded(
            fingerprint=bytes(row.fingerprint),
            result=EventResult(id=row.id, outcome=Outcome(row.outcome), message_id=row.message_id),
        )
        for row in connection.execute(_KNOWN, _event_keys(keys))
    }


def insert_events(
    connection: Connection, results: Sequence[tuple[Event, EventResult]], now: datetime
) -> None:
    """Record events of dossiers that this transaction has locked, each with what became of it."""
    if not results:
        return
    connection.execute(
        _INSERT,
        {
            **_event_keys([event.key for event, _ in results]),
            "received_at": now,
            "key_ids": [event.key_id for event, _ in results],
            "fingerprints": [event.fingerprint for event, _ in results],
            "ids": [result.id for _, result in results],
            "outcomes": [result.outcome.value for _, result in results],
            "message_ids": [result.message_id for _, result in results],
        },
    )


def apology_horizon(connection: Connection, now: datetime) -> datetime:
    """Return the moment up to which promised dates call for an apology now.

    From 8 in the morning that is the end of the next working day.
    """
    days = calendar.load(connection)
    local = now.astimezone(HANOI)
    today = local.date()
    if local.time() < _MORNING or not days.is_working(today):
        # Not before this working day begins: what was due then is sent then.
        return datetime.combine(today, time(0), HANOI)
    return datetime.combine(days.add_working_days(today, 1) + timedelta(days=1), time(0), HANOI)


def overdue(
    connection: Connection, sources: Sequence[str], before: datetime, now: datetime, limit: int
) -> dict[DossierKey, Dossier]:
    """Return open dossiers promised before `before` and not before `now`'s day, locked.

    Those whose applicant has an apology already are left out, and those that another worker has
    locked are left to it.
    """
    today = datetime.combine(now.astimezone(HANOI).date(), time(0), HANOI)
    dossier = schema.Dossier
    query = (
        select(*_COLUMNS)
        .where(dossier.promised_at >= today, dossier.promised_at < before)
        .where(~dossier.closed, ~dossier.waits, dossier.apologised_at.is_(None))
        .where(dossier.source.in_(sources))
        .order_by(dossier.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return _dossiers(connection.execute(query))


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """An event whose applicant could not be notified, for officers."""

    source: str
    code: str
    status: str
    occurred_at: datetime
    received_at: datetime


def undeliverable(
    connection: Connection, *, since: datetime, limit: int = 1_000
) -> list[Undeliverable]:
    """Return the events since `since` whose applicants left no address, the newest first."""
    event = schema.DossierEvent
    query = (
        select(event.source, event.code, event.status, event.occurred_at, event.received_at)
        .where(event.outcome == Outcome.NO_ADDRESS, ~event.sandbox, event.received_at >= since)
        .order_by(event.received_at.desc())
        .limit(limit)
    )
    return [Undeliverable(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001
