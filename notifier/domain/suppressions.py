"""The one module of verbs for `suppression`: who must not be written to, about what, and why.

A row is lifted, never deleted: it is the log that the law wants kept. The topic `*` stands for every topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, String

EVERY_TOPIC = "*"


# Always in the same order, so that two transactions that stop the same things never wait for each other in a circle. An address that is
# no more is left out.
_SUPPRESS = text("""
INSERT INTO suppression (address_id, topic, reason, source, created_at)
SELECT DISTINCT a.id, o.topic, :reason, :source, cast(:now AS timestamptz)
  FROM unnest(:address_ids, :topics) AS o (address_id, topic) JOIN address a ON a.id = o.address_id
 ORDER BY a.id, o.topic
ON CONFLICT (address_id, topic) WHERE lifted_at IS NULL DO NOTHING
RETURNING address_id, topic
""").bindparams(
    bindparam("address_ids", type_=ARRAY(BigInteger)), bindparam("topics", type_=ARRAY(String))
)

_ACTIVE = text(
    "SELECT address_id, topic, reason FROM suppression WHERE address_id = ANY(:address_ids) AND lifted_at IS NULL"
).bindparams(bindparam("address_ids", type_=ARRAY(BigInteger)))


def suppress_many(
    session: Session, pairs: Iterable[tuple[int, str]], *, reason: str, source: str, now: datetime
) -> set[tuple[int, str]]:
    """Stop writing to each address about its topic, by one statement; return the pairs for which that is new.

    `reason`: unsubscribed, hard_bounce, complaint or manual. Addresses that do not exist are left out.
    """
    asked = list(pairs)
    if not asked:
        return set()
    rows = session.execute(
        _SUPPRESS,
        {
            "address_ids": [number for number, _ in asked],
            "topics": [topic for _, topic in asked],
            "reason": reason,
            "source": source,
            "now": now,
        },
    )
    return {(number, topic) for number, topic in rows}


def suppress(
    session: Session, address_id: int, topic: str, *, reason: str, source: str, now: datetime
) -> bool:
    """Stop writing to an address about `topic`; say whether that is new."""
    return bool(
        suppress_many(session, [(address_id, topic)], reason=reason, source=source, now=now)
    )


def lift(
    session: Session,
    address_id: int,
    topic: str,
    *,
    by: str,
    now: datetime,
    reason: str | None = None,
) -> bool:
    """Write to an address about `topic` again; say whether it had been suppressed. With `reason`, only what was suppressed for that.

    The owner of an address may take back an opt-out of theirs, but not the fact that the address bounced.
    """
    row = session.execute(
        text("""UPDATE suppression SET lifted_at = :now, lifted_by = :by
                 WHERE address_id = :address_id AND topic = :topic AND lifted_at IS NULL
                   AND (cast(:reason AS text) IS NULL OR reason = :reason) RETURNING id"""),
        {"address_id": address_id, "topic": topic, "by": by, "now": now, "reason": reason},
    )
    return row.first() is not None


def active_many(session: Session, address_ids: Iterable[int]) -> dict[int, dict[str, str]]:
    """Return for each address the topics that it is not written to about, each with its reason."""
    found: dict[int, dict[str, str]] = {number: {} for number in address_ids}
    for number, topic, reason in session.execute(_ACTIVE, {"address_ids": list(found)}):
        found[number][topic] = reason
    return found


def active(session: Session, address_id: int) -> dict[str, str]:
    """Return the topics that an address is not written to about, each with its reason."""
    return active_many(session, [address_id])[address_id]


@dataclass(frozen=True, slots=True)
class Standing:
    """One suppression that stands."""

    id: int
    email: str
    topic: str
    reason: str
    since: datetime


def page(session: Session, *, before: int, limit: int) -> list[Standing]:
    """Return suppressions that stand, the newest first, older than the one numbered `before`."""
    rows = session.execute(
        text("""SELECT s.id, a.email, s.topic, s.reason, s.created_at FROM suppression s JOIN address a ON a.id = s.address_id
                 WHERE s.lifted_at IS NULL AND s.id < :before ORDER BY s.id DESC LIMIT :limit"""),
        {"before": before, "limit": limit},
    )
    return [Standing(*row) for row in rows]


def active_reasons(session: Session, topic: str) -> dict[int, str]:
    """Return all addresses that are not written to about `topic`, each with the reason."""
    rows = session.execute(
        text(
            "SELECT address_id, reason FROM suppression WHERE topic IN (:topic, '*') AND lifted_at IS NULL"
        ),
        {"topic": topic},
    )
    return dict(rows.all())
