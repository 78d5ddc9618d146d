"""Which column is which field: found by name, label or synonym, in Vietnamese or English, with or without accents."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from notifier.errors import TableError
from notifier.rendering.catalogue import STANDARD_FIELDS, Field, Template


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return a heading without accents, case, punctuation and spaces. đ is no letter with an accent and is mapped by hand."""
    spelled = unicodedata.normalize("NFD", unicodedata.normalize("NFC", text).casefold().replace("đ", "d"))
    return "".join(char for char in spelled if char.isalnum() and not unicodedata.combining(char))


@dataclass(frozen=True, slots=True)
class Column:
    """A column in use: its place, its heading as in the file, its field, and whether it belongs to a line of the mail."""

    index: int
    heading: str
    field: Field
    line: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """How a table is read: the row of the headings, the columns in use, and the headings of those that are not."""

    header_row: int
    used: tuple[Column, ...]
    unused: tuple[str, ...]
    headings: tuple[str, ...]


def _names(field: Field) -> Iterable[str]:
    return {plain(each) for each in (field.name, *field.label.values(), *field.synonyms)}


def _wanted(template: Template) -> dict[str, tuple[Field, bool]]:
    """Return every known heading; a field's own name and label go before another's synonym."""
    every = [(field, False) for field in (*STANDARD_FIELDS, *template.fields)] + [(field, True) for field in template.lines]
    names: dict[str, tuple[Field, bool]] = {}
    for field, line in every:
        for name in (plain(field.name), *(plain(label) for label in field.label.values())):
            names.setdefault(name, (field, line))
    for field, line in every:
        for name in _names(field):
            names.setdefault(name, (field, line))
    return names


def match(template: Template, row_no: int, cells: Sequence[Any]) -> Columns:
    """Match a row of headings with the template's fields; columns may lack, see `check`. Raise TableError for a doubled one."""
    wanted = _wanted(template)
    headings = tuple(str(cell).strip() if cell is not None else "" for cell in cells)
    used: list[Column] = []
    unused: list[str] = []
    for index, heading in enumerate(headings):
        found = wanted.get(plain(heading)) if heading else None
        if found is None:
            if heading:
                unused.append(heading)
            continue
        field, line = found
        if twin := next((column for column in used if column.field.name == field.name and column.line == line), None):
            raise TableError(
                f'The columns "{twin.heading}" and "{heading}" both hold {field.label["en"]} ({field.label["vi"]}).',
                fix="Remove or rename one of them.",
            )
        used.append(Column(index, heading, field, line))
    return Columns(row_no, tuple(used), tuple(unused), headings)


def check(template: Template, columns: Columns) -> None:
    """Raise TableError that names the required columns that lack, and what was found instead."""
    present = {(column.field.name, column.line) for column in columns.used}
    required = [(field, False) for field in STANDARD_FIELDS if field.required]
    required += [(field, False) for field in template.fields if field.required and field.scope == "recipient"]
    required += [(field, True) for field in template.lines if field.required]
    lacking = [field for field, line in required if (field.name, line) not in present]
    # A list without any column of the annex is a list of mails without annex.
    if not any(column.line for column in columns.used):
        lacking = [field for field in lacking if field not in template.lines]
    if lacking:
        names = ", ".join(f'{field.label["vi"]} ({field.label["en"]})' for field in lacking)
        found = ", ".join(heading for heading in columns.headings if heading)[:1000] or "nothing"
        raise TableError(f"The list has no column for: {names}.", fix=f"Found in row {columns.header_row}: {found}.")
