"""The one file of verbs for `webhook_event`, and for the receiver of a key: what other systems are told, and what became of it.

An event is open until it is delivered or set aside. It waits while an earlier one of the same message is open, so that a system hears of
each message in order. Events are told at least once. A key's receiver is called by one worker at a time, which holds a lease in
`api_key.webhook_until`; the same column lets a receiver that gives no answer rest.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Boolean, DateTime, String, Uuid

from notifier.db import id_floor
from notifier.domain import keys
from notifier.errors import NotifierError

BOUNCED, COMPLAINED, UNSUBSCRIBED = (
    "message.bounced",
    "message.complained",
    "recipient.unsubscribed",
)
KINDS = (
    "message.accepted",
    "message.deferred",
    "message.refused",
    BOUNCED,
    COMPLAINED,
    "message.in_doubt",
    UNSUBSCRIBED,
)
PATIENCE = timedelta(days=3)
# How long what was told or set aside can be told again.
KEPT = timedelta(days=90)
# A worker renews its lease before each group of calls, which ends well within this time.
LEASE = timedelta(seconds=60)
_MAX_REST = timedelta(seconds=60)
_MIN_REST = timedelta(seconds=5)
SWITCHED_OFF = "the webhook was switched off"
_PATIENCE_SQL = f"interval '{PATIENCE.days} days'"
# An event that is heard of late, or of a clock that runs ahead, is told at once and for as long as any other.
_FROM_SQL = f"least(clock_timestamp(), :at), greatest(clock_timestamp(), :at) + {_PATIENCE_SQL}"
_OPEN = "e.delivered_at IS NULL AND e.dead_lettered_at IS NULL"
# It is time for it, and no earlier event of its message is open. A subquery with LIMIT stays one: a planner without statistics would
# make a join of NOT EXISTS that compares every two events.
_DUE = f"""{_OPEN} AND e.due_at <= :now AND (e.message_id IS NULL OR e.id = (
    SELECT b.id FROM webhook_event b
     WHERE b.message_id = e.message_id AND b.delivered_at IS NULL AND b.dead_lettered_at IS NULL ORDER BY b.id LIMIT 1))"""

# For statements that settle messages: `settled` names rows of id, key_id, state, settled_at, attempts, detail, host and new_doubt. A
# campaign's messages have no key, so that nothing is looked up for them.
NOTIFY_SETTLED = f"""
    INSERT INTO webhook_event (key_id, message_id, kind, at, data, due_at, give_up_at)
    SELECT s.key_id, s.id, 'message.' || CASE WHEN s.new_doubt THEN 'in_doubt' ELSE s.state::text END, s.settled_at,
           json_build_object('message_id', s.id, 'state', s.state, 'attempts', s.attempts, 'reply', coalesce(s.detail, ''),
                             'host', coalesce(s.host, '')),
           clock_timestamp(), s.settled_at + {_PATIENCE_SQL}
      FROM {{settled}} s JOIN api_key k ON k.id = s.key_id
     WHERE k.webhook_url IS NOT NULL AND (s.new_doubt OR s.state IN ('accepted', 'deferred', 'refused', 'in_doubt'))"""


class WebhookError(NotifierError, ValueError):
    """A webhook cannot be set or used as asked."""

    code = "webhook"


# --- what is told ----------------------------------------------------------------------------------------------------------------


def record(
    connection: Connection,
    *,
    key_id: int | None,
    message_id: uuid.UUID | None,
    kind: str,
    at: datetime,
    data: Mapping[str, Any],
) -> bool:
    """Let the system behind a key be told `data`, an event of `kind` (one of KINDS) that happened `at`; say whether it wants to know.

    It does not when `key_id` is None or has no webhook. Events of one message are told in the order in which they are recorded.
    """
    if kind not in KINDS:
        raise ValueError(kind)
    if key_id is None:
        return False
    row = connection.execute(
        text(f"""INSERT INTO webhook_event (key_id, message_id, kind, at, data, due_at, give_up_at)
                 SELECT k.id, :message_id, :kind, cast(:at AS timestamptz), cast(:data AS json), {_FROM_SQL}
                   FROM api_key k WHERE k.id = :key_id AND k.webhook_url IS NOT NULL RETURNING id""").bindparams(
            bindparam("message_id", type_=Uuid())
        ),
        {
            "key_id": key_id,
            "message_id": message_id,
            "kind": kind,
            "at": at,
            "data": orjson.dumps(data).decode(),
        },
    )
    return row.first() is not None


_UNSUBSCRIBED = text(f"""
INSERT INTO webhook_event (key_id, kind, at, data, due_at, give_up_at)
SELECT w.key_id, :kind, cast(:at AS timestamptz), json_build_object('topics', w.topics::json, 'email', w.email), {_FROM_SQL}
  FROM (SELECT DISTINCT m.key_id, a.id, o.topics, a.email
          FROM unnest(:address_ids, :topics) AS o (address_id, topics) JOIN address a ON a.id = o.address_id
          JOIN message m ON m.address_id = a.id AND m.key_id IS NOT NULL
          JOIN api_key k ON k.id = m.key_id AND k.webhook_url IS NOT NULL) w
""").bindparams(
    bindparam("address_ids", type_=ARRAY(BigInteger)), bindparam("topics", type_=ARRAY(String))
)


def record_unsubscribed(
    connection: Connection, stopped: Mapping[int, set[str]], at: datetime
) -> int:
    """Tell of addresses (by number) whose owners stopped topics, each to the systems that wrote to it; return how many events."""
    if not connection.scalar(
        text("SELECT EXISTS (SELECT FROM api_key WHERE webhook_url IS NOT NULL)")
    ):
        return 0
    topics = [orjson.dumps(sorted(codes)).decode() for codes in stopped.values()]
    values = {"kind": UNSUBSCRIBED, "at": at, "address_ids": list(stopped), "topics": topics}
    return connection.execute(_UNSUBSCRIBED, values).rowcount


# --- how it is delivered -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one worker to call the receiver of a key at `url` until `until`; `silences` calls before had no answer."""

    key_id: int
    url: str
    until: datetime
    silences: int


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be told. `attempts` were made before; after `give_up_at` no more are."""

    id: uuid.UUID
    kind: str
    at: datetime
    data: dict[str, Any]
    attempts: int
    give_up_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one call: delivered when there is no `problem`, tried again at `due`, or set aside when that is None."""

    event_id: uuid.UUID
    problem: str | None
    due: datetime | None


def lease(
    connection: Connection, key_id: int, *, now: datetime, held: Lease | None = None
) -> Lease | None:
    """Take or renew the right to call a key's receiver; None when it has none, it rests, or another worker has it."""
    row = connection.execute(
        text("""UPDATE api_key SET webhook_until = :until
                 WHERE id = :key_id AND webhook_url IS NOT NULL
                   AND (webhook_until IS NULL OR webhook_until <= :now OR webhook_until = :held)
                RETURNING webhook_url, webhook_silences""").bindparams(
            bindparam("held", type_=DateTime(timezone=True))
        ),
        {"key_id": key_id, "until": now + LEASE, "now": now, "held": held.until if held else None},
    ).first()
    return None if row is None else Lease(key_id, row[0], now + LEASE, row[1])


def release(connection: Connection, held: Lease, *, answered: bool) -> None:
    """Give the right back. `answered`: the receiver gave an answer, whatever it was."""
    _rest(connection, held, until=None, silences=0 if answered else held.silences)


def rest(connection: Connection, held: Lease, *, now: datetime, answered: bool = False) -> None:
    """Leave a receiver that gave no answer alone for 5 s, 10 s, 20 s … 60 s; what can no longer be told in time is set aside.

    `answered`: it had answered a moment before, so the pauses begin anew.
    """
    silences = 0 if answered else held.silences
    pause = min(_MAX_REST, _MIN_REST * 2 ** min(silences, 8))
    _rest(connection, held, until=now + pause, silences=min(silences + 1, 1000))
    connection.execute(
        text(f"""UPDATE webhook_event e SET dead_lettered_at = :now, problem = coalesce(e.problem, 'the receiver gives no answer')
                  WHERE e.key_id = :key_id AND {_OPEN} AND e.give_up_at <= :now"""),
        {"key_id": held.key_id, "now": now},
    )


def _rest(connection: Connection, held: Lease, *, until: datetime | None, silences: int) -> None:
    connection.execute(
        text(
            "UPDATE api_key SET webhook_until = :until, webhook_silences = :silences WHERE id = :key_id AND webhook_until = :held"
        ),
        {"key_id": held.key_id, "until": until, "silences": silences, "held": held.until},
    )


def due(connection: Connection, key_id: int, now: datetime, *, limit: int) -> list[Event]:
    """Return up to `limit` events that may be told now, at most one of each message, those that wait longest first."""
    rows = connection.execute(
        text(f"""SELECT e.id, e.kind, e.at, e.data, e.attempts, e.give_up_at FROM webhook_event e
                  WHERE e.key_id = :key_id AND {_DUE} ORDER BY e.due_at LIMIT :limit"""),
        {"key_id": key_id, "now": now, "limit": limit},
    )
    return [Event(*row) for row in rows]


def keys_due(connection: Connection, now: datetime) -> list[int]:
    """Return the keys whose receiver is to be called now and is called by nobody."""
    rows = connection.scalars(
        text(f"""SELECT k.id FROM api_key k
                  WHERE k.webhook_url IS NOT NULL AND (k.webhook_until IS NULL OR k.webhook_until <= :now)
                    AND (SELECT true FROM webhook_event e WHERE e.key_id = k.id AND {_DUE} ORDER BY e.due_at LIMIT 1)
                  ORDER BY k.id"""),
        {"now": now},
    )
    return list(rows)


_SETTLE = text("""
UPDATE webhook_event e
   SET attempts = least(e.attempts + 1, 1000), problem = o.problem, due_at = coalesce(o.due, e.due_at),
       delivered_at = CASE WHEN o.delivered THEN :now END,
       dead_lettered_at = CASE WHEN NOT o.delivered AND o.due IS NULL THEN cast(:now AS timestamptz) END
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
    """Tell nothing to a key's receiver any more (only if it still is `url`, when given); what is open is set aside. Say whether it was on."""
    row = connection.execute(
        text("""UPDATE api_key SET webhook_url = NULL WHERE id = :key_id AND webhook_url IS NOT NULL
                   AND (cast(:url AS text) IS NULL OR webhook_url = :url) RETURNING id"""),
        {"key_id": key_id, "url": url},
    ).first()
    if row is None:
        return False
    connection.execute(
        text(
            f"UPDATE webhook_event e SET dead_lettered_at = :now, problem = :problem WHERE e.key_id = :key_id AND {_OPEN}"
        ),
        {"key_id": key_id, "now": now, "problem": SWITCHED_OFF},
    )
    return True


# --- what an operator does ---------------------------------------------------------------------------------------------------------


def set_url(connection: Connection, name: str, url: str) -> None:
    """Tell events of this key's messages to `url` from now on, at once also those that wait. Raise NotFoundError."""
    keys.set_webhook(connection, name, url)
    connection.execute(
        text("UPDATE api_key SET webhook_until = NULL, webhook_silences = 0 WHERE name = :name"),
        {"name": name},
    )


def replay(
    connection: Connection, key_id: int, *, now: datetime, since: datetime | None = None
) -> int:
    """Tell again, for another 3 days, every event that happened at or after `since`, delivered or not; return how many.

    Without `since`, those that were set aside.
    """
    chosen = "e.at >= :since" if since else "e.dead_lettered_at IS NOT NULL"
    return connection.execute(
        text(f"""UPDATE webhook_event e SET delivered_at = NULL, dead_lettered_at = NULL, attempts = 0, due_at = :now,
                        give_up_at = cast(:now AS timestamptz) + {_PATIENCE_SQL}
                  WHERE e.key_id = :key_id AND {chosen}"""),
        {"key_id": key_id, "now": now, "since": since},
    ).rowcount


@dataclass(frozen=True, slots=True)
class Overview:
    """What became of the events of a key. `problem` is that of the newest event that is not delivered and has one."""

    key: str
    url: str | None
    waiting: int
    delivered: int
    dead_letter: int
    problem: str | None


def overview(connection: Connection, name: str | None = None) -> list[Overview]:
    """Return every key that has a webhook or events of one, or the one with that name, by name."""
    rows = connection.execute(
        text(f"""SELECT k.name, k.webhook_url, count(e.id) FILTER (WHERE {_OPEN}), count(e.delivered_at), count(e.dead_lettered_at),
                        (array_agg(e.problem ORDER BY e.id DESC) FILTER (WHERE e.delivered_at IS NULL AND e.problem IS NOT NULL))[1]
                   FROM api_key k LEFT JOIN webhook_event e ON e.key_id = k.id
                  WHERE cast(:name AS text) IS NULL OR k.name = :name
                  GROUP BY k.id HAVING k.webhook_url IS NOT NULL OR count(e.id) > 0 OR cast(:name AS text) IS NOT NULL ORDER BY k.name"""),
        {"name": name},
    )
    return [Overview(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Trouble:
    """An event that is not delivered though that was tried, or that was set aside."""

    id: uuid.UUID
    message_id: uuid.UUID | None
    kind: str
    at: datetime
    attempts: int
    due_at: datetime
    dead_lettered_at: datetime | None
    problem: str | None


def troubles(connection: Connection, key_id: int, *, limit: int) -> list[Trouble]:
    """Return the newest events of a key that were set aside or could not be told so far."""
    rows = connection.execute(
        text("""SELECT id, message_id, kind, at, attempts, due_at, dead_lettered_at, problem FROM webhook_event
                 WHERE key_id = :key_id AND delivered_at IS NULL AND (dead_lettered_at IS NOT NULL OR attempts > 0)
                 ORDER BY id DESC LIMIT :limit"""),
        {"key_id": key_id, "limit": limit},
    )
    return [Trouble(*row) for row in rows]


def forget(connection: Connection, before: datetime) -> int:
    """Delete what was recorded before that moment and is no longer open: it names addresses. Return how many."""
    return connection.execute(
        text(
            "DELETE FROM webhook_event e WHERE e.id < :floor AND (e.delivered_at IS NOT NULL OR e.dead_lettered_at IS NOT NULL)"
        ).bindparams(bindparam("floor", type_=Uuid())),
        {"floor": id_floor(before)},
    ).rowcount
