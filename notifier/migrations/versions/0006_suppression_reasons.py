"""Each reason for which an address is not written to is a row of its own, lifted by itself."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Wider than the old one, so every row that stands fits. It is also what a load looks up.
    "DROP INDEX uq_suppression_active",
    """CREATE UNIQUE INDEX uq_suppression_active ON suppression (address_id, topic, reason)
        WHERE lifted_at IS NULL""",
    # A settle asks who was stopped since its batch was loaded: only what stands counts.
    "DROP INDEX ix_suppression_created_at",
    "CREATE INDEX ix_suppression_created_at ON suppression (created_at) WHERE lifted_at IS NULL",
    # The whole log of one address, also what was lifted.
    "CREATE INDEX ix_suppression_address_id ON suppression (address_id)",
)


def upgrade() -> None:
    """Widen the key of what stands."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Two reasons of one topic do not fit the older key."""
    raise NotImplementedError("Restore the backup that was made before the upgrade instead.")
