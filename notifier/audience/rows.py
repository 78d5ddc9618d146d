"""A table's rows, checked one by one: each becomes a member of the audience or a rejection that says what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import orjson

from notifier.audience import fields
from notifier.audience.columns import Column, Columns, check, match
from notifier.audience.fields import CellError
from notifier.audience.tables import HEADER_ROWS, Table
from notifier.errors import TableError
from notifier.rendering.catalogue import Template


@dataclass(slots=True)
class Problem:
    """A row that was rejected, or accepted with a warning. `value` is masked; `cells` are the row as it came."""

    row_no: int
    kind: str
    column: str
    value: str
    code: str
    vi: str
    en: str
    cells: list[str]


@dataclass(slots=True)
class Member:
    """A good row: `header` holds what belongs to the whole mail (with name, email, language), `line` one line of it or None."""

    row_no: int
    tax_code: str
    header: dict[str, Any]
    emails: list[str]
    line: dict[str, Any] | None
    warnings: list[Problem] = field(default_factory=list)

    def fingerprint(self) -> int:
        """Return the same 63-bit number for the same content."""
        content = orjson.dumps([self.header, self.line], option=orjson.OPT_SORT_KEYS)
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def find_columns(template: Template, tables: Sequence[Table]) -> tuple[Columns, Iterator[tuple[int, Sequence[Any]]], int | None]:
    """Return the columns of the first table that has them, its rows after the headings, and how many rows it has if that is known.

    Titles may stand above the headings: of the first rows, the one that names most columns is taken. Raise TableError.
    """
    first_error: TableError | None = None
    for table in tables:
        head: list[tuple[int, Sequence[Any]]] = []
        for row in table.rows:
            head.append(row)
            if len(head) >= HEADER_ROWS:
                break
        if not head:
            continue
        try:
            best = max(range(len(head)), key=lambda at: _known(template, head[at]))
            columns = match(template, *head[best])
            check(template, columns)
        except TableError as error:
            first_error = first_error or error
            continue
        return columns, _chain(head[best + 1 :], table.rows), table.total
    raise first_error or TableError("The list is empty.", fix="Export it again.")


def _known(template: Template, row: tuple[int, Sequence[Any]]) -> int:
    try:
        return len(match(template, *row).used)
    except TableError:
        # Headings with a doubled column are headings, too; `match` names the double when they are chosen.
        return len(row[1])


def _chain(
    first: list[tuple[int, Sequence[Any]]], rest: Iterator[tuple[int, Sequence[Any]]]
) -> Iterator[tuple[int, Sequence[Any]]]:
    yield from first
    yield from rest


def cell_text(value: Any) -> str:
    """Return a cell as it is shown in a report."""
    if isinstance(value, datetime) and (value.hour or value.minute or value.second):
        return value.isoformat(sep=" ")
    if isinstance(value, (datetime, date)):
        return f"{value:%d/%m/%Y}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


class RowReader:
    """Reads the rows of one table."""

    def __init__(self, template: Template, columns: Columns) -> None:
        """Prepare the parsers of the columns in use."""
        self._columns = {column.field.name: column for column in columns.used if not column.line}
        standard = {"tax_code", "name", "email", "language"}
        self._header = [column for column in columns.used if not column.line and column.field.name not in standard]
        self._lines = [column for column in columns.used if column.line]
        self._width = len(columns.headings)

    def read(self, row_no: int, cells: Sequence[Any]) -> Member | Problem:
        """Check a row; the first thing wrong with it rejects it."""
        column = self._columns["tax_code"]
        try:
            code = fields.tax_code(self._cell(cells, column))
            column = self._columns["email"]
            emails, bad = fields.addresses(self._cell(cells, column))
            if not emails:
                raise bad[0][1]
            column = self._columns["name"]
            name = fields.text(self._cell(cells, column), column.field)
            if name is None:
                raise CellError("name-missing", "Thiếu tên người nộp thuế. Hãy điền vào.", "The name is missing. Fill it in.")
            header: dict[str, Any] = {"name": name, "email": ";".join(sorted(each.lower() for each in emails))}
            if "language" in self._columns:
                header["language"] = fields.language(self._cell(cells, self._columns["language"]))
            for column in self._header:
                value = fields.PARSERS[column.field.type](self._cell(cells, column), column.field)
                if value is not None:
                    header[column.field.name] = value
            line = {}
            for column in self._lines:
                value = fields.PARSERS[column.field.type](self._cell(cells, column), column.field)
                if value is not None:
                    line[column.field.name] = value
            # A field that lacks in one line only: said only when the line has anything at all.
            for column in self._lines:
                if line and column.field.required and column.field.name not in line:
                    raise CellError("missing", "Ô này bắt buộc nhưng đang trống.", "This cell is required and empty.")
        except CellError as error:
            return self._problem(row_no, column, self._cell(cells, column), error, cells, "rejected")
        member = Member(row_no, code, header, emails, line or None)
        if bad:
            column = self._columns["email"]
            member.warnings = [self._problem(row_no, column, part, error, cells, "warning") for part, error in bad]
        return member

    def missing(self, member: Member, cells: Sequence[Any]) -> Problem | None:
        """Return what lacks in a row that begins a mail (a later row of the same mail may leave it blank)."""
        for column in self._header:
            if column.field.required and column.field.scope == "recipient" and column.field.name not in member.header:
                error = CellError("missing", "Ô này bắt buộc nhưng đang trống.", "This cell is required and empty.")
                return self._problem(member.row_no, column, "", error, cells, "rejected")
        return None

    def _cell(self, cells: Sequence[Any], column: Column) -> Any:
        return cells[column.index] if column.index < len(cells) else None

    def _problem(self, row_no: int, column: Column, value: Any, error: CellError, cells: Sequence[Any], kind: str) -> Problem:
        shown = fields.masked(cell_text(value))[:200]
        return Problem(row_no, kind, column.heading, shown, error.code, error.vi, error.en, [cell_text(cell) for cell in cells])
