"""The one module of verbs for `webhook_event`: what other systems are notified of, and the result.

An event is open until it is delivered or a dead letter. It waits while an earlier one of the same
message is open, so that a system hears of each message in order. Systems are notified at least
once. Whose turn it is to call a key's receiver is decided here and kept with the key (`keys.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, delete, exists, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert
from sqlalchemy.types import JSON, BigInteger, Boolean, DateTime, String, Uuid

from notifier.db import id_floor
from notifier.domain import keys
from notifier.domain.keys import WebhookLease
from notifier.errors import NotifierError
from notifier.schema import ApiKey, WebhookEvent
from notifier.states import WEBHOOK_STATES, MessageState, sql_list

UNSUBSCRIBED = "recipient.unsubscribed"


def kind_of(state: MessageState) -> str:
    """Return the kind of event that notifies of a state; raise ValueError when nothing does."""
    if state.webhook is None:
        raise ValueError(state)
    return state.webhook


KINDS = (*(kind_of(state) for state in WEBHOOK_STATES), UNSUBSCRIBED)
"""Everything that a system may be notified of."""
PATIENCE = timedelta(days=3)
"""How long a receiver is tried."""
KEPT = timedelta(days=90)
"""How long what was delivered, or given up, can be replayed."""
LEASE = timedelta(seconds=60)
"""A worker renews its lease before each group of calls, which ends well within this time."""
SWITCHED_OFF = "the webhook was switched off"
_NO_ANSWER = "the receiver gives no answer"
_MAX_REST = timedelta(seconds=60)
_MIN_REST = timedelta(seconds=5)
_MAX_SILENCES = 1000

_PATIENCE_SQL = f"interval '{PATIENCE.days} days'"
# It is time for it, and no earlier event of its message is open. A subquery with LIMIT stays one: a
# planner without statistics would make a join of NOT EXISTS that compares every two events.
_DUE = """e.delivered_at IS NULL AND e.dead_lettered_at IS NULL AND e.due_at <= :now
          AND (e.message_id IS NULL OR e.id = (
    SELECT b.id FROM webhook_event b
     WHERE b.message_id = e.message_id AND b.delivered_at IS NULL AND b.dead_lettered_at IS NULL
     ORDER BY b.id LIMIT 1))"""
_OPEN = WebhookEvent.delivered_at.is_(None) & WebhookEvent.dead_lettered_at.is_(None)

# Part of every statement that changes the state of messages, so that no outcome goes unheard: it
# stays SQL, for those are the hot ones. `settled` names a CTE with id, key_id, state, settled_at,
# attempts, detail, host and new_doubt (its fate became unknown, whatever its state is now). A
# campaign's messages have no key, so that nothing is looked up for them.
_KIND = "\n".join(
    f"                WHEN s.state = '{state}' THEN '{kind_of(state)}'" for state in WEBHOOK_STATES
)
NOTIFY_SETTLED = f"""
    INSERT INTO webhook_event (key_id, message_id, kind, at, data, due_at, give_up_at)
    SELECT s.key_id, s.id,
           CASE WHEN s.new_doubt THEN '{kind_of(MessageState.IN_DOUBT)}'
{_KIND} END,
           s.settled_at,
           json_build_object('message_id', s.id, 'state', s.state, 'attempts', s.attempts,
                             'reply', coalesce(s.detail, ''), 'host', coalesce(s.host, '')),
           clock_timestamp(), s.settled_at + {_PATIENCE_SQL}
      FROM {{settled}} s JOIN api_key k ON k.id = s.key_id
     WHERE s.key_id IS NOT NULL AND k.webhook_url IS NOT NULL
       AND (s.new_doubt OR s.state IN ({sql_list(WEBHOOK_STATES)}))"""


class WebhookError(NotifierError, ValueError):
    """A webhook cannot be set or used as asked."""

    code = "webhook"


# --- what systems are notified of ----------------------------------------------------------------


def record(
    connection: Connection,
    *,
    key_id: int | None,
    message_id: uuid.UUID | None,
    kind: str,
    at: datetime,
    data: Mapping[str, Any],
) -> bool:
    """Let the system behind a key be notified of an event of `kind` (one of KINDS), with `data`.

    Say whether it wants to know: not when `key_id` is None or has no webhook. Events of one message
    are delivered in the order in which they are recorded. Raise ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(kind)
    if key_id is None:
        return False
    # One that is heard of late, or of a clock that runs ahead, is due at once and for as long as
    # any other.
    happened = literal(at, DateTime(timezone=True))
    now = func.clock_timestamp()
    values = {
        WebhookEvent.key_id: ApiKey.id,
        WebhookEvent.message_id: literal(message_id, Uuid()),
        WebhookEvent.kind: literal(kind, String()),
        WebhookEvent.at: happened,
        WebhookEvent.data: literal(dict(data), JSON()),
        WebhookEvent.due_at: func.least(now, happened),
        WebhookEvent.give_up_at: func.greatest(now, happened) + PATIENCE,
    }
    wanted = select(*values.values()).where(ApiKey.id == key_id, ApiKey.webhook_url.is_not(None))
    recorded = connection.execute(
        insert(WebhookEvent).from_select(list(values), wanted).returning(WebhookEvent.id)
    )
    return recorded.first() is not None


# SQL, for addresses and their topics come as two arrays in one statement, however many.
_UNSUBSCRIBED = text(f"""
INSERT INTO webhook_event (key_id, kind, at, data, due_at, give_up_at)
SELECT w.key_id, :kind, cast(:at AS timestamptz),
       json_build_object('topics', w.topics::json, 'email', w.email),
       least(clock_timestamp(), :at), greatest(clock_timestamp(), :at) + {_PATIENCE_SQL}
  FROM (SELECT DISTINCT m.key_id, a.id, o.topics, a.email
          FROM unnest(:address_ids, :topics) AS o (address_id, topics)
          JOIN address a ON a.id = o.address_id
          JOIN message m ON m.address_id = a.id AND m.key_id IS NOT NULL
          JOIN api_key k ON k.id = m.key_id AND k.webhook_url IS NOT NULL) w
""").bindparams(
    bindparam("address_ids", type_=ARRAY(BigInteger)), bindparam("topics", type_=ARRAY(String))
)


def record_unsubscribed(
    connection: Connection, stopped: Mapping[int, set[str]], at: datetime
) -> int:
    """Notify of addresses (by number) whose owners stopped topics; return how many events.

    Each goes to the systems that wrote to that address.
    """
    if not connection.scalar(select(exists().where(ApiKey.webhook_url.is_not(None)))):
        return 0
    topics = [orjson.dumps(sorted(codes)).decode() for codes in stopped.values()]
    values = {"kind": UNSUBSCRIBED, "at": at, "address_ids": list(stopped), "topics": topics}
    return connection.execute(_UNSUBSCRIBED, values).rowcount


# --- how they are delivered ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be delivered. `attempts` were made before; after `give_up_at` no more are."""

    id: uuid.UUID
    kind: str
    at: datetime
    data: dict[str, Any]
    attempts: int
    give_up_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one call.

    Delivered when there is no `problem`; tried again at `due`; a dead letter when that is None.
    """

    event_id: uuid.UUID
    problem: str | None
    due: datetime | None


def lease(
    connection: Connection, key_id: int, *, now: datetime, held: WebhookLease | None = None
) -> WebhookLease | None:
    """Take or renew the right to call a key's receiver.

    None when the key has no receiver, that rests, or another worker has the right.
    """
    return keys.lease_webhook(connection, key_id, now=now, until=now + LEASE, held=held)


def release(connection: Connection, held: WebhookLease, *, answered: bool) -> None:
    """Give the right back. `answered`: the receiver gave an answer, whatever it was."""
    keys.end_webhook_lease(connection, held, until=None, silences=0 if answered else held.silences)


def rest(
    connection: Connection, held: WebhookLease, *, now: datetime, answered: bool = False
) -> None:
    """Leave a receiver that gave no answer alone for 5 s, 10 s, 20 s … 60 s.

    What can no longer be delivered in time becomes a dead letter. `answered`: it had answered a
    moment before, so the pauses begin anew.
    """
    silences = 0 if answered else held.silences
    pause = min(_MAX_REST, _MIN_REST * 2 ** min(silences, 8))
    keys.end_webhook_lease(
        connection, held, until=now + pause, silences=min(silences + 1, _MAX_SILENCES)
    )
    connection.execute(
        update(WebhookEvent)
        .where(WebhookEvent.key_id == held.key_id, _OPEN, WebhookEvent.give_up_at <= now)
        .values(
            dead_lettered_at=now, problem=func.coalesce(WebhookEvent.problem, literal(_NO_ANSWER))
        )
    )


# SQL, for it is the hottest here, and its plan is chosen by hand (see _DUE).
_DUE_EVENTS = text(f"""
SELECT e.id, e.kind, e.at, e.data, e.attempts, e.give_up_at FROM webhook_event e
 WHERE e.key_id = :key_id AND {_DUE} ORDER BY e.due_at LIMIT :limit
""").columns(data=JSON())

_DUE_KEYS = text(f"""
SELECT k.id FROM api_key k
 WHERE k.webhook_url IS NOT NULL AND (k.webhook_until IS NULL OR k.webhook_until <= :now)
   AND (SELECT true FROM webhook_event e WHERE e.key_id = k.id AND {_DUE}
         ORDER BY e.due_at LIMIT 1)
 ORDER BY k.id
""")


def due(connection: Connection, key_id: int, now: datetime, *, limit: int) -> list[Event]:
    """Return up to `limit` events that may be delivered now, those that wait longest first.

    They are at most one of each message.
    """
    rows = connection.execute(_DUE_EVENTS, {"key_id": key_id, "now": now, "limit": limit})
    return [Event(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name


def keys_due(connection: Connection, now: datetime) -> list[int]:
    """Return the keys whose receiver is to be called now and is called by nobody."""
    return list(connection.scalars(_DUE_KEYS, {"now": now}))


# SQL, for a group of calls is settled by one statement, from arrays.
_SETTLE = text("""
UPDATE webhook_event e
   SET attempts = least(e.attempts + 1, 1000), problem = o.problem,
       due_at = coalesce(o.due, e.due_at),
       delivered_at = CASE WHEN o.delivered THEN :now END,
       dead_lettered_at = CASE WHEN NOT o.delivered AND o.due IS NULL
                               THEN cast(:now AS timestamptz) END
  FROM unnest(:ids, :problems, :due, :delivered) AS o (id, problem, due, delivered)
 WHERE e.id = o.id AND e.delivered_at IS NULL
""").bindparams(
    bindparam("ids", type_=ARRAY(Uuid())),
    bindparam("problems", type_=ARRAY(String)),
    bindparam("due", type_=ARRAY(DateTime(timezone=True))),
    bindparam("delivered", type_=ARRAY(Boolean)),
    bindparam("now", type_=DateTime(timezone=True)),
)


def settle(connection: Connection, attempts: Sequence[Attempt], now: datetime) -> None:
    """Record what became of calls."""
    if attempts:
        connection.execute(
            _SETTLE,
            {
                "ids": [each.event_id for each in attempts],
                "problems": [each.problem for each in attempts],
                "due": [each.due for each in attempts],
                "delivered": [each.problem is None for each in attempts],
                "now": now,
            },
        )


def switch_off(
    connection: Connection, key_id: int, *, now: datetime, url: str | None = None
) -> bool:
    """Notify a key's receiver no more (only if it still is `url`, when given); say if it was on.

    What is open becomes a dead letter.
    """
    if not keys.remove_webhook(connection, key_id, url=url):
        return False
    connection.execute(
        update(WebhookEvent)
        .where(WebhookEvent.key_id == key_id, _OPEN)
        .values(dead_lettered_at=now, problem=SWITCHED_OFF)
    )
    return True


# --- what an operator does -----------------------------------------------------------------------


def replay(
    connection: Connection, key_id: int, *, now: datetime, since: datetime | None = None
) -> int:
    """Deliver again, for another 3 days, each event of or after `since`; return how many.

    They are delivered again whether they were before or not. Without `since`: the dead letters.
    """
    chosen = (
        WebhookEvent.dead_lettered_at.is_not(None) if since is None else WebhookEvent.at >= since
    )
    return connection.execute(
        update(WebhookEvent)
        .where(WebhookEvent.key_id == key_id, chosen)
        .values(
            delivered_at=None,
            dead_lettered_at=None,
            attempts=0,
            due_at=now,
            give_up_at=now + PATIENCE,
        )
    ).rowcount


@dataclass(frozen=True, slots=True)
class Overview:
    """What became of the events of a key.

    `problem` is that of the newest event that is not delivered and has one.
    """

    key: str
    url: str | None
    waiting: int
    delivered: int
    dead_letter: int
    problem: str | None


def overview(connection: Connection, name: str | None = None) -> list[Overview]:
    """Return every key that has a webhook or events of one, or the one with that name, by name."""
    unsolved = WebhookEvent.delivered_at.is_(None) & WebhookEvent.problem.is_not(None)
    newest = func.array_agg(aggregate_order_by(WebhookEvent.problem, WebhookEvent.id.desc()))
    query = (
        select(
            ApiKey.name.label("key"),
            ApiKey.webhook_url.label("url"),
            func.count(WebhookEvent.id).filter(_OPEN).label("waiting"),
            func.count(WebhookEvent.delivered_at).label("delivered"),
            func.count(WebhookEvent.dead_lettered_at).label("dead_letter"),
            newest.filter(unsolved)[1].label("problem"),
        )
        .outerjoin(WebhookEvent, WebhookEvent.key_id == ApiKey.id)
        .group_by(ApiKey.id)
        .order_by(ApiKey.name)
    )
    if name is None:
        query = query.having(ApiKey.webhook_url.is_not(None) | (func.count(WebhookEvent.id) > 0))
    else:
        query = query.where(ApiKey.name == name)
    return [
        Overview(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
        for row in connection.execute(query)
    ]


@dataclass(frozen=True, slots=True)
class Trouble:
    """An event that is not delivered though that was tried, or that is a dead letter."""

    id: uuid.UUID
    message_id: uuid.UUID | None
    kind: str
    at: datetime
    attempts: int
    due_at: datetime
    dead_lettered_at: datetime | None
    problem: str | None


def troubles(connection: Connection, key_id: int, *, limit: int) -> list[Trouble]:
    """Return the newest events of a key that are dead letters or could not be delivered so far."""
    rows = connection.execute(
        select(
            WebhookEvent.id,
            WebhookEvent.message_id,
            WebhookEvent.kind,
            WebhookEvent.at,
            WebhookEvent.attempts,
            WebhookEvent.due_at,
            WebhookEvent.dead_lettered_at,
            WebhookEvent.problem,
        )
        .where(
            WebhookEvent.key_id == key_id,
            WebhookEvent.delivered_at.is_(None),
            WebhookEvent.dead_lettered_at.is_not(None) | (WebhookEvent.attempts > 0),
        )
        .order_by(WebhookEvent.id.desc())
        .limit(limit)
    )
    return [Trouble(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name


def forget(connection: Connection, before: datetime) -> int:
    """Delete what was recorded before that moment and is no longer open; return how many.

    It names addresses.
    """
    return connection.execute(
        delete(WebhookEvent).where(WebhookEvent.id < id_floor(before), ~_OPEN)
    ).rowcount
