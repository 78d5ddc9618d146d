"""Open connections that wait for the next batch of their route."""

from __future__ import annotations

import time

from notifier.channel import Connection

# Servers hang up on who says nothing for longer, some after a minute.
MAX_IDLE_SECONDS = 20.0


class Pool:
    """The idle connections of one process; used from one event loop."""

    def __init__(self) -> None:
        """Begin empty."""
        self._idle: dict[str, list[tuple[float, Connection]]] = {}

    def take(self, route: str, wanted: int) -> list[Connection]:
        """Return up to `wanted` open connections of `route` that were used a short while ago."""
        fresh: list[Connection] = []
        now = time.monotonic()
        for parked_at, connection in self._idle.pop(route, []):
            if (
                connection.usable
                and now - parked_at < MAX_IDLE_SECONDS
                and len(fresh) < max(0, wanted)
            ):
                fresh.append(connection)
            else:
                connection.close()
        return fresh

    def park(self, route: str, connections: list[Connection]) -> None:
        """Keep open connections for the next batch of `route`."""
        now = time.monotonic()
        kept = self._idle.setdefault(route, [])
        for connection in connections:
            connection.source = None
            if connection.usable:
                kept.append((now, connection))

    def close(self) -> None:
        """Say goodbye over all of them."""
        for kept in self._idle.values():
            for _, connection in kept:
                connection.close()
        self._idle.clear()
