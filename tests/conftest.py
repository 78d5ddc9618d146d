"""Fixtures of all tests; they live in `notifier.testing`, so that other projects may use them, too."""

from __future__ import annotations

from notifier.testing import (
    broker_url,
    catcher,
    database_url,
    postgres,
    servers_folder,
    services,
    settings,
    valkey,
)

__all__ = [
    "broker_url",
    "catcher",
    "database_url",
    "postgres",
    "servers_folder",
    "services",
    "settings",
    "valkey",
]
