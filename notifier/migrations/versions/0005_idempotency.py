"""What is kept of a repeated request is what came of it, not the answer that the web once gave."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# One event: where it was recorded, or why it was not. {value} is the answer that it was given.
_EVENT = """CASE WHEN {value}->>'outcome' IS NOT NULL
                 THEN json_build_object('id', {value}->'id', 'outcome', {value}->'outcome',
                                        'message_id', {value}->'message_id')
                 ELSE json_build_object('code', {value}->'code', 'detail', {value}->'detail',
                                        'errors', coalesce({value}->'errors', '[]'::json)) END"""

STATEMENTS = (
    "ALTER TABLE idempotency ADD COLUMN result json",
    # A batch was answered with its events' answers, an event with its own, a message with its id.
    f"""UPDATE idempotency SET result = CASE
          WHEN body->'results' IS NOT NULL THEN (
              SELECT coalesce(json_agg({_EVENT.format(value="given.value")} ORDER BY given.place),
                              '[]'::json)
                FROM (SELECT coalesce(each->'problem', each) AS value, place
                        FROM json_array_elements(body->'results')
                             WITH ORDINALITY AS listed (each, place)) AS given)
          WHEN body->>'outcome' IS NULL AND body->>'code' IS NULL THEN body->'id'
          ELSE json_build_array({_EVENT.format(value="body")}) END
        WHERE body IS NOT NULL""",
    "ALTER TABLE idempotency DROP COLUMN status, DROP COLUMN body",
)


def upgrade() -> None:
    """Convert what is kept, so that a repeat after the upgrade hears what it would have heard before."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """The answers of the web cannot be made again."""
    raise NotImplementedError("Restore the backup that was made before the upgrade instead.")
