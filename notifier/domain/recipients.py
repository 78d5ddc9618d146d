"""The one module of verbs for `recipient`: whom one mail is for, and what fills its template."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Numeric, cast, func, select, text
from sqlalchemy.orm import Session

from notifier.schema import Recipient

# SQL, for JSON is joined as text (to build it of values costs half a list's time again), and what
# it joins stands in the load's temporary tables.
_ADD = text("""
INSERT INTO recipient (audience_id, row_no, tax_code, name, language, address_ids, data)
SELECT :audience_id, s.row_no, s.tax_code, s.name, coalesce(s.language, 'vi'), o.ids,
       (left(s.data, -1) || CASE s.data WHEN '{}' THEN '' ELSE ',' END
        || '"lines":[' || coalesce(l.lines, '') || ']}')::json
  FROM staged s
  JOIN (SELECT r.row_no, array_agg(a.id ORDER BY r.place) AS ids
          FROM reached r JOIN address a ON lower(a.email) = r.key GROUP BY r.row_no) o
    USING (row_no)
  LEFT JOIN (SELECT g.head_row AS row_no, string_agg(s.line, ',' ORDER BY s.row_no) AS lines
               FROM staged s JOIN grouped g USING (row_no)
              WHERE g.verdict IN ('accepted', 'line') AND s.line IS NOT NULL
              GROUP BY g.head_row) l
    USING (row_no)
 ORDER BY s.row_no
""")


def add_of_list(session: Session, audience_id: int) -> None:
    """Make a recipient of each mail of a list that is being loaded; its addresses are there.

    The mails stand in its temporary tables: `staged` has the rows, `grouped` what became of each,
    `reached` the addresses of those that begin a mail (see `notifier/audience/load.py`).
    """
    session.execute(_ADD, {"audience_id": audience_id})


def sums(session: Session, audience_id: int, names: Sequence[str]) -> dict[str, int]:
    """Return the sum of each of the amounts `names`, whole đồng, over the recipients of a list."""
    if not names:
        return {}
    amounts = [
        func.coalesce(func.sum(cast(Recipient.data.op("->>")(name), Numeric)), 0) for name in names
    ]
    found = session.execute(select(*amounts).where(Recipient.audience_id == audience_id)).one()
    return {name: int(amount) for name, amount in zip(names, found, strict=True)}


# Part of the statement that queues notices: their recipients are numbered before, in `o`, so that
# each message knows its own.
OF_NOTICES = """
    INSERT INTO recipient (id, tax_code, name, language, address_ids, data)
    OVERRIDING SYSTEM VALUE
    SELECT recipient_id, tax_code, name, language, ARRAY[address_id], cast(data AS json) FROM o"""
