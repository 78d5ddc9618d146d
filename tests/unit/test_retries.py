"""When a deferred message is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from notifier.retries import next_due

STEPS = (5.0, 15.0, 30.0)


@given(st.integers(0, 50), st.floats(0, 2e9))
def test_the_wait_follows_the_steps_with_a_tenth_of_jitter(attempts: int, now: float) -> None:
    due = next_due(attempts, now, minutes=STEPS, expires_at=None)
    step = STEPS[min(max(attempts, 1), 3) - 1] * 60
    assert due is not None
    assert step * 0.89 <= due - now <= step * 1.11


def test_a_message_that_expires_before_its_turn_is_not_tried_again() -> None:
    assert next_due(1, 1000.0, minutes=STEPS, expires_at=1100.0) is None
    assert next_due(1, 1000.0, minutes=STEPS, expires_at=9000.0) is not None


@given(st.integers(0, 50), st.floats(0, 2e9), st.floats(0, 1e5))
def test_the_wait_is_at_least_what_the_reply_asked(attempts: int, now: float, asked: float) -> None:
    due = next_due(attempts, now, minutes=STEPS, expires_at=None, retry_after=asked)
    step = STEPS[min(max(attempts, 1), 3) - 1] * 60
    assert due is not None
    assert max(asked * 0.999, step * 0.89) <= due - now <= max(asked, step) * 1.11


def test_a_wish_that_the_message_would_not_survive_is_not_heeded() -> None:
    due = next_due(1, 1000.0, minutes=STEPS, expires_at=5000.0, retry_after=21_600.0)
    assert due is not None
    assert due <= 1000 + 330
