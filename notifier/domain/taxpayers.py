"""The one module of verbs for `taxpayer` and `taxpayer_address`: the register that lists feed.

The newest list names a taxpayer; every address that one was written to stays known.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from notifier.schema import Taxpayer, TaxpayerAddress

__all__ = ["Taxpayer", "owners", "remember_addresses", "update_of_list"]


def owners(session: Session, address_ids: Iterable[int]) -> dict[int, list[Taxpayer]]:
    """Return the taxpayers of each address that has any, in the order they became known."""
    rows = session.execute(
        select(TaxpayerAddress.address_id, Taxpayer)
        .join(Taxpayer, Taxpayer.id == TaxpayerAddress.taxpayer_id)
        .where(TaxpayerAddress.address_id.in_(list(address_ids)))
        .order_by(TaxpayerAddress.address_id, Taxpayer.id)
    )
    found: dict[int, list[Taxpayer]] = {}
    for address_id, taxpayer in rows:
        found.setdefault(address_id, []).append(taxpayer)
    return found


# Both stay SQL: 114,072 rows go from table to table and are never seen here. Both insert in the
# order of a key: two lists that are loaded at once wait for each other, never in a circle.
_UPDATE = text("""
INSERT INTO taxpayer (tax_code, name, language, updated_at)
SELECT tax_code, name, language, :now
  FROM recipient WHERE audience_id = :audience_id ORDER BY tax_code
ON CONFLICT (tax_code) DO UPDATE
   SET name = excluded.name, language = excluded.language, updated_at = excluded.updated_at
 WHERE (taxpayer.name, taxpayer.language) IS DISTINCT FROM (excluded.name, excluded.language)
""")

_REMEMBER = text("""
INSERT INTO taxpayer_address (taxpayer_id, address_id, first_seen_at, last_seen_at)
SELECT DISTINCT t.id, x.address_id, cast(:now AS timestamptz), cast(:now AS timestamptz)
  FROM recipient r JOIN taxpayer t ON t.tax_code = r.tax_code
  CROSS JOIN LATERAL unnest(r.address_ids) AS x (address_id)
 WHERE r.audience_id = :audience_id ORDER BY 1, 2
ON CONFLICT (taxpayer_id, address_id) DO UPDATE SET last_seen_at = excluded.last_seen_at
""")


def update_of_list(session: Session, audience_id: int, now: datetime) -> None:
    """Add the taxpayers among a list's recipients, or rename those whom it names differently."""
    session.execute(_UPDATE, {"audience_id": audience_id, "now": now})


def remember_addresses(session: Session, audience_id: int, now: datetime) -> None:
    """Note that a list's taxpayers have its addresses; one that is in no list keeps its date."""
    session.execute(_REMEMBER, {"audience_id": audience_id, "now": now})
