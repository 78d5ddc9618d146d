"""The first schema: register, lists, templates, campaigns, batches, messages, suppression."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TYPE campaign_state AS ENUM
       ('draft', 'scheduled', 'running', 'paused', 'cancelling', 'cancelled', 'finished')""",
    """CREATE TYPE message_state AS ENUM
       ('queued', 'deferred', 'accepted', 'refused', 'skipped', 'in_doubt', 'given_up', 'expired', 'cancelled')""",
    "CREATE TYPE batch_state AS ENUM ('ready', 'leased', 'done', 'set_aside')",
    # --- the register -------------------------------------------------------------------------------------------------------
    """CREATE TABLE address (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        email text NOT NULL,
        domain text NOT NULL GENERATED ALWAYS AS (lower(split_part(email, '@', 2))) STORED,
        created_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE UNIQUE INDEX uq_address_email ON address (lower(email))",
    """CREATE TABLE taxpayer (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tax_code text NOT NULL UNIQUE,
        name text NOT NULL,
        language text NOT NULL DEFAULT 'vi',
        updated_at timestamptz NOT NULL DEFAULT now())""",
    # Rows are made only by INSERT … SELECT from the two tables they name; checking each again would double the time of a list.
    """CREATE TABLE taxpayer_address (
        taxpayer_id bigint NOT NULL,
        address_id bigint NOT NULL,
        first_seen_at timestamptz NOT NULL,
        last_seen_at timestamptz NOT NULL,
        -- In this order, because an opt-out knows the address and asks for its owners.
        PRIMARY KEY (address_id, taxpayer_id))""",
    """CREATE TABLE suppression (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        address_id bigint NOT NULL REFERENCES address,
        topic text NOT NULL,
        reason text NOT NULL CHECK (reason IN ('unsubscribed', 'hard_bounce', 'complaint', 'manual')),
        source text NOT NULL,
        created_at timestamptz NOT NULL,
        lifted_at timestamptz,
        lifted_by text)""",
    "CREATE UNIQUE INDEX uq_suppression_active ON suppression (address_id, topic) WHERE lifted_at IS NULL",
    "CREATE INDEX ix_suppression_created_at ON suppression (created_at)",
    # --- lists --------------------------------------------------------------------------------------------------------------
    """CREATE TABLE audience (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        file_name text NOT NULL,
        sha256 bytea NOT NULL,
        template text NOT NULL,
        template_version text NOT NULL,
        rows_read integer NOT NULL,
        accepted integer NOT NULL,
        rejected integer NOT NULL,
        merged integer NOT NULL,
        header jsonb NOT NULL,
        unused_columns jsonb NOT NULL,
        totals jsonb NOT NULL,
        created_at timestamptz NOT NULL)""",
    "CREATE INDEX ix_audience_sha256 ON audience (sha256)",
    """CREATE TABLE audience_reject (
        audience_id bigint NOT NULL REFERENCES audience ON DELETE CASCADE,
        row_no integer NOT NULL,
        kind text NOT NULL CHECK (kind IN ('rejected', 'warning', 'merged')),
        column_name text NOT NULL,
        value text NOT NULL,
        code text NOT NULL,
        problem_vi text NOT NULL,
        problem_en text NOT NULL,
        cells jsonb NOT NULL)""",
    "CREATE INDEX ix_audience_reject_row ON audience_reject (audience_id, row_no)",
    """CREATE TABLE recipient (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        audience_id bigint,
        row_no integer,
        tax_code text,
        name text NOT NULL,
        language text NOT NULL,
        address_ids bigint[] NOT NULL,
        data json NOT NULL)""",
    "CREATE INDEX ix_recipient_audience_id ON recipient (audience_id, row_no)",
    # --- templates and campaigns --------------------------------------------------------------------------------------------
    """CREATE TABLE template_version (
        version text PRIMARY KEY,
        name text NOT NULL,
        topic text NOT NULL,
        content json NOT NULL,
        created_at timestamptz NOT NULL)""",
    """CREATE TABLE campaign (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        kind text NOT NULL CHECK (kind IN ('campaign', 'stream')),
        title text NOT NULL,
        topic text NOT NULL,
        lane text NOT NULL CHECK (lane IN ('notice', 'campaign')),
        template_version text NOT NULL REFERENCES template_version,
        audience_id bigint REFERENCES audience,
        state campaign_state NOT NULL,
        sender jsonb NOT NULL,
        topic_info jsonb NOT NULL,
        data jsonb NOT NULL,
        send_window jsonb,
        not_after timestamptz,
        pace_per_minute integer CHECK (pace_per_minute > 0),
        in_doubt_policy text NOT NULL CHECK (in_doubt_policy IN ('resend', 'hold')),
        definition text NOT NULL,
        total integer NOT NULL DEFAULT 0,
        totals jsonb NOT NULL DEFAULT '{}',
        launch_at timestamptz,
        created_at timestamptz NOT NULL,
        launched_at timestamptz,
        started_at timestamptz,
        finished_at timestamptz)""",
    """CREATE TABLE batch (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        campaign_id bigint NOT NULL REFERENCES campaign,
        lane text NOT NULL,
        route text NOT NULL,
        state batch_state NOT NULL DEFAULT 'ready',
        size integer NOT NULL,
        started_through integer NOT NULL DEFAULT -1,
        due_at timestamptz NOT NULL,
        lease_owner uuid,
        lease_until timestamptz,
        recoveries smallint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL)
       WITH (fillfactor = 50)""",
    "CREATE INDEX ix_batch_ready ON batch (lane, due_at) WHERE state = 'ready'",
    "CREATE INDEX ix_batch_leased ON batch (lease_until) WHERE state = 'leased'",
    "CREATE INDEX ix_batch_campaign_id ON batch (campaign_id, state)",
    # No foreign keys here: rows are made only by INSERT … SELECT from the tables they would point to, and three checks a row
    # would cost more than sending the mail does.
    """CREATE TABLE message (
        id uuid NOT NULL DEFAULT uuidv7(),
        campaign_id bigint NOT NULL,
        batch_id bigint,
        recipient_id bigint NOT NULL,
        address_id bigint NOT NULL,
        due_at timestamptz,
        settled_at timestamptz,
        position integer NOT NULL DEFAULT 0,
        state message_state NOT NULL DEFAULT 'queued',
        attempts smallint NOT NULL DEFAULT 0,
        doubts smallint NOT NULL DEFAULT 0,
        sha256 bytea,
        host text,
        detail text,
        PRIMARY KEY (id)) PARTITION BY RANGE (id)""",
    "CREATE INDEX ix_message_batch_id ON message (batch_id, position)",
    "CREATE INDEX ix_message_campaign_id ON message (campaign_id)",
    # The state is in no index and in no index's condition: a settle then changes no index entry (HOT), which halves its cost.
    "CREATE INDEX ix_message_waiting ON message (due_at) WHERE batch_id IS NULL",
    # A message outside all months (a clock far off) is still kept, never refused.
    "CREATE TABLE message_other PARTITION OF message DEFAULT WITH (fillfactor = 45)",
    """CREATE TABLE message_event (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        message_id uuid NOT NULL,
        at timestamptz NOT NULL,
        kind text NOT NULL,
        host text,
        detail text)""",
    "CREATE INDEX ix_message_event_message_id ON message_event (message_id)",
    # --- calendar -----------------------------------------------------------------------------------------------------------
    """CREATE TABLE calendar_day (
        day date PRIMARY KEY,
        working boolean NOT NULL,
        name text NOT NULL)""",
)


def upgrade() -> None:
    """Create everything."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """There is nothing before the first schema to go back to."""
    raise NotImplementedError("The first schema cannot be undone; drop the database instead.")
