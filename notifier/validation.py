"""What pydantic finds wrong with a file or a setting, as the one sentence that a person needs.

A key says beside its type what its value is when it is not what it should be (`Otherwise`); where
it says nothing, pydantic's kind of error does. Files are read strictly: no number is taken from a
text, and a key that nobody knows is an error, for a slip in a name would be silent otherwise.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from notifier.errors import NotifierError


@dataclass(frozen=True, slots=True)
class Otherwise:
    """Stands in `Annotated`: what is said of a value that is not of the type, after the key's name.

    `fix` says what to do; empty: "Correct it.", or "Correct or remove it." where there is a
    default.
    """

    words: str
    fix: str = ""


class Table(BaseModel):
    """A table of a TOML file, or a JSON object that says the same."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_by_name=True, validate_by_alias=True
    )


Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1),
    Otherwise("is empty or not a text.", 'Write it as "…".'),
]
TableType = TypeVar("TableType", bound=Table)

# The kinds of pydantic's errors that say enough by themselves.
_WORDS = {
    "missing": ("is missing.", "Add it."),
    "bool_type": ("is neither true nor false.", ""),
    "bool_parsing": ("is neither true nor false.", ""),
    "model_type": ("is not a table.", "Write it as [{key}]."),
    "dict_type": ("is not a table.", "Write it as [{key}]."),
}
_TABLES = {"model_type", "dict_type"}
_CHOICES = {"literal_error", "enum"}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong: the dotted `key` (empty: the whole), `words` to say of it, what to do."""

    key: str
    words: str
    fix: str


def wrong(words: str, fix: str) -> PydanticCustomError:
    """Return what a validator raises to say what is wrong with a key, or with a whole table."""
    return PydanticCustomError("wrong", "{words}", {"words": words, "fix": fix})


def first_problem(error: ValidationError, model: type[BaseModel]) -> Problem:
    """Return what to tell a person about `error`, which `model` raised.

    An unknown key comes before a missing one: it is mostly the missing one, misspelt.
    """
    found = error.errors(include_url=False, include_input=False)
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    key, table, field = _place(model, first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(_keys(table)))
        return Problem("", f"has the unknown key {key}.", f"Known are: {known}.")
    words, fix = _words(first, field)
    if not key and first["type"] in _TABLES:
        fix = "Correct it."
    if not fix:
        optional = field is not None and not field.is_required()
        fix = "Correct or remove it." if optional else "Correct it."
    return Problem(key, words, fix.replace("{key}", key))


def read(
    model: type[TableType], values: object, *, where: str, raises: type[NotifierError]
) -> TableType:
    """Return `values` as a `model`, or raise `raises` with a sentence that begins with `where`.

    `where` names the file or the table, such as `topics.toml` or `Topic service`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error, model)
    place = f"{where}: {problem.key}" if problem.key else where
    raise raises(f"{place} {problem.words}", fix=problem.fix)


def parse_toml(path: Path, *, where: str, raises: type[NotifierError], fix: str) -> dict[str, Any]:
    """Return what a TOML file (UTF-8, with or without a byte order mark) says.

    Raise `raises`, naming `where`.
    """
    return parse_toml_text(path, where=where, raises=raises, fix=fix)[0]


def parse_toml_text(
    path: Path, *, where: str, raises: type[NotifierError], fix: str
) -> tuple[dict[str, Any], str]:
    """Return what a TOML file says, and its text; raise as `parse_toml` does."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text), text
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise raises(f"{where} cannot be read: {reason.rstrip('.')}.", fix=fix) from error


def _words(error: ErrorDetails, field: FieldInfo | None) -> tuple[str, str]:
    kind = error["type"]
    if kind == "wrong":
        return str(error["ctx"]["words"]), str(error["ctx"]["fix"])
    words, fix = _WORDS.get(kind, ("cannot be used.", ""))
    if field is None or kind in _TABLES:
        return words, fix
    # The outermost says most: a key's own words stand around those of its type.
    for each in (*reversed(field.metadata), *_inner_metadata(field.annotation)):
        if isinstance(each, Otherwise):
            return words if kind == "missing" else each.words, each.fix or fix
    return _choice(field) if kind in _CHOICES else words, fix


def _inner_metadata(kind: Any) -> list[Any]:
    """Return what stands in `Annotated` inside a union, as in `Text | None`."""
    return [
        mark
        for each in get_args(kind)
        if get_origin(each) is Annotated
        for mark in each.__metadata__
    ]


def _choice(field: FieldInfo) -> str:
    kind = _plain(field.annotation)
    members = kind if isinstance(kind, type) and issubclass(kind, Enum) else get_args(kind)
    values = [str(each.value if isinstance(each, Enum) else each) for each in members]
    if len(values) == 2:  # noqa: PLR2004 - English has a word for two
        return f"is neither {values[0]} nor {values[1]}."
    return f"is not one of {', '.join(values)}."


def _place(
    model: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[str, type[BaseModel], FieldInfo | None]:
    """Follow an error's place through the tables: its dotted key, the table it is in, its field."""
    names: list[str] = []
    table, field = model, None
    kind: Any = model
    for step in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            table, field = kind, _keys(kind).get(str(step))
            kind = _plain(field.annotation) if field is not None else None
        elif get_origin(kind) is dict:
            field, kind = None, _plain(get_args(kind)[1])
        else:
            # An entry of a list: the list's own key says enough.
            break
        names.append(str(step))
    return ".".join(names), table, field


def _keys(table: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a table's fields by the keys that a file has for them."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def _plain(kind: Any) -> Any:
    """Return a type without `| None` and `Annotated`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    inner = [each for each in get_args(kind) if each is not NoneType]
    if NoneType in get_args(kind) and len(inner) == 1:
        return _plain(inner[0])
    return kind
