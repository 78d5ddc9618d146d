"""A list into the database: checked in a stream, staged with COPY, grouped in SQL. All of it or nothing.

Accepted + rejected + merged = rows read, always: a row is accepted when it begins a mail, merged when it adds a line to one or repeats
another row, else rejected with the reason. Where several rows make one mail, one that is rejected holds back the others.
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

from notifier.audience.rows import Member, Problem, RowReader, cell_text, find_columns, shown
from notifier.audience.tables import open_tables
from notifier.errors import TableError
from notifier.rendering.catalogue import Template

ProgressCallback = Callable[[int, int | None], None]
_CHUNK = 2_000
# Stands for NULL in COPY; no cell holds a control character.
_NULL = "\x1f"
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
    row_no integer, tax_code text, lacking text, head_hash bigint, line_hash bigint,
    name text, language text, emails text, data text, line text) ON COMMIT DROP
"""

# Rows that were rejected one by one, though it is known whose they are.
_BROKEN = "CREATE TEMP TABLE broken (tax_code text, row_no integer) ON COMMIT DROP"

# What a row says of its whole mail, to compare two rows; `row` stands for an alias of `staged`. Blank cells say nothing.
_SAID = """(row.data::jsonb || jsonb_strip_nulls(jsonb_build_object('name', row.name, 'language', row.language, 'email',
    (SELECT string_agg(lower(e), ';' ORDER BY lower(e)) FROM unnest(string_to_array(row.emails, ' ')) AS e))))"""

# The mail of a tax code begins with its first row that lacks nothing.
_RANK = """
CREATE TEMP TABLE ranked ON COMMIT DROP AS
SELECT row_no, tax_code, lacking, line_hash,
       row_number() OVER mail AS place,
       first_value(row_no) OVER mail AS head_row,
       first_value(lacking) OVER mail IS NOT NULL AS headless,
       first_value(head_hash) OVER mail = head_hash AS agrees
  FROM staged
WINDOW mail AS (PARTITION BY tax_code ORDER BY lacking IS NOT NULL, row_no)
"""

# Where several rows make one mail, a later row may leave blank what the first one said.
_AGREE = f"""
UPDATE ranked r SET agrees = true
  FROM staged head, staged later
 WHERE NOT r.agrees AND NOT r.headless AND head.row_no = r.head_row AND later.row_no = r.row_no
   AND {_SAID.replace("row.", "head.")} @> {_SAID.replace("row.", "later.")}
"""

# A row that agrees with the first adds its line, or is merged when it has none or a line that is there already; one that does not agree
# would change what somebody is told, and is rejected. A mail of several rows is sent whole or not at all: a notice whose annex lacks a
# line is a wrong notice. `because` is the row that a verdict is due to.
_GROUP = """
CREATE TEMP TABLE grouped ON COMMIT DROP AS
WITH judged AS (
    SELECT row_no, tax_code, head_row, lacking,
           CASE WHEN headless THEN 'missing'
                WHEN place = 1 THEN 'accepted'
                WHEN NOT agrees THEN 'differs'
                WHEN line_hash IS NULL OR row_number() OVER (PARTITION BY head_row, agrees, line_hash ORDER BY place) > 1 THEN 'repeated'
                ELSE 'line' END AS verdict
      FROM ranked),
spoilt AS (
    SELECT tax_code, min(row_no) AS row_no
      FROM (SELECT tax_code, row_no FROM broken UNION ALL SELECT tax_code, row_no FROM judged WHERE verdict = 'differs') each
     WHERE :with_lines GROUP BY tax_code)
SELECT j.row_no, j.head_row, j.lacking,
       CASE WHEN s.tax_code IS NOT NULL AND verdict IN ('accepted', 'line', 'repeated') THEN 'incomplete' ELSE verdict END AS verdict,
       CASE WHEN s.tax_code IS NOT NULL AND verdict IN ('accepted', 'line', 'repeated') THEN s.row_no ELSE head_row END AS because
  FROM judged j LEFT JOIN spoilt s USING (tax_code)
"""

# The rows to be told about, with the fields in which they differ from the first row of their mail, in the order of the file.
_TOLD = f"""
SELECT g.row_no, g.verdict, g.because, g.lacking, CASE WHEN g.verdict = 'differs' THEN
       ARRAY(SELECT DISTINCT key FROM jsonb_object_keys({_SAID.replace("row.", "head.")} || {_SAID.replace("row.", "later.")}) AS key
              WHERE ({_SAID.replace("row.", "later.")})->key IS DISTINCT FROM ({_SAID.replace("row.", "head.")})->key
                AND (NOT :with_lines OR ({_SAID.replace("row.", "later.")})->key IS NOT NULL)) END AS fields
  FROM grouped g JOIN staged head ON head.row_no = g.head_row JOIN staged later ON later.row_no = g.row_no
 WHERE g.verdict IN ('missing', 'differs', 'repeated', 'incomplete') ORDER BY g.row_no
"""

_REACHED = """
CREATE TEMP TABLE reached ON COMMIT DROP AS
SELECT s.row_no, e.place, e.email, lower(e.email) AS key
  FROM staged s JOIN grouped g USING (row_no) CROSS JOIN LATERAL string_to_table(s.emails, ' ') WITH ORDINALITY AS e (email, place)
 WHERE g.verdict = 'accepted'
"""

# Every insertion below is in the order of its key: two lists that are loaded at once then wait for each other, and never in a circle.
_ADDRESSES = """
INSERT INTO address (email) SELECT DISTINCT ON (key) email FROM reached ORDER BY key, row_no, place
ON CONFLICT (lower(email)) DO NOTHING
"""

_RECIPIENTS = """
INSERT INTO recipient (audience_id, row_no, tax_code, name, language, address_ids, data)
SELECT :audience_id, s.row_no, s.tax_code, s.name, coalesce(s.language, 'vi'), o.ids,
       (left(s.data, -1) || CASE s.data WHEN '{}' THEN '' ELSE ',' END || '"lines":[' || coalesce(l.lines, '') || ']}')::json
  FROM staged s
  JOIN (SELECT r.row_no, array_agg(a.id ORDER BY r.place) AS ids
          FROM reached r JOIN address a ON lower(a.email) = r.key GROUP BY r.row_no) o USING (row_no)
  LEFT JOIN (SELECT g.head_row AS row_no, string_agg(s.line, ',' ORDER BY s.row_no) AS lines
               FROM staged s JOIN grouped g USING (row_no)
              WHERE g.verdict IN ('accepted', 'line') AND s.line IS NOT NULL GROUP BY g.head_row) l USING (row_no)
 ORDER BY s.row_no
"""

_TAXPAYERS = """
INSERT INTO taxpayer (tax_code, name, language, updated_at)
SELECT tax_code, name, language, :now FROM recipient WHERE audience_id = :audience_id ORDER BY tax_code
ON CONFLICT (tax_code) DO UPDATE SET name = excluded.name, language = excluded.language, updated_at = excluded.updated_at
 WHERE (taxpayer.name, taxpayer.language) IS DISTINCT FROM (excluded.name, excluded.language)
"""

_HISTORY = """
INSERT INTO taxpayer_address (taxpayer_id, address_id, first_seen_at, last_seen_at)
SELECT DISTINCT t.id, x.address_id, cast(:now AS timestamptz), cast(:now AS timestamptz)
  FROM recipient r JOIN taxpayer t ON t.tax_code = r.tax_code CROSS JOIN LATERAL unnest(r.address_ids) AS x (address_id)
 WHERE r.audience_id = :audience_id ORDER BY 1, 2
ON CONFLICT (taxpayer_id, address_id) DO UPDATE SET last_seen_at = excluded.last_seen_at
"""

_VERDICTS = {
    "missing": (
        "rejected",
        "Ô này bắt buộc nhưng đang trống, và không dòng nào khác của mã số thuế này điền đủ. Hãy điền vào.",
        "This cell is required and empty, and no other row of this tax code fills it. Fill it in.",
    ),
    "differs": (
        "rejected",
        "Khác với dòng {row} của cùng mã số thuế ({columns}). Hãy sửa cho giống nhau, hoặc bỏ dòng sai.",
        "It differs from row {row} of the same tax code ({columns}). Make both say the same, or remove the wrong one.",
    ),
    "incomplete": (
        "rejected",
        "Dòng {row} của cùng mã số thuế bị loại, nên thư sẽ thiếu số liệu và không được gửi. Hãy sửa hoặc bỏ dòng đó.",
        "Row {row} of the same tax code was rejected, so the mail would be incomplete and is not sent. Mend or remove that row.",
    ),
    "repeated": (
        "merged",
        "Lặp lại nội dung đã có từ dòng {row} của cùng mã số thuế; chỉ tính một lần.",
        "It repeats what the rows of the same tax code from row {row} on say; it counts once.",
    ),
}


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
    connection: Connection,
    path: Path,
    template: Template,
    *,
    now: datetime,
    progress: ProgressCallback | None = None,
) -> Audience:
    """Load a list for `template` within the caller's transaction; raise TableError when it is no such list.

    `progress(rows, total or None)` is called now and then. Memory stays flat, however long the list is.
    """
    columns, rows, total = find_columns(template, open_tables(path))
    audience_id = _begin(connection, path, template, columns, now)
    # The planner needs to know how many rows there are, not how their values are spread: a small sample will do.
    connection.execute(
        text("SET LOCAL work_mem = '64MB'; SET LOCAL default_statistics_target = 10")
    )
    connection.execute(
        text(
            "DROP TABLE IF EXISTS pg_temp.staged, pg_temp.broken, pg_temp.ranked, pg_temp.grouped, pg_temp.reached"
        )
    )
    connection.execute(text(_STAGE))
    connection.execute(text(_BROKEN))
    loader = _Loader(connection, audience_id, RowReader(template, columns))
    loader.run(rows, total, progress)
    verdicts = _group(connection, with_lines=bool(template.lines))
    _explain(connection, audience_id, path, template, verdicts)
    _keep(connection, audience_id, now, accepted=verdicts.get("accepted", 0))
    audience = Audience(
        audience_id,
        loader.read,
        verdicts.get("accepted", 0),
        loader.rejected
        + sum(verdicts.get(each, 0) for each in ("missing", "differs", "incomplete")),
        verdicts.get("line", 0) + verdicts.get("repeated", 0),
        _totals(connection, audience_id, template),
        list(columns.unused),
    )
    if audience.accepted + audience.rejected + audience.merged != audience.rows_read:
        raise TableError(
            f"{path.name}: the rows do not add up; nothing was loaded.",
            fix="Report this with the file.",
        )
    connection.execute(
        text("""UPDATE audience SET rows_read = :read, accepted = :accepted, rejected = :rejected, merged = :merged,
                       totals = cast(:totals AS jsonb) WHERE id = :id"""),
        {
            "read": audience.rows_read,
            "accepted": audience.accepted,
            "rejected": audience.rejected,
            "merged": audience.merged,
            "totals": orjson.dumps(audience.totals).decode(),
            "id": audience_id,
        },
    )
    return audience


def _group(connection: Connection, *, with_lines: bool) -> dict[str, int]:
    """Say of every staged row what becomes of it; return how many rows met each fate."""
    connection.execute(text("ANALYZE staged"))
    connection.execute(text(_RANK))
    if with_lines and connection.scalar(
        text("SELECT EXISTS (SELECT FROM ranked WHERE NOT agrees)")
    ):
        connection.execute(text(_AGREE))
    connection.execute(text(_GROUP), {"with_lines": with_lines})
    connection.execute(text("ANALYZE grouped"))
    return {
        row[0]: row[1]
        for row in connection.execute(
            text("SELECT verdict, count(*) FROM grouped GROUP BY verdict")
        )
    }


def _keep(connection: Connection, audience_id: int, now: datetime, *, accepted: int) -> None:
    """Make recipients of the accepted rows, and bring the register of taxpayers up to date. An address that is in no list keeps its date."""
    connection.execute(text(_REACHED))
    connection.execute(text("ANALYZE reached"))
    connection.execute(text(_ADDRESSES))
    steps = (("address", _RECIPIENTS), ("recipient", _TAXPAYERS), ("taxpayer", _HISTORY))
    for table, statement in steps:
        if accepted > _BIG:
            # The planner has not heard of the many new rows yet.
            connection.execute(text(f"ANALYZE {table}"))
        connection.execute(text(statement), {"audience_id": audience_id, "now": now})


def _begin(
    connection: Connection, path: Path, template: Template, columns: Any, now: datetime
) -> int:
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

    def __init__(self, connection: Connection, audience_id: int, reader: RowReader) -> None:
        self.read = 0
        self.rejected = 0
        self._driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        self._audience_id = audience_id
        self._reader = reader

    def run(
        self,
        rows: Iterator[tuple[int, Sequence[Any]]],
        total: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        while True:
            staged: list[str] = []
            problems: list[Problem] = []
            before = self.read
            # Each row is a line of text before the next is read: thousands of living cells would be walked by the garbage collector.
            for row_no, cells in islice(rows, _CHUNK):
                self.read += 1
                found = self._reader.read(row_no, cells)
                if isinstance(found, Problem):
                    problems.append(found)
                    self.rejected += 1
                else:
                    problems += found.warnings
                    staged.append(_staged(found))
            if self.read == before:
                return
            with self._driver.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.write("".join(staged))
            copy_problems(self._driver, self._audience_id, problems)
            if broken := [
                (each.tax_code, each.row_no) for each in problems if each.tax_code is not None
            ]:
                with (
                    self._driver.cursor() as cursor,
                    cursor.copy("COPY broken (tax_code, row_no) FROM STDIN") as copy,
                ):
                    for row in broken:
                        copy.write_row(row)
            if progress:
                progress(self.read, total)


_COPY = f"""COPY staged (row_no, tax_code, lacking, head_hash, line_hash, name, language, emails, data, line)
            FROM STDIN WITH (NULL '{_NULL}')"""


def _staged(member: Member) -> str:
    """Return a row of COPY's text format. No cell holds a control character (`fields.as_text`), so only backslashes are escaped."""
    header = member.header
    name, language, email = (
        header.pop("name", _NULL),
        header.pop("language", _NULL),
        header.pop("email", ""),
    )
    # The order of keys is the order of the columns, the same in every row.
    data = orjson.dumps(header)
    line = orjson.dumps(member.line) if member.line else None
    head_hash = _hash(f"{name}\t{language}\t{email}\t".encode() + data)
    row = (
        f"{member.row_no}\t{member.tax_code}\t{member.lacking or _NULL}\t{head_hash}\t{_NULL if line is None else _hash(line)}\t{name}\t"
        f"{language}\t{' '.join(member.emails)}\t{data.decode()}\t{_NULL if line is None else line.decode()}\n"
    )
    return row.replace("\\", "\\\\") if "\\" in row else row


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)


def copy_problems(
    driver: psycopg.Connection[Any], audience_id: int, problems: list[Problem]
) -> None:
    """Add problems to an audience's report."""
    if not problems:
        return
    with (
        driver.cursor() as cursor,
        cursor.copy(
            "COPY audience_reject (audience_id, row_no, kind, column_name, value, code, problem_vi, problem_en, cells) FROM STDIN"
        ) as copy,
    ):
        for each in problems:
            cells = (
                orjson.dumps([cell.replace("\0", " ") for cell in each.cells])
                .decode()
                .replace("\\u0000", " ")
            )
            copy.write_row(
                (
                    audience_id,
                    each.row_no,
                    each.kind,
                    each.column,
                    each.value.replace("\0", " "),
                    each.code,
                    each.vi,
                    each.en,
                    cells,
                )
            )


def _explain(
    connection: Connection,
    audience_id: int,
    path: Path,
    template: Template,
    verdicts: dict[str, int],
) -> None:
    """Report the rows that the grouping rejected or merged as repeats. Their cells are read from the file again: they are few."""
    if not verdicts.keys() & _VERDICTS.keys():
        return
    columns, rows, _ = find_columns(template, open_tables(path))
    own = {column.field.name: column for column in columns.used if not column.line}
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    problems: list[Problem] = []
    told = connection.execute(
        text(_TOLD), {"with_lines": bool(template.lines)}, execution_options={"yield_per": _CHUNK}
    )
    # Both are in the order of the file.
    for row_no, verdict, because, lacking, differing in told:
        cells = next(cells for number, cells in rows if number == row_no)
        kind, vi, en = _VERDICTS[verdict]
        names = [lacking] if verdict == "missing" else differing or ()
        about = [column for name, column in own.items() if name in names] or [own["tax_code"]]
        index = about[0].index
        words = {"row": because, "columns": ", ".join(column.heading for column in about)}
        problems.append(
            Problem(
                row_no,
                kind,
                about[0].heading,
                shown(cells[index] if index < len(cells) else ""),
                verdict,
                vi.format(**words),
                en.format(**words),
                [cell_text(cell) for cell in cells],
            )
        )
        if len(problems) >= _CHUNK:
            copy_problems(driver, audience_id, problems)
            problems = []
    copy_problems(driver, audience_id, problems)


def _totals(connection: Connection, audience_id: int, template: Template) -> dict[str, int]:
    """Return the sum of every amount of the whole mail, the control total first."""
    names = [field.name for field in template.fields if field.type == "money"]
    names.sort(key=lambda name: name != template.control_total)
    if not names:
        return {}
    # The names are those of the template's fields, which are letters, digits and underscores (`catalogue`).
    sums = ", ".join(f"coalesce(sum((data->>'{name}')::numeric), 0)" for name in names)
    found = connection.execute(
        text(f"SELECT {sums} FROM recipient WHERE audience_id = :id"), {"id": audience_id}
    ).one()
    return {name: int(amount) for name, amount in zip(names, found, strict=True)}
