"""Who must not be written to: recorded once a reason, lifted but never deleted, also in races."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from notifier.domain import addresses
from notifier.domain import suppressions as suppression
from notifier.domain.suppressions import Reason
from notifier.flows import unsubscribe as subscription
from notifier.services import Services

NOW = datetime(2026, 8, 3, 9, 0, tzinfo=UTC)


def add(services: Services, number: int = 1) -> list[int]:
    with services.session() as session:
        return [addresses.id_of(session, f"nguoi{each}@example.test") for each in range(number)]


def log(services: Services) -> list[tuple[str, bool]]:
    with services.session() as session:
        rows = session.execute(text("SELECT topic, lifted_at IS NULL FROM suppression ORDER BY id"))
        return [(topic, active) for topic, active in rows]


def stop(services: Services, pairs: list[tuple[int, str]]) -> set[tuple[int, str]]:
    with services.session() as session:
        return suppression.suppress_many(
            session, pairs, reason="unsubscribed", source="test", now=NOW
        )


def test_only_the_first_stop_is_new(services: Services) -> None:
    first, second = add(services, 2)
    asked = [(first, "tax-policy"), (second, "tax-policy"), (first, "tax-policy")]
    assert stop(services, asked) == {(first, "tax-policy"), (second, "tax-policy")}
    assert stop(services, asked) == set()


def test_a_lifted_stop_stays_in_the_log(services: Services) -> None:
    (number,) = add(services)
    stop(services, [(number, "tax-policy")])
    with services.session() as session:
        for lifted in (True, False):
            assert lifted is suppression.lift(
                session, number, "tax-policy", by="test", now=NOW, reason=Reason.UNSUBSCRIBED
            )
        assert suppression.active(session, number) == {}
    assert stop(services, [(number, "tax-policy")]) == {(number, "tax-policy")}
    assert log(services) == [("tax-policy", False), ("tax-policy", True)]


def test_an_owner_cannot_lift_a_bounce(services: Services) -> None:
    (number,) = add(services)
    with services.session() as session:
        suppression.suppress(
            session, number, suppression.EVERY_TOPIC, reason="hard_bounce", source="test", now=NOW
        )
        assert not suppression.lift(
            session, number, suppression.EVERY_TOPIC, by="link", now=NOW, reason="unsubscribed"
        )
        assert suppression.active_reasons(session, "tax-policy") == {number: "hard_bounce"}


def stop_for(services: Services, number: int, *reasons: Reason, topic: str = "tax-policy") -> None:
    with services.session() as session:
        for reason in reasons:
            assert suppression.suppress(
                session, number, topic, reason=reason, source="test", now=NOW
            )
            assert not suppression.suppress(
                session, number, topic, reason=reason, source="test", now=NOW
            )


def test_an_opt_out_outlives_the_stop_of_an_office_that_is_lifted(services: Services) -> None:
    (number,) = add(services)
    stop_for(services, number, Reason.MANUAL, Reason.UNSUBSCRIBED)
    with services.session() as session:
        assert suppression.lift(session, number, "tax-policy", by="key 1", now=NOW)
        assert suppression.active(session, number) == {"tax-policy": "unsubscribed"}
        assert not suppression.lift(session, number, "tax-policy", by="key 1", now=NOW)
        assert suppression.active_reasons(session, "tax-policy") == {number: "unsubscribed"}


def test_an_owner_takes_back_the_opt_out_and_nothing_else(services: Services) -> None:
    (number,) = add(services)
    stop_for(services, number, Reason.UNSUBSCRIBED, Reason.COMPLAINT, Reason.MANUAL)
    with services.session() as session:
        assert suppression.lift(
            session, number, "tax-policy", by="link", now=NOW, reason=Reason.UNSUBSCRIBED
        )
        assert suppression.reasons(session, number) == {
            "tax-policy": (Reason.COMPLAINT, Reason.MANUAL)
        }


def test_of_several_reasons_the_strongest_is_shown_and_all_are_known(services: Services) -> None:
    (number,) = add(services)
    for reason in reversed(Reason):
        stop_for(services, number, reason)
        with services.session() as session:
            assert suppression.active(session, number) == {"tax-policy": reason.value}
            assert suppression.active_reasons(session, "tax-policy") == {number: reason.value}
    with services.session() as session:
        assert suppression.reasons(session, number) == {"tax-policy": tuple(Reason)}
        listed = suppression.page(session, before=2**62, limit=3)
    assert [each.reason for each in listed] == ["hard_bounce", "complaint", "manual"]


def test_a_reason_that_is_not_known_is_refused(services: Services) -> None:
    (number,) = add(services)
    with services.session() as session, pytest.raises(ValueError, match="whim"):
        suppression.suppress(session, number, "*", reason="whim", source="test", now=NOW)


@pytest.mark.parametrize(
    ("topic", "reaches"), [("*", True), ("debt-notice", True), ("tax-policy", False)]
)
def test_what_the_law_demands_is_known_before_it_is_stopped(
    services: Services, topic: str, reaches: bool
) -> None:
    assert suppression.reaches_statutory(topic, services.topics) is reaches


def test_two_settles_that_stop_the_same_addresses_never_wait_in_a_circle(
    services: Services,
) -> None:
    numbers = add(services, 200)
    statement = text(
        f"WITH done AS (SELECT unnest(cast(:ids AS bigint[])) AS address_id, true AS dead),"
        f" dead AS ({suppression.SUPPRESS_DEAD.format(settled='done')} RETURNING 1)"
        " SELECT count(*) FROM dead"
    )

    def settle(order: int) -> int:
        with services.session() as session:
            return int(session.scalar(statement, {"ids": numbers[::order] * 2}) or 0)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(settle, (1, -1, 1, -1))) == 200
    with services.session() as session:
        assert suppression.active(session, numbers[0]) == {"*": "hard_bounce"}


def test_an_address_that_is_no_more_stops_nobody_else(services: Services) -> None:
    (number,) = add(services)
    assert stop(services, [(999_999, "tax-policy"), (number, "tax-policy")]) == {
        (number, "tax-policy")
    }


def test_groups_in_opposite_order_never_wait_in_a_circle(services: Services) -> None:
    numbers = add(services, 200)
    pairs = [
        (number, topic) for number in numbers for topic in ("tax-policy", "settlement-guidance")
    ]
    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda order: stop(services, pairs[::order]), (1, -1, 1, -1)))
    assert sum(map(len, new)) == len(pairs) == len(log(services))


def test_clicks_that_come_together_are_written_together_and_confirmed_once_an_address(
    services: Services,
) -> None:
    numbers = add(services, 3)
    clicks = subscription.OneClicks(services)
    tokens = [
        services.signer.token(number, topic)
        for number in (*numbers, 999_999)
        for topic in ("tax-policy", "settlement-guidance") * 2
    ]
    for answer in [clicks.stop(token) for token in tokens]:
        assert answer.result(timeout=10) is None
    with services.session() as session:
        rows = session.execute(text("SELECT address_id, count(*) FROM message GROUP BY 1")).all()
    assert {row[0] for row in rows} == set(numbers)
    # One for each topic, or one for both when they were written together.
    assert all(1 <= row[1] <= 2 for row in rows)
    assert len(log(services)) == 6
