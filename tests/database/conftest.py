"""A key whose webhook leads to a receiver of ours, and a clock that tests turn."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from notifier.db import new_id
from notifier.domain import keys, webhooks
from notifier.services import Services
from notifier.settings import Settings
from notifier.webhooks import delivery
from tests.receiver import Receiver, add_key, overview


@dataclass
class World:
    """Services whose clock is ours, a receiver and a key whose webhook leads to it."""

    services: Services
    receiver: Receiver
    now: datetime
    key_id: int = 0
    private: bool = True

    def record(
        self, *, kind: str = "message.bounced", message_id: uuid.UUID | None = None, **data: object
    ) -> uuid.UUID:
        """Record an event that happens now; return its message."""
        found = message_id or new_id(self.now)
        with self.services.engine.begin() as connection:
            assert webhooks.record(
                connection, key_id=self.key_id, message_id=found, kind=kind, at=self.now, data=data
            )
        return found

    def deliver(
        self, key_id: int | None = None, *, stopping: Callable[[], bool] = lambda: False
    ) -> bool:
        """Call the receiver as a worker does."""
        return delivery.deliver(
            self.services.engine,
            key_id or self.key_id,
            service_secret=self.services.settings.require_secret(),
            private=self.private,
            clock=lambda: self.now,
            stopping=stopping,
        )

    def rows(
        self, columns: str = "attempts, due_at, delivered_at, dead_lettered_at, problem"
    ) -> list[Any]:
        """Return all events in their order."""
        with self.services.engine.connect() as connection:
            return list(
                connection.execute(text(f"SELECT {columns} FROM webhook_event ORDER BY id"))
            )

    def counts(self) -> tuple[int, int, int]:
        """Return how many wait, are delivered and are dead letters."""
        found = overview(self.services.engine, "portal")
        return found.waiting, found.delivered, found.dead_letter

    @property
    def secret(self) -> str:
        """The key's secret, as its operator is given it."""
        return keys.webhook_secret(self.services.settings.require_secret(), self.key_id)

    def due_keys(self) -> list[int]:
        """Return the keys that the sweep would wake."""
        with self.services.engine.connect() as connection:
            return webhooks.keys_due(connection, self.now)


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    services = Services(settings.replace(webhooks_private=True))
    with Receiver() as receiver:
        made = World(services, receiver, datetime.now(UTC) + timedelta(seconds=1))
        services.clock = lambda: made.now
        made.key_id = add_key(services, "portal", receiver.url)
        yield made
    services.close()
