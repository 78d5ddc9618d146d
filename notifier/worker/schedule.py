"""What beat calls, and how often. Every entry is safe to run late, twice or at once with itself."""

from __future__ import annotations

from typing import Any

from notifier.queues import HOUSEKEEPING

SWEEP = "notifier.sweep"
DAILY = "notifier.daily"


def entries(sweep_seconds: float) -> dict[str, dict[str, Any]]:
    """Return Celery's beat schedule.

    A sweep that was not taken before the next one is dropped, so none pile up.
    """
    return {
        "sweep": {
            "task": SWEEP,
            "schedule": sweep_seconds,
            "options": {"queue": HOUSEKEEPING, "expires": max(1.0, sweep_seconds * 3)},
        },
        "daily": {
            "task": DAILY,
            "schedule": 6 * 3600.0,
            "options": {"queue": HOUSEKEEPING, "expires": 3600.0},
        },
    }
