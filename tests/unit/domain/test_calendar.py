"""Working days and sending windows in Hanoi."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.domain.calendar import HANOI, Calendar, Window
from notifier.errors import CampaignError

OFFICE = Window("working", time(8), time(17))


def hanoi(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=HANOI)


def test_an_open_window_is_open_now() -> None:
    assert OFFICE.next_open(hanoi(23, 10), Calendar({})) == hanoi(23, 10)


def test_before_hours_it_opens_the_same_morning() -> None:
    assert OFFICE.next_open(hanoi(23, 6), Calendar({})) == hanoi(23, 8)


def test_after_hours_on_friday_it_opens_on_monday() -> None:
    assert OFFICE.next_open(hanoi(27, 17), Calendar({})) == hanoi(30, 8)


def test_a_day_off_is_skipped_and_a_swapped_saturday_is_worked() -> None:
    days = {date(2026, 11, 24): False, date(2026, 11, 28): True}
    assert OFFICE.next_open(hanoi(23, 18), Calendar(days)) == hanoi(25, 8)
    assert OFFICE.next_open(hanoi(27, 18), Calendar(days)) == hanoi(28, 8)


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)))
def test_the_window_is_open_at_the_moment_it_names(now: datetime) -> None:
    opens = OFFICE.next_open(now, Calendar({}))
    local = opens.astimezone(HANOI)
    assert opens >= now
    assert local.weekday() < 5
    assert time(8) <= local.time() < time(17)


@given(st.dates(date(2026, 1, 1), date(2026, 12, 1)), st.integers(1, 30))
def test_working_days_are_counted_without_days_off(day: date, count: int) -> None:
    calendar = Calendar({date(2026, 9, 2): False})
    end = calendar.add_working_days(day, count)
    between = [day + timedelta(days=n) for n in range(1, (end - day).days + 1)]
    assert sum(calendar.is_working(each) for each in between) == count
    assert calendar.is_working(end)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"days": "often"}, "days is neither"),
        ({"from": "late"}, "from is not an hour"),
        ({"from": "17:00", "to": "08:00"}, "closes before it opens"),
        ({"until": "18:00"}, "unknown key until"),
    ],
)
def test_a_wrong_window_names_its_key(value: dict[str, str], words: str) -> None:
    with pytest.raises(CampaignError, match=words):
        Window.from_json(value)
