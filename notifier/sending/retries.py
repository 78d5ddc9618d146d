"""When a message that was put off is tried again: a pure decision."""

from __future__ import annotations

import random
from collections.abc import Sequence


def next_due(
    attempts: int, now: float, *, minutes: Sequence[float], expires_at: float | None
) -> float | None:
    """Return when (epoch seconds) to try again after `attempts` tries, or None when the message expires before that.

    The steps of `minutes` are used in turn, the last one repeated, each with ±10 % of jitter so that a provider's hiccup does not bring
    all its mail back at one moment.
    """
    step = minutes[min(max(attempts, 1), len(minutes)) - 1] * 60
    due = now + step * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not security
    return None if expires_at is not None and due >= expires_at else due
