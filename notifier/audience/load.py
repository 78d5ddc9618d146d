"""A list into the database: checked in a stream, staged with COPY, grouped in SQL; all or nothing.

Accepted + rejected + merged = rows read, always: a row is accepted when it begins a mail, merged
when it adds a line to one or repeats another row, else rejected with the reason. Where several rows
make one mail, one that is rejected holds back the others.

What is here makes and reads temporary tables only. The statements that fill tables stand with their
owners in `domain/`, and read three of the temporary ones: `staged` has a row for each row that was
read well, `grouped` what became of each (`head_row` is the row that begins its mail), `reached` the
addresses of each mail, in the order of its cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

import orjson
import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.audience.rows import Member, Rejection, RowReader, cell_text, find_columns, shown
from notifier.audience.sources import ListSource
from notifier.domain import addresses, audiences, recipients, taxpayers
from notifier.domain.audiences import Audience, Kind, Problem
from notifier.errors import TableError
from notifier.rendering.catalogue import Template

ProgressCallback = Callable[[int, int | None], None]

ROWS_IN_MEMORY = 2_000
"""Rows held in memory at once while a list loads: each such portion is one COPY.

So memory stays flat, however long the list is. A spreadsheet's rows come from the process that
unpacks it in parcels of their own (`_PARCEL_ROWS` in `unpack.py`), a text's one by one.
"""

# Stands for NULL in COPY; no cell holds a control character.
_NULL = "\x1f"
# From so many new rows on, the planner needs to be given their number.
_MANY = 20_000

_STAGE = """
CREATE TEMP TABLE staged (
    row_no integer, tax_code text, lacking text, head_hash bigint, line_hash bigint,
    name text, language text, emails text, data text, line text) ON COMMIT DROP
"""

# Rows that were rejected one by one, though it is known whose they are.
_BROKEN = "CREATE TEMP TABLE broken (tax_code text, row_no integer) ON COMMIT DROP"

# What a row says of its whole mail, to compare two rows; `row` stands for an alias of `staged`.
# Blank cells say nothing.
_SAID = """
(row.data::jsonb || jsonb_strip_nulls(jsonb_build_object(
    'name', row.name, 'language', row.language,
    'email', (SELECT string_agg(lower(e), ';' ORDER BY lower(e))
                FROM unnest(string_to_array(row.emails, ' ')) AS e))))
"""
_HEAD_SAID, _LATER_SAID = (_SAID.strip().replace("row.", f"{row}.") for row in ("head", "later"))

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
 WHERE NOT r.agrees AND NOT r.headless
   AND head.row_no = r.head_row AND later.row_no = r.row_no
   AND {_HEAD_SAID} @> {_LATER_SAID}
"""

# A row that agrees with the first adds its line, or is merged when it has none or a line that is
# there already; one that does not agree would change what somebody is notified of, and is rejected.
# A mail of several rows is sent whole or not at all: a notice whose annex lacks a line is a wrong
# notice. `because` is the row that a verdict is due to.
_GROUP = """
CREATE TEMP TABLE grouped ON COMMIT DROP AS
WITH judged AS (
    SELECT row_no, tax_code, head_row, lacking,
           CASE WHEN headless THEN 'missing'
                WHEN place = 1 THEN 'accepted'
                WHEN NOT agrees THEN 'differs'
                WHEN line_hash IS NULL
                  OR row_number() OVER (PARTITION BY head_row, agrees, line_hash
                                        ORDER BY place) > 1 THEN 'repeated'
                ELSE 'line' END AS verdict
      FROM ranked),
spoilt AS (
    SELECT tax_code, min(row_no) AS row_no
      FROM (SELECT tax_code, row_no FROM broken
            UNION ALL SELECT tax_code, row_no FROM judged WHERE verdict = 'differs') each
     WHERE :with_lines GROUP BY tax_code),
held AS (
    SELECT j.*, s.row_no AS spoilt_by,
           s.tax_code IS NOT NULL AND verdict IN ('accepted', 'line', 'repeated') AS incomplete
      FROM judged j LEFT JOIN spoilt s USING (tax_code))
SELECT row_no, head_row, lacking,
       CASE WHEN incomplete THEN 'incomplete' ELSE verdict END AS verdict,
       CASE WHEN incomplete THEN spoilt_by ELSE head_row END AS because
  FROM held
"""

# The rows to be reported, with the fields in which they differ from the first row of their mail, in
# the order of the list.
_REPORTED = f"""
SELECT g.row_no, g.verdict, g.because, g.lacking, CASE WHEN g.verdict = 'differs' THEN
       ARRAY(SELECT DISTINCT key FROM jsonb_object_keys({_HEAD_SAID} || {_LATER_SAID}) AS key
              WHERE ({_LATER_SAID})->key IS DISTINCT FROM ({_HEAD_SAID})->key
                AND (NOT :with_lines OR ({_LATER_SAID})->key IS NOT NULL)) END AS fields
  FROM grouped g
  JOIN staged head ON head.row_no = g.head_row
  JOIN staged later ON later.row_no = g.row_no
 WHERE g.verdict IN ('missing', 'differs', 'repeated', 'incomplete') ORDER BY g.row_no
"""

_REACHED = """
CREATE TEMP TABLE reached ON COMMIT DROP AS
SELECT s.row_no, e.place, e.email, lower(e.email) AS key
  FROM staged s JOIN grouped g USING (row_no)
  CROSS JOIN LATERAL string_to_table(s.emails, ' ') WITH ORDINALITY AS e (email, place)
 WHERE g.verdict = 'accepted'
"""


class _Finding(NamedTuple):
    """What is reported of a row that the grouping did not accept: its kind and two sentences."""

    kind: Kind
    vi: str
    en: str


_FINDINGS = {
    "missing": _Finding(
        kind="rejected",
        vi="Ô này bắt buộc nhưng đang trống, và không dòng nào khác của mã số thuế này điền đủ. "
        "Hãy điền vào.",
        en="This cell is required and empty, and no other row of this tax code fills it. "
        "Fill it in.",
    ),
    "differs": _Finding(
        kind="rejected",
        vi="Khác với dòng {row} của cùng mã số thuế ({columns}). "
        "Hãy sửa cho giống nhau, hoặc bỏ dòng sai.",
        en="It differs from row {row} of the same tax code ({columns}). "
        "Make both say the same, or remove the wrong one.",
    ),
    "incomplete": _Finding(
        kind="rejected",
        vi="Dòng {row} của cùng mã số thuế bị loại, nên thư sẽ thiếu số liệu và không được gửi. "
        "Hãy sửa hoặc bỏ dòng đó.",
        en="Row {row} of the same tax code was rejected, so the mail would be incomplete and is "
        "not sent. Mend or remove that row.",
    ),
    "repeated": _Finding(
        kind="merged",
        vi="Lặp lại nội dung đã có từ dòng {row} của cùng mã số thuế; chỉ tính một lần.",
        en="It repeats what the rows of the same tax code from row {row} on say; it counts once.",
    ),
}


def load(
    session: Session,
    source: ListSource,
    template: Template,
    *,
    now: datetime,
    progress: ProgressCallback | None = None,
) -> Audience:
    """Load a list for `template` within the caller's transaction.

    `progress(rows, total or None)` is called now and then. Memory stays flat, however long the list
    is. Raise TableError when it is no such list; the caller rolls back then.
    """
    columns, rows, total = find_columns(template, source.tables())
    audience = audiences.begin(
        session,
        name=source.name,
        sha256=source.sha256,
        template=template,
        header=columns.headings,
        unused_columns=columns.unused,
        now=now,
    )
    _prepare(session)
    loader = _Loader(session, audience.id, RowReader(template, columns))
    loader.run(rows, total, progress)
    verdicts = _group(session, with_lines=bool(template.lines))
    if verdicts.keys() & _FINDINGS.keys():
        _explain(session, audience.id, source, template)
    audience.rows_read = loader.read
    audience.accepted = verdicts.get("accepted", 0)
    audience.rejected = loader.rejected + sum(
        verdicts.get(each, 0) for each in ("missing", "differs", "incomplete")
    )
    audience.merged = verdicts.get("line", 0) + verdicts.get("repeated", 0)
    if audience.accepted + audience.rejected + audience.merged != audience.rows_read:
        raise TableError(
            f"{source.name}: the rows do not add up; nothing was loaded.",
            fix="Report this with the file.",
        )
    _keep(session, audience, now)
    audience.totals = recipients.sums(session, audience.id, _amounts(template))
    session.flush()
    return audience


def _prepare(session: Session) -> None:
    """Make the empty temporary tables; those of an earlier list in this transaction go."""
    # The planner needs to know how many rows there are, not how their values are spread: a small
    # sample will do.
    session.execute(text("SET LOCAL work_mem = '64MB'; SET LOCAL default_statistics_target = 10"))
    session.execute(
        text(
            "DROP TABLE IF EXISTS pg_temp.staged, pg_temp.broken, pg_temp.ranked, "
            "pg_temp.grouped, pg_temp.reached"
        )
    )
    session.execute(text(_STAGE))
    session.execute(text(_BROKEN))


def _group(session: Session, *, with_lines: bool) -> dict[str, int]:
    """Say of every staged row what becomes of it; return how many rows met each fate."""
    session.execute(text("ANALYZE staged"))
    session.execute(text(_RANK))
    if with_lines and session.scalar(text("SELECT EXISTS (SELECT FROM ranked WHERE NOT agrees)")):
        session.execute(text(_AGREE))
    session.execute(text(_GROUP), {"with_lines": with_lines})
    session.execute(text("ANALYZE grouped"))
    fates = session.execute(
        text("SELECT verdict, count(*) AS number FROM grouped GROUP BY verdict")
    )
    return {each.verdict: each.number for each in fates}


def _keep(session: Session, audience: Audience, now: datetime) -> None:
    """Make recipients of the accepted rows, and bring the register of taxpayers up to date."""
    many = audience.accepted > _MANY
    session.execute(text(_REACHED))
    session.execute(text("ANALYZE reached"))
    addresses.add_of_list(session)
    _analyze(session, "address", many=many)
    recipients.add_of_list(session, audience.id)
    _analyze(session, "recipient", many=many)
    taxpayers.update_of_list(session, audience.id, now)
    _analyze(session, "taxpayer", many=many)
    taxpayers.remember_addresses(session, audience.id, now)


def _analyze(
    session: Session, table: Literal["address", "recipient", "taxpayer"], *, many: bool
) -> None:
    if many:
        # The planner does not know of the many new rows yet.
        session.execute(text(f"ANALYZE {table}"))


def _amounts(template: Template) -> list[str]:
    """Return the names of the amounts of the whole mail, the control total first."""
    names = [field.name for field in template.fields if field.type == "money"]
    return sorted(names, key=lambda name: name != template.control_total)


class _Loader:
    """Streams rows into the staging tables and problems into the report, a portion at a time."""

    def __init__(self, session: Session, audience_id: int, reader: RowReader) -> None:
        self.read = 0
        self.rejected = 0
        self._session = session
        driver = session.connection().connection.driver_connection
        self._driver = cast("psycopg.Connection[Any]", driver)
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
            broken: list[tuple[str, int]] = []
            before = self.read
            # Each row is a line of text before the next is read: thousands of living cells would be
            # walked by the garbage collector.
            for row_no, cells in islice(rows, ROWS_IN_MEMORY):
                self.read += 1
                found = self._reader.read(row_no, cells)
                if isinstance(found, Rejection):
                    self.rejected += 1
                    problems.append(found.problem)
                    if found.tax_code is not None:
                        broken.append((found.tax_code, row_no))
                else:
                    problems += found.warnings
                    staged.append(_staged(found))
            if self.read == before:
                return
            with self._driver.cursor() as cursor:
                with cursor.copy(_COPY_STAGED) as copy:
                    copy.write("".join(staged))
                if broken:
                    with cursor.copy(_COPY_BROKEN) as copy:
                        for row in broken:
                            copy.write_row(row)
            audiences.add_problems(self._session, self._audience_id, problems)
            if progress:
                progress(self.read, total)


_COPY_STAGED = f"""
COPY staged (row_no, tax_code, lacking, head_hash, line_hash, name, language, emails, data, line)
FROM STDIN WITH (NULL '{_NULL}')
"""
_COPY_BROKEN = "COPY broken (tax_code, row_no) FROM STDIN"


def _staged(member: Member) -> str:
    """Return a row of COPY's text format.

    No cell holds a control character (`fields.as_text`), so only backslashes are escaped.
    """
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
        f"{member.row_no}\t{member.tax_code}\t{member.lacking or _NULL}\t{head_hash}\t"
        f"{_NULL if line is None else _hash(line)}\t{name}\t{language}\t{' '.join(member.emails)}\t"
        f"{data.decode()}\t{_NULL if line is None else line.decode()}\n"
    )
    return row.replace("\\", "\\\\") if "\\" in row else row


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)


def _explain(session: Session, audience_id: int, source: ListSource, template: Template) -> None:
    """Report the rows that the grouping rejected, or merged as repeats.

    Their cells are read from the source again, which is bounded: once more, in a stream, up to the
    last such row, and only when there is one. To stage the cells of every row instead would cost
    every list what few need.
    """
    columns, rows, _ = find_columns(template, source.tables())
    own = {column.field.name: column for column in columns.used if not column.line}
    problems: list[Problem] = []
    reported = session.execute(
        text(_REPORTED),
        {"with_lines": bool(template.lines)},
        execution_options={"yield_per": ROWS_IN_MEMORY},
    )
    # Both are in the order of the list.
    for row in reported:
        cells = next((cells for number, cells in rows if number == row.row_no), None)
        if cells is None:
            raise TableError(f"{source.name} was changed while it was read.", fix="Load it again.")
        finding = _FINDINGS[row.verdict]
        names = [row.lacking] if row.verdict == "missing" else row.fields or ()
        about = [column for name, column in own.items() if name in names] or [own["tax_code"]]
        index = about[0].index
        words = {"row": row.because, "columns": ", ".join(column.heading for column in about)}
        problems.append(
            Problem(
                row_no=row.row_no,
                kind=finding.kind,
                column=about[0].heading,
                value=shown(cells[index] if index < len(cells) else ""),
                code=row.verdict,
                vi=finding.vi.format(**words),
                en=finding.en.format(**words),
                cells=[cell_text(cell) for cell in cells],
            )
        )
        if len(problems) >= ROWS_IN_MEMORY:
            audiences.add_problems(session, audience_id, problems)
            problems = []
    audiences.add_problems(session, audience_id, problems)
