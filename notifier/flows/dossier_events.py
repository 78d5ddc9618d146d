"""The story of a dossier: a system reports a change, and the applicant has the mail in a second.

An event is recorded once, whatever happens; a notice is planned in the same transaction. Of an
earlier notice that no worker has taken yet, the newer one takes the place; an event older than what
the applicant was notified of already is recorded, and nobody is notified of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.db import new_id
from notifier.domain import addresses, dossiers, idempotency, messages
from notifier.domain.dossiers import Dossier, DossierKey, Event, EventKey, Recorded
from notifier.domain.event_results import EventResult, Outcome, Refusal
from notifier.domain.idempotency import IdempotencyError
from notifier.domain.sources import APOLOGY
from notifier.flows import transactional as notice
from notifier.services import Services

MAX_EVENTS = 2_000
# A clock that runs ahead would make every later event look old.
CLOCK_TOLERANCE = timedelta(minutes=10)
# Every statement finds its rows by key. A planner without fresh statistics may prefer to read all
# addresses instead.
_BY_KEY = text("""
SELECT set_config('lock_timeout', '5s', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('jit', 'off', true)
""")

Result = EventResult | Refusal
Results = tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its events in order, a Refusal in the place of each that was refused already.

    `token` is its Idempotency-Key, `fingerprint` the hash of its body, `request` its id for the
    logs.
    """

    key_id: int
    events: Sequence[Event | Refusal]
    token: str | None = None
    fingerprint: bytes = b""
    request: str = ""

    @property
    def accepted(self) -> Iterator[Event]:
        """The events that were not refused."""
        return (each for each in self.events if isinstance(each, Event))


@dataclass(slots=True)
class _Work:
    """A transaction under way: dossiers as they stand, notices to plan and messages to replace.

    `stream` finds the stream of a template's notices.
    """

    services: Services
    now: datetime
    dossiers: dict[DossierKey, Dossier]
    addresses: Mapping[str, int] = field(default_factory=dict)
    planned: dict[uuid.UUID, notice.Notice] = field(default_factory=dict)
    replaced: set[uuid.UUID] = field(default_factory=set)

    def write(self, session: Session) -> None:
        """Write the dossiers and their notices."""
        # What a worker has taken meanwhile is on its way; the applicant then gets both.
        messages.withdraw(session.connection(), sorted(self.replaced), reason=notice.REPLACED)
        if self.planned:
            notice.queue_notices(session, list(self.planned.values()))
        dossiers.save(session.connection(), list(self.dossiers.values()))


def record(services: Services, calls: Sequence[Call]) -> list[Results | IdempotencyError]:
    """Record the events of some requests and plan their notices, all in one transaction.

    Return for each call what became of its events, in their order; a call whose Idempotency-Key was
    used before gets what came of it then, or an IdempotencyError when that was another request.
    """
    now = services.clock()
    _make_streams(services, calls)
    with services.session() as session:
        session.execute(_BY_KEY)
        results = _record(session, services, calls, now)
    services.queues.enqueue_gather_soon(
        notice.LANE, requests=[call.request for call in calls if call.request]
    )
    return results


def _record(
    session: Session, services: Services, calls: Sequence[Call], now: datetime
) -> list[Results | IdempotencyError]:
    connection = session.connection()
    wanted: dict[idempotency.Token, bytes] = {}
    for call in calls:
        if call.token is not None:
            wanted.setdefault((call.key_id, call.token), call.fingerprint)
    kept = idempotency.claim(connection, wanted, now)
    # The first call with a token that is not known does the work; its repeats hear of it.
    fresh: list[Call] = []
    ours: dict[idempotency.Token, Call] = {}
    for call in calls:
        token = (call.key_id, call.token or "")
        if call.token is None:
            fresh.append(call)
        elif token not in kept and token not in ours:
            fresh.append(call)
            ours[token] = call
    results = dict(zip(map(id, fresh), _record_events(session, services, fresh, now), strict=True))
    new = {token: [each.to_json() for each in results[id(call)]] for token, call in ours.items()}
    idempotency.keep(connection, new)
    kept |= {token: idempotency.Kept(wanted[token], result) for token, result in new.items()}
    return [
        results[id(call)]
        if id(call) in results
        else _repeated(kept[call.key_id, call.token or ""], call.fingerprint)
        for call in calls
    ]


def _repeated(kept: idempotency.Kept, fingerprint: bytes) -> Results | IdempotencyError:
    try:
        listed = kept.for_request(fingerprint)
    except IdempotencyError as error:
        return error
    return tuple(
        EventResult.from_json(each) if "outcome" in each else Refusal.from_json(each)
        for each in listed
    )


def _record_events(
    session: Session, services: Services, calls: Sequence[Call], now: datetime
) -> list[Results]:
    connection = session.connection()
    unique: dict[EventKey, Event] = {}
    for call in calls:
        for event in call.accepted:
            unique.setdefault(event.key, event)
    work = _Work(
        services,
        now,
        dossiers.lock(connection, {event.dossier: event.key_id for event in unique.values()}),
        addresses.ids(
            session, {event.email for event in unique.values() if event.email is not None}
        ),
    )
    # Behind the lock of their dossiers two requests with the same event cannot overtake each other.
    known = dossiers.known_events(connection, list(unique))
    new: list[tuple[Event, EventResult]] = []
    for key, event in unique.items():
        if key not in known:
            result = _apply(work, event)
            new.append((event, result))
            known[key] = Recorded(event.fingerprint, result)
    dossiers.insert_events(connection, new, now)
    work.write(session)
    return [
        tuple(
            known[each.key].for_event(each) if isinstance(each, Event) else each
            for each in call.events
        )
        for call in calls
    ]


def _apply(work: _Work, event: Event) -> EventResult:
    """Decide what an event means for its dossier, and plan its notice."""
    number = new_id(work.now)
    dossier = work.dossiers[event.dossier]
    status = event.status
    address_id = work.addresses.get(event.email) if event.email is not None else None
    if event.occurred_at >= dossier.seen_at:
        dossier.see(event, address_id)
    notifies = status.notice is not None or status.closes
    if notifies and event.occurred_at < dossier.notified_at:
        return EventResult(number, Outcome.OLDER)
    if notifies:
        dossier.notified_at = event.occurred_at
    if status.notice is None:
        if status.closes:
            # Whoever withdrew a dossier needs no older word of it.
            _replace(work, dossier)
        return EventResult(number, Outcome.RECORDED)
    if address_id is None:
        return EventResult(number, Outcome.NO_ADDRESS)
    _replace(work, dossier)
    if status.notice == APOLOGY:
        dossier.apologised_at = work.now
    dossier.message_id = _plan(
        work,
        dossier,
        template=status.notice,
        data=dict(event.data),
        quiet_seconds=event.source.quiet_seconds,
    )
    return EventResult(number, Outcome.QUEUED, dossier.message_id)


def _replace(work: _Work, dossier: Dossier) -> None:
    """Let the notice before be replaced.

    One of this transaction is recorded as withdrawn, an older one is withdrawn if it still waits.
    """
    before = dossier.message_id
    if before is None:
        return
    if before in work.planned:
        work.planned[before] = notice.withdrawn(work.planned[before])
    else:
        work.replaced.add(before)
    dossier.message_id = None


def _plan(
    work: _Work, dossier: Dossier, *, template: str, data: dict[str, Any], quiet_seconds: int
) -> uuid.UUID:
    """Plan a notice to the dossier's applicant, whose address is known; return its message."""
    message_id = new_id(work.now)
    assert dossier.address_id is not None  # noqa: S101 - whoever plans has checked it
    work.planned[message_id] = notice.Notice(
        campaign_id=notice.campaign_of(work.services, template, sandbox=dossier.sandbox),
        address_id=dossier.address_id,
        name=dossier.name,
        language=dossier.language,
        data=data,
        due_at=work.now + timedelta(seconds=quiet_seconds),
        tax_code=dossier.tax_code,
        id=message_id,
        key_id=dossier.key_id,
    )
    return message_id


def _make_streams(services: Services, calls: Sequence[Call]) -> None:
    """Make the missing transactional campaigns.

    Each in a transaction of its own: nobody waits for another's.
    """
    for call in calls:
        for event in call.accepted:
            if event.status.notice is not None:
                notice.campaign_of(services, event.status.notice, sandbox=event.sandbox)


def apologise(services: Services, *, limit: int = 500) -> int:
    """Notify applicants a working day before a promised date passes that it will not be kept.

    Once per dossier; return how many were notified. The apology is due from the morning of the last
    working day before the promised one (form 04 of Decree 118/2025/ND-CP), for dossiers that are
    neither closed nor waiting for their applicant.
    """
    now = services.clock()
    sources = [name for name, source in services.sources.items() if source.apology]
    notified = 0
    with services.session() as session:
        before = dossiers.apology_horizon(session.connection(), now)
        work = _Work(
            services,
            now,
            dossiers.overdue(session.connection(), sources, before, now, limit),
        )
        if not work.dossiers:
            return 0
        for dossier in work.dossiers.values():
            dossier.apologised_at = now
            if dossier.address_id is None:
                continue
            _replace(work, dossier)
            dossier.message_id = _plan(
                work,
                dossier,
                template=APOLOGY,
                data=dossier.apology_data(now),
                quiet_seconds=0,
            )
            notified += 1
        work.write(session)
    services.queues.enqueue_gather_soon(notice.LANE)
    return notified
