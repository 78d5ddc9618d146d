"""A list into the database: checked in a stream, staged with COPY, grouped in SQL. All of it or nothing.

Accepted + rejected + merged = rows read, always: a row is accepted when it begins a mail, merged when it adds a line to one or repeats
another row, else rejected with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, cast

import orjson
import psycopg
from sqlalchemy import Connection, text

from notifier.audience import rows as reading
from notifier.audience.rows import Member, Problem, RowReader, cell_text, find_columns
from notifier.audience.tables import open_tables
from notifier.errors import TableError
from notifier.rendering.catalogue import Template

ProgressCallback = Callable[[int, int | None], None]
_CHUNK = 5_000
_BIG = 20_000


@dataclass(frozen=True, slots=True)
class Audience:
    """A list as it was loaded: what became of its rows, the sums of its amounts in đồng, and the columns nobody asked for."""

    id: int
    rows_read: int
    accepted: int
    rejected: int
    merged: int
    totals: dict[str, int]
    unused_columns: list[str]


_STAGE = """
CREATE TEMP TABLE staged (
    row_no integer, tax_code text, fingerprint bigint, complete boolean, emails text[], header jsonb, line jsonb) ON COMMIT DROP
"""

# The mail of a tax code begins with its first complete row. A row that repeats another is merged; one that says the same of the whole mail,
# or nothing, adds its line; any other would change what somebody is told, and is rejected.
_GROUP = """
CREATE TEMP TABLE grouped ON COMMIT DROP AS
WITH ranked AS (
    SELECT row_no, tax_code, complete, header, line IS NOT NULL AS has_line,
           row_number() OVER mail AS place,
           first_value(row_no) OVER mail AS head_row,
           first_value(header) OVER mail AS head,
           first_value(complete) OVER mail AS head_complete,
           row_number() OVER (PARTITION BY tax_code, fingerprint ORDER BY complete DESC, row_no) AS copy
      FROM staged
    WINDOW mail AS (PARTITION BY tax_code ORDER BY complete DESC, row_no))
SELECT row_no, tax_code, head_row,
       CASE WHEN NOT head_complete THEN 'missing'
            WHEN place = 1 THEN 'accepted'
            WHEN copy > 1 THEN 'repeated'
            WHEN :with_lines AND head @> header AND has_line THEN 'line'
            ELSE 'differs' END AS verdict
  FROM ranked
"""

_ADDRESSES = """
INSERT INTO address (email)
SELECT DISTINCT ON (lower(e)) e FROM staged s JOIN grouped g USING (row_no), unnest(s.emails) AS e WHERE g.verdict = 'accepted'
    ORDER BY lower(e)
ON CONFLICT (lower(email)) DO NOTHING
"""

_RECIPIENTS = """
INSERT INTO recipient (audience_id, row_no, tax_code, name, language, address_ids, data)
SELECT :audience_id, s.row_no, s.tax_code, s.header->>'name', coalesce(s.header->>'language', 'vi'),
       o.ids,
       ((s.header - '{name,email,language}'::text[]) || jsonb_build_object('lines', coalesce(l.lines, '[]'::jsonb)))::text::json
  FROM staged s JOIN grouped g USING (row_no)
  LEFT JOIN (SELECT g.head_row, jsonb_agg(s.line ORDER BY s.row_no) AS lines
               FROM staged s JOIN grouped g USING (row_no)
              WHERE g.verdict IN ('accepted', 'line') AND s.line IS NOT NULL GROUP BY g.head_row) l ON l.head_row = s.row_no
  JOIN (SELECT x.row_no, array_agg(a.id ORDER BY e.place) AS ids
          FROM staged x JOIN grouped y USING (row_no) CROSS JOIN LATERAL unnest(x.emails) WITH ORDINALITY AS e (email, place)
          JOIN address a ON lower(a.email) = lower(e.email)
         WHERE y.verdict = 'accepted' GROUP BY x.row_no) o ON o.row_no = s.row_no
 WHERE g.verdict = 'accepted' ORDER BY s.row_no
"""

_TAXPAYERS = """
INSERT INTO taxpayer (tax_code, name, language, updated_at)
SELECT tax_code, name, language, :now FROM recipient WHERE audience_id = :audience_id
ON CONFLICT (tax_code) DO UPDATE SET name = excluded.name, language = excluded.language, updated_at = excluded.updated_at
 WHERE (taxpayer.name, taxpayer.language) IS DISTINCT FROM (excluded.name, excluded.language)
"""

_HISTORY = """
INSERT INTO taxpayer_address (taxpayer_id, address_id, first_seen_at, last_seen_at)
SELECT DISTINCT t.id, x.address_id, cast(:now AS timestamptz), cast(:now AS timestamptz)
  FROM recipient r JOIN taxpayer t ON t.tax_code = r.tax_code CROSS JOIN LATERAL unnest(r.address_ids) AS x (address_id)
 WHERE r.audience_id = :audience_id
ON CONFLICT (taxpayer_id, address_id) DO UPDATE SET last_seen_at = excluded.last_seen_at
"""

_VERDICTS = {
    "missing": (
        "rejected", "missing",
        "Thiếu một ô bắt buộc của thư ({columns}). Hãy điền vào.",
        "A cell that the mail needs is empty ({columns}). Fill it in.",
    ),
    "differs": (
        "rejected", "differs",
        "Mã số thuế này đã có ở dòng {row} với nội dung khác. Hãy giữ một dòng đúng.",
        "This tax code stands in row {row} with other content. Keep the right one.",
    ),
    "repeated": (
        "merged", "repeated", "Lặp lại dòng khác của cùng mã số thuế; chỉ gửi một lần.", "It repeats another row of the tax code; sent once.",
    ),
}  # fmt: skip


def known_audience(connection: Connection, path: Path, template: Template) -> Audience | None:
    """Return the audience that the same file and template made before, if there is one."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    row = connection.execute(
        text("""SELECT id, rows_read, accepted, rejected, merged, totals, unused_columns FROM audience
                 WHERE sha256 = :digest AND template_version = :version ORDER BY id DESC LIMIT 1"""),
        {"digest": digest, "version": template.version},
    ).first()
    return Audience(*row) if row else None


def load(
    connection: Connection, path: Path, template: Template, *, now: datetime, progress: ProgressCallback | None = None
) -> Audience:
    """Load a list for `template` within the caller's transaction; raise TableError when it is no such list.

    `progress(rows, total or None)` is called now and then. Memory stays flat, however long the list is.
    """
    columns, rows, total = find_columns(template, open_tables(path))
    audience_id = _begin(connection, path, template, columns, now)
    connection.execute(text(_STAGE))
    loader = _Loader(connection, audience_id, template, RowReader(template, columns))
    loader.run(rows, total, progress)
    with_lines = bool(template.lines)
    connection.execute(text("ANALYZE staged"))
    connection.execute(text(_GROUP), {"with_lines": with_lines})
    connection.execute(text("ANALYZE grouped"))
    verdicts = {
        verdict: number for verdict, number in connection.execute(text("SELECT verdict, count(*) FROM grouped GROUP BY verdict"))
    }
    _explain(connection, audience_id, path, template, verdicts)
    connection.execute(text(_ADDRESSES))
    if verdicts.get("accepted", 0) > _BIG:
        connection.execute(text("ANALYZE address"))
    connection.execute(text(_RECIPIENTS), {"audience_id": audience_id})
    if verdicts.get("accepted", 0) > _BIG:
        connection.execute(text("ANALYZE recipient"))
    connection.execute(text(_TAXPAYERS), {"audience_id": audience_id, "now": now})
    if verdicts.get("accepted", 0) > _BIG:
        connection.execute(text("ANALYZE taxpayer"))
    connection.execute(text(_HISTORY), {"audience_id": audience_id, "now": now})
    accepted = verdicts.get("accepted", 0)
    rejected = loader.rejected + verdicts.get("missing", 0) + verdicts.get("differs", 0)
    merged = verdicts.get("line", 0) + verdicts.get("repeated", 0)
    audience = Audience(
        audience_id, loader.read, accepted, rejected, merged, _totals(connection, audience_id, template), list(columns.unused)
    )
    if accepted + rejected + merged != loader.read:
        raise TableError(f"{path.name}: the rows do not add up; nothing was loaded.", fix="Report this with the file.")
    connection.execute(
        text("""UPDATE audience SET rows_read = :read, accepted = :accepted, rejected = :rejected, merged = :merged,
                       totals = cast(:totals AS jsonb) WHERE id = :id"""),
        {
            "read": loader.read,
            "accepted": accepted,
            "rejected": rejected,
            "merged": merged,
            "totals": orjson.dumps(audience.totals).decode(),
            "id": audience_id,
        },
    )
    return audience


def _begin(connection: Connection, path: Path, template: Template, columns: Any, now: datetime) -> int:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    row = connection.execute(
        text("""INSERT INTO audience (file_name, sha256, template, template_version, rows_read, accepted, rejected, merged, header,
                                      unused_columns, totals, created_at)
                VALUES (:name, :digest, :template, :version, 0, 0, 0, 0, cast(:header AS jsonb), cast(:unused AS jsonb), '{}', :now)
                RETURNING id"""),
        {
            "name": path.name,
            "digest": digest,
            "template": template.name,
            "version": template.version,
            "header": orjson.dumps(list(columns.headings)).decode(),
            "unused": orjson.dumps(list(columns.unused)).decode(),
            "now": now,
        },
    )
    return int(row.scalar_one())


class _Loader:
    """Streams rows into the staging table and problems into the report, a chunk at a time."""

    def __init__(self, connection: Connection, audience_id: int, template: Template, reader: RowReader) -> None:
        self.read = 0
        self.rejected = 0
        self._driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        self._audience_id = audience_id
        self._template = template
        self._reader = reader
        self._required = {
            field.name for field in template.fields if field.required and field.scope == "recipient"
        }

    def run(self, rows: Iterator[tuple[int, Sequence[Any]]], total: int | None, progress: ProgressCallback | None) -> None:
        while chunk := list(islice(rows, _CHUNK)):
            members: list[Member] = []
            problems: list[Problem] = []
            for row_no, cells in chunk:
                found = self._reader.read(row_no, cells)
                if isinstance(found, Member) and not self._template.lines:
                    found = self._reader.missing(found, cells) or found
                if isinstance(found, Problem):
                    problems.append(found)
                    self.rejected += 1
                else:
                    members.append(found)
                    problems += found.warnings
            self.read += len(chunk)
            self._stage(members)
            copy_problems(self._driver, self._audience_id, problems)
            if progress:
                progress(self.read, total)

    def _stage(self, members: list[Member]) -> None:
        with self._driver.cursor() as cursor, cursor.copy(
            "COPY staged (row_no, tax_code, fingerprint, complete, emails, header, line) FROM STDIN"
        ) as copy:
            for member in members:
                copy.write_row((
                    member.row_no,
                    member.tax_code,
                    member.fingerprint(),
                    self._required <= member.header.keys(),
                    member.emails,
                    orjson.dumps(member.header).decode(),
                    orjson.dumps(member.line).decode() if member.line else None,
                ))  # fmt: skip


def copy_problems(driver: psycopg.Connection[Any], audience_id: int, problems: list[Problem]) -> None:
    """Add problems to an audience's report."""
    if not problems:
        return
    with driver.cursor() as cursor, cursor.copy(
        "COPY audience_reject (audience_id, row_no, kind, column_name, value, code, problem_vi, problem_en, cells) FROM STDIN"
    ) as copy:
        for each in problems:
            cells = orjson.dumps([cell.replace("\0", " ") for cell in each.cells]).decode().replace("\\u0000", " ")
            copy.write_row((
                audience_id, each.row_no, each.kind, each.column, each.value.replace("\0", " "), each.code, each.vi, each.en, cells,
            ))  # fmt: skip


def _explain(connection: Connection, audience_id: int, path: Path, template: Template, verdicts: dict[str, int]) -> None:
    """Report the rows that the grouping rejected or merged as repeats. Their cells are read from the file again: they are few."""
    if not verdicts.keys() & _VERDICTS.keys():
        return
    told = {
        row_no: (verdict, head_row, tax_code)
        for row_no, verdict, head_row, tax_code in connection.execute(
            text("SELECT row_no, verdict, head_row, tax_code FROM grouped WHERE verdict IN ('missing', 'differs', 'repeated')")
        )
    }
    required = ", ".join(
        field.label["vi"] for field in template.fields if field.required and field.scope == "recipient"
    )
    columns, rows, _ = find_columns(template, open_tables(path))
    heading = next(column.heading for column in columns.used if column.field.name == "tax_code")
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    problems: list[Problem] = []
    for row_no, cells in rows:
        if row_no not in told:
            continue
        verdict, head_row, tax_code = told[row_no]
        kind, code, vi, en = _VERDICTS[verdict]
        shown = reading.fields.masked(tax_code)
        words = {"row": head_row, "columns": required}
        problems.append(
            Problem(row_no, kind, heading, shown, code, vi.format(**words), en.format(**words), [cell_text(cell) for cell in cells])
        )
        if len(problems) >= _CHUNK:
            copy_problems(driver, audience_id, problems)
            problems = []
    copy_problems(driver, audience_id, problems)


def _totals(connection: Connection, audience_id: int, template: Template) -> dict[str, int]:
    """Return the sum of every amount of the whole mail, the control total first."""
    names = [field.name for field in template.fields if field.type == "money"]
    names.sort(key=lambda name: name != template.control_total)
    totals = {}
    for name in names:
        totals[name] = int(
            connection.scalar(
                text("SELECT coalesce(sum(cast(data->>:name AS numeric)), 0) FROM recipient WHERE audience_id = :id"),
                {"name": name, "id": audience_id},
            )
            or 0
        )
    return totals
