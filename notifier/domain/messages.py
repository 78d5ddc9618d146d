"""The one module of verbs for `message`, `message_event` and `message_problem`.

A message is a row before it is sent and keeps its outcome. Each statement that changes a state also
enters that in the tally, keeps what reports filter, and notifies other systems, so that the four
cannot come apart. These statements stay SQL: they are the hot ones, each one round trip.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, exists, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Boolean, DateTime, Integer, String, Uuid

from notifier.domain import batches, recipients, tallies
from notifier.domain.batches import Abandoned
from notifier.domain.suppressions import SUPPRESS_DEAD
from notifier.domain.webhooks import NOTIFY_SETTLED
from notifier.schema import Address, Campaign, Message
from notifier.states import (
    PROBLEM_STATES,
    WAITING,
    CampaignState,
    Lane,
    MessageState,
    sql_list,
)

MAX_DOUBTS = 3
"""So often a message whose fate is unknown is sent again before it is held for a person."""
REPLACED = "replaced"
ASKED = "asked"

_UNROUTED = f"'{tallies.UNROUTED}'"
_IS_WAITING = f"state IN ({sql_list(WAITING)})"
_IS_PROBLEM = f"state IN ({sql_list(PROBLEM_STATES)})"


def _keep_problems(settled: str) -> str:
    """Return a CTE's body that keeps those of `settled` that are not accepted."""
    return f"""
    INSERT INTO message_problem (message_id, campaign_id, state, reason)
    SELECT id, campaign_id, state, coalesce(detail, '') FROM {settled} WHERE {_IS_PROBLEM}
    ON CONFLICT (message_id) DO UPDATE SET state = excluded.state, reason = excluded.reason"""


# --- planning ------------------------------------------------------------------------------------

_PLAN = text(f"""
WITH numbered AS (
    SELECT r.id AS recipient_id, x.address_id, coalesce(d.route, :default_route) AS route,
           row_number() OVER (PARTITION BY coalesce(d.route, :default_route)
                              ORDER BY r.row_no, r.id, x.place) - 1 AS place
      FROM recipient r
     CROSS JOIN LATERAL unnest(r.address_ids) WITH ORDINALITY AS x (address_id, place)
      JOIN address a ON a.id = x.address_id
      LEFT JOIN unnest(:domains, :routes) AS d (domain, route) ON d.domain = a.domain
     WHERE r.audience_id = :audience_id),
batches AS ({batches.PLANNED}),
keyed AS (
    SELECT id, route, row_number() OVER (PARTITION BY route ORDER BY id) - 1 AS number
      FROM batches),
inserted AS (
    INSERT INTO message (campaign_id, batch_id, recipient_id, address_id, position)
    SELECT :campaign_id, k.id, n.recipient_id, n.address_id, n.place % :size
      FROM numbered n JOIN keyed k ON k.route = n.route AND k.number = n.place / :size
     ORDER BY k.id, n.place
    RETURNING campaign_id, batch_id, state),
moved AS (
    SELECT i.campaign_id, NULL::text AS route_before, NULL::message_state AS before,
           k.route AS route_after, i.state AS after
      FROM inserted i JOIN keyed k ON k.id = i.batch_id),
tallied AS ({tallies.enter("moved")})
SELECT count(*) FROM inserted
""").bindparams(bindparam("domains", type_=ARRAY(String)), bindparam("routes", type_=ARRAY(String)))


def plan(
    connection: Connection,
    *,
    campaign_id: int,
    audience_id: int,
    lane: Lane,
    routes: dict[str, str],
    default_route: str,
    due_at: datetime,
    now: datetime,
) -> int:
    """Insert a message for every address of every recipient, in batches of one route each.

    `routes` maps address domains to route names; the rest goes by `default_route`. Batches may be
    leased from `due_at` on. Return how many messages.
    """
    count = connection.scalar(
        _PLAN,
        {
            "campaign_id": campaign_id,
            "audience_id": audience_id,
            "lane": lane.value,
            "domains": list(routes),
            "routes": list(routes.values()),
            "default_route": default_route,
            "size": batches.BATCH_SIZE,
            "due_at": due_at,
            "now": now,
        },
    )
    return int(count or 0)


@dataclass(frozen=True, slots=True)
class Notice:
    """One mail to one address. `data` must fit the template of the campaign `campaign_id`.

    `due_at` is when it may leave and `expires_at` until when. `key_id` is the system that asked for
    it. One that is `withdrawn` was replaced before it was even queued: recorded, and never sent.
    """

    campaign_id: int
    address_id: int
    name: str
    language: str
    data: dict[str, Any]
    due_at: datetime
    tax_code: str | None = None
    id: uuid.UUID | None = None
    key_id: int | None = None
    expires_at: datetime | None = None
    withdrawn: bool = False


_QUEUE = text(f"""
WITH o AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('recipient', 'id')) AS recipient_id, u.*
      FROM unnest(:campaign_ids, :address_ids, :names, :languages, :data, :due_at, :tax_codes,
                  :ids, :key_ids, :expires_at, :withdrawn) WITH ORDINALITY
           AS u (campaign_id, address_id, name, language, data, due_at, tax_code, id, key_id,
                 expires_at, withdrawn, place)),
r AS ({recipients.OF_NOTICES}),
queued AS (
    INSERT INTO message (id, campaign_id, recipient_id, address_id, due_at, expires_at, key_id,
                         state, settled_at, detail)
    SELECT coalesce(id, uuidv7()), campaign_id, recipient_id, address_id,
           CASE WHEN NOT withdrawn THEN due_at END, expires_at, key_id,
           CASE WHEN withdrawn THEN '{MessageState.CANCELLED}'::message_state
                ELSE '{MessageState.QUEUED}' END,
           CASE WHEN withdrawn THEN clock_timestamp() END,
           CASE WHEN withdrawn THEN '{REPLACED}' END
      FROM o ORDER BY place
    RETURNING id, recipient_id, campaign_id, state),
moved AS (
    SELECT campaign_id, NULL::text AS route_before, NULL::message_state AS before,
           {_UNROUTED} AS route_after, state AS after FROM queued),
tallied AS ({tallies.enter("moved")})
SELECT q.id FROM queued q JOIN o USING (recipient_id) ORDER BY o.place
""").bindparams(
    *(bindparam(name, type_=ARRAY(BigInteger)) for name in ("campaign_ids", "address_ids")),
    *(bindparam(name, type_=ARRAY(String)) for name in ("names", "languages", "data", "tax_codes")),
    *(bindparam(name, type_=ARRAY(DateTime(timezone=True))) for name in ("due_at", "expires_at")),
    bindparam("ids", type_=ARRAY(Uuid())),
    bindparam("key_ids", type_=ARRAY(Integer)),
    bindparam("withdrawn", type_=ARRAY(Boolean)),
)


def queue(connection: Connection, notices: Sequence[Notice]) -> list[uuid.UUID]:
    """Plan one mail each, by one statement; return the messages' ids in the order of `notices`.

    They wait without a batch until a worker gathers them: after the commit, enqueue that.
    """
    rows = connection.execute(
        _QUEUE,
        {
            "campaign_ids": [each.campaign_id for each in notices],
            "address_ids": [each.address_id for each in notices],
            "names": [each.name for each in notices],
            "languages": [each.language for each in notices],
            "data": [orjson.dumps(each.data).decode() for each in notices],
            "due_at": [each.due_at for each in notices],
            "tax_codes": [each.tax_code for each in notices],
            "ids": [each.id for each in notices],
            "key_ids": [each.key_id for each in notices],
            "expires_at": [each.expires_at for each in notices],
            "withdrawn": [each.withdrawn for each in notices],
        },
    )
    return [uuid.UUID(str(number)) for number in rows.scalars()]


# --- sending: what a worker runs (psycopg's %s) --------------------------------------------------

LOAD = f"""
SELECT m.position, m.id, m.address_id, a.email, r.name, r.tax_code, r.language,
       r.data::text AS data, m.attempts, m.doubts,
       (SELECT s.reason FROM suppression s
         WHERE s.address_id = m.address_id AND s.topic IN (%s, '*') AND s.lifted_at IS NULL
         LIMIT 1) AS suppressed,
       extract(epoch FROM m.expires_at)::float8 AS expires_at
  FROM message m JOIN recipient r ON r.id = m.recipient_id JOIN address a ON a.id = m.address_id
 WHERE m.batch_id = %s AND m.state = '{MessageState.QUEUED}'
 ORDER BY m.position
"""

# One statement, so one transaction and one round trip. The outcomes are written only while the
# lease holds, and only over 'queued': a settle whose reply was lost may be repeated. A message that
# waits again leaves its batch. OFFSET 0 keeps batch and position together: a planner without
# statistics would else read the whole batch once for each outcome.
SETTLE = f"""
WITH lease AS ({batches.RENEW}),
done AS (
    UPDATE message m
       SET state = o.state::message_state, settled_at = to_timestamp(o.at),
           attempts = o.attempts, doubts = o.doubts, detail = o.detail, host = o.host,
           sha256 = decode(o.sha256, 'hex'), due_at = to_timestamp(o.due),
           batch_id = CASE WHEN o.due IS NULL THEN m.batch_id END
      FROM (SELECT lease.id AS batch_id, lease.route, u.*
              FROM lease, unnest(%s::int[], %s::text[], %s::float8[], %s::int2[], %s::int2[],
                                 %s::text[], %s::text[], %s::text[], %s::float8[], %s::bool[])
                   AS u (position, state, at, attempts, doubts, detail, host, sha256, due, dead)
            OFFSET 0) o
     WHERE m.batch_id = o.batch_id AND m.position = o.position
       AND m.state = '{MessageState.QUEUED}'
    RETURNING m.id, m.campaign_id, m.address_id, m.state, m.settled_at, m.host, m.detail,
              m.doubts > 0 AS doubted, o.dead, m.key_id, m.attempts,
              m.doubts > old.doubts AS new_doubt,
              old.doubts = 0 AND m.doubts > 0 AS first_doubt,
              o.route AS route_before, old.state AS before,
              CASE WHEN o.due IS NULL THEN o.route ELSE {_UNROUTED} END AS route_after,
              m.state AS after),
history AS (
    INSERT INTO message_event (message_id, at, kind, host, detail)
    SELECT id, settled_at, state::text, host, detail FROM done
     WHERE state IN ('{MessageState.DEFERRED}', '{MessageState.IN_DOUBT}') OR doubted),
problems AS ({_keep_problems("done")}),
solved AS (
    -- Only as an array can this be planned as nothing but a look-up by key.
    DELETE FROM message_problem WHERE message_id = ANY (ARRAY(
        SELECT id FROM done
         WHERE state = '{MessageState.ACCEPTED}' AND (attempts > 1 OR doubted)))),
tallied AS ({tallies.enter("done")}),
counted AS ({tallies.enter_doubts("done")}),
dead AS ({SUPPRESS_DEAD.format(settled="done")}),
notified AS ({NOTIFY_SETTLED.format(settled="done")})
SELECT c.state::text AS campaign_state,
       (SELECT array_agg(s.address_id) FROM suppression s
         WHERE s.created_at >= %s AND s.topic IN (c.topic, '*') AND s.lifted_at IS NULL)
       AS suppressed
  FROM lease JOIN campaign c ON c.id = lease.campaign_id
"""


# --- messages without a batch --------------------------------------------------------------------


def _waits_alone(lane: str) -> Any:
    return (
        Message.batch_id.is_(None)
        & Message.state.in_(WAITING)
        & (Message.due_at <= func.clock_timestamp())
        & (Campaign.lane == lane)
        & (Campaign.state == CampaignState.RUNNING)
    )


def any_to_gather(connection: Connection, lane: str) -> bool:
    """Say whether a message of `lane` waits to be gathered now."""
    query = select(exists().where(Message.campaign_id == Campaign.id, _waits_alone(lane)))
    return bool(connection.scalar(query))


_PUT_IN_BATCH = text(f"""
WITH moved AS (
    UPDATE message m SET batch_id = :batch_id, position = o.place - 1, due_at = NULL,
                         state = '{MessageState.QUEUED}'
      FROM unnest(:ids) WITH ORDINALITY AS o (id, place) WHERE m.id = o.id
    RETURNING m.campaign_id, {_UNROUTED} AS route_before, old.state AS before,
              cast(:route AS text) AS route_after, m.state AS after)
{tallies.enter("moved")}
""").bindparams(bindparam("ids", type_=ARRAY(Uuid())))


def gather(
    connection: Connection,
    lane: Lane,
    *,
    route_of: Callable[[str, bool], str],
    now: datetime,
    limit: int = batches.BATCH_SIZE,
) -> list[int]:
    """Put up to `limit` messages that wait alone and are due into new batches; return those.

    Waiting are single notices, deferred messages whose time has come and held ones that an operator
    released. `route_of(domain, sandbox)` names the route of an address. Safe to run in several
    workers at once: each takes other rows. Their campaigns are locked against a pause or cancel
    that would not see the new batches.
    """
    rows = connection.execute(
        select(Message.id, Message.campaign_id, Address.domain, Campaign.sandbox)
        .join(Campaign, Campaign.id == Message.campaign_id)
        .join(Address, Address.id == Message.address_id)
        .where(_waits_alone(lane))
        .order_by(Message.due_at)
        .limit(limit)
        .with_for_update(of=Message, skip_locked=True)
    ).all()
    held = set(
        connection.scalars(
            select(Campaign.id)
            .where(
                Campaign.id.in_({row.campaign_id for row in rows}),
                Campaign.state == CampaignState.RUNNING,
            )
            .order_by(Campaign.id)
            .with_for_update(read=True)
        )
        if rows
        else ()
    )
    groups: dict[tuple[int, str], list[uuid.UUID]] = {}
    for row in rows:
        if row.campaign_id in held:
            route = route_of(row.domain, row.sandbox)
            groups.setdefault((row.campaign_id, route), []).append(row.id)
    made: list[int] = []
    for (campaign_id, route), ids in groups.items():
        batch_id = batches.add(
            connection, campaign_id=campaign_id, lane=lane, route=route, size=len(ids), now=now
        )
        connection.execute(_PUT_IN_BATCH, {"batch_id": batch_id, "ids": ids, "route": route})
        made.append(batch_id)
    return made


# --- taking back ---------------------------------------------------------------------------------

_CANCEL = f"""
WITH cancelled AS (
    UPDATE message m SET state = '{MessageState.CANCELLED}', settled_at = clock_timestamp(),
                         due_at = NULL, detail = :reason
      FROM (SELECT m.id, b.route FROM message m LEFT JOIN batch b ON b.id = m.batch_id
             WHERE {{chosen}} AND m.{_IS_WAITING}) o
     WHERE m.id = o.id AND m.{_IS_WAITING}
    RETURNING m.id, m.campaign_id, m.key_id, m.state, m.settled_at, m.attempts, m.detail, m.host,
              false AS new_doubt, coalesce(o.route, {_UNROUTED}) AS route_before,
              old.state AS before, coalesce(o.route, {_UNROUTED}) AS route_after,
              m.state AS after),
solved AS (
    DELETE FROM message_problem WHERE message_id = ANY (ARRAY(SELECT id FROM cancelled))),
tallied AS ({tallies.enter("cancelled")}),
notified AS ({NOTIFY_SETTLED.format(settled="cancelled")})
SELECT id FROM cancelled
"""

_WITHDRAW = text(
    _CANCEL.format(chosen="m.id = ANY(:ids) AND (m.batch_id IS NULL OR m.batch_id = ANY(:ready))")
).bindparams(bindparam("ids", type_=ARRAY(Uuid())), bindparam("ready", type_=ARRAY(BigInteger)))
_CANCEL_REST = text(
    _CANCEL.format(
        chosen="m.campaign_id = :campaign_id AND (m.batch_id IS NULL OR b.state <> 'leased')"
    )
)


def withdraw(
    connection: Connection, message_ids: Sequence[uuid.UUID], *, reason: str
) -> set[uuid.UUID]:
    """Cancel those of the messages that no worker has taken, noting the `reason`; return them.

    A batch that lies ready is locked first: the worker that leases it then loads it without them.
    """
    if not message_ids:
        return set()
    ready = batches.lock_ready_of(connection, message_ids)
    rows = connection.scalars(
        _WITHDRAW, {"ids": list(message_ids), "ready": ready, "reason": reason}
    )
    return set(rows)


def cancel_rest(connection: Connection, campaign_id: int, *, reason: str) -> bool:
    """Cancel what is not started and not leased; say whether no lease is left: all is final then.

    The batches are locked before anything is read, so that none is given back in between.
    """
    batches.lock_all(connection, campaign_id)
    connection.execute(_CANCEL_REST, {"campaign_id": campaign_id, "reason": reason})
    return not batches.cancel_unleased(connection, campaign_id)


# --- doubt ---------------------------------------------------------------------------------------

_DOUBT = text(f"""
WITH doubted AS (
    UPDATE message SET doubts = doubts + 1, settled_at = clock_timestamp(),
           detail = 'the worker stopped before the reply was recorded',
           state = CASE WHEN :hold OR doubts + 1 >= {MAX_DOUBTS}
                        THEN '{MessageState.IN_DOUBT}'::message_state ELSE state END
     WHERE batch_id = :batch_id AND position <= :mark AND state = '{MessageState.QUEUED}'
    RETURNING id, campaign_id, key_id, state, settled_at, attempts, detail, host,
              true AS new_doubt, doubts = 1 AS first_doubt, cast(:route AS text) AS route_before,
              '{MessageState.QUEUED}'::message_state AS before,
              cast(:route AS text) AS route_after, state AS after),
notified AS ({NOTIFY_SETTLED.format(settled="doubted")}),
problems AS ({_keep_problems("doubted")}),
tallied AS ({tallies.enter("doubted")}),
counted AS ({tallies.enter_doubts("doubted")})
INSERT INTO message_event (message_id, at, kind, detail)
SELECT id, settled_at, '{MessageState.IN_DOUBT}', detail FROM doubted
""")


def doubt(connection: Connection, abandoned: Abandoned) -> int:
    """Note that those started and not settled by a dead worker may have been sent; return how many.

    By the campaign's policy they are sent again with the same Message-ID (`resend`, at most
    MAX_DOUBTS times) or wait for an operator (`hold`).
    """
    return connection.execute(
        _DOUBT,
        {
            "batch_id": abandoned.id,
            "mark": abandoned.mark,
            "route": abandoned.route,
            "hold": abandoned.in_doubt_policy == "hold",
        },
    ).rowcount


def _decide(change: str, after: MessageState, also: str) -> Any:
    return text(f"""
WITH decided AS (
    UPDATE message m SET state = '{after}', {change}
     WHERE campaign_id = :campaign_id AND state = '{MessageState.IN_DOUBT}'
    RETURNING m.id, m.campaign_id, m.state, m.detail, old.state AS before, m.state AS after,
              coalesce((SELECT route FROM batch b WHERE b.id = old.batch_id), {_UNROUTED})
              AS route_before,
              coalesce((SELECT route FROM batch b WHERE b.id = m.batch_id), {_UNROUTED})
              AS route_after),
kept AS ({also}),
tallied AS ({tallies.enter("decided")})
SELECT count(*) FROM decided
""")


_RESEND = _decide(
    "batch_id = NULL, due_at = clock_timestamp()",
    MessageState.QUEUED,
    "DELETE FROM message_problem WHERE message_id = ANY (ARRAY(SELECT id FROM decided))",
)
_GIVE_UP = _decide(
    "settled_at = clock_timestamp()", MessageState.GIVEN_UP, _keep_problems("decided")
)


def decide_in_doubt(connection: Connection, campaign_id: int, *, resend: bool) -> int:
    """Send the held messages of a campaign again (they wait to be gathered) or give them up.

    Return how many.
    """
    decision = _RESEND if resend else _GIVE_UP
    return connection.scalar(decision, {"campaign_id": campaign_id}) or 0


# --- reports of accepted mail --------------------------------------------------------------------

_REPORT = text(f"""
WITH reported AS (
    UPDATE message m SET state = cast(:state AS message_state), detail = :detail
     WHERE m.id = :id AND m.state = '{MessageState.ACCEPTED}'
    RETURNING m.id, m.campaign_id, m.state, m.detail, old.state AS before, m.state AS after,
              coalesce((SELECT route FROM batch b WHERE b.id = m.batch_id), {_UNROUTED})
              AS route_before,
              coalesce((SELECT route FROM batch b WHERE b.id = m.batch_id), {_UNROUTED})
              AS route_after),
accepted AS (
    -- The server's reply to the sending stays, beside what was reported later.
    INSERT INTO message_event (message_id, at, kind, host, detail)
    SELECT m.id, m.settled_at, '{MessageState.ACCEPTED}', m.host, m.detail
      FROM message m JOIN reported r ON r.id = m.id
     WHERE NOT EXISTS (SELECT FROM message_event e
                        WHERE e.message_id = m.id AND e.kind = '{MessageState.ACCEPTED}')),
problems AS ({_keep_problems("reported")}),
tallied AS ({tallies.enter("reported")})
INSERT INTO message_event (message_id, at, kind, detail)
SELECT cast(:id AS uuid), cast(:at AS timestamptz), cast(:state AS text), :detail
 WHERE EXISTS (SELECT FROM message m WHERE m.id = :id)
   AND NOT EXISTS (SELECT FROM message_event e WHERE e.message_id = :id AND e.kind = :state)
RETURNING id
""").bindparams(bindparam("id", type_=Uuid()), bindparam("state", type_=String))


def record_report(
    connection: Connection, message_id: uuid.UUID, state: MessageState, *, at: datetime, detail: str
) -> bool:
    """Note a proven report (`BOUNCED` or `COMPLAINED`) of a message; say whether it is new.

    An accepted message then is in that state; one in another state keeps it.
    """
    row = connection.execute(
        _REPORT, {"id": message_id, "state": state.value, "at": at, "detail": detail}
    ).first()
    return row is not None


# --- looking -------------------------------------------------------------------------------------


def any_left(connection: Connection, campaign_id: int) -> bool:
    """Say whether a message of the campaign may still leave by itself."""
    alone = exists().where(
        Message.campaign_id == campaign_id,
        Message.batch_id.is_(None),
        Message.state.in_(WAITING),
    )
    return batches.any_left(connection, campaign_id) or bool(connection.scalar(select(alone)))


def longest_wait(connection: Connection) -> dict[str, float]:
    """Return for each lane how many seconds the message that waits longest could be gathered."""
    rows = connection.execute(
        select(
            Campaign.lane,
            func.max(func.extract("epoch", func.clock_timestamp() - Message.due_at)).label("age"),
        )
        .join(Campaign, Campaign.id == Message.campaign_id)
        .where(
            Message.batch_id.is_(None),
            Message.state.in_(WAITING),
            Message.due_at <= func.clock_timestamp(),
            Campaign.state == CampaignState.RUNNING,
        )
        .group_by(Campaign.lane)
    )
    return {row.lane: float(row.age) for row in rows}
