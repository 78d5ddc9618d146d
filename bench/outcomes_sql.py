"""The candidates of `outcomes.py`: tables and statements, kept apart from the product's, which move on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from notifier.db import id_floor

# --- tables ---------------------------------------------------------------------------------------

COMMON = """
CREATE TYPE message_state AS ENUM ('queued', 'deferred', 'accepted', 'refused', 'skipped',
                                   'in_doubt', 'given_up', 'expired', 'cancelled');
CREATE TABLE address (id bigint PRIMARY KEY, email text NOT NULL);
CREATE TABLE recipient (id bigint PRIMARY KEY, row_no integer, tax_code text, name text NOT NULL,
                        language text NOT NULL, address_id bigint NOT NULL, data json NOT NULL);
CREATE TABLE suppression (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address_id bigint NOT NULL REFERENCES address, topic text NOT NULL, reason text NOT NULL,
    source text NOT NULL, created_at timestamptz NOT NULL, lifted_at timestamptz);
CREATE UNIQUE INDEX ON suppression (address_id, topic) WHERE lifted_at IS NULL;
CREATE INDEX ON suppression (created_at);
CREATE TABLE campaign (id bigint PRIMARY KEY, kind text NOT NULL, topic text NOT NULL,
                       state text NOT NULL, finished_at timestamptz);
CREATE TABLE batch (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, campaign_id bigint NOT NULL,
    route text NOT NULL, state text NOT NULL DEFAULT 'ready', size integer NOT NULL,
    started_through integer NOT NULL DEFAULT -1, lease_owner uuid, lease_until timestamptz,
    recoveries smallint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
CREATE INDEX ON batch (campaign_id, state);
CREATE INDEX ON batch (lease_until) WHERE state = 'leased';
CREATE TABLE message_event (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id uuid NOT NULL, at timestamptz NOT NULL, kind text NOT NULL, host text, detail text);
CREATE INDEX ON message_event (message_id);
CREATE TABLE api_key (id integer PRIMARY KEY, webhook_url text);
CREATE TABLE webhook_event (id uuid PRIMARY KEY DEFAULT uuidv7(), key_id integer NOT NULL,
    message_id uuid, kind text NOT NULL, at timestamptz NOT NULL, data json NOT NULL);
CREATE TABLE unaccepted (campaign_id bigint NOT NULL, message_id uuid NOT NULL, row_no integer,
    state message_state NOT NULL, reason text, at timestamptz NOT NULL,
    PRIMARY KEY (campaign_id, message_id));
-- Updated again and again: free space keeps that on the page (HOT).
CREATE TABLE tally (campaign_id bigint NOT NULL, route text NOT NULL, minute timestamptz NOT NULL,
    state message_state NOT NULL, slot smallint NOT NULL, number integer NOT NULL,
    PRIMARY KEY (campaign_id, minute, route, state, slot)) WITH (fillfactor = 50);
"""
MESSAGE = """
CREATE TABLE message (
    id uuid NOT NULL DEFAULT uuidv7() PRIMARY KEY, campaign_id bigint NOT NULL, batch_id bigint,
    recipient_id bigint NOT NULL, address_id bigint NOT NULL, due_at timestamptz,
    settled_at timestamptz, position integer NOT NULL DEFAULT 0,
    state message_state NOT NULL DEFAULT 'queued', attempts smallint NOT NULL DEFAULT 0,
    doubts smallint NOT NULL DEFAULT 0, sha256 bytea, host text, detail text, key_id integer,
    expires_at timestamptz) PARTITION BY RANGE (id);
CREATE INDEX ON message (batch_id, position);
CREATE INDEX ON message (campaign_id);
CREATE INDEX ON message (due_at) WHERE batch_id IS NULL;
CREATE INDEX ON message (key_id, id) WHERE key_id IS NOT NULL;
CREATE INDEX ON message (address_id) WHERE key_id IS NOT NULL;
CREATE TABLE message_other PARTITION OF message DEFAULT WITH (fillfactor = 45);
"""
PLAN_AND_OUTCOME = """
CREATE TABLE message (
    id uuid NOT NULL DEFAULT uuidv7() PRIMARY KEY, campaign_id bigint NOT NULL, batch_id bigint,
    recipient_id bigint NOT NULL, address_id bigint NOT NULL, due_at timestamptz,
    position integer NOT NULL DEFAULT 0, attempts smallint NOT NULL DEFAULT 0,
    doubts smallint NOT NULL DEFAULT 0, key_id integer, expires_at timestamptz
    ) PARTITION BY RANGE (id);
CREATE INDEX ON message (batch_id, position);
CREATE INDEX ON message (campaign_id);
CREATE INDEX ON message (due_at) WHERE batch_id IS NULL;
CREATE INDEX ON message (key_id, id) WHERE key_id IS NOT NULL;
CREATE INDEX ON message (address_id) WHERE key_id IS NOT NULL;
CREATE TABLE message_other PARTITION OF message DEFAULT;
CREATE TABLE outcome (
    message_id uuid NOT NULL, batch_id bigint NOT NULL, at timestamptz NOT NULL,
    due_at timestamptz, key_id integer, state message_state NOT NULL DEFAULT 'accepted',
    attempts smallint NOT NULL DEFAULT 1, doubts smallint NOT NULL DEFAULT 0, sha256 bytea,
    host text, detail text,
    -- A settle that is repeated finds its own rows; a message that is tried again has another batch.
    PRIMARY KEY (message_id, batch_id)) PARTITION BY RANGE (message_id);
CREATE TABLE outcome_other PARTITION OF outcome DEFAULT;
"""


def partitions(family: str, months: int) -> Iterator[str]:
    """Yield the statements that make `months` monthly partitions, the last three of them from this month on."""
    now = datetime.now(UTC)
    index = now.year * 12 + now.month - 1 - (months - 3)
    for number in range(index, index + months):
        low, high = (id_floor(datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC)) for n in (number, number + 1))
        tables = ("message",) if family == "A" else ("message", "outcome")
        for table in tables:
            free = " WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.5)" if family == "A" else ""
            yield f"CREATE TABLE {table}_{number} PARTITION OF {table} FOR VALUES FROM ('{low}') TO ('{high}'){free}"


REGISTER = """
INSERT INTO address SELECT n, 'office' || n || '@firm' || n % 5000 || '.example' FROM generate_series(1, {messages}) n;
INSERT INTO recipient SELECT n, n, '0' || (100000000 + n), 'Công ty TNHH Thương mại Số ' || n, 'vi', n,
    json_build_object('amount', n * 1000, 'period', '10/2026', 'account', '7111.' || n, 'lines',
        json_build_array(json_build_object('tax', 'VAT', 'debt', n), json_build_object('tax', 'CIT', 'debt', n)))
  FROM generate_series(1, {messages}) n;
INSERT INTO api_key SELECT n, NULL FROM generate_series(1, 10) n;
INSERT INTO campaign VALUES (1, 'campaign', 'tax-policy', 'running');
INSERT INTO suppression (address_id, topic, reason, source, created_at)
SELECT n, 'other', 'unsubscribed', 'link', now() - interval '1 day' FROM generate_series(1, {messages}, 50) n;
"""
# One old message of ten belongs to a key, one of a hundred was refused.
_OLD_ROWS = """
    SELECT uuidv7(- interval '1 hour') AS id, {campaign} AS campaign_id, b.id AS batch_id, n AS recipient_id, n % 500 AS position,
           CASE WHEN n % 100 = 7 THEN 'refused'::message_state ELSE 'accepted' END AS state, sha256(n::text::bytea) AS sha256,
           'mx1.example.test [192.0.2.17]:25' AS host, '250 2.0.0 Ok: queued as 4F1B2C3D4E' || n AS detail,
           CASE WHEN n / 10 % 10 = 3 THEN 1 + n % 3 END AS key_id
      FROM generate_series(1, {messages}) n JOIN b ON b.number = n / 500"""
_OLD_HEAD = """
INSERT INTO campaign VALUES ({campaign}, 'campaign', 'tax-policy', 'finished');
WITH b AS (INSERT INTO batch (campaign_id, route, state, size) SELECT {campaign}, 'default', 'done', 500
             FROM generate_series(0, {messages} / 500) RETURNING id, id - (SELECT count(*) FROM batch) - 1 AS number),
o AS MATERIALIZED (""" + _OLD_ROWS + """),
t AS (INSERT INTO tally SELECT {campaign}, 'default', now() - n % 30 * interval '1 min', 'accepted', n % 16, 200
        FROM generate_series(1, 480) n),
x AS (INSERT INTO unaccepted SELECT {campaign}, id, recipient_id, state, detail, now() FROM o WHERE state <> 'accepted')"""
OLD = {
    "A": _OLD_HEAD + """
INSERT INTO message (id, campaign_id, batch_id, recipient_id, address_id, settled_at, position, state, attempts, sha256, host,
                     detail, key_id)
SELECT id, campaign_id, batch_id, recipient_id, recipient_id, now(), position, state, 1, sha256, host, detail, key_id FROM o""",
    "B": _OLD_HEAD + """,
m AS (INSERT INTO message (id, campaign_id, batch_id, recipient_id, address_id, position, key_id)
      SELECT id, campaign_id, batch_id, recipient_id, recipient_id, position, key_id FROM o)
INSERT INTO outcome SELECT id, batch_id, now(), NULL, key_id, state, 1, 0, sha256, host, detail FROM o""",
}  # fmt: skip
# As the product plans a campaign: batches of 500, then a row for each recipient.
PLAN = """
WITH b AS (INSERT INTO batch (campaign_id, route, size) SELECT 1, 'default', count(*) FROM recipient
             GROUP BY (id - 1) / 500 ORDER BY (id - 1) / 500 RETURNING id),
k AS (SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM b),
m AS (INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position)
      SELECT 1, k.id, r.id, r.address_id, (r.id - 1) % 500 FROM recipient r JOIN k ON k.number = (r.id - 1) / 500
       ORDER BY k.id, r.id RETURNING 1)
INSERT INTO tally SELECT 1, 'default', date_trunc('minute', now()), 'queued', 0, count(*) FROM m
"""
SIZE = """
SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
 WHERE c.relkind = 'r' AND c.relname ~ ('^(' || %s || ')')
"""

# --- what all share -------------------------------------------------------------------------------

LEASE = """
UPDATE batch b SET state = 'leased', lease_owner = %s,
                   lease_until = clock_timestamp() + make_interval(secs => %s)
  FROM campaign c WHERE b.id = %s AND b.state = 'ready' AND c.id = b.campaign_id AND c.state = 'running'
RETURNING b.campaign_id, b.route
"""
_LOAD = """
SELECT m.position, m.id, m.address_id, a.email, r.name, r.tax_code, r.language, r.data::text,
       m.attempts, m.doubts,
       (SELECT s.reason FROM suppression s
         WHERE s.address_id = m.address_id AND s.topic IN (%s, '*') AND s.lifted_at IS NULL LIMIT 1),
       extract(epoch FROM m.expires_at)::float8
  FROM message m JOIN recipient r ON r.id = m.recipient_id JOIN address a ON a.id = m.address_id
 WHERE m.batch_id = %s AND {open} ORDER BY m.position
"""
_RELEASE = """
UPDATE batch b
   SET state = CASE WHEN EXISTS (SELECT FROM message m WHERE m.batch_id = b.id AND {open})
                    THEN 'ready' ELSE 'done' END,
       lease_owner = NULL, lease_until = NULL, recoveries = 0
 WHERE b.id = %s AND b.lease_owner = %s AND b.state = 'leased' RETURNING b.state
"""
_FINISH = """
UPDATE campaign c SET state = 'finished', finished_at = clock_timestamp()
 WHERE c.id = %s AND c.kind = 'campaign' AND c.state = 'running'
   AND NOT EXISTS (SELECT FROM batch b WHERE b.campaign_id = c.id AND b.state <> 'done')
   AND NOT EXISTS (SELECT FROM message m WHERE m.campaign_id = c.id AND m.batch_id IS NULL AND {waits})
"""
_RENEW = """
    UPDATE batch SET started_through = greatest(started_through, %s),
                     lease_until = clock_timestamp() + make_interval(secs => %s),
                     recoveries = CASE WHEN %s THEN 0 ELSE recoveries END
     WHERE id = %s AND lease_owner = %s AND state = 'leased'
    RETURNING id, campaign_id, route"""
_ANSWER = """
SELECT c.state, (SELECT array_agg(s.address_id) FROM suppression s
                  WHERE s.created_at >= to_timestamp(%s) AND s.topic IN (c.topic, '*') AND s.lifted_at IS NULL)
  FROM lease JOIN campaign c ON c.id = lease.campaign_id
"""
_WEBHOOKS = """
told AS (
    INSERT INTO webhook_event (key_id, message_id, kind, at, data)
    SELECT s.key_id, s.id, 'message.' || s.state::text, s.settled_at,
           json_build_object('message_id', s.id, 'state', s.state, 'attempts', s.attempts,
                             'reply', coalesce(s.detail, ''), 'host', coalesce(s.host, ''))
      FROM done s JOIN api_key k ON k.id = s.key_id
     WHERE {keyed} k.webhook_url IS NOT NULL
       AND s.state IN ('accepted', 'deferred', 'refused', 'in_doubt'))"""
# Else a planner that sees few keys reads all of them for each message.
_KEYED = "s.key_id IS NOT NULL AND"
# What a settle adds to the tally. Rows are taken in the order of the key, after those of `message`.
_TALLIED = """
tallied AS (
    INSERT INTO tally AS t (campaign_id, route, minute, state, slot, number)
    SELECT l.campaign_id, l.route, d.minute, d.state, {slot}, d.number
      FROM lease l, (
        SELECT date_trunc('minute', settled_at) AS minute, state, count(*) AS number
          FROM {done} GROUP BY 1, 2
        UNION ALL
        SELECT date_trunc('minute', settled_at), 'queued', - count(*) FROM {done} GROUP BY 1) d
     ORDER BY d.minute, d.state
    ON CONFLICT (campaign_id, minute, route, state, slot)
    DO UPDATE SET number = t.number + excluded.number),"""
_NARROW = """
noted AS (
    INSERT INTO unaccepted AS x (campaign_id, message_id, row_no, state, reason, at)
    SELECT l.campaign_id, d.id, r.row_no, d.state, d.detail, d.settled_at
      FROM lease l, {done} d {message} JOIN recipient r ON r.id = {recipient}
     WHERE d.state <> 'accepted' ORDER BY d.id
    ON CONFLICT (campaign_id, message_id)
    DO UPDATE SET state = excluded.state, reason = excluded.reason, at = excluded.at),
cleared AS (
    DELETE FROM unaccepted x USING lease l, {done} d
     WHERE d.state = 'accepted' AND (d.attempts > 1 OR d.doubted)
       AND x.campaign_id = l.campaign_id AND x.message_id = d.id),"""

# --- A: the message's row is updated --------------------------------------------------------------

_SETTLE_A = f"""
WITH lease AS ({_RENEW}),
done AS (
    UPDATE message m
       SET state = o.state::message_state, settled_at = to_timestamp(o.at), attempts = o.attempts,
           doubts = o.doubts, detail = o.detail, host = o.host, sha256 = decode(o.sha256, 'hex'),
           due_at = to_timestamp(o.due), batch_id = CASE WHEN o.due IS NULL THEN m.batch_id END
      FROM (SELECT lease.id AS batch_id, u.*
              FROM lease, unnest(%s::int[], %s::text[], %s::float8[], %s::int2[], %s::int2[],
                                 %s::text[], %s::text[], %s::text[], %s::float8[], %s::bool[])
                   AS u (position, state, at, attempts, doubts, detail, host, sha256, due, dead)
            OFFSET 0) o
     WHERE m.batch_id = o.batch_id AND m.position = o.position AND m.state = 'queued' {{bounds}}
    RETURNING m.id, m.address_id, m.state, m.settled_at, m.host, m.detail, m.doubts > 0 AS doubted,
              o.dead, m.key_id, m.attempts, m.recipient_id),
history AS (
    INSERT INTO message_event (message_id, at, kind, host, detail)
    SELECT id, settled_at, state::text, host, detail FROM done
     WHERE state IN ('deferred', 'in_doubt') OR doubted),
dead AS (
    INSERT INTO suppression (address_id, topic, reason, source, created_at)
    SELECT DISTINCT address_id, '*', 'hard_bounce', 'reply', clock_timestamp() FROM done WHERE dead
    ON CONFLICT (address_id, topic) WHERE lifted_at IS NULL DO NOTHING),
{{tally}}{_WEBHOOKS}
{_ANSWER}"""
_PLAIN_A = f"""
WITH lease AS ({_RENEW}),
done AS (
    UPDATE message m
       SET state = 'accepted', settled_at = to_timestamp(o.at), attempts = 1, detail = o.detail,
           host = o.host, sha256 = decode(o.sha256, 'hex')
      FROM (SELECT lease.id AS batch_id, u.*
              FROM lease, unnest(%s::int[], %s::float8[], %s::text[], %s::text[], %s::text[])
                   AS u (position, at, detail, host, sha256)
            OFFSET 0) o
     WHERE m.batch_id = o.batch_id AND m.position = o.position AND m.state = 'queued' {{bounds}}
    RETURNING m.state, m.settled_at),
{{tally}}
answer AS ({_ANSWER}) SELECT * FROM answer"""
_AT_RELEASE = """
INSERT INTO tally AS t (campaign_id, route, minute, state, slot, number)
SELECT b.campaign_id, b.route, date_trunc('minute', m.settled_at), m.state, b.id & 15, count(*)
  FROM batch b JOIN message m ON m.batch_id = b.id
 WHERE b.id = %s AND m.state <> 'queued' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (campaign_id, minute, route, state, slot) DO UPDATE SET number = t.number + excluded.number
"""

# --- B: outcomes are added ------------------------------------------------------------------------

_OPEN_B = "NOT EXISTS (SELECT FROM outcome o WHERE o.message_id = m.id AND o.batch_id = m.batch_id)"
_SETTLE_B = f"""
WITH lease AS ({_RENEW}),
added AS (
    INSERT INTO outcome (message_id, batch_id, state, at, attempts, doubts, detail, host, sha256,
                         due_at, key_id)
    SELECT u.id, l.id, u.state::message_state, to_timestamp(u.at), u.attempts, u.doubts, u.detail,
           u.host, decode(u.sha256, 'hex'), to_timestamp(u.due), u.key_id
      FROM lease l, unnest(%s::uuid[], %s::text[], %s::float8[], %s::int2[], %s::int2[], %s::text[],
                           %s::text[], %s::text[], %s::float8[], %s::int[])
                    AS u (id, state, at, attempts, doubts, detail, host, sha256, due, key_id)
    ON CONFLICT DO NOTHING
    RETURNING message_id AS id, state, at AS settled_at, attempts, doubts, doubts > 0 AS doubted,
              host, detail, due_at, key_id),
again AS (
    UPDATE message m SET batch_id = NULL, due_at = a.due_at, attempts = a.attempts, doubts = a.doubts
      FROM added a WHERE a.due_at IS NOT NULL AND m.id = a.id),
dead AS (
    INSERT INTO suppression (address_id, topic, reason, source, created_at)
    SELECT u, '*', 'hard_bounce', 'reply', clock_timestamp() FROM lease, unnest(%s::bigint[]) u
    ON CONFLICT (address_id, topic) WHERE lifted_at IS NULL DO NOTHING),
{{tally}}{_WEBHOOKS.format(keyed=_KEYED).replace("done s", "added s")}
{_ANSWER}"""
_PLAIN_B = f"""
WITH lease AS ({_RENEW}),
added AS (
    INSERT INTO outcome (message_id, batch_id, state, at, attempts, doubts, detail, host, sha256)
    SELECT u.id, l.id, 'accepted', to_timestamp(u.at), 1, 0, u.detail, u.host, decode(u.sha256, 'hex')
      FROM lease l, unnest(%s::uuid[], %s::float8[], %s::text[], %s::text[], %s::text[])
                    AS u (id, at, detail, host, sha256)
    ON CONFLICT DO NOTHING
    RETURNING state, at AS settled_at),
{{tally}}
answer AS ({_ANSWER}) SELECT * FROM answer"""
COPY_LEASE = f"{_RENEW}"
COPY_OUTCOME = "COPY outcome (message_id, batch_id, at, detail, host, sha256) FROM STDIN"
COPY_TALLY = """
WITH tallied AS (
    INSERT INTO tally AS t (campaign_id, route, minute, state, slot, number)
    SELECT %s::bigint, %s::text, date_trunc('minute', to_timestamp(%s)), v.state::message_state, %s::bigint & 15, v.sign * %s::int
      FROM (VALUES ('queued', -1), ('accepted', 1)) v (state, sign)
    ON CONFLICT (campaign_id, minute, route, state, slot) DO UPDATE SET number = t.number + excluded.number)
SELECT c.state, (SELECT array_agg(s.address_id) FROM suppression s
                  WHERE s.created_at >= to_timestamp(%s) AND s.topic IN (c.topic, '*') AND s.lifted_at IS NULL)
  FROM campaign c WHERE c.id = %s
"""

# --- readers --------------------------------------------------------------------------------------

# The state of a message is that of its newest outcome, unless it was planned anew since.
_STATE_B = """
  LEFT JOIN LATERAL (SELECT * FROM outcome o WHERE o.message_id = m.id ORDER BY o.at DESC LIMIT 1) o ON true
 CROSS JOIN LATERAL (SELECT CASE WHEN o.batch_id IS NULL OR o.batch_id <> m.batch_id THEN 'queued'::message_state
                                 ELSE o.state END AS state) s"""
_COUNT_A = "SELECT state::text, count(*) FROM message WHERE campaign_id = 1 GROUP BY 1"
_COUNT_B = f"SELECT s.state::text, count(*) FROM message m {_STATE_B} WHERE m.campaign_id = 1 GROUP BY 1"
COUNT_TALLY = "SELECT state::text, sum(number) FROM tally WHERE campaign_id = 1 GROUP BY 1 HAVING sum(number) <> 0"
_REPORT = """
SELECT r.row_no, r.tax_code, r.name, a.email, {o}.state::text, {c}.detail, {c}.host, {c}.{at}, {c}.attempts, {c}.doubts,
       m.id::text, encode({c}.sha256, 'hex')
  FROM message m JOIN recipient r ON r.id = m.recipient_id JOIN address a ON a.id = m.address_id {join}
 WHERE m.campaign_id = 1 ORDER BY r.row_no, m.id"""
_LIST = """
SELECT m.id, c.topic, r.language, {o}.state::text, {c}.detail, {c}.attempts, {c}.{at}, encode({c}.sha256, 'hex')
  FROM message m JOIN campaign c ON c.id = m.campaign_id JOIN recipient r ON r.id = m.recipient_id {join}
 WHERE m.key_id = 1 AND {o}.state = '{state}' ORDER BY m.id DESC LIMIT 50"""
_DUE = """
SELECT m.id FROM message m JOIN campaign c ON c.id = m.campaign_id
 WHERE m.batch_id IS NULL AND {waits} AND m.due_at <= now() + interval '1 day' AND c.state = 'running'
 ORDER BY m.due_at LIMIT 500"""
_WAITS = {"A": "m.state IN ('queued', 'deferred')", "B": "m.due_at IS NOT NULL"}
_OPEN = {"A": "m.state = 'queued'", "B": _OPEN_B}
# Two batches more, the second of them half settled.
FRESH = {
    "A": """
INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position, state)
SELECT 1, -1 - n / 500, n + 1, n + 1, n % 500, CASE WHEN n < 750 THEN 'queued'::message_state ELSE 'accepted' END
  FROM generate_series(0, 999) n""",
    "B": """
WITH m AS (INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position)
           SELECT 1, -1 - n / 500, n + 1, n + 1, n % 500 FROM generate_series(0, 999) n RETURNING *)
INSERT INTO outcome (message_id, batch_id, at, detail, host, sha256)
SELECT id, batch_id, now(), '', '', '' FROM m WHERE batch_id = -2 AND position >= 250""",
}


def readers(candidate: Candidate) -> dict[str, str]:
    """Return the statement of each reader."""
    family = candidate.family
    in_row = {"o": "m", "c": "m", "at": "settled_at", "join": ""}
    names = in_row if family == "A" else {"o": "s", "c": "o", "at": "at", "join": _STATE_B}
    load = _LOAD.format(open=_OPEN[family]).replace("%s, '*'", "'tax-policy', '*'")
    return {
        "counts of rows": candidate.count_rows,
        "counts of tally": COUNT_TALLY,
        "report": _REPORT.format(**names),
        "list refused": _LIST.format(**names, state="refused"),
        "list accepted": _LIST.format(**names, state="accepted"),
        "deferred due": _DUE.format(waits=_WAITS[family]),
        "batch finished": f"SELECT EXISTS (SELECT FROM message m WHERE m.batch_id = 7 AND {_OPEN[family]})",
        "campaign finished": f"SELECT EXISTS (SELECT FROM message m WHERE m.campaign_id = 1 AND m.batch_id IS NULL AND {_WAITS[family]})",
        "load fresh": load.replace("%s", "-1"),
        "load half": load.replace("%s", "-2"),
    }


# --- candidates -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A way of keeping outcomes. `plain` is the statement for a group that was accepted at the first try."""

    name: str
    family: str
    settle: str
    plain: str = ""
    tally: bool = True
    bounds: bool = False
    copy: bool = False
    at_release: str = ""
    setup: str = ""

    @property
    def load(self) -> str:
        """The statement that loads a batch."""
        return _LOAD.format(open=_OPEN[self.family])

    @property
    def release(self) -> str:
        """The statement that gives a batch back."""
        return _RELEASE.format(open=_OPEN[self.family])

    @property
    def finish(self) -> str:
        """The statement that finishes a campaign."""
        return _FINISH.format(waits=_WAITS[self.family])

    @property
    def count_rows(self) -> str:
        """The statement that counts a campaign's messages from their rows."""
        return _COUNT_A if self.family == "A" else _COUNT_B

    @property
    def tables(self) -> str:
        """The tables whose size counts (a regular expression)."""
        return "message|outcome|tally|unaccepted|batch"


def _tallied(done: str, slot: str = "l.id & 15") -> str:
    return _TALLIED.format(done=done, slot=slot)


_NARROW_A = _NARROW.format(done="done", message="", recipient="d.recipient_id")
_NARROW_B = _NARROW.format(done="added", message="JOIN message m ON m.id = d.id", recipient="m.recipient_id")
# A planner cannot know in which months the messages of a batch lie, and looks for each in all of them;
# the smallest and the largest id of a settle leave the others out before the statement starts.
_BOUNDS = "AND m.id BETWEEN %s AND %s"
# `lease_until` in an index makes each settle write an entry into every index of `batch`.
_LEAN = "DROP INDEX batch_lease_until_idx; CREATE INDEX ON batch (id) WHERE state = 'leased'"


def _today(tally: str = "") -> str:
    return _SETTLE_A.format(tally=tally, bounds="", keyed="")


def _lean(tally: str = "") -> str:
    return _SETTLE_A.format(tally=tally, bounds=_BOUNDS, keyed=_KEYED)


_TALLY, _NO_SLOT = _tallied("done"), _tallied("done", "0")
_B = _SETTLE_B.format(tally=_tallied("added") + _NARROW_B)
_ALL = (
    Candidate("A", "A", _today(), tally=False),
    Candidate("A+", "A", _today(_TALLY + _NARROW_A)),
    Candidate("A'", "A", _today(_TALLY + _NARROW_A), _PLAIN_A.format(bounds="", tally=_TALLY)),
    Candidate("A*-", "A", _lean(), tally=False, bounds=True, setup=_LEAN),
    Candidate("A*", "A", _lean(_TALLY + _NARROW_A), bounds=True, setup=_LEAN),
    Candidate("A*1", "A", _lean(_NO_SLOT + _NARROW_A), bounds=True, setup=_LEAN),
    # Counted when the batch is given back; what was deferred is left out: a figure for the cost alone.
    Candidate("A*r", "A", _lean(_NARROW_A), tally=False, bounds=True, setup=_LEAN, at_release=_AT_RELEASE),
    Candidate(
        "A*'", "A", _lean(_TALLY + _NARROW_A), _PLAIN_A.format(bounds=_BOUNDS, tally=_TALLY), bounds=True, setup=_LEAN
    ),
    Candidate("B", "B", _B, setup=_LEAN),
    Candidate("Bp", "B", _B, _PLAIN_B.format(tally=_tallied("added")), setup=_LEAN),
    Candidate("B'", "B", _B, copy=True, setup=_LEAN),
)
CANDIDATES = {each.name: each for each in _ALL}
DECISION = ("A", "A+", "A'", "A*", "A*'", "B", "Bp", "B'")
