"""What an author says about a template: template.toml and example.json, read through models.

Pydantic finds what is wrong; the person reads one sentence that names the file and the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic import Field as Limits

from notifier.errors import TemplateError
from notifier.rendering.fields import (
    DEFAULT_MAX_LENGTH,
    FIELD_TYPES,
    LANGUAGES,
    LINE_KEY,
    MAX_MONEY,
    Field,
    Problem,
    problems_in,
)
from notifier.rendering.folder import SHARED, Folder

CONSTANT_NAMES = ("sender", "topic", "language", "verify_url", "public_url")
RECIPIENT_NAMES = ("name", "tax_code", "unsubscribe_url", "check_code", LINE_KEY)
MAX_TEXT_LENGTH = 32_000

_RESERVED = frozenset({*CONSTANT_NAMES, *RECIPIENT_NAMES, "email", "loop", "range"})
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_SHARED_FILE = re.compile(rf"{SHARED}/[a-z0-9-]+\.toml")


class _WrongError(ValueError):
    """What a check of ours found: the rest of the sentence about a place, below the checked one."""

    def __init__(self, words: str, below: str = "", fix: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.below = below
        self.fix = fix


def _field_name(name: str) -> str:
    if not _FIELD_NAME.fullmatch(name):
        raise _WrongError("cannot be the name of a field", fix="It is reserved or not a name.")
    return name


_Model = TypeVar("_Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Words(_Strict):
    vi: str | None = None
    en: str | None = None

    def lacking(self, languages: tuple[str, ...]) -> str | None:
        """Return the first language without a text."""
        return next((each for each in languages if not (getattr(self, each) or "").strip()), None)

    def texts(self) -> dict[str, str]:
        return self.model_dump(exclude_none=True)


class _FieldTable(_Strict):
    type: Literal["text", "money", "integer", "date", "datetime"]
    label: _Words
    synonyms: list[str] = []
    required: bool = False
    max_length: Annotated[int, Limits(ge=1, le=MAX_TEXT_LENGTH)] = DEFAULT_MAX_LENGTH
    scope: Literal["recipient", "campaign"] = "recipient"
    minimum: Annotated[int, Limits(ge=-MAX_MONEY, le=MAX_MONEY)] | None = None

    @field_validator("label")
    @classmethod
    def _in_each_language(cls, label: _Words) -> _Words:
        if lacking := label.lacking(LANGUAGES):
            raise _WrongError(f"has no text for '{lacking}'")
        return label

    @field_validator("minimum")
    @classmethod
    def _of_numbers(cls, minimum: int | None, info: ValidationInfo) -> int | None:
        if minimum is not None and info.data.get("type") not in {"money", "integer"}:
            raise _WrongError("is for fields of type money or integer")
        return minimum

    def field(self, name: str) -> Field:
        return Field(
            name=name,
            type=self.type,
            label=self.label.texts(),
            synonyms=tuple(self.synonyms),
            required=self.required,
            max_length=self.max_length,
            scope=self.scope,
            minimum=self.minimum,
        )


_Tables = dict[Annotated[str, AfterValidator(_field_name)], _FieldTable]


class _Fields(_Strict):
    """The fields of a mail, in template.toml or in a file that several templates share."""

    fields: _Tables = {}
    lines: _Tables = {}

    @field_validator("fields")
    @classmethod
    def _not_reserved(cls, fields: dict[str, _FieldTable]) -> dict[str, _FieldTable]:
        if reserved := next((name for name in fields if name in _RESERVED), None):
            raise _WrongError(
                "cannot be the name of a field", reserved, "It is reserved or not a name."
            )
        return fields

    @field_validator("lines")
    @classmethod
    def _of_recipients(cls, lines: dict[str, _FieldTable]) -> dict[str, _FieldTable]:
        if wide := next((name for name, each in lines.items() if each.scope != "recipient"), None):
            raise _WrongError(_WORDS["scope"], f"{wide}.scope")
        return lines


class Description(_Fields):
    """template.toml: what a mail is about, and which fields it needs."""

    topic: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    languages: Annotated[list[Literal["vi", "en"]], Limits(min_length=1)] = ["vi", "en"]
    title: _Words
    fields_from: str | None = None
    control_total: str | None = None

    @field_validator("title")
    @classmethod
    def _in_its_languages(cls, title: _Words, info: ValidationInfo) -> _Words:
        if lacking := title.lacking(tuple(info.data.get("languages", ()))):
            raise _WrongError(f"has no text for '{lacking}'")
        return title

    @field_validator("control_total")
    @classmethod
    def _of_money(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None or (
            name in (fields := info.data.get("fields", {})) and fields[name].type == "money"
        ):
            return name
        raise _WrongError(_WORDS["control_total"])


_WORDS = {
    "topic": "is missing or not a name",
    "languages": f"must be a list of {' and '.join(LANGUAGES)}",
    "title": f"needs a text for {' and '.join(LANGUAGES)}",
    "label": f"needs a text for {' and '.join(LANGUAGES)}",
    "fields": "must be a table of fields",
    "lines": "must be a table of fields",
    "fields_from": f'must be a file such as "{SHARED}/dossier-fields.toml"',
    "control_total": "must name a money field",
    "type": f"must be one of {', '.join(FIELD_TYPES)}",
    "scope": "must be recipient, or campaign for a field outside lines",
    "synonyms": "must be a list of texts",
    "required": "must be true or false",
    "max_length": f"must be a number from 1 to {MAX_TEXT_LENGTH}",
    "minimum": "must be a whole number of at most 16 digits",
}


def describe(folder: Folder) -> Description:
    """Return template.toml; raise TemplateError that names the file and key at fault."""
    shown = folder.shown("template.toml")
    values = folder.toml("template.toml")
    path = values.get("fields_from")
    if isinstance(path, str) and _SHARED_FILE.fullmatch(path):
        shared = folder.toml(path)
        _read(_Fields, shared, path)
        values = _with_shared(values, shared)
    elif path is not None:
        raise TemplateError(f"{shown}: 'fields_from' {_WORDS['fields_from']}.")
    return _read(Description, values, shown)


def _with_shared(values: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description with the shared fields first.

    A key of its own replaces the shared one.
    """
    merged = dict(values)
    for section in ("fields", "lines"):
        tables: dict[str, Any] = dict(shared.get(section, {}))
        own = values.get(section, {})
        if not isinstance(own, dict):
            continue
        for name, table in own.items():
            both = isinstance(table, dict) and name in tables
            tables[name] = {**tables[name], **table} if both else table
        merged[section] = tables
    return merged


def _read(model: type[_Model], values: Mapping[str, Any], shown: str) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(error.errors(include_url=False)[0], shown) from None


def _explained(error: Mapping[str, Any], shown: str) -> TemplateError:
    """Return the sentence for what pydantic found first."""
    path: list[str] = []
    for part in error["loc"]:
        if isinstance(part, int) or part == "[key]":
            break
        path.append(part[:60])
    place = ".".join(path)
    ours = error.get("ctx", {}).get("error")
    if isinstance(ours, _WrongError):
        below = f".{ours.below}" if ours.below else ""
        return TemplateError(f"{shown}: '{place}{below}' {ours.words}.", fix=ours.fix)
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(_known(path)))
        return TemplateError(f"{shown}: '{place}' is not known.", fix=f"Known are: {known}.")
    if path[-1] in LANGUAGES:
        return TemplateError(f"{shown}: '{place}' must be a text.")
    table = len(path) == len(("fields", "name")) and path[0] in {"fields", "lines"}
    return TemplateError(f"{shown}: '{place}' {'must be a table' if table else _WORDS[path[-1]]}.")


def _known(path: list[str]) -> Iterable[str]:
    """Return the keys that may stand beside the last one of a path."""
    if path[-2:-1] in (["title"], ["label"]):
        return LANGUAGES
    return (Description if len(path) == 1 else _FieldTable).model_fields


class _Example(BaseModel):
    """The part of example.json that is the same for all templates."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    tax_code: str
    email: str
    language: Literal["vi", "en"] | None = None


_JSON_OBJECT = TypeAdapter(dict[str, JsonValue])
_STANDARD = frozenset(_Example.model_fields)


def read_example(
    folder: Folder, fields: tuple[Field, ...], lines: tuple[Field, ...]
) -> dict[str, Any]:
    """Return example.json, checked against the fields; raise TemplateError naming what is wrong."""
    shown = folder.shown("example.json")
    try:
        example: dict[str, Any] = _JSON_OBJECT.validate_json(folder.text("example.json"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            why = first["ctx"]["error"]
            raise TemplateError(f"The file {shown} is not valid JSON: {why}.") from None
        raise TemplateError(f"The file {shown} does not hold an object.") from None
    try:
        _Example.model_validate(example)
    except ValidationError as error:
        key = error.errors(include_url=False)[0]["loc"][0]
        what = "'language' must be vi or en" if key == "language" else f"has no '{key}'"
        raise TemplateError(f"{shown} {what}.") from None
    data = {key: value for key, value in example.items() if key not in _STANDARD}
    for pointer, problem in problems_in(fields, lines, data):
        asked = lines if pointer.startswith(f"/{LINE_KEY}/") else fields
        raise _misfit(shown, pointer, problem, {each.name: each.type for each in asked})
    return example


def _misfit(shown: str, pointer: str, problem: Problem, types: Mapping[str, str]) -> TemplateError:
    """Return the sentence for the first value of an example that does not fit its template."""
    parts = pointer.split("/")[1:]
    if parts == [LINE_KEY]:
        return TemplateError(
            f"{shown}: 'lines' must be a list, and template.toml must describe its fields."
        )
    if parts[0] == LINE_KEY:
        shown = f"{shown}, line {int(parts[1]) + 1}"
        if len(parts) == len((LINE_KEY, "0")):
            return TemplateError(f"{shown} is not an object.")
    name = parts[-1].replace("~1", "/").replace("~0", "~")[:60]
    if problem.code == "unknown":
        return TemplateError(f"{shown} has '{name}', which is no field of the template.")
    if problem.code == "missing":
        return TemplateError(f"{shown} lacks the required field '{name}'.")
    return TemplateError(f"{shown}: '{name}' is not of type {types[name]}.", fix=problem.en)
