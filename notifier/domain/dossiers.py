"""The one file of verbs for `dossier` and `dossier_event`: how far a dossier is, and every change of it that was ever reported."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, NamedTuple, Protocol

import orjson
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Boolean, DateTime, Integer, LargeBinary, String, Uuid

from notifier.domain import calendar
from notifier.domain.calendar import HANOI
from notifier.domain.sources import Source, Status

# An apology leaves in the morning, when somebody is there to be asked about it.
_MORNING = time(8, 0)


class Reported(Protocol):
    """An event as a flow has checked it."""

    @property
    def source(self) -> Source:
        """The system that reports."""

    @property
    def status(self) -> Status:
        """What the dossier's status is now."""

    @property
    def code(self) -> str:
        """The dossier."""

    @property
    def occurred_at(self) -> datetime:
        """When it changed."""

    @property
    def name(self) -> str:
        """The applicant."""

    @property
    def tax_code(self) -> str | None:
        """The applicant's tax code."""

    @property
    def language(self) -> str:
        """The applicant's language."""

    @property
    def promised_at(self) -> datetime | None:
        """The promised date."""

    @property
    def data(self) -> dict[str, Any]:
        """Values of the notice's template."""

    @property
    def fingerprint(self) -> bytes:
        """The hash of all that it says."""


class EventKey(NamedTuple):
    """What makes an event the same event."""

    source: str
    code: str
    status: str
    occurred_at: datetime
    sandbox: bool


@dataclass(slots=True)
class EventRow:
    """A reported event and what became of it."""

    key: EventKey
    id: uuid.UUID
    fingerprint: bytes
    outcome: str = "recorded"
    message_id: uuid.UUID | None = None
    key_id: int = 0
    received_at: datetime | None = None

    @classmethod
    def of(cls, event: Reported, sandbox: bool, number: uuid.UUID) -> EventRow:  # noqa: FBT001 - named by its parameter
        """Return the row of an event that is not recorded yet."""
        key = EventKey(event.source.name, event.code, event.status.code, event.occurred_at, sandbox)
        return cls(key, number, event.fingerprint)


@dataclass(slots=True)
class Dossier:
    """How far a dossier is. `seen_at` is the moment of its newest event, `notified_at` of the newest its applicant was told of.

    `waits`: the clock of the promised date stands still. `message_id` is the newest notice.
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

    def see(self, event: Reported, address_id: int | None, *, key_id: int) -> None:
        """Take over what the newest event says of the dossier; what it leaves out stays."""
        self.seen_at, self.status, self.key_id = event.occurred_at, event.status.code, key_id
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
        """Return the values of the apology: what is known of the dossier, with the old and the new date."""
        dates = {
            "promised_at": self.promised_at,
            "new_promised_at": self.new_promised_at,
            "status_at": now,
        }
        told = {
            key: moment.astimezone(HANOI).isoformat(timespec="seconds")
            for key, moment in dates.items()
            if moment is not None
        }
        return {**self.data, **told, "dossier_code": self.code}


_KEPT = ("procedure", "office", "reason")
_COLUMNS = (
    "id, source, code, sandbox, status, seen_at, notified_at, message_id, address_id, name, language, tax_code, data, promised_at, "
    "new_promised_at, waits, closed, apologised_at, key_id"
)
# Psycopg cannot return -infinity; a dossier of which nothing is known yet began before everything.
_SEEN = _COLUMNS.replace("seen_at", "greatest(seen_at, '0002-01-01Z') AS seen_at").replace(
    "notified_at", "greatest(notified_at, '0002-01-01Z') AS notified_at"
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

# The empty update locks what is there and returns it: whoever comes later waits here until this transaction ends.
_LOCK = text(f"""
INSERT INTO dossier (source, code, sandbox, key_id)
SELECT * FROM unnest(:sources, :codes, :sandboxes, :key_ids) AS o (source, code, sandbox, key_id) ORDER BY 1, 2, 3
ON CONFLICT (source, code, sandbox) DO UPDATE SET source = excluded.source
RETURNING {_SEEN}
""").bindparams(*_KEYS, bindparam("key_ids", type_=ARRAY(Integer)))

_KNOWN = text("""
SELECT e.id, e.source, e.code, e.status, e.occurred_at, e.sandbox, e.fingerprint, e.outcome, e.message_id, e.key_id
  FROM unnest(:sources, :codes, :statuses, :moments, :sandboxes) AS o (source, code, status, occurred_at, sandbox)
  JOIN dossier_event e USING (source, code, status, occurred_at, sandbox)
""").bindparams(*_EVENT_KEYS)

_INSERT = text("""
INSERT INTO dossier_event (id, source, code, status, occurred_at, sandbox, received_at, key_id, fingerprint, outcome, message_id)
SELECT * FROM unnest(:ids, :sources, :codes, :statuses, :moments, :sandboxes, :received, :key_ids, :fingerprints, :outcomes, :message_ids)
""").bindparams(
    *_EVENT_KEYS,
    bindparam("ids", type_=ARRAY(Uuid())),
    bindparam("received", type_=ARRAY(DateTime(timezone=True))),
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
UPDATE dossier d SET data = cast(o.data AS json), {", ".join(f"{name} = o.{name}" for name in _CHANGED)}
  FROM unnest(:id, :data, {", ".join(f":{name}" for name in _CHANGED)}) AS o (id, data, {", ".join(_CHANGED)}) WHERE d.id = o.id
""").bindparams(
    bindparam("id", type_=ARRAY(BigInteger)),
    bindparam("data", type_=ARRAY(String)),
    *(bindparam(name, type_=ARRAY(kind)) for name, kind in _CHANGED.items()),
)


def lock(
    connection: Connection, wanted: Mapping[tuple[str, str, bool], int]
) -> dict[tuple[str, str, bool], Dossier]:
    """Return the dossiers by source, code and sandbox, locked until the transaction ends; one that is new begins, for its key."""
    if not wanted:
        return {}
    rows = connection.execute(
        _LOCK,
        {
            "sources": [source for source, _, _ in wanted],
            "codes": [code for _, code, _ in wanted],
            "sandboxes": [sandbox for _, _, sandbox in wanted],
            "key_ids": list(wanted.values()),
        },
    )
    return {
        (each.source, each.code, each.sandbox): each for each in (Dossier(*row) for row in rows)
    }


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


def _event_keys(keys: Iterable[EventKey]) -> dict[str, list[Any]]:
    listed = list(keys)
    return {
        "sources": [key.source for key in listed],
        "codes": [key.code for key in listed],
        "statuses": [key.status for key in listed],
        "moments": [key.occurred_at for key in listed],
        "sandboxes": [key.sandbox for key in listed],
    }


def known_events(connection: Connection, keys: Sequence[EventKey]) -> dict[EventKey, EventRow]:
    """Return those of the events that were recorded before."""
    if not keys:
        return {}
    found = {}
    for (
        number,
        source,
        code,
        status,
        moment,
        sandbox,
        fingerprint,
        outcome,
        message_id,
        key_id,
    ) in connection.execute(_KNOWN, _event_keys(keys)):
        key = EventKey(source, code, status, moment, sandbox)
        found[key] = EventRow(key, number, bytes(fingerprint), outcome, message_id, key_id)
    return found


def insert_events(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Record events of dossiers that this transaction has locked."""
    if rows:
        connection.execute(
            _INSERT,
            {
                **_event_keys(row.key for row in rows),
                "ids": [row.id for row in rows],
                "received": [row.received_at for row in rows],
                "key_ids": [row.key_id for row in rows],
                "fingerprints": [row.fingerprint for row in rows],
                "outcomes": [row.outcome for row in rows],
                "message_ids": [row.message_id for row in rows],
            },
        )


def apology_horizon(connection: Connection, now: datetime) -> datetime:
    """Return the moment up to which promised dates call for an apology now: from 8 in the morning, the end of the next working day."""
    days = calendar.load(connection)
    local = now.astimezone(HANOI)
    today = local.date()
    if local.time() < _MORNING or not days.is_working(today):
        # Not before this working day begins: what was due then is told then.
        return datetime.combine(today, time(0), HANOI)
    return datetime.combine(days.add_working_days(today, 1) + timedelta(days=1), time(0), HANOI)


def overdue(
    connection: Connection, sources: Sequence[str], before: datetime, now: datetime, most: int
) -> dict[tuple[str, str, bool], Dossier]:
    """Return open dossiers promised before `before` and not before `now`'s day, whose applicant has no apology yet, locked.

    A dossier that another worker has locked is left to it.
    """
    today = datetime.combine(now.astimezone(HANOI).date(), time(0), HANOI)
    rows = connection.execute(
        text(f"""SELECT {_SEEN} FROM dossier
                  WHERE promised_at >= :today AND promised_at < :before AND NOT closed AND NOT waits AND apologised_at IS NULL
                    AND source = ANY(:sources) ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED"""),
        {"today": today, "before": before, "sources": list(sources), "most": most},
    )
    return {
        (each.source, each.code, each.sandbox): each for each in (Dossier(*row) for row in rows)
    }


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """An event whose applicant could not be told, for officers."""

    source: str
    code: str
    status: str
    occurred_at: datetime
    received_at: datetime


def undeliverable(
    connection: Connection, *, since: datetime, most: int = 1_000
) -> list[Undeliverable]:
    """Return the events since `since` whose applicants left no address, the newest first."""
    rows = connection.execute(
        text("""SELECT source, code, status, occurred_at, received_at FROM dossier_event
                 WHERE outcome = 'no-address' AND NOT sandbox AND received_at >= :since ORDER BY received_at DESC LIMIT :most"""),
        {"since": since, "most": most},
    )
    return [Undeliverable(*row) for row in rows]
