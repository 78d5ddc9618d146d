"""Alembic's entry: runs inside the connection that `notifier.migrations.migrate` opened."""

from __future__ import annotations

from typing import Any

from alembic import context

from notifier import schema

# Monthly partitions of `message`, and the one for ids outside all months, are made by the clock.
_PARTITION = "message_"
_TABLES = frozenset(schema.Base.metadata.tables)


def _is_ours(_object: Any, name: str | None, kind: str, *_: Any) -> bool:
    """Compare what the schema describes; a partition follows its table by itself."""
    return not (kind == "table" and (name or "").startswith(_PARTITION) and name not in _TABLES)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.Base.metadata,
    include_object=_is_ours,
    compare_server_default=True,
    transaction_per_migration=False,
)
context.run_migrations()
