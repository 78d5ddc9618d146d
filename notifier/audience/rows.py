"""A table's rows, checked one by one: each becomes a member of the audience or a rejection that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import chain
from typing import Any

from notifier.audience import fields
from notifier.audience.columns import Column, Columns, check, match
from notifier.audience.fields import CellError
from notifier.audience.tables import Table
from notifier.errors import TableError
from notifier.rendering.catalogue import Field, Template


@dataclass(slots=True)
class Problem:
    """A row that was rejected, or accepted with a warning. `value` is masked; `cells` are the row as it came.

    `tax_code` is that of a rejected row whose code could be read: its mail would lack what the row says.
    """

    row_no: int
    kind: str
    column: str
    value: str
    code: str
    vi: str
    en: str
    cells: list[str]
    tax_code: str | None = None


@dataclass(slots=True)
class Member:
    """A good row: `header` holds what belongs to the whole mail (with name, email, language), `line` one line of it or None.

    `lacking` names the first field that a mail needs and this row leaves blank; only a later row of a mail may do so.
    """

    row_no: int
    tax_code: str
    header: dict[str, Any]
    emails: list[str]
    line: dict[str, Any] | None
    lacking: str | None = None
    warnings: list[Problem] = field(default_factory=list)


def find_columns(
    template: Template, tables: Iterable[Table]
) -> tuple[Columns, Iterator[tuple[int, Sequence[Any]]], int | None]:
    """Return the columns of the first table that has them, its rows after the headings, and how many those are at most, if known.

    Titles may stand above the headings: of the first rows, the one that names most columns is taken. Raise TableError.
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
        # Headings with a doubled column are headings, too; `match` names the double when they are chosen.
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
        # Only where several rows make one mail may a row leave to another what belongs to the whole mail.
        self._may_lack = bool(template.lines)

    def read(self, row_no: int, cells: Sequence[Any]) -> Member | Problem:
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
            for column, index, key, kind, parse in self._header:
                if (value := parse(cells[index], kind)) is not None:
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
            for column, index, key, kind, parse in self._lines:
                if (value := parse(cells[index], kind)) is not None:
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
            problem = self._problem(row_no, column, cells[column.index], error, cells, "rejected")
            problem.tax_code = code
            return problem
        member = Member(row_no, code, header, emails, line or None, lacking)
        if bad:
            member.warnings = [
                self._problem(row_no, self._email, part, error, cells, "warning")
                for part, error in bad
            ]
        return member

    def _problem(
        self,
        row_no: int,
        column: Column,
        value: Any,
        error: CellError,
        cells: Sequence[Any],
        kind: str,
    ) -> Problem:
        return Problem(
            row_no,
            kind,
            column.heading,
            shown(value),
            error.code,
            error.vi,
            error.en,
            [cell_text(cell) for cell in cells],
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
