"""`notifier bench`."""

from __future__ import annotations


def bench() -> None:
    """Measure how fast campaigns are sent on this machine."""
