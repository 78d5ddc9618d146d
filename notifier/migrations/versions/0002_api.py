"""Keys for other systems, dossiers and their events, and what is told to webhooks."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE api_key (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        digest bytea NOT NULL UNIQUE,
        scopes text[] NOT NULL,
        sandbox boolean NOT NULL,
        webhook_url text,
        created_at timestamptz NOT NULL,
        expires_at timestamptz,
        revoked_at timestamptz,
        last_used_at timestamptz)""",
    # The answer to a request with an Idempotency-Key, kept for as long as a client may repeat it.
    """CREATE TABLE idempotency (
        key_id integer NOT NULL REFERENCES api_key,
        token text NOT NULL,
        fingerprint bytea NOT NULL,
        status smallint,
        body json,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (key_id, token))""",
    "CREATE INDEX ix_idempotency_created_at ON idempotency (created_at)",
    # What other systems send belongs to their key and may have an end of its own. Both stay empty in campaigns and cost them nothing.
    "ALTER TABLE message ADD COLUMN key_id integer, ADD COLUMN expires_at timestamptz",
    "CREATE INDEX ix_message_key_id ON message (key_id, id) WHERE key_id IS NOT NULL",
    # An opt-out is told to the systems that wrote to the address.
    "CREATE INDEX ix_message_key_address ON message (address_id) WHERE key_id IS NOT NULL",
    "ALTER TABLE campaign ADD COLUMN sandbox boolean NOT NULL DEFAULT false, ADD COLUMN key_id integer REFERENCES api_key",
    # --- dossiers -----------------------------------------------------------------------------------------------------------
    """CREATE TABLE dossier (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        source text NOT NULL,
        code text NOT NULL,
        status text NOT NULL DEFAULT '',
        -- When its newest event happened, and the newest one that its applicant was told of.
        seen_at timestamptz NOT NULL DEFAULT '-infinity',
        told_at timestamptz NOT NULL DEFAULT '-infinity',
        message_id uuid,
        address_id bigint REFERENCES address,
        name text NOT NULL DEFAULT '',
        language text NOT NULL DEFAULT 'vi',
        tax_code text,
        data json NOT NULL DEFAULT '{}',
        promised_at timestamptz,
        new_promised_at timestamptz,
        waits boolean NOT NULL DEFAULT false,
        closed boolean NOT NULL DEFAULT false,
        apologised_at timestamptz,
        key_id integer NOT NULL REFERENCES api_key,
        sandbox boolean NOT NULL,
        UNIQUE (source, code, sandbox))""",
    "CREATE INDEX ix_dossier_promised_at ON dossier (promised_at) WHERE NOT closed AND NOT waits AND apologised_at IS NULL",
    """CREATE TABLE dossier_event (
        id uuid PRIMARY KEY,
        source text NOT NULL,
        code text NOT NULL,
        status text NOT NULL,
        occurred_at timestamptz NOT NULL,
        sandbox boolean NOT NULL,
        received_at timestamptz NOT NULL,
        key_id integer NOT NULL REFERENCES api_key,
        fingerprint bytea NOT NULL,
        outcome text NOT NULL,
        message_id uuid,
        UNIQUE (source, code, status, occurred_at, sandbox))""",
    # Officers ask for those who could not be told.
    "CREATE INDEX ix_dossier_event_untold ON dossier_event (received_at) WHERE outcome = 'no-address'",
    # A campaign that is being prepared over the API: its file and its list, until it is launched.
    """CREATE TABLE campaign_draft (
        name text PRIMARY KEY,
        key_id integer NOT NULL REFERENCES api_key,
        definition json NOT NULL,
        list_name text,
        list bytea,
        created_at timestamptz NOT NULL)""",
    # --- webhooks -----------------------------------------------------------------------------------------------------------
    """CREATE TABLE webhook_event (
        id uuid PRIMARY KEY DEFAULT uuidv7(),
        key_id integer NOT NULL REFERENCES api_key,
        message_id uuid,
        kind text NOT NULL,
        at timestamptz NOT NULL,
        data json NOT NULL,
        attempts smallint NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL,
        give_up_at timestamptz NOT NULL,
        delivered_at timestamptz,
        set_aside_at timestamptz,
        problem text)""",
    # Until then the receiver is called by nobody else: a worker has it, or it gave no answer, that many calls in a row.
    "ALTER TABLE api_key ADD COLUMN webhook_until timestamptz, ADD COLUMN webhook_silences smallint NOT NULL DEFAULT 0",
    "CREATE INDEX ix_webhook_event_due ON webhook_event (key_id, due_at) WHERE delivered_at IS NULL AND set_aside_at IS NULL",
    "CREATE INDEX ix_webhook_event_message ON webhook_event (message_id, id) WHERE delivered_at IS NULL AND set_aside_at IS NULL",
)


def upgrade() -> None:
    """Create everything."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """What other systems were promised cannot be forgotten."""
    raise NotImplementedError("Restore the backup that was made before the upgrade instead.")
