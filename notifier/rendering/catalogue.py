"""Templates as folders: read, checked, and frozen under the hash of their content.

`templates/<name>/` holds `template.toml` (what the mail is about and which fields it needs), `example.json` (one recipient) and per
language `subject.txt`, `body.txt`, `body.html`; `templates/_base/` holds what all mails share. docs/add-a-template.md is the guide.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError, meta

from notifier.errors import TemplateError
from notifier.rendering.assembly import flatten, inline_styles
from notifier.rendering.sandbox import Sandbox

LANGUAGES = ("vi", "en")
PARTS = ("subject.txt", "body.txt", "body.html")
FIELD_TYPES = ("text", "money", "integer", "date", "datetime")
SCOPES = ("recipient", "campaign")
LINE_KEY = "lines"
MAX_FILE_BYTES = 64 * 1024
DEFAULT_MAX_LENGTH = 500

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

CONSTANT_NAMES = ("sender", "topic", "language", "verify_url", "public_url")
RECIPIENT_NAMES = ("name", "tax_code", "unsubscribe_url", "check_code", LINE_KEY)
_RESERVED = frozenset({*CONSTANT_NAMES, *RECIPIENT_NAMES, "email", "loop", "range"})


@dataclass(frozen=True)
class Field:
    """One value of a mail, and how its column is found in a list.

    A "campaign" field has one value for the whole campaign (its `[data]`); a column of the list may still override it per recipient.
    `max_length` is in characters and applies to text.
    """

    name: str
    type: str
    label: Mapping[str, str]
    synonyms: tuple[str, ...] = ()
    required: bool = False
    max_length: int = DEFAULT_MAX_LENGTH
    scope: str = "recipient"


@dataclass(frozen=True)
class TopicInfo:
    """What a mail says about its topic. The texts are by language; a statutory topic cannot be opted out of."""

    code: str
    name: Mapping[str, str]
    statutory: bool
    legal_ground: Mapping[str, str]
    description: Mapping[str, str]


@dataclass(frozen=True)
class Template:
    """A template with all its texts; equal `version` means equal mails.

    `files` are the texts as their authors wrote them, by path ("vi/body.txt", "_base/layout.html"); `sources` are the texts that run,
    by language and part ("vi/body.html"), with parents, includes and styles in place.
    """

    name: str
    topic: str
    title: Mapping[str, str]
    languages: tuple[str, ...]
    fields: tuple[Field, ...]
    lines: tuple[Field, ...]
    control_total: str | None
    files: Mapping[str, str]
    sources: Mapping[str, str]
    example: Mapping[str, Any]
    version: str
    line_key: str = field(default=LINE_KEY)


STANDARD_FIELDS: tuple[Field, ...] = (
    Field(
        name="tax_code",
        type="text",
        label={"vi": "Mã số thuế", "en": "Tax code"},
        synonyms=(
            "mã số thuế",
            "mst",
            "ma_so_thue",
            "mã số doanh nghiệp",
            "mã số thuế (mst)",
            "mã số nnt",
            "mã nnt",
            "mã số định danh",
            "tax code",
            "tax id",
            "tax identification number",
            "tin",
            "tax number",
        ),
        required=True,
        max_length=14,
    ),
    Field(
        name="name",
        type="text",
        label={"vi": "Tên người nộp thuế", "en": "Taxpayer's name"},
        synonyms=(
            "tên người nộp thuế",
            "tên nnt",
            "ten_nnt",
            "người nộp thuế",
            "tên doanh nghiệp",
            "doanh nghiệp",
            "tên công ty",
            "công ty",
            "tên đơn vị",
            "tên tổ chức",
            "tên hộ kinh doanh",
            "họ và tên",
            "họ tên",
            "tên",
            "name",
            "taxpayer",
            "taxpayer name",
            "company",
            "company name",
            "business name",
            "full name",
        ),
        required=True,
        max_length=400,
    ),
    Field(
        name="email",
        type="text",
        label={"vi": "Thư điện tử", "en": "E-mail address"},
        synonyms=(
            "email",
            "e-mail",
            "thư điện tử",
            "địa chỉ email",
            "địa chỉ e-mail",
            "địa chỉ thư điện tử",
            "hộp thư",
            "hộp thư điện tử",
            "email nhận thông báo",
            "email đăng ký",
            "mail",
            "email address",
            "e-mail address",
            "mail address",
        ),
        required=True,
        max_length=254,
    ),
    Field(
        name="language",
        type="text",
        label={"vi": "Ngôn ngữ", "en": "Language"},
        synonyms=(
            "ngôn ngữ",
            "ngôn ngữ nhận thư",
            "tiếng",
            "language",
            "lang",
            "preferred language",
        ),
        max_length=10,
    ),
)
"""The columns that every list may have, whatever its template; the names are reserved."""


def load_all(root: Path) -> dict[str, Template]:
    """Return every template under `root` by name; folders whose name begins with "_" are shared parts."""
    folders = sorted(
        path.parent.name
        for path in root.glob("*/template.toml")
        if not path.parent.name.startswith("_")
    )
    return {name: load_template(root, name) for name in folders}


def load_template(root: Path, name: str) -> Template:
    """Read and check the folder `root/name`; raise TemplateError naming the file and the field."""
    if not _NAME.fullmatch(name) or not (root / name / "template.toml").is_file():
        raise TemplateError(
            f"There is no template '{name}'.",
            fix=f"Templates are folders in {root.name}/ with a template.toml.",
        )
    reader = _Reader(root, name)
    about = _Description(f"{name}/template.toml", reader.toml("template.toml"))
    about.refuse_unknown(
        about.values, {"topic", "title", "languages", "fields", "lines", "control_total"}, ""
    )
    languages = about.languages()
    fields, lines = about.fields("fields"), about.fields("lines")
    template = {
        "name": name,
        "topic": about.text("topic", _NAME),
        "title": about.by_language(about.values, "title", languages),
        "languages": list(languages),
        "fields": [_field_json(each) for each in fields],
        "lines": [_field_json(each) for each in lines],
        "control_total": about.control_total(fields),
        "example": reader.example(fields, lines),
        "sources": {
            f"{language}/{part}": reader.source(language, part, fields)
            for language in languages
            for part in PARTS
        },
        "files": dict(sorted(reader.used.items())),
    }
    return from_json({**template, "version": _hash(template)})


def to_json(template: Template) -> dict[str, Any]:
    """Return the template as JSON values, to be frozen when a campaign is launched; `from_json` is the way back."""
    values = asdict(template)
    del values["line_key"]
    return {
        **values,
        "languages": list(template.languages),
        "fields": [_field_json(each) for each in template.fields],
        "lines": [_field_json(each) for each in template.lines],
    }


def from_json(values: Mapping[str, Any]) -> Template:
    """Return the template that `to_json` froze; raise TemplateError when its content is not what its version says."""
    content = {key: value for key, value in values.items() if key != "version"}
    if _hash(content) != values.get("version"):
        raise TemplateError(
            f"The frozen template '{values.get('name')}' was changed after it was frozen.",
            fix="Restore it from a backup.",
        )
    return Template(
        **{
            **values,
            "languages": tuple(values["languages"]),
            "fields": tuple(_field(each) for each in values["fields"]),
            "lines": tuple(_field(each) for each in values["lines"]),
        }
    )


def _hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _field_json(each: Field) -> dict[str, Any]:
    return {**asdict(each), "synonyms": list(each.synonyms)}


def _field(values: Mapping[str, Any]) -> Field:
    return Field(**{**values, "synonyms": tuple(values["synonyms"])})


class _Reader:
    """Reads the files of one template and remembers which ones it used."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.used: dict[str, str] = {}

    def shown(self, path: str) -> str:
        return path if path.startswith("_base/") else f"{self.name}/{path}"

    def text(self, path: str) -> str:
        """Return a file of the template's own folder or of `_base/`, as NFC with LF line ends."""
        shown = self.shown(path)
        place = self.root / shown
        # An included path is part of an untrusted text: it must not climb out of the two folders.
        if ".." in Path(path).parts or Path(path).is_absolute() or not place.is_file():
            raise TemplateError(f"The file {shown} is missing.")
        data = place.read_bytes()
        if len(data) > MAX_FILE_BYTES:
            raise TemplateError(f"The file {shown} is larger than {MAX_FILE_BYTES // 1024} kB.")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise TemplateError(
                f"The file {shown} is not UTF-8.", fix="Save it as UTF-8."
            ) from None
        return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))

    def toml(self, path: str) -> dict[str, Any]:
        try:
            return tomllib.loads(self.text(path))
        except tomllib.TOMLDecodeError as error:
            raise TemplateError(
                f"The file {self.shown(path)} is not valid TOML: {error}."
            ) from error

    def source(self, language: str, part: str, fields: tuple[Field, ...]) -> str:
        """Return the one text that runs for a part, checked: its syntax, and that every name in it is known."""

        def read(path: str) -> str:
            text = self.used[path] = self.text(path)
            return text

        path = f"{language}/{part}"
        shown = self.shown(path)
        source = flatten(path, read, language=language)
        if part == "subject.txt":
            source = source.strip()
            if "\n" in source:
                raise TemplateError(f"The subject in {shown} has more than one line.")
        known = {*(each.name for each in fields), *CONSTANT_NAMES, *RECIPIENT_NAMES, "range"}
        try:
            unknown = (
                meta.find_undeclared_variables(Sandbox(language, {}).parse(source, shown)) - known
            )
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"{shown}: {error.message} (near line {error.lineno} of the joined text)."
            ) from error
        except RecursionError:
            raise TemplateError(f"{shown} is nested too deeply to compile.") from None
        if unknown:
            raise TemplateError(
                f"{shown} uses '{min(unknown)}', which is no field of the template.",
                fix="Add it to template.toml.",
            )
        return inline_styles(source, shown) if part.endswith(".html") else source

    def example(self, fields: tuple[Field, ...], lines: tuple[Field, ...]) -> dict[str, Any]:
        """Return example.json, checked against the fields."""
        shown = f"{self.name}/example.json"
        try:
            example = json.loads(self.text("example.json"))
        except json.JSONDecodeError as error:
            raise TemplateError(f"The file {shown} is not valid JSON: {error}.") from error
        if not isinstance(example, dict):
            raise TemplateError(f"The file {shown} does not hold an object.")
        for standard in ("name", "tax_code", "email"):
            if not isinstance(example.get(standard), str):
                raise TemplateError(f"{shown} has no '{standard}'.")
        rows = example.get(LINE_KEY, [])
        allowed = {"name", "tax_code", "email", "language", LINE_KEY}
        _check_values(
            shown, {key: value for key, value in example.items() if key not in allowed}, fields
        )
        if not isinstance(rows, list) or (rows and not lines):
            raise TemplateError(
                f"{shown}: 'lines' must be a list, and template.toml must describe its fields."
            )
        for number, row in enumerate(rows, 1):
            _check_values(f"{shown}, line {number}", row, lines)
        return example


def _check_values(place: str, values: Any, fields: tuple[Field, ...]) -> None:
    """Raise TemplateError when `values` do not fit `fields`: JSON null stands for an optional value that is absent."""
    if not isinstance(values, dict):
        raise TemplateError(f"{place} is not an object.")
    if unknown := sorted(values.keys() - {each.name for each in fields}):
        raise TemplateError(f"{place} has '{unknown[0]}', which is no field of the template.")
    for each in fields:
        value = values.get(each.name)
        if value is None and each.required:
            raise TemplateError(f"{place} lacks the required field '{each.name}'.")
        if value is not None and not _fits(each, value):
            raise TemplateError(f"{place}: '{each.name}' is not of type {each.type}.")


# Beyond every budget, and still a number that JSON's readers agree on.
_MOST = 10**15


def faults(template: Template, data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what keeps `data` from filling the template: a JSON pointer (RFC 6901), a stable code and a sentence for each."""
    found = _faults(
        "", {key: value for key, value in data.items() if key != LINE_KEY}, template.fields
    )
    rows = data.get(LINE_KEY, [])
    if not isinstance(rows, list) or (rows and not template.lines):
        found.append(
            (f"/{LINE_KEY}", "type", "It must be a list, and only where the template has lines.")
        )
        return found
    for number, row in enumerate(rows):
        found += _faults(f"/{LINE_KEY}/{number}", row, template.lines)
    return found


def _faults(place: str, values: Any, fields: tuple[Field, ...]) -> list[tuple[str, str, str]]:
    if not isinstance(values, dict):
        return [(place, "type", "It must be an object.")]
    known = {each.name for each in fields}
    found = [
        (
            f"{place}/{name.replace('~', '~0').replace('/', '~1')}",
            "unknown",
            "The template has no such field.",
        )
        for name in values
        if name not in known
    ]
    for each in fields:
        value = values.get(each.name)
        if value is None:
            if each.required:
                found.append(
                    (f"{place}/{each.name}", "missing", f"The template needs this {each.type}.")
                )
        elif not _fits(each, value):
            longest = f" of at most {each.max_length} characters" if each.type == "text" else ""
            found.append((f"{place}/{each.name}", "type", f"It must be a {each.type}{longest}."))
        elif isinstance(value, str) and not _printable(value):
            found.append(
                (
                    f"{place}/{each.name}",
                    "characters",
                    "It holds control characters or broken text.",
                )
            )
    return found


def _printable(value: str) -> bool:
    """Say whether a text has neither control characters (but line ends and tabs) nor lone surrogates."""
    return value.isprintable() or all(
        unicodedata.category(char) not in {"Cc", "Cs"} or char in "\n\t" for char in value
    )


def _fits(each: Field, value: object) -> bool:
    if each.type in {"money", "integer"}:
        return type(value) is int and abs(value) < _MOST
    if not isinstance(value, str):
        return False
    try:
        if each.type == "date":
            date.fromisoformat(value)
        elif each.type == "datetime":
            return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
    return each.type != "text" or len(value) <= each.max_length


class _Description:
    """Reads template.toml, refusing by name whatever is not understood."""

    def __init__(self, shown: str, values: dict[str, Any]) -> None:
        self.shown = shown
        self.values = values

    def refuse_unknown(self, table: Mapping[str, Any], known: set[str], place: str) -> None:
        if unknown := sorted(table.keys() - known):
            raise TemplateError(
                f"{self.shown}: '{place}{unknown[0]}' is not known.",
                fix=f"Known are: {', '.join(sorted(known))}.",
            )

    def text(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise TemplateError(f"{self.shown}: '{key}' is missing or not a name.")
        return value

    def languages(self) -> tuple[str, ...]:
        value = self.values.get("languages", list(LANGUAGES))
        if not isinstance(value, list) or not value or any(each not in LANGUAGES for each in value):
            raise TemplateError(
                f"{self.shown}: 'languages' must be a list of {' and '.join(LANGUAGES)}."
            )
        return tuple(value)

    def by_language(
        self, table: Mapping[str, Any], key: str, languages: tuple[str, ...]
    ) -> dict[str, str]:
        value = table.get(key)
        if not isinstance(value, dict):
            raise TemplateError(
                f"{self.shown}: '{key}' needs a text for {' and '.join(languages)}."
            )
        for language in languages:
            if not isinstance(value.get(language), str) or not value[language].strip():
                raise TemplateError(f"{self.shown}: '{key}' has no text for '{language}'.")
        self.refuse_unknown(value, set(LANGUAGES), f"{key}.")
        return value

    def fields(self, section: str) -> tuple[Field, ...]:
        tables = self.values.get(section, {})
        if not isinstance(tables, dict):
            raise TemplateError(f"{self.shown}: '{section}' must be a table of fields.")
        return tuple(self._field(section, name, table) for name, table in tables.items())

    def _field(self, section: str, name: str, table: Any) -> Field:
        place = f"{section}.{name}"
        if not _FIELD_NAME.fullmatch(name) or (section == "fields" and name in _RESERVED):
            raise TemplateError(
                f"{self.shown}: '{place}' cannot be the name of a field.",
                fix="It is reserved or not a name.",
            )
        if not isinstance(table, dict):
            raise TemplateError(f"{self.shown}: '{place}' must be a table.")
        self.refuse_unknown(
            table, {"type", "label", "synonyms", "required", "max_length", "scope"}, f"{place}."
        )
        kind, scope = table.get("type"), table.get("scope", "recipient")
        if kind not in FIELD_TYPES:
            raise TemplateError(
                f"{self.shown}: '{place}.type' must be one of {', '.join(FIELD_TYPES)}."
            )
        if scope not in SCOPES or (section == LINE_KEY and scope != "recipient"):
            raise TemplateError(
                f"{self.shown}: '{place}.scope' must be recipient, or campaign for a field outside lines."
            )
        synonyms = table.get("synonyms", [])
        if not isinstance(synonyms, list) or not all(isinstance(each, str) for each in synonyms):
            raise TemplateError(f"{self.shown}: '{place}.synonyms' must be a list of texts.")
        required, length = table.get("required", False), table.get("max_length", DEFAULT_MAX_LENGTH)
        if not isinstance(required, bool) or type(length) is not int or length < 1:
            raise TemplateError(
                f"{self.shown}: '{place}.required' must be true or false, 'max_length' a number above 0."
            )
        return Field(
            name=name,
            type=kind,
            label=self.by_language(table, "label", LANGUAGES),
            synonyms=tuple(synonyms),
            required=required,
            max_length=length,
            scope=scope,
        )

    def control_total(self, fields: tuple[Field, ...]) -> str | None:
        value = self.values.get("control_total")
        if value is not None and value not in {
            each.name for each in fields if each.type == "money"
        }:
            raise TemplateError(f"{self.shown}: 'control_total' must name a money field.")
        return value
