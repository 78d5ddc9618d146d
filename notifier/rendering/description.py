"""What an author says about a template: template.toml and example.json, read through models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

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
    SCOPES,
    Field,
    Problem,
    problems_in,
)
from notifier.rendering.folder import SHARED, Folder
from notifier.validation import Otherwise, Table, read, wrong

CONSTANT_NAMES = ("sender", "topic", "language", "verify_url", "public_url")
RECIPIENT_NAMES = ("name", "tax_code", "unsubscribe_url", "check_code", LINE_KEY)
MAX_TEXT_LENGTH = 32_000

_RESERVED = frozenset({*CONSTANT_NAMES, *RECIPIENT_NAMES, "email", "loop", "range"})
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_SHARED_FILE = re.compile(rf"{SHARED}/[a-z0-9-]+\.toml")
_MAX_SHOWN = 60


class _Words(Table):
    """One text a language."""

    vi: str | None = None
    en: str | None = None

    def lacking(self, languages: tuple[str, ...]) -> str | None:
        """Return the first language without a text."""
        return next((each for each in languages if not (getattr(self, each) or "").strip()), None)

    def texts(self) -> dict[str, str]:
        """Return them by language."""
        return self.model_dump(exclude_none=True)


class _FieldTable(Table):
    """One field of a mail, or of its lines."""

    type: Annotated[
        Literal["text", "money", "integer", "date", "datetime"],
        Otherwise(f"must be one of {', '.join(FIELD_TYPES)}."),
    ]
    label: Annotated[_Words, AfterValidator(lambda label: _in_every(label, LANGUAGES))]
    synonyms: Annotated[list[str], Otherwise("must be a list of texts.")] = Limits(
        default_factory=list
    )
    required: Annotated[bool, Otherwise("must be true or false.")] = False
    max_length: Annotated[
        int,
        Limits(ge=1, le=MAX_TEXT_LENGTH),
        Otherwise(f"must be a number from 1 to {MAX_TEXT_LENGTH}."),
    ] = DEFAULT_MAX_LENGTH
    scope: Annotated[
        Literal["recipient", "campaign"], Otherwise(f"must be {' or '.join(SCOPES)}.")
    ] = "recipient"
    minimum: Annotated[
        int | None,
        Limits(ge=-MAX_MONEY, le=MAX_MONEY),
        Otherwise("must be a whole number of at most 16 digits."),
    ] = None

    @field_validator("minimum")
    @classmethod
    def _of_numbers(cls, minimum: int | None, info: ValidationInfo) -> int | None:
        if minimum is not None and info.data.get("type") not in {"money", "integer"}:
            raise wrong("is for fields of type money or integer.", "Remove it.")
        return minimum

    def field(self, name: str) -> Field:
        """Return the field of that name."""
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


def _in_every(words: _Words, languages: tuple[str, ...]) -> _Words:
    if lacking := words.lacking(languages):
        raise wrong(f"has no text for '{lacking}'.", "Add it.")
    return words


def _named(tables: dict[str, _FieldTable], reserved: frozenset[str]) -> dict[str, _FieldTable]:
    for name in tables:
        if not _FIELD_NAME.fullmatch(name) or name in reserved:
            raise wrong(
                f"has the key {name[:_MAX_SHOWN]}, which cannot be the name of a field.",
                "It is reserved or not a name: choose another.",
            )
    return tables


class _Fields(Table):
    """The fields of a mail, in template.toml or in a file that several templates share."""

    fields: Annotated[
        dict[str, _FieldTable], AfterValidator(lambda tables: _named(tables, _RESERVED))
    ] = Limits(default_factory=dict)
    lines: Annotated[
        dict[str, _FieldTable], AfterValidator(lambda tables: _named(tables, frozenset()))
    ] = Limits(default_factory=dict)

    @field_validator("lines")
    @classmethod
    def _of_recipients(cls, lines: dict[str, _FieldTable]) -> dict[str, _FieldTable]:
        if wide := next((name for name, each in lines.items() if each.scope != "recipient"), None):
            raise wrong(
                f"has the field {wide} of scope campaign.", "A line is always a recipient's own."
            )
        return lines


def _both() -> list[Literal["vi", "en"]]:
    return ["vi", "en"]


class Description(_Fields):
    """template.toml: what a mail is about, and which fields it needs."""

    topic: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$"),
        Otherwise("is not a name.", "Name a topic of topics.toml."),
    ]
    languages: Annotated[
        list[Literal["vi", "en"]],
        Limits(min_length=1),
        Otherwise(f"must be a list of {' and '.join(LANGUAGES)}."),
    ] = Limits(default_factory=_both)
    title: _Words
    fields_from: Annotated[
        str | None,
        Limits(pattern=rf"^{SHARED}/[a-z0-9-]+\.toml$"),
        Otherwise(f'must be a file such as "{SHARED}/dossier-fields.toml".'),
    ] = None
    control_total: str | None = None

    @field_validator("title")
    @classmethod
    def _in_its_languages(cls, title: _Words, info: ValidationInfo) -> _Words:
        return _in_every(title, tuple(info.data.get("languages", ())))

    @field_validator("control_total")
    @classmethod
    def _of_money(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None or (
            name in (fields := info.data.get("fields", {})) and fields[name].type == "money"
        ):
            return name
        raise wrong("must name a money field.", "Correct or remove it.")


def describe(folder: Folder) -> Description:
    """Return template.toml; raise TemplateError that names the file and key at fault."""
    values = folder.toml("template.toml")
    path = values.get("fields_from")
    if isinstance(path, str) and _SHARED_FILE.fullmatch(path):
        shared = folder.toml(path)
        read(_Fields, shared, where=path, raises=TemplateError)
        values = _with_shared(values, shared)
    return read(Description, values, where=folder.shown("template.toml"), raises=TemplateError)


def _with_shared(values: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description with the shared fields first; its own keys replace the shared ones."""
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
    name = parts[-1].replace("~1", "/").replace("~0", "~")[:_MAX_SHOWN]
    if problem.code == "unknown":
        return TemplateError(f"{shown} has '{name}', which is no field of the template.")
    if problem.code == "missing":
        return TemplateError(f"{shown} lacks the required field '{name}'.")
    return TemplateError(f"{shown}: '{name}' is not of type {types[name]}.", fix=problem.en)
