"""The candidates of `outcomes.py`: tables and statements, frozen while the product's move on."""

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
CREATE TABLE message_problem (message_id uuid PRIMARY KEY, campaign_id bigint NOT NULL,
    state message_state NOT NULL, reason text NOT NULL);
CREATE INDEX ON message_problem (campaign_id, state);
CREATE TABLE tally (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id bigint NOT NULL, minute timestamptz NOT NULL, route text NOT NULL,
    state message_state NOT NULL, messages integer NOT NULL);
CREATE INDEX ON tally (campaign_id, minute);
CREATE INDEX ON tally (minute);
-- For the candidates that update: free space keeps that on the page (HOT).
CREATE TABLE tally_updated (campaign_id bigint NOT NULL, minute timestamptz NOT NULL,
    route text NOT NULL, state message_state NOT NULL, slot smallint NOT NULL,
    messages integer NOT NULL, PRIMARY KEY (campaign_id, minute, route, state, slot))
    WITH (fillfactor = 50);
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
PLAN_OUTCOME = """
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
    -- A repeated settle finds its own rows; a message that is tried again has another batch.
    PRIMARY KEY (message_id, batch_id)) PARTITION BY RANGE (message_id);
CREATE TABLE outcome_other PARTITION OF outcome DEFAULT;
"""


def partitions(family: str, months: int) -> Iterator[str]:
    """Yield the statements that make `months` partitions; the last three begin with this month."""
    now = datetime.now(UTC)
    index = now.year * 12 + now.month - 1 - (months - 3)
    tables = ("message",) if family == "A" else ("message", "outcome")
    free = "WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.5)" if family == "A" else ""
    for number in range(index, index + months):
        low, high = (
            id_floor(datetime(each // 12, each % 12 + 1, 1, tzinfo=UTC))
            for each in (number, number + 1)
        )
        for table in tables:
            yield (
                f"CREATE TABLE {table}_{number} PARTITION OF {table} "
                f"FOR VALUES FROM ('{low}') TO ('{high}') {free}"
            )


REGISTER = """
INSERT INTO address SELECT n, 'office' || n || '@firm' || n % 5000 || '.example'
  FROM generate_series(1, {messages}) n;
INSERT INTO recipient
SELECT n, n, '0' || (100000000 + n), 'Công ty TNHH Thương mại Số ' || n, 'vi', n,
       json_build_object('amount', n * 1000, 'period', '10/2026', 'account', '7111.' || n,
           'lines', json_build_array(json_build_object('tax', 'VAT', 'debt', n),
                                     json_build_object('tax', 'CIT', 'debt', n)))
  FROM generate_series(1, {messages}) n;
INSERT INTO api_key SELECT n, NULL FROM generate_series(1, 10) n;
INSERT INTO campaign VALUES (1, 'campaign', 'tax-policy', 'running');
INSERT INTO suppression (address_id, topic, reason, source, created_at)
SELECT n, 'other', 'unsubscribed', 'link', now() - interval '1 day'
  FROM generate_series(1, {messages}, 50) n;
"""
# One old message of ten belongs to a key, one of a hundred was refused.
_OLD_HEAD = """
INSERT INTO campaign VALUES ({campaign}, 'campaign', 'tax-policy', 'finished');
WITH b AS (
    INSERT INTO batch (campaign_id, route, state, size)
    SELECT {campaign}, 'default', 'done', 500 FROM generate_series(0, {messages} / 500)
    RETURNING id, id - (SELECT count(*) FROM batch) - 1 AS number),
o AS MATERIALIZED (
    SELECT uuidv7(- interval '1 hour') AS id, {campaign} AS campaign_id, b.id AS batch_id,
           n AS recipient_id, n % 500 AS position, sha256(n::text::bytea) AS sha256,
           CASE WHEN n % 100 = 7 THEN 'refused'::message_state ELSE 'accepted' END AS state,
           'mx1.example.test [192.0.2.17]:25' AS host,
           '250 2.0.0 Ok: queued as 4F1B2C3D4E' || n AS detail,
           CASE WHEN n / 10 % 10 = 3 THEN 1 + n % 3 END AS key_id
      FROM generate_series(1, {messages}) n JOIN b ON b.number = n / 500),
t AS (
    INSERT INTO tally (campaign_id, minute, route, state, messages)
    SELECT {campaign}, now() - n * interval '1 min', 'default', 'accepted', 200
      FROM generate_series(0, 479) n),
x AS (
    INSERT INTO message_problem SELECT id, {campaign}, state, detail
      FROM o WHERE state <> 'accepted')"""
OLD = {
    "A": f"""{_OLD_HEAD}
INSERT INTO message (id, campaign_id, batch_id, recipient_id, address_id, settled_at, position,
                     state, attempts, sha256, host, detail, key_id)
SELECT id, campaign_id, batch_id, recipient_id, recipient_id, now(), position,
       state, 1, sha256, host, detail, key_id FROM o""",
    "B": f"""{_OLD_HEAD},
m AS (
    INSERT INTO message (id, campaign_id, batch_id, recipient_id, address_id, position, key_id)
    SELECT id, campaign_id, batch_id, recipient_id, recipient_id, position, key_id FROM o)
INSERT INTO outcome
SELECT id, batch_id, now(), NULL, key_id, state, 1, 0, sha256, host, detail FROM o""",
}
# As the product plans a campaign: batches of 500, then a row for each recipient.
PLAN = """
WITH b AS (
    INSERT INTO batch (campaign_id, route, size)
    SELECT 1, 'default', count(*) FROM recipient GROUP BY (id - 1) / 500 ORDER BY (id - 1) / 500
    RETURNING id),
k AS (SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM b),
m AS (
    INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position)
    SELECT 1, k.id, r.id, r.address_id, (r.id - 1) % 500
      FROM recipient r JOIN k ON k.number = (r.id - 1) / 500 ORDER BY k.id, r.id RETURNING 1)
INSERT INTO tally (campaign_id, minute, route, state, messages)
SELECT 1, date_trunc('minute', now()), 'default', 'queued', count(*) FROM m
"""
SIZE = """
SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
 WHERE c.relkind = 'r' AND c.relname ~ '^(message|outcome|tally|batch)'
"""

# --- what all share -------------------------------------------------------------------------------

LEASE = """
UPDATE batch b SET state = 'leased', lease_owner = %s,
                   lease_until = clock_timestamp() + make_interval(secs => %s)
  FROM campaign c
 WHERE b.id = %s AND b.state = 'ready' AND c.id = b.campaign_id AND c.state = 'running'
RETURNING b.campaign_id, b.route
"""
_LOAD = """
SELECT m.position, m.id, m.address_id, a.email, r.name, r.tax_code, r.language, r.data::text,
       m.attempts, m.doubts,
       (SELECT s.reason FROM suppression s
         WHERE s.address_id = m.address_id AND s.topic IN (%s, '*') AND s.lifted_at IS NULL
         LIMIT 1),
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
   AND NOT EXISTS (SELECT FROM message m
                    WHERE m.campaign_id = c.id AND m.batch_id IS NULL AND {waits})
"""
_RENEW = """
    UPDATE batch SET started_through = greatest(started_through, %s),
                     lease_until = clock_timestamp() + make_interval(secs => %s),
                     recoveries = CASE WHEN %s THEN 0 ELSE recoveries END
     WHERE id = %s AND lease_owner = %s AND state = 'leased'
    RETURNING id, campaign_id, route"""
_ANSWER = """
SELECT c.state, (SELECT array_agg(s.address_id) FROM suppression s
                  WHERE s.created_at >= to_timestamp(%s) AND s.topic IN (c.topic, '*')
                    AND s.lifted_at IS NULL)
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
_MOVED = """
    SELECT l.campaign_id, l.route, d.minute, d.state{slot}, d.number
      FROM lease l, (
        SELECT date_trunc('minute', settled_at) AS minute, state, count(*) AS number
          FROM {done} GROUP BY 1, 2
        UNION ALL
        SELECT date_trunc('minute', settled_at), 'queued', - count(*) FROM {done} GROUP BY 1) d"""
# Entries are only added: what has left a state counts below 0.
_ENTERED = f"""
tallied AS (
    INSERT INTO tally (campaign_id, route, minute, state, messages) {_MOVED}),"""
# Rows are updated, taken in the order of the key. It stands before the other parts, because
# PostgreSQL runs parts that nobody reads from the last to the first: locks are held shortest.
_UPDATED = f"""
tallied AS (
    INSERT INTO tally_updated AS t (campaign_id, route, minute, state, slot, messages) {_MOVED}
     ORDER BY d.minute, d.state
    ON CONFLICT (campaign_id, minute, route, state, slot)
    DO UPDATE SET messages = t.messages + excluded.messages),"""
_PROBLEMS = """
problems AS (
    INSERT INTO message_problem (message_id, campaign_id, state, reason)
    SELECT d.id, l.campaign_id, d.state, coalesce(d.detail, '')
      FROM lease l, {done} d WHERE d.state <> 'accepted' ORDER BY d.id
    ON CONFLICT (message_id) DO UPDATE SET state = excluded.state, reason = excluded.reason),
solved AS (
    DELETE FROM message_problem p {solved}),"""
# Planned while the table was empty, this reads all of it at every settle.
_JOINED = """USING done d
     WHERE p.message_id = d.id AND d.state = 'accepted' AND (d.attempts > 1 OR d.doubted)"""
# This can only be planned as a look-up of each id.
_LOOKED_UP = """
     WHERE p.message_id = ANY (ARRAY(
           SELECT id FROM {done} WHERE state = 'accepted' AND (attempts > 1 OR doubted)))"""

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
              o.dead, m.key_id, m.attempts),
{{more}}
history AS (
    INSERT INTO message_event (message_id, at, kind, host, detail)
    SELECT id, settled_at, state::text, host, detail FROM done
     WHERE state IN ('deferred', 'in_doubt') OR doubted),
dead AS (
    INSERT INTO suppression (address_id, topic, reason, source, created_at)
    SELECT DISTINCT address_id, '*', 'hard_bounce', 'reply', clock_timestamp() FROM done WHERE dead
     {{order}}
    ON CONFLICT (address_id, topic) WHERE lifted_at IS NULL DO NOTHING),
{_WEBHOOKS}
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
INSERT INTO tally_updated AS t (campaign_id, route, minute, state, slot, messages)
SELECT b.campaign_id, b.route, date_trunc('minute', m.settled_at), m.state, b.id & 15, count(*)
  FROM batch b JOIN message m ON m.batch_id = b.id
 WHERE b.id = %s AND m.state <> 'queued' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (campaign_id, minute, route, state, slot)
DO UPDATE SET messages = t.messages + excluded.messages
"""

# --- B: outcomes are added ------------------------------------------------------------------------

_OPEN_B = """NOT EXISTS (SELECT FROM outcome o
                     WHERE o.message_id = m.id AND o.batch_id = m.batch_id)"""
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
    UPDATE message m
       SET batch_id = NULL, due_at = a.due_at, attempts = a.attempts, doubts = a.doubts
      FROM added a WHERE a.due_at IS NOT NULL AND m.id = a.id),
dead AS (
    INSERT INTO suppression (address_id, topic, reason, source, created_at)
    SELECT u, '*', 'hard_bounce', 'reply', clock_timestamp() FROM lease, unnest(%s::bigint[]) u
    ON CONFLICT (address_id, topic) WHERE lifted_at IS NULL DO NOTHING),
{{more}}{_WEBHOOKS.format(keyed=_KEYED).replace("done s", "added s")}
{_ANSWER}"""
_PLAIN_B = f"""
WITH lease AS ({_RENEW}),
added AS (
    INSERT INTO outcome (message_id, batch_id, state, at, attempts, doubts, detail, host, sha256)
    SELECT u.id, l.id, 'accepted', to_timestamp(u.at), 1, 0, u.detail, u.host,
           decode(u.sha256, 'hex')
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
    INSERT INTO tally (campaign_id, route, minute, state, messages)
    SELECT %s::bigint, %s::text, date_trunc('minute', to_timestamp(%s)), v.state::message_state,
           v.sign * %s::int
      FROM (VALUES ('queued', -1), ('accepted', 1)) v (state, sign))
SELECT c.state, (SELECT array_agg(s.address_id) FROM suppression s
                  WHERE s.created_at >= to_timestamp(%s) AND s.topic IN (c.topic, '*')
                    AND s.lifted_at IS NULL)
  FROM campaign c WHERE c.id = %s
"""

# --- readers --------------------------------------------------------------------------------------

# The state of a message is that of its newest outcome, unless it was planned anew since.
_STATE_B = """
  LEFT JOIN LATERAL (
      SELECT * FROM outcome o WHERE o.message_id = m.id ORDER BY o.at DESC LIMIT 1) o ON true
 CROSS JOIN LATERAL (
      SELECT CASE WHEN o.batch_id IS NULL OR o.batch_id <> m.batch_id THEN 'queued'::message_state
                  ELSE o.state END AS state) s"""
_COUNT_A = "SELECT state::text, count(*) FROM message WHERE campaign_id = 1 GROUP BY 1"
_COUNT_B = f"""
SELECT s.state::text, count(*) FROM message m {_STATE_B} WHERE m.campaign_id = 1 GROUP BY 1"""
COUNT_TALLY = """
SELECT state::text, sum(messages) FROM (
    SELECT campaign_id, state, messages FROM tally
     UNION ALL SELECT campaign_id, state, messages FROM tally_updated) t
 WHERE campaign_id = 1 GROUP BY 1 HAVING sum(messages) <> 0"""
_REPORT = """
SELECT r.row_no, r.tax_code, r.name, a.email, {s}.state::text, {o}.detail, {o}.host, {o}.{at},
       {o}.attempts, {o}.doubts, m.id::text, encode({o}.sha256, 'hex')
  FROM message m JOIN recipient r ON r.id = m.recipient_id
  JOIN address a ON a.id = m.address_id {join}
 WHERE m.campaign_id = 1 ORDER BY r.row_no, m.id"""
_LIST = """
SELECT m.id, c.topic, r.language, {s}.state::text, {o}.detail, {o}.attempts, {o}.{at},
       encode({o}.sha256, 'hex')
  FROM message m JOIN campaign c ON c.id = m.campaign_id
  JOIN recipient r ON r.id = m.recipient_id {join}
 WHERE m.key_id = 1 AND {s}.state = '{state}' ORDER BY m.id DESC LIMIT 50"""
_DUE = """
SELECT m.id FROM message m JOIN campaign c ON c.id = m.campaign_id
 WHERE m.batch_id IS NULL AND {waits} AND m.due_at <= now() + interval '1 day'
   AND c.state = 'running' ORDER BY m.due_at LIMIT 500"""
_BATCH = "SELECT EXISTS (SELECT FROM message m WHERE m.batch_id = 7 AND {open})"
_CAMPAIGN = """
SELECT EXISTS (SELECT FROM message m
                WHERE m.campaign_id = 1 AND m.batch_id IS NULL AND {waits})"""
_WAITS = {"A": "m.state IN ('queued', 'deferred')", "B": "m.due_at IS NOT NULL"}
_OPEN = {"A": "m.state = 'queued'", "B": _OPEN_B}
# Two batches more, the second of them half settled.
FRESH = {
    "A": """
INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position, state)
SELECT 1, -1 - n / 500, n + 1, n + 1, n % 500,
       CASE WHEN n < 750 THEN 'queued'::message_state ELSE 'accepted' END
  FROM generate_series(0, 999) n""",
    "B": """
WITH m AS (
    INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position)
    SELECT 1, -1 - n / 500, n + 1, n + 1, n % 500 FROM generate_series(0, 999) n RETURNING *)
INSERT INTO outcome (message_id, batch_id, at, detail, host, sha256)
SELECT id, batch_id, now(), '', '', '' FROM m WHERE batch_id = -2 AND position >= 250""",
}


def readers(candidate: Candidate) -> dict[str, str]:
    """Return the statement of each reader."""
    family = candidate.family
    names = {"s": "m", "o": "m", "at": "settled_at", "join": ""}
    if family == "B":
        names = {"s": "s", "o": "o", "at": "at", "join": _STATE_B}
    load = candidate.load.replace("%s, '*'", "'tax-policy', '*'")
    return {
        "counts of rows": candidate.count_rows,
        "counts of tally": COUNT_TALLY,
        "report": _REPORT.format(**names),
        "list refused": _LIST.format(**names, state="refused"),
        "list accepted": _LIST.format(**names, state="accepted"),
        "deferred due": _DUE.format(waits=_WAITS[family]),
        "batch finished": _BATCH.format(open=_OPEN[family]),
        "campaign finished": _CAMPAIGN.format(waits=_WAITS[family]),
        "load fresh": load.replace("%s", "-1"),
        "load half": load.replace("%s", "-2"),
    }


# --- candidates -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A way of keeping outcomes; `plain` writes a group that was accepted at the first try."""

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


# A planner cannot know in which months the messages of a batch lie, and looks for each in all of
# them; the smallest and the largest id of a settle leave the others out before it starts.
_BOUNDS = "AND m.id BETWEEN %s AND %s"
# `lease_until` in an index makes each settle write an entry into every index of `batch`.
_LEAN = """
DROP INDEX batch_lease_until_idx;
CREATE INDEX ON batch (id) WHERE state = 'leased'"""


def _tallied(done: str = "done") -> str:
    return _ENTERED.format(done=done, slot="")


def _updated(slot: str) -> str:
    return _UPDATED.format(done="done", slot=f", {slot}")


def _problems(done: str = "done") -> str:
    return _PROBLEMS.format(done=done, solved=_LOOKED_UP.format(done=done))


def _today(more: str = "") -> str:
    return _SETTLE_A.format(more=more, bounds="", keyed="", order="")


def _lean(more: str = "") -> str:
    order = "ORDER BY address_id"
    return _SETTLE_A.format(more=more, bounds=_BOUNDS, keyed=_KEYED, order=order)


def _a(name: str, settle: str, plain: str = "") -> Candidate:
    return Candidate(name, "A", settle, plain)


def _l(name: str, more: str, plain: str = "", at_release: str = "") -> Candidate:
    tally = "tallied" in more
    return Candidate(
        name, "A", _lean(more), plain, tally, bounds=True, setup=_LEAN, at_release=at_release
    )


_A_PLUS = _today(_tallied() + _PROBLEMS.format(done="done", solved=_JOINED))
_B = _SETTLE_B.format(more=_tallied("added") + _problems("added"))
_ALL = (
    Candidate("A", "A", _today(), tally=False),
    # With tally and narrow table, as one writes it at first.
    _a("A+", _A_PLUS),
    _a("A'", _A_PLUS, _PLAIN_A.format(bounds="", tally=_tallied())),
    # Lean: the same promises, and each part planned so that it cannot read more than it must.
    _l("L-", ""),
    _l("L", _tallied() + _problems()),
    _l("L'", _tallied() + _problems(), _PLAIN_A.format(bounds=_BOUNDS, tally=_tallied())),
    # The tally's rows updated: sixteen for each count, or one.
    _l("Lu", _updated("l.id & 15") + _problems()),
    _l("Lu1", _updated("0") + _problems()),
    # Counted when the batch is given back; what was deferred is left out: the cost alone.
    _l("Lr", _problems(), at_release=_AT_RELEASE),
    Candidate("B", "B", _B, setup=_LEAN),
    Candidate("Bp", "B", _B, _PLAIN_B.format(tally=_tallied("added")), setup=_LEAN),
    Candidate("B'", "B", _B, copy=True, setup=_LEAN),
)
CANDIDATES = {each.name: each for each in _ALL}
DECISION = ("A", "A+", "A'", "L", "L'", "B", "Bp", "B'")
