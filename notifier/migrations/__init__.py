"""Schema changes (Alembic), run by `notifier migrate` and by `notifier up`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from notifier.db import ensure_partitions


def _config() -> Config:
    config = Config()
    # ConfigParser reads % as interpolation; a checkout may lie in a folder with that character.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def migrate(engine: Engine) -> str:
    """Bring the schema to the newest version and make the coming months' partitions; return the version. Safe to run twice at once."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(7264310)"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        ensure_partitions(connection, datetime.now(UTC))
        return MigrationContext.configure(connection).get_current_revision() or ""


def pending(engine: Engine) -> bool:
    """Say whether the database is behind this program's schema."""
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current != ScriptDirectory.from_config(_config()).get_current_head()
