"""When a message that was put off is tried again: a pure decision."""

from __future__ import annotations

import random
from collections.abc import Sequence


def next_due(
    attempts: int,
    now: float,
    *,
    minutes: Sequence[float],
    expires_at: float | None,
    retry_after: float = 0.0,
) -> float | None:
    """Return when (epoch seconds) to try again after `attempts` tries; None: it expires before.

    The steps of `minutes` are used in turn, the last one repeated, each with ±10 % of jitter so
    that a provider's hiccup does not bring all its mail back at one moment. `retry_after` is how
    many seconds the reply asked for: a longer step is used then, and never a shorter one than asked
    (up to 10 % more). A wish that the message would not survive is not heeded: it is tried once
    more at the usual time instead of being given up.
    """
    step = minutes[min(max(attempts, 1), len(minutes)) - 1] * 60
    due = now + step * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not security
    asked = now + retry_after * random.uniform(1.0, 1.1)  # noqa: S311
    if asked > due and (expires_at is None or asked < expires_at):
        return asked
    return None if expires_at is not None and due >= expires_at else due
