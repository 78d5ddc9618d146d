"""The one module of verbs for `suppression`: who must not be written to, about what, and why.

A row is lifted, never deleted: it is the log that the law wants kept. Each reason is a row of its
own, lifted by itself, so that an office that lifts its own stop cannot lift an owner's opt-out. The
topic `*` stands for every topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, String

from notifier.domain.topics import Topic
from notifier.schema import Address, Suppression

EVERY_TOPIC = "*"

# Part of the settle, for addresses that a server called dead: `settled` names a CTE with address_id
# and dead. It stays SQL, for it is a part of one hot statement. In one order, so that two settles
# never wait for each other in a circle.
SUPPRESS_DEAD = """
    INSERT INTO suppression (address_id, topic, reason, source, created_at)
    SELECT DISTINCT address_id, '*', 'hard_bounce', 'reply', clock_timestamp()
      FROM {settled} WHERE dead ORDER BY 1
    ON CONFLICT (address_id, topic, reason) WHERE lifted_at IS NULL DO NOTHING"""


class Reason(StrEnum):
    """Why an address is not written to; the strongest first, which is the one that people see."""

    HARD_BOUNCE = "hard_bounce"
    """Its server said that it takes no mail."""
    COMPLAINT = "complaint"
    """Its reader reported our mail as spam."""
    MANUAL = "manual"
    """The office or another system asked for it."""
    UNSUBSCRIBED = "unsubscribed"
    """Its owner opted out; only they take that back."""


_STRENGTH = {reason: place for place, reason in enumerate(Reason)}
# What lifts every reason cannot lift this one.
_OF_THE_OFFICE = tuple(reason for reason in Reason if reason is not Reason.UNSUBSCRIBED)


def reaches_statutory(topic: str, topics: Mapping[str, Topic]) -> bool:
    """Say whether to stop `topic` (a known code or `*`) would stop mail that the law demands."""
    return topic == EVERY_TOPIC or topics[topic].statutory


# SQL, for pairs come as two arrays in one statement. Always in the same order, so that two
# transactions that stop the same things never wait for each other in a circle. An address that is
# no more is left out.
_SUPPRESS = text("""
INSERT INTO suppression (address_id, topic, reason, source, created_at)
SELECT DISTINCT a.id, o.topic, :reason, :source, cast(:now AS timestamptz)
  FROM unnest(:address_ids, :topics) AS o (address_id, topic) JOIN address a ON a.id = o.address_id
 ORDER BY a.id, o.topic
ON CONFLICT (address_id, topic, reason) WHERE lifted_at IS NULL DO NOTHING
RETURNING address_id, topic
""").bindparams(
    bindparam("address_ids", type_=ARRAY(BigInteger)), bindparam("topics", type_=ARRAY(String))
)


def suppress_many(
    session: Session,
    pairs: Iterable[tuple[int, str]],
    *,
    reason: Reason | str,
    source: str,
    now: datetime,
) -> set[tuple[int, str]]:
    """Stop writing to each address about its topic, by one statement.

    Return the pairs for which `reason` is new; another reason may have stopped them before.
    Addresses that do not exist are left out. `source` says who or what asked. Raise ValueError for
    a reason that is not known.
    """
    asked = list(pairs)
    if not asked:
        return set()
    rows = session.execute(
        _SUPPRESS,
        {
            "address_ids": [number for number, _ in asked],
            "topics": [topic for _, topic in asked],
            "reason": Reason(reason).value,
            "source": source,
            "now": now,
        },
    )
    return {(row.address_id, row.topic) for row in rows}


def suppress(
    session: Session,
    address_id: int,
    topic: str,
    *,
    reason: Reason | str,
    source: str,
    now: datetime,
) -> bool:
    """Stop writing to an address about `topic`; say whether that reason is new."""
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
    reason: Reason | str | None = None,
) -> bool:
    """Take back why an address is not written to about `topic`; say whether there was anything.

    With `reason`, that one alone. Without, every reason but the owner's opt-out, which only the
    owner takes back. Other reasons go on stopping the topic: see `active`.
    """
    chosen = _OF_THE_OFFICE if reason is None else (Reason(reason),)
    lifted = session.scalars(
        update(Suppression)
        .where(
            Suppression.address_id == address_id,
            Suppression.topic == topic,
            Suppression.reason.in_(chosen),
            Suppression.lifted_at.is_(None),
        )
        .values(lifted_at=now, lifted_by=by)
        .returning(Suppression.id)
        .execution_options(synchronize_session=False)
    )
    return bool(lifted.all())


def _standing(chosen: ColumnElement[bool]) -> ColumnElement[bool]:
    return Suppression.lifted_at.is_(None) & chosen


def reasons_many(
    session: Session, address_ids: Iterable[int]
) -> dict[int, dict[str, tuple[Reason, ...]]]:
    """Return for each address its stopped topics, each with its reasons, the strongest first."""
    asked = list(address_ids)
    found: dict[int, dict[str, tuple[Reason, ...]]] = {number: {} for number in asked}
    rows = session.execute(
        select(Suppression.address_id, Suppression.topic, Suppression.reason).where(
            _standing(Suppression.address_id.in_(asked))
        )
    )
    for row in rows:
        topics = found[row.address_id]
        both = (*topics.get(row.topic, ()), Reason(row.reason))
        topics[row.topic] = tuple(sorted(both, key=_STRENGTH.__getitem__))
    return found


def reasons(session: Session, address_id: int) -> dict[str, tuple[Reason, ...]]:
    """Return the topics that an address is not written to about, each with all its reasons."""
    return reasons_many(session, [address_id])[address_id]


def active_many(session: Session, address_ids: Iterable[int]) -> dict[int, dict[str, str]]:
    """Return for each address its stopped topics, each with the strongest of its reasons."""
    return {
        number: {topic: several[0].value for topic, several in topics.items()}
        for number, topics in reasons_many(session, address_ids).items()
    }


def active(session: Session, address_id: int) -> dict[str, str]:
    """Return the topics that an address is not written to about, each with the strongest reason."""
    return active_many(session, [address_id])[address_id]


def stopped_since(session: Session, address_id: int, reason: Reason) -> datetime | None:
    """Return since when an address is stopped for `reason`, about any topic.

    None when it is not.
    """
    return session.scalar(
        select(func.min(Suppression.created_at)).where(
            _standing(Suppression.address_id == address_id), Suppression.reason == reason.value
        )
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """One suppression that stands; several reasons of one address and topic are as many."""

    id: int
    email: str
    topic: str
    reason: str
    since: datetime


def page(session: Session, *, before: int, limit: int) -> list[Standing]:
    """Return suppressions that stand, the newest first, older than the one numbered `before`."""
    rows = session.execute(
        select(
            Suppression.id,
            Address.email,
            Suppression.topic,
            Suppression.reason,
            Suppression.created_at.label("since"),
        )
        .join(Address, Address.id == Suppression.address_id)
        .where(_standing(Suppression.id < before))
        .order_by(Suppression.id.desc())
        .limit(limit)
    )
    return [
        Standing(id=row.id, email=row.email, topic=row.topic, reason=row.reason, since=row.since)
        for row in rows
    ]


def active_reasons(session: Session, topic: str) -> dict[int, str]:
    """Return all addresses that are not written to about `topic`, with the strongest reason."""
    found: dict[int, Reason] = {}
    rows = session.execute(
        select(Suppression.address_id, Suppression.reason).where(
            _standing(Suppression.topic.in_((topic, EVERY_TOPIC)))
        )
    )
    for row in rows:
        reason = Reason(row.reason)
        before = found.get(row.address_id)
        if before is None or _STRENGTH[reason] < _STRENGTH[before]:
            found[row.address_id] = reason
    return {number: reason.value for number, reason in found.items()}
