"""The field's words for columns and states."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TYPE batch_state RENAME VALUE 'set_aside' TO 'dead_letter'",
    "ALTER TABLE dossier RENAME COLUMN told_at TO notified_at",
    "ALTER INDEX ix_dossier_event_untold RENAME TO ix_dossier_event_undeliverable",
    "ALTER TABLE webhook_event RENAME COLUMN set_aside_at TO dead_lettered_at",
)


def upgrade() -> None:
    """Rename; nothing else changes."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Older programs know other words."""
    raise NotImplementedError("Restore the backup that was made before the upgrade instead.")
