"""Fixtures of all tests.

They live in `notifier.testing`, so that other projects may use them, too.
"""

from __future__ import annotations

import pytest
from hypothesis import settings as examples

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

# `make quick` draws fewer examples than CI wherever a test does not say how many it needs.
examples.register_profile("quick", max_examples=25)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `make quick` leaves it out."""
    for item in items:
        if {"postgres", "valkey"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)
