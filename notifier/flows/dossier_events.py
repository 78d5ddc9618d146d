"""The story of a dossier: a system reports a change, and the applicant has the mail within a second.

An event is recorded once, whatever happens; a notice is planned in the same transaction. Of an earlier notice that no worker has taken yet,
the newer one takes the place; an event older than what the applicant was told already is recorded and told to nobody.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.db import new_id
from notifier.domain import addresses, batches, dossiers, idempotency
from notifier.domain.dossiers import Dossier, EventRow
from notifier.domain.sources import APOLOGY, Source, Status
from notifier.flows import transactional as notice
from notifier.services import Services

MAX_EVENTS = 2_000
# A clock that runs ahead would make every later event look old.
CLOCK_TOLERANCE = timedelta(minutes=10)
# Every statement finds its rows by key. A planner without fresh statistics may prefer to read all addresses instead.
_BY_KEY = text("""
SELECT set_config('lock_timeout', '5s', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)
""")


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a dossier, checked. `data` are values of the notice's template; `fingerprint` is the hash of all that it says."""

    source: Source
    status: Status
    code: str
    occurred_at: datetime
    name: str
    email: str | None
    tax_code: str | None
    language: str
    promised_at: datetime | None
    data: dict[str, Any]
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an event: `queued` with its message, `recorded` (nobody is told), `older`, `no-address`, or `conflict`.

    `conflict`: the same source, dossier, status and moment were reported before with other content; that first event stands.
    """

    id: uuid.UUID
    outcome: str
    message_id: uuid.UUID | None


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its events, and how they become the answer.

    `token` is its Idempotency-Key, `fingerprint` the hash of its body, `request` its id for the logs.
    """

    key_id: int
    sandbox: bool
    events: Sequence[Event]
    answer: Callable[[Sequence[Told]], tuple[int, Any]]
    token: str | None = None
    fingerprint: bytes = b""
    request: str = ""


Answer = tuple[int, Any]
MISUSED: Answer = (409, None)
"""The answer to a token that was used before with another body."""


@dataclass(slots=True)
class _Work:
    """A transaction under way: dossiers as they stand, notices to plan, messages that newer ones replace."""

    services: Services
    now: datetime
    dossiers: dict[tuple[str, str, bool], Dossier]
    addresses: dict[str, int]
    streams: Callable[[str, bool], int]
    planned: dict[uuid.UUID, notice.Notice] = field(default_factory=dict)
    replaced: set[uuid.UUID] = field(default_factory=set)
    dropped: set[uuid.UUID] = field(default_factory=set)


def accept(services: Services, calls: Sequence[Call]) -> list[Answer]:
    """Record the events of some requests and plan their notices, all in one transaction; return the answers in order."""
    now = services.clock()
    streams = _streams(services, calls)
    with services.session() as session:
        session.execute(_BY_KEY)
        answers = _accept(session, services, calls, now, streams)
    services.queues.enqueue_gather_soon(
        notice.LANE, requests=[call.request for call in calls if call.request]
    )
    return answers


def _accept(
    session: Session,
    services: Services,
    calls: Sequence[Call],
    now: datetime,
    streams: Callable[[str, bool], int],
) -> list[Answer]:
    connection = session.connection()
    wanted: dict[idempotency.Token, bytes] = {}
    for call in calls:
        if call.token is not None:
            wanted.setdefault((call.key_id, call.token), call.fingerprint)
    known = idempotency.claim(connection, wanted, now)
    fresh: list[Call] = []
    first: set[idempotency.Token] = set()
    for call in calls:
        token = (call.key_id, call.token or "")
        if call.token is None or (token not in known and token not in first):
            fresh.append(call)
            first.add(token)
    told = iter(_record(session, services, fresh, now, streams))
    given = {id(call): call.answer([next(told) for _ in call.events]) for call in fresh}
    mine = [
        ((call.key_id, call.token), *given[id(call)]) for call in fresh if call.token is not None
    ]
    idempotency.answer(connection, mine)
    known |= {
        token: idempotency.Stored(wanted[token], status, body) for token, status, body in mine
    }
    answers: list[Answer] = []
    for call in calls:
        if call.token is None:
            answers.append(given[id(call)])
            continue
        stored = known[call.key_id, call.token]
        answers.append(
            (stored.status, stored.body) if stored.fingerprint == call.fingerprint else MISUSED
        )
    return answers


def _record(
    session: Session,
    services: Services,
    calls: Sequence[Call],
    now: datetime,
    streams: Callable[[str, bool], int],
) -> list[Told]:
    connection = session.connection()
    rows = [
        (call, event, EventRow.of(event, call.sandbox, new_id(now)))
        for call in calls
        for event in call.events
    ]
    unique: dict[dossiers.EventKey, tuple[Call, Event, EventRow]] = {}
    for call, event, row in rows:
        unique.setdefault(row.key, (call, event, row))
    work = _Work(
        services,
        now,
        dossiers.lock(
            connection,
            {
                (event.source.name, event.code, call.sandbox): call.key_id
                for call, event, _ in unique.values()
            },
        ),
        addresses.ids(
            session, {event.email for _, event, _ in unique.values() if event.email is not None}
        ),
        streams,
    )
    # Behind the lock of their dossiers two requests with the same event can no longer overtake each other.
    known = dossiers.known_events(connection, list(unique))
    new = [each for key, each in unique.items() if key not in known]
    for call, event, row in new:
        row.key_id, row.received_at = call.key_id, now
        row.outcome, row.message_id = _tell(work, call, event)
        known[row.key] = row
    dossiers.insert_events(connection, [row for _, _, row in new])
    # What a worker has taken meanwhile is on its way; the applicant then gets both.
    batches.withdraw(connection, sorted(work.replaced), reason=notice.REPLACED)
    if work.planned:
        notice.queue_notices(session, list(work.planned.values()))
    dossiers.save(connection, list(work.dossiers.values()))
    found = []
    for _, event, row in rows:
        there = known[row.key]
        outcome = there.outcome if there.fingerprint == event.fingerprint else "conflict"
        found.append(Told(there.id, outcome, there.message_id))
    return found


def _tell(work: _Work, call: Call, event: Event) -> tuple[str, uuid.UUID | None]:
    """Decide what an event means for its dossier and plan its notice; return the outcome and the message."""
    dossier = work.dossiers[event.source.name, event.code, call.sandbox]
    status = event.status
    address_id = work.addresses.get(event.email) if event.email is not None else None
    if event.occurred_at >= dossier.seen_at:
        dossier.see(event, address_id, key_id=call.key_id)
    tells = status.notice is not None or status.closes
    if tells and event.occurred_at < dossier.notified_at:
        return "older", None
    if tells:
        dossier.notified_at = event.occurred_at
    if status.notice is None:
        if status.closes:
            # Whoever withdrew a dossier needs no older word of it.
            _replace(work, dossier)
        return "recorded", None
    if address_id is None:
        return "no-address", None
    _replace(work, dossier)
    if status.notice == APOLOGY:
        dossier.apologised_at = work.now
    dossier.message_id = _plan(work, dossier, status.notice, event.data, event.source.quiet_seconds)
    return "queued", dossier.message_id


def _replace(work: _Work, dossier: Dossier) -> None:
    """Let the notice before be replaced: one of this transaction is recorded as withdrawn, an older one is withdrawn if it still waits."""
    before = dossier.message_id
    if before is None:
        return
    if before in work.planned:
        work.planned[before] = notice.withdrawn(work.planned[before])
    else:
        work.replaced.add(before)
    dossier.message_id = None


def _plan(
    work: _Work, dossier: Dossier, template: str, data: dict[str, Any], quiet_seconds: int
) -> uuid.UUID:
    message_id = new_id(work.now)
    assert dossier.address_id is not None  # noqa: S101 - whoever plans has checked it
    work.planned[message_id] = notice.Notice(
        work.streams(template, dossier.sandbox),
        dossier.address_id,
        dossier.name,
        dossier.language,
        data,
        work.now + timedelta(seconds=quiet_seconds),
        dossier.tax_code,
        message_id,
        dossier.key_id,
    )
    return message_id


def _streams(services: Services, calls: Sequence[Call]) -> Callable[[str, bool], int]:
    """Return what finds the stream of a notice. Streams are made in a transaction of their own: no request waits for another's."""
    for call in calls:
        for event in call.events:
            if event.status.notice is not None:
                notice.campaign_of(services, event.status.notice, sandbox=call.sandbox)
    return lambda template, sandbox: notice.campaign_of(services, template, sandbox=sandbox)


def apologise(services: Services, *, most: int = 500) -> int:
    """Tell applicants at least one working day before a promised date passes that it will not be kept; once per dossier.

    Return how many were told. The apology is due from the morning of the last working day before the promised one (form 04 of
    Decree 118/2025/ND-CP), for dossiers that are neither closed nor waiting for their applicant.
    """
    now = services.clock()
    sources = [name for name, source in services.sources.items() if source.apology]
    told = 0
    with services.session() as session:
        before = dossiers.apology_horizon(session.connection(), now)
        work = _Work(
            services,
            now,
            dossiers.overdue(session.connection(), sources, before, now, most),
            {},
            lambda *_: 0,
        )
        if not work.dossiers:
            return 0
        work.streams = lambda template, sandbox: notice.campaign_of(
            services, template, sandbox=sandbox
        )
        for dossier in work.dossiers.values():
            dossier.apologised_at = now
            if dossier.address_id is None:
                continue
            _replace(work, dossier)
            dossier.message_id = _plan(work, dossier, APOLOGY, dossier.apology_data(now), 0)
            told += 1
        batches.withdraw(session.connection(), sorted(work.replaced), reason=notice.REPLACED)
        notice.queue_notices(session, list(work.planned.values()))
        dossiers.save(session.connection(), list(work.dossiers.values()))
    services.queues.enqueue_gather_soon(notice.LANE)
    return told
