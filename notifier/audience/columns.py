"""Which column is which field.

Found by name, label or synonym, in Vietnamese or English, with or without accents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from notifier.errors import TableError
from notifier.rendering.catalogue import STANDARD_FIELDS, Field, Template

_REMARK = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return a heading without accents, case, punctuation and spaces.

    đ is no letter with an accent and is mapped by hand.
    """
    spelled = unicodedata.normalize(
        "NFD", unicodedata.normalize("NFC", text).casefold().replace("đ", "d")
    )
    return "".join(char for char in spelled if char.isalnum() and not unicodedata.combining(char))


@dataclass(frozen=True, slots=True)
class Column:
    """A column in use: its place, its heading as in the file, and its field.

    `line`: it belongs to a line of the mail, not to the whole.
    """

    index: int
    heading: str
    field: Field
    line: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """How a table is read: the row of the headings, and the columns in use.

    `unused` are the headings of those that are not, `headings` all of them.
    """

    header_row: int
    used: tuple[Column, ...]
    unused: tuple[str, ...]
    headings: tuple[str, ...]


def _names(field: Field) -> Iterable[str]:
    return {plain(each) for each in (field.name, *field.label.values(), *field.synonyms)}


def _wanted(template: Template) -> dict[str, tuple[Field, bool]]:
    """Return every known heading; a field's own name and label go before another's synonym."""
    every = [(field, False) for field in (*STANDARD_FIELDS, *template.fields)] + [
        (field, True) for field in template.lines
    ]
    names: dict[str, tuple[Field, bool]] = {}
    for field, line in every:
        for name in (plain(field.name), *(plain(label) for label in field.label.values())):
            names.setdefault(name, (field, line))
    for field, line in every:
        for name in _names(field):
            names.setdefault(name, (field, line))
    return names


def match(template: Template, row_no: int, cells: Sequence[Any]) -> Columns:
    """Match a row of headings with the template's fields; columns may lack, see `check`.

    A remark in brackets, such as "Hạn nộp (dd/mm/yyyy)", is looked over when the heading is not
    known with it. Raise TableError for a doubled column.
    """
    wanted = _wanted(template)
    headings = tuple(
        " ".join(unicodedata.normalize("NFC", str(cell)).split()) if cell is not None else ""
        for cell in cells
    )
    found = {
        index: wanted[plain(heading)]
        for index, heading in enumerate(headings)
        if plain(heading) in wanted
    }
    exact = {(field.name, line) for field, line in found.values()}
    for index, heading in enumerate(headings):
        meant = _without_remarks(wanted, heading) if index not in found else None
        # "Tổng nợ" beside "Tổng nợ (USD)": the heading that is known as it stands is the one that
        # was meant.
        if meant is not None and (meant[0].name, meant[1]) not in exact:
            found[index] = meant
    used: list[Column] = []
    for index, (field, line) in sorted(found.items()):
        column = Column(index=index, heading=headings[index], field=field, line=line)
        if twin := next(
            (each for each in used if each.field.name == field.name and each.line == line), None
        ):
            raise TableError(
                f'The columns "{twin.heading}" ({letters(twin.index)}) and "{column.heading}" '
                f"({letters(index)}) both hold {field.label['en']} ({field.label['vi']}).",
                fix="Remove or rename one of them.",
            )
        used.append(column)
    unused = tuple(
        heading for index, heading in enumerate(headings) if heading and index not in found
    )
    return Columns(header_row=row_no, used=tuple(used), unused=unused, headings=headings)


def _without_remarks(
    wanted: dict[str, tuple[Field, bool]], heading: str
) -> tuple[Field, bool] | None:
    """Return what a heading means with its remarks looked over, the last one first.

    A label may end in a remark of its own: "Month of the notice (its first day) (required)".
    """
    while remarks := list(_REMARK.finditer(heading)):
        heading = heading[: remarks[-1].start()] + heading[remarks[-1].end() :]
        if (meant := wanted.get(plain(heading))) is not None:
            return meant
    return None


def letters(index: int) -> str:
    """Return the letters that a spreadsheet program shows above the column: 0 is A, 26 is AA."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def check(template: Template, columns: Columns) -> None:
    """Raise TableError that names the required columns that lack, and what was found instead."""
    present = {(column.field.name, column.line) for column in columns.used}
    required = [(field, False) for field in STANDARD_FIELDS if field.required]
    required += [
        (field, False) for field in template.fields if field.required and field.scope == "recipient"
    ]
    required += [(field, True) for field in template.lines if field.required]
    lacking = [field for field, line in required if (field.name, line) not in present]
    # A list without any column of the annex is a list of mails without annex.
    if not any(column.line for column in columns.used):
        lacking = [field for field in lacking if field not in template.lines]
    if lacking:
        names = ", ".join(f"{field.label['vi']} ({field.label['en']})" for field in lacking)
        found = ", ".join(heading for heading in columns.headings if heading)[:1000] or "nothing"
        raise TableError(
            f"The list has no column for: {names}.",
            fix=f"Found in row {columns.header_row}: {found}.",
        )
