"""The one file of verbs for `suppression`, and for single addresses: who must not be written to, about what, and why.

A row is lifted, never deleted: it is the log that the law wants kept. The topic `*` stands for every topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from email_validator import EmailNotValidError, validate_email
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, String

from notifier.errors import NotifierError

EVERY_TOPIC = "*"

# Part of the settle: addresses that a server called dead, from `settled` (address_id, dead).
SUPPRESS_DEAD = """
    INSERT INTO suppression (address_id, topic, reason, source, created_at)
    SELECT DISTINCT address_id, '*', 'hard_bounce', 'reply', clock_timestamp()
      FROM {settled} WHERE dead
    ON CONFLICT (address_id, topic) WHERE lifted_at IS NULL DO NOTHING"""


class AddressError(NotifierError, ValueError):
    """An e-mail address cannot be written to."""

    code = "address"


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


def lock_addresses(session: Session, address_ids: list[int]) -> set[int]:
    """Lock addresses, always in the order of their numbers, so that two changes never wait for each other; return those that exist."""
    rows = session.scalars(
        text("SELECT id FROM address WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE"),
        {"ids": address_ids},
    )
    return set(rows)


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


def address_id(session: Session, email: str) -> int:
    """Return the number of an address, which is added when it is new; raise AddressError when it cannot be written to.

    Upper and lower case are the same address, as every large provider has it; the first spelling is kept.
    """
    try:
        checked = validate_email(
            email.strip(), check_deliverability=False, allow_smtputf8=False, test_environment=True
        )
    except EmailNotValidError as error:
        raise AddressError(f"The address is not valid: {error}", fix="Correct it.") from None
    spelled = checked.ascii_email or checked.normalized
    row = session.execute(
        text("""INSERT INTO address (email) VALUES (:email)
                ON CONFLICT (lower(email)) DO UPDATE SET email = address.email RETURNING id"""),
        {"email": spelled},
    )
    return int(row.scalar_one())


def address_ids(session: Session, emails: Iterable[str]) -> dict[str, int]:
    """Return the numbers of addresses that were checked before, new ones added, by the spelling that was asked for."""
    asked = set(emails)
    if not asked:
        return {}
    found: dict[str, int] = dict(session.execute(_FIND, {"emails": list(asked)}).all())
    if missing := {email.lower(): email for email in asked if email not in found}:
        # In one order, so that two transactions with the same new addresses wait for each other once and never in a circle.
        added = session.execute(_ADD, {"emails": [missing[key] for key in sorted(missing)]})
        numbers = {email.lower(): number for email, number in added}
        found |= {email: numbers[email.lower()] for email in asked if email.lower() in numbers}
        if len(found) < len(asked):
            # Another transaction has added some of them meanwhile; they are there now.
            found |= dict(
                session.execute(
                    _FIND, {"emails": [email for email in asked if email not in found]}
                ).all()
            )
    return found


_FIND = text(
    "SELECT o.email, a.id FROM unnest(:emails) AS o (email) JOIN address a ON lower(a.email) = lower(o.email)"
).bindparams(bindparam("emails", type_=ARRAY(String)))
_ADD = text(
    "INSERT INTO address (email) SELECT unnest(:emails) ON CONFLICT (lower(email)) DO NOTHING RETURNING email, id"
).bindparams(bindparam("emails", type_=ARRAY(String)))


def address_of(session: Session, number: int) -> str | None:
    """Return the address with that number, or None."""
    email: str | None = session.scalar(
        text("SELECT email FROM address WHERE id = :number"), {"number": number}
    )
    return email
