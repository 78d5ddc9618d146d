"""A table's rows, checked one by one.

Each becomes a member of the audience, or a rejection that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from typing import Any

from notifier.audience import fields
from notifier.audience.columns import Column, Columns, check, match
from notifier.audience.fields import CellError
from notifier.audience.tables import Table
from notifier.domain.audiences import Kind, Problem
from notifier.errors import TableError
from notifier.rendering.catalogue import Field, Template


@dataclass(slots=True)
class Rejection:
    """A row that was rejected.

    `tax_code` is given where it could be read: its mail would lack what the row says.
    """

    problem: Problem
    tax_code: str | None


@dataclass(slots=True)
class Member:
    """A good row: `header` holds what belongs to the whole mail, `line` one line of it or None.

    The name, the addresses and the language are part of the header. `lacking` names the first field
    that a mail needs and this row leaves blank; only a later row of a mail may do so.
    """

    row_no: int
    tax_code: str
    header: dict[str, Any]
    emails: list[str]
    line: dict[str, Any] | None
    lacking: str | None
    warnings: list[Problem]


def find_columns(
    template: Template, tables: Iterable[Table]
) -> tuple[Columns, Iterator[tuple[int, Sequence[Any]]], int | None]:
    """Return the columns of the first table that has them, and its rows after the headings.

    And how many those are at most, if known. Titles may stand above the headings: of the first
    rows, the one that names most columns is taken. Raise TableError.
    """
    errors: list[tuple[int, TableError]] = []
    for table in tables:
        if not table.head:
            continue
        counts = [_known(template, row) for row in table.head]
        best = counts.index(max(counts))
        try:
            columns = match(template, *table.head[best])
            check(template, columns)
        except TableError as error:
            errors.append((counts[best], error))
            continue
        left = None if table.total is None else table.total - columns.header_row
        return columns, chain(table.head[best + 1 :], table.rest), left
    if errors:
        # The sheet that comes closest is the one that was meant; the first of several.
        raise max(errors, key=lambda each: each[0])[1]
    raise TableError("The list is empty.", fix="Export it again.")


def _known(template: Template, row: tuple[int, Sequence[Any]]) -> int:
    try:
        return len(match(template, *row).used)
    except TableError:
        # Headings with a doubled column are headings, too; `match` names the double when they are
        # chosen.
        return len(row[1])


def cell_text(value: Any) -> str:
    """Return a cell as it is shown in a report."""
    if isinstance(value, datetime) and (value.hour or value.minute or value.second):
        return value.isoformat(sep=" ")
    if isinstance(value, (datetime, date)):
        return f"{value:%d/%m/%Y}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


_STANDARD = ("tax_code", "email", "name")

# How one cell becomes a value. A plain tuple, for it is unpacked for every cell of a list.
_Step = tuple[Column, int, str, Field, Callable[[Any, Field], Any]]


class RowReader:
    """Reads the rows of one table."""

    def __init__(self, template: Template, columns: Columns) -> None:
        """Prepare the parsers of the columns in use."""
        own = {column.field.name: column for column in columns.used if not column.line}
        self._tax_code, self._email, self._name = own["tax_code"], own["email"], own["name"]
        self._header = [_step(column) for name, column in own.items() if name not in _STANDARD]
        self._lines = [_step(column) for column in columns.used if column.line]
        self._needed = [
            (self._name.field.name, self._name),
            (self._email.field.name, self._email),
            *(
                (key, column)
                for column, _, key, kind, _ in self._header
                if kind.required and kind.scope == "recipient"
            ),
        ]
        self._width = len(columns.headings)
        # Only where several rows make one mail may a row leave to another what belongs to the
        # whole mail.
        self._may_lack = bool(template.lines)

    def read(self, row_no: int, cells: Sequence[Any]) -> Member | Rejection:
        """Check a row; the first thing wrong with it rejects it."""
        if len(cells) < self._width:
            cells = [*cells, *[""] * (self._width - len(cells))]
        column = self._tax_code
        header: dict[str, Any] = {}
        line: dict[str, Any] = {}
        emails: list[str] = []
        bad: list[tuple[str, CellError]] = []
        lacking = code = None
        try:
            code = fields.tax_code(cells[column.index])
            column = self._email
            if not self._may_lack or fields.as_text(cells[column.index]):
                emails, bad = fields.addresses(cells[column.index])
                if not emails:
                    raise bad[0][1]
                header["email"] = (
                    emails[0].lower()
                    if len(emails) == 1
                    else ";".join(sorted(each.lower() for each in emails))
                )
            column = self._name
            if (name := fields.text(cells[column.index], column.field)) is not None:
                header["name"] = name
            for column, place, key, kind, parse in self._header:
                if (value := parse(cells[place], kind)) is not None:
                    header[key] = value
            for key, column in self._needed:
                if key not in header:
                    if not self._may_lack:
                        raise CellError(
                            "missing",
                            "Ô này bắt buộc nhưng đang trống.",
                            "This cell is required and empty.",
                        )
                    lacking = key
                    break
            for column, place, key, kind, parse in self._lines:
                if (value := parse(cells[place], kind)) is not None:
                    line[key] = value
            if line:
                for column, _, key, kind, _ in self._lines:
                    if kind.required and key not in line:
                        raise CellError(
                            "missing",
                            "Ô này bắt buộc nhưng đang trống.",
                            "This cell is required and empty.",
                        )
        except CellError as error:
            problem = _problem(row_no, cells, column, cells[column.index], error, kind="rejected")
            return Rejection(problem=problem, tax_code=code)
        return Member(
            row_no=row_no,
            tax_code=code,
            header=header,
            emails=emails,
            line=line or None,
            lacking=lacking,
            warnings=self._warnings(row_no, cells, bad) if bad else [],
        )

    def _warnings(
        self, row_no: int, cells: Sequence[Any], bad: list[tuple[str, CellError]]
    ) -> list[Problem]:
        return [
            _problem(row_no, cells, self._email, part, error, kind="warning") for part, error in bad
        ]


def _problem(
    row_no: int,
    cells: Sequence[Any],
    column: Column,
    value: Any,
    error: CellError,
    *,
    kind: Kind,
) -> Problem:
    return Problem(
        row_no=row_no,
        kind=kind,
        column=column.heading,
        value=shown(value),
        code=error.code,
        vi=error.vi,
        en=error.en,
        cells=[cell_text(cell) for cell in cells],
    )


def _step(column: Column) -> _Step:
    parse = (
        _language
        if column.field.name == "language" and not column.line
        else fields.PARSERS[column.field.type]
    )
    return column, column.index, column.field.name, column.field, parse


def _language(value: Any, _: Field) -> str | None:
    # A blank cell says nothing: the mail's first row, or in the end Vietnamese, decides.
    return fields.language(value) if fields.as_text(value) else None


def shown(value: Any) -> str:
    """Return a cell as it may stand beside a sentence: personal numbers masked, never long."""
    return fields.masked(cell_text(value))[:200]
