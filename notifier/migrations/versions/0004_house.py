"""One house: drafts are campaigns, figures are kept as a tally, and the field's words."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WORDS = (
    "ALTER TYPE batch_state RENAME VALUE 'set_aside' TO 'dead_letter'",
    "ALTER TABLE dossier RENAME COLUMN told_at TO notified_at",
    "ALTER INDEX ix_dossier_event_untold RENAME TO ix_dossier_event_undeliverable",
    # The one column of type json with a default: only jsonb can be compared with the schema.
    """ALTER TABLE dossier ALTER COLUMN data DROP DEFAULT, ALTER COLUMN data TYPE jsonb,
                           ALTER COLUMN data SET DEFAULT '{}'""",
    "ALTER TABLE webhook_event RENAME COLUMN set_aside_at TO dead_lettered_at",
    "ALTER TABLE campaign DROP CONSTRAINT campaign_kind_check",
    "UPDATE campaign SET kind = 'transactional' WHERE kind = 'stream'",
    "ALTER TABLE campaign ADD CHECK (kind IN ('campaign', 'transactional'))",
    # What a report says of mail that had been accepted.
    "ALTER TYPE message_state ADD VALUE 'bounced'",
    "ALTER TYPE message_state ADD VALUE 'complained'",
)

# A draft becomes a campaign in the state `draft`. Its sender and topic are worked out at launch.
DRAFTS = (
    """CREATE TABLE list_file (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL,
        sha256 bytea NOT NULL,
        content bytea NOT NULL,
        created_at timestamptz NOT NULL)""",
    "ALTER TABLE campaign ADD COLUMN list_file_id bigint REFERENCES list_file ON DELETE SET NULL",
    "ALTER TABLE campaign ALTER COLUMN template_version DROP NOT NULL",
    """ALTER TABLE campaign ADD CONSTRAINT campaign_frozen_check
        CHECK (state = 'draft' OR template_version IS NOT NULL)""",
    """INSERT INTO list_file (name, sha256, content, created_at)
        SELECT list_name, sha256(list), list, created_at FROM campaign_draft
         WHERE list IS NOT NULL""",
    """INSERT INTO campaign (name, kind, title, topic, lane, state, sender, topic_info, data,
                              in_doubt_policy, definition, created_at, key_id, list_file_id)
        SELECT d.name, 'campaign', d.definition->>'title', d.definition->>'topic', 'campaign',
               'draft', '{}', '{}', '{}', coalesce(d.definition->>'in_doubt', 'resend'),
               d.definition::text, d.created_at, d.key_id,
               (SELECT f.id FROM list_file f WHERE f.name = d.list_name LIMIT 1)
          FROM campaign_draft d ON CONFLICT (name) DO NOTHING""",
    "DROP TABLE campaign_draft",
)

FIGURES = (
    # A settle moves `lease_until`: in an index it cost an entry in every index of the table.
    "DROP INDEX ix_batch_leased",
    "CREATE INDEX ix_batch_leased ON batch (id) WHERE state = 'leased'",
    """CREATE TABLE tally (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        campaign_id bigint NOT NULL,
        minute timestamptz NOT NULL,
        route text NOT NULL,
        state message_state NOT NULL,
        messages integer NOT NULL,
        doubted integer NOT NULL DEFAULT 0)""",
    "CREATE INDEX ix_tally_campaign_id ON tally (campaign_id, minute)",
    "CREATE INDEX ix_tally_minute ON tally (minute)",
    """CREATE TABLE message_problem (
        message_id uuid PRIMARY KEY,
        campaign_id bigint NOT NULL,
        state message_state NOT NULL,
        reason text NOT NULL)""",
    "CREATE INDEX ix_message_problem_campaign_id ON message_problem (campaign_id, state)",
    """INSERT INTO tally (campaign_id, route, minute, state, messages, doubted)
        SELECT m.campaign_id, coalesce(b.route, ''),
               date_trunc('minute', coalesce(m.settled_at, c.launched_at, c.created_at)),
               m.state, count(*), count(*) FILTER (WHERE m.doubts > 0)
          FROM message m JOIN campaign c ON c.id = m.campaign_id
          LEFT JOIN batch b ON b.id = m.batch_id
         GROUP BY 1, 2, 3, 4""",
    """INSERT INTO message_problem (message_id, campaign_id, state, reason)
        SELECT m.id, m.campaign_id, m.state, coalesce(m.detail, '')
          FROM message m JOIN campaign c ON c.id = m.campaign_id AND c.kind = 'campaign'
         WHERE m.state IN ('deferred', 'refused', 'skipped', 'expired', 'in_doubt', 'given_up')""",
)


def upgrade() -> None:
    """Rename, turn drafts into campaigns, and count what is there."""
    for statement in (*WORDS, *DRAFTS, *FIGURES):
        op.execute(statement)


def downgrade() -> None:
    """Older programs know other words and tables."""
    raise NotImplementedError("Restore the backup that was made before the upgrade instead.")
