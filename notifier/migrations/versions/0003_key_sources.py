"""A key may be bound to the sources that its system reports for."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; NULL is every source, as before."""
    op.execute("ALTER TABLE api_key ADD COLUMN sources text[]")


def downgrade() -> None:
    """A key must not be allowed more than it was made for."""
    raise NotImplementedError("Restore the backup that was made before the upgrade instead.")
