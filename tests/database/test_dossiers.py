"""Dossier events in the database: recorded once, told once, the newest word wins."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from notifier.domain import calendar, dossiers, keys
from notifier.domain.calendar import HANOI
from notifier.domain.dossiers import Event
from notifier.domain.event_results import CONFLICT, EventResult, Fault, Refusal
from notifier.domain.idempotency import IdempotencyError
from notifier.flows import dossier_events as dossier
from notifier.flows import upkeep
from notifier.flows.dossier_events import Call
from notifier.services import Services
from notifier.states import Lane

CODE = "000.A0.01.H26-261102-0042"
NINE = datetime(2026, 11, 2, 9, 0, tzinfo=HANOI)


@pytest.fixture
def key(services: Services) -> int:
    with services.engine.begin() as connection:
        token = keys.create(
            connection, name="portal", scopes=["events:write"], sandbox=False, now=services.clock()
        )
        found = keys.find(connection, token)
    assert found is not None
    return found.id


def event(
    services: Services,
    key: int,
    status: str,
    *,
    after: float = 0,
    code: str = CODE,
    email: str | None = "a@example.test",
    **changes: Any,
) -> Event:
    """An event `after` minutes behind nine o'clock."""
    source = changes.pop("source", services.sources["portal"])
    moment = NINE + timedelta(minutes=after)
    promised: datetime | None = changes.pop("promised_at", None)
    data = {
        "dossier_code": code,
        "procedure": "Đăng ký thuế",
        "status_at": moment.isoformat(),
        **changes,
    }
    fingerprint = hashlib.sha256(
        repr((status, code, moment, email, sorted(data.items()))).encode()
    ).digest()
    return Event(
        key_id=key,
        sandbox=False,
        source=source,
        status=source.statuses[status],
        code=code,
        occurred_at=moment,
        name="Hộ Ban Mai",
        email=email,
        promised_at=promised,
        data=data,
        fingerprint=fingerprint,
    )


def record(services: Services, key: int, *events: Event) -> list[EventResult]:
    """Send one request with the events and return what became of them."""
    (results,) = dossier.record(services, [Call(key, events)])
    assert isinstance(results, tuple)
    found = [each for each in results if isinstance(each, EventResult)]
    assert len(found) == len(events)
    return found


def messages(services: Services) -> list[tuple[str, str, str]]:
    """The template, state and reason of each message, in order."""
    with services.session() as session:
        rows = session.execute(
            text("""SELECT v.name, m.state::text, coalesce(m.detail, '')
                      FROM message m
                      JOIN campaign c ON c.id = m.campaign_id
                      JOIN template_version v ON v.version = c.template_version
                     ORDER BY m.id""")
        )
        return [(name, state, detail) for name, state, detail in rows]


def test_an_event_is_recorded_and_told_once(services: Services, key: int) -> None:
    (first,) = record(services, key, event(services, key, "2"))
    (again,) = record(services, key, event(services, key, "2"))
    assert first.outcome == "queued"
    assert again == first
    assert messages(services) == [("dossier-received", "queued", "")]


def test_the_same_event_with_other_content_is_a_conflict_and_changes_nothing(
    services: Services, key: int
) -> None:
    record(services, key, event(services, key, "2"))
    (other,) = dossier.record(services, [Call(key, [event(services, key, "2", reason="khác")])])
    assert other == (CONFLICT,)
    assert CONFLICT.code == "conflict"
    assert len(messages(services)) == 1


def test_a_newer_notice_replaces_one_that_is_still_unsent(services: Services, key: int) -> None:
    (first,) = record(services, key, event(services, key, "2"))
    (second,) = record(services, key, event(services, key, "5", after=1))
    assert {first.outcome, second.outcome} == {"queued"}
    assert messages(services) == [
        ("dossier-received", "cancelled", "replaced"),
        ("dossier-papers-missing", "queued", ""),
    ]


def test_within_one_request_only_the_newest_is_sent(services: Services, key: int) -> None:
    told = record(
        services,
        key,
        event(services, key, "2"),
        event(services, key, "9", after=2),
        event(services, key, "5", after=1),
    )
    assert [each.outcome for each in told] == ["queued", "queued", "older"]
    states = messages(services)
    assert sorted(states) == [
        ("dossier-done", "queued", ""),
        ("dossier-received", "cancelled", "replaced"),
    ]


def test_a_notice_that_a_worker_has_taken_is_not_replaced(services: Services, key: int) -> None:
    record(services, key, event(services, key, "2"))
    upkeep.gather(services, Lane.NOTICE)
    with services.session() as session:
        session.execute(
            text("UPDATE batch SET state = 'leased', lease_until = now() + interval '1 minute'")
        )
    record(services, key, event(services, key, "5", after=1))
    assert [state for _, state, _ in messages(services)] == ["queued", "queued"]


def test_a_notice_in_a_batch_that_lies_ready_is_replaced(services: Services, key: int) -> None:
    record(services, key, event(services, key, "2"))
    upkeep.gather(services, Lane.NOTICE)
    record(services, key, event(services, key, "5", after=1))
    assert [state for _, state, _ in messages(services)] == ["cancelled", "queued"]


def test_an_event_older_than_what_was_told_is_recorded_and_not_sent(
    services: Services, key: int
) -> None:
    record(services, key, event(services, key, "9", after=10))
    (late,) = record(services, key, event(services, key, "5", after=1))
    assert (late.outcome, late.message_id) == ("older", None)
    assert messages(services) == [("dossier-done", "queued", "")]


def test_a_status_without_a_notice_tells_nobody_and_holds_up_nothing(
    services: Services, key: int
) -> None:
    (processing,) = record(services, key, event(services, key, "4", after=5))
    (received,) = record(services, key, event(services, key, "2"))
    assert (processing.outcome, received.outcome) == ("recorded", "queued")


def test_a_withdrawn_dossier_takes_its_unsent_notice_back(services: Services, key: int) -> None:
    record(services, key, event(services, key, "2"))
    record(services, key, event(services, key, "7", after=1))
    (late,) = record(services, key, event(services, key, "5", after=0.5))
    assert late.outcome == "older"
    assert messages(services) == [("dossier-received", "cancelled", "replaced")]


def test_an_applicant_without_an_address_is_listed_for_officers(
    services: Services, key: int
) -> None:
    (told,) = record(services, key, event(services, key, "2", email=None))
    assert told.outcome == "no-address"
    assert messages(services) == []
    with services.engine.connect() as connection:
        (listed,) = dossiers.undeliverable(connection, since=services.clock() - timedelta(days=1))
    assert (listed.source, listed.code, listed.status) == ("portal", CODE, "2")


def test_a_quiet_time_holds_the_notice_back_so_that_only_the_newest_is_sent(
    services: Services, key: int
) -> None:
    quiet = replace(services.sources["portal"], quiet_seconds=300)
    record(services, key, event(services, key, "2", source=quiet))
    record(services, key, event(services, key, "5", after=1, source=quiet))
    with services.session() as session:
        (due,) = session.scalars(text("SELECT due_at FROM message WHERE state = 'queued'")).all()
    assert upkeep.gather(services, Lane.NOTICE) == []
    assert timedelta(seconds=250) < due - datetime.now(UTC) <= timedelta(seconds=300)


def test_an_idempotency_key_gets_the_same_answer_and_refuses_another_body(
    services: Services, key: int
) -> None:
    one = event(services, key, "2")
    two = event(services, key, "2", code="000.A0.01.H26-261102-0043")
    results = [
        dossier.record(services, [Call(key, [each], "token", fingerprint)])[0]
        for each, fingerprint in ((one, b"1"), (one, b"1"), (two, b"2"))
    ]
    assert results[0] == results[1]
    assert isinstance(results[2], IdempotencyError)
    assert len(messages(services)) == 1


def test_the_same_token_twice_in_one_group_is_answered_twice_and_done_once(
    services: Services, key: int
) -> None:
    calls = [Call(key, [event(services, key, "2")], "token", b"1") for _ in range(2)]
    first, second = dossier.record(services, calls)
    assert first == second
    assert len(messages(services)) == 1


def test_what_was_refused_is_kept_with_what_was_not(services: Services, key: int) -> None:
    refusal = Refusal("invalid", "Sai", (Fault("/events/0/code", "missing", "It is required."),))
    call = Call(key, [refusal, event(services, key, "2"), event(services, key, "9")], "token", b"1")
    (first,) = dossier.record(services, [call])
    # The same request, of which more could be accepted meanwhile.
    later = replace(call, events=[event(services, key, "5"), *call.events[1:]])
    (again,) = dossier.record(services, [later])
    assert isinstance(first, tuple)
    assert again == first
    assert first[0] == refusal
    assert len(messages(services)) == 2


def test_requests_that_race_are_answered_alike_and_told_once(services: Services, key: int) -> None:
    gate = threading.Barrier(8)

    def report(number: int) -> list[EventResult]:
        gate.wait(10)
        return record(
            services,
            key,
            *(
                event(services, key, "2", code=f"000.A0.01.H26-261102-{at:04d}")
                for at in range(number, number + 20)
            ),
        )

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(report, range(8)))
    by_place: dict[int, set[EventResult]] = {}
    for number, told in enumerate(found):
        for at, each in enumerate(told, number):
            by_place.setdefault(at, set()).add(each)
    assert all(len(each) == 1 for each in by_place.values())
    assert len(messages(services)) == 27


FRIDAY = datetime(2026, 11, 6, 17, 0, tzinfo=HANOI)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (datetime(2026, 11, 4, 17, 0, tzinfo=HANOI), 0),
        (datetime(2026, 11, 5, 7, 59, tzinfo=HANOI), 0),
        (datetime(2026, 11, 5, 8, 0, tzinfo=HANOI), 1),
        (datetime(2026, 11, 6, 10, 0, tzinfo=HANOI), 1),
        (datetime(2026, 11, 7, 10, 0, tzinfo=HANOI), 0),
    ],
)
def test_the_apology_leaves_a_working_day_before_the_promised_date_passes(
    services: Services, key: int, now: datetime, told: int
) -> None:
    record(services, key, event(services, key, "2", promised_at=FRIDAY))
    with services.session() as session:
        calendar.seed(session.connection(), range(2026, 2028))
        session.execute(text("UPDATE message SET state = 'accepted', due_at = NULL"))
    services.clock = lambda: now
    assert dossier.apologise(services) == told
    assert dossier.apologise(services) == 0
    assert [name for name, state, _ in messages(services) if state == "queued"] == [
        "dossier-new-date"
    ] * told


def test_the_apology_of_a_monday_leaves_on_friday_and_names_the_new_date(
    services: Services, key: int
) -> None:
    monday = datetime(2026, 11, 9, 17, 0, tzinfo=HANOI)
    later = datetime(2026, 11, 12, 17, 0, tzinfo=HANOI)
    record(
        services,
        key,
        event(services, key, "2", promised_at=monday),
        event(services, key, "4", after=5, promised_at=later, reason="Thiếu xác minh"),
    )
    services.clock = lambda: datetime(2026, 11, 6, 8, 30, tzinfo=HANOI)
    assert dossier.apologise(services) == 1
    with services.session() as session:
        data = session.scalar(
            text(
                "SELECT r.data FROM message m JOIN recipient r ON r.id = m.recipient_id "
                "WHERE m.state = 'queued'"
            )
        )
    assert data["new_promised_at"] == later.isoformat()
    assert data["reason"] == "Thiếu xác minh"


@pytest.mark.parametrize("status", ["5", "6", "9", "3"])
def test_no_apology_while_the_clock_stands_still_or_after_the_end(
    services: Services, key: int, status: str
) -> None:
    amount: dict[str, Any] = {"amount": 1_000} if status == "6" else {}
    record(
        services,
        key,
        event(services, key, "2", promised_at=FRIDAY),
        event(services, key, status, after=5, **amount),
    )
    services.clock = lambda: datetime(2026, 11, 5, 9, 0, tzinfo=HANOI)
    assert dossier.apologise(services) == 0
