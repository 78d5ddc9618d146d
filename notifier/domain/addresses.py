"""The one module of verbs for `address`: e-mail addresses by number, each kept once.

Upper and lower case are the same address, as every large provider has it; the first spelling stays.
"""

from __future__ import annotations

from collections.abc import Iterable

from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Text, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from notifier.errors import NotifierError
from notifier.schema import Address

_KEY = func.lower(Address.email)


class AddressError(NotifierError, ValueError):
    """An e-mail address cannot be written to."""

    code = "address"


def id_of(session: Session, email: str) -> int:
    """Return the number of an address, which is added when it is new.

    Raise AddressError when it cannot be written to.
    """
    try:
        checked = validate_email(
            email.strip(), check_deliverability=False, allow_smtputf8=False, test_environment=True
        )
    except EmailNotValidError as error:
        raise AddressError(f"The address is not valid: {error}", fix="Correct it.") from None
    spelled = checked.ascii_email or checked.normalized
    return ids(session, [spelled])[spelled]


def ids(session: Session, emails: Iterable[str]) -> dict[str, int]:
    """Return the numbers of addresses that were checked before, by the spelling asked for.

    New ones are added.
    """
    asked = {email: email.lower() for email in emails}
    if not asked:
        return {}
    found = _find(session, asked.values())
    if missing := {key: email for email, key in asked.items() if key not in found}:
        # In one order, so that two transactions with the same new addresses wait for each other
        # once and never in a circle.
        new = literal([missing[key] for key in sorted(missing)], ARRAY(Text))
        added = session.execute(
            insert(Address)
            .from_select([Address.email], select(func.unnest(new)))
            .on_conflict_do_nothing(index_elements=[_KEY])
            .returning(Address.id, Address.email)
        )
        found |= {row.email.lower(): row.id for row in added}
        if lacking := missing.keys() - found.keys():
            # Another transaction has added them meanwhile; they are there now.
            found |= _find(session, lacking)
    return {email: found[key] for email, key in asked.items()}


def _find(session: Session, keys: Iterable[str]) -> dict[str, int]:
    """Return the numbers of the addresses that are there, by their spelling in small letters."""
    rows = session.execute(select(_KEY.label("key"), Address.id).where(_KEY.in_(list(keys))))
    return {row.key: row.id for row in rows}


def lock(session: Session, numbers: Iterable[int]) -> set[int]:
    """Lock addresses until the transaction ends; return the numbers of those that exist.

    Always in the order of their numbers, so that two changes never wait for each other in a circle.
    """
    query = select(Address.id).where(Address.id.in_(list(numbers))).order_by(Address.id)
    return set(session.scalars(query.with_for_update(key_share=True)))


# SQL, for it joins what only the load's temporary table knows. In the order of its key, like every
# insertion of a list: two lists that are loaded at once wait for each other, never in a circle.
_ADD_REACHED = text("""
INSERT INTO address (email)
SELECT DISTINCT ON (key) email FROM reached ORDER BY key, row_no, place
ON CONFLICT (lower(email)) DO NOTHING
""")


def add_of_list(session: Session) -> None:
    """Add the new addresses of a list that is being loaded.

    They stand in its temporary table `reached` (row_no, place, email, key: the small letters).
    """
    session.execute(_ADD_REACHED)
