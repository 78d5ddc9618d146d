"""A template with all its texts, and how it is frozen under the hash of its content.

What was launched is kept as JSON and must render the same bytes for ever, so its shape has a
number:

* format 1, up to version 0.1.0, had no number: `sources` held each part as one text, joined by our
  own expressions and with its styles in place;
* format 2 holds the files as their authors wrote them, which Jinja reads again, and in `styled` the
  texts between the tags of each HTML part with their styles in place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from notifier.errors import TemplateError
from notifier.rendering.fields import LINE_KEY, Field

PARTS = ("subject.txt", "body.txt", "body.html")
FORMAT = 2


@dataclass(frozen=True)
class TopicInfo:
    """What a mail says about its topic, by language. A statutory topic cannot be opted out of."""

    code: str
    name: Mapping[str, str]
    statutory: bool
    legal_ground: Mapping[str, str]
    description: Mapping[str, str]


@dataclass(frozen=True)
class Template:
    """A template with all its texts; equal `version` means equal mails.

    `files` are the texts as their authors wrote them, by path ("vi/body.txt", "_base/layout.html").
    `styled` are, by HTML part ("vi/body.html"), the texts between its tags with styles in the
    elements. `sources` are the joined texts of format 1, else none.
    """

    name: str
    topic: str
    title: Mapping[str, str]
    languages: tuple[str, ...]
    fields: tuple[Field, ...]
    lines: tuple[Field, ...]
    control_total: str | None
    files: Mapping[str, str]
    example: Mapping[str, Any]
    version: str
    styled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    line_key: str = field(default=LINE_KEY)

    @property
    def texts(self) -> Mapping[str, str]:
        """What runs, by path: each part, and what it extends and includes."""
        return self.sources or self.files


def to_json(template: Template) -> dict[str, Any]:
    """Return the template as JSON values, to be frozen at a launch; `from_json` is the way back."""
    values = asdict(template)
    del values["line_key"]
    old = bool(template.sources)
    if old:
        del values["styled"]
    else:
        del values["sources"]
        values["styled"] = {path: list(texts) for path, texts in template.styled.items()}
        values["format"] = FORMAT
    return {
        **values,
        "languages": list(template.languages),
        "fields": [_field_json(each, old=old) for each in template.fields],
        "lines": [_field_json(each, old=old) for each in template.lines],
    }


def from_json(values: Mapping[str, Any]) -> Template:
    """Return the template that `to_json` froze, in any of its formats.

    Raise TemplateError when the content is not what its version says, or of a format from the
    future.
    """
    content = {key: value for key, value in values.items() if key != "version"}
    written = values.get("format", 1)
    if written not in {1, FORMAT}:
        raise TemplateError(
            f"The frozen template '{values.get('name')}' has the format {written}.",
            fix="A newer version of the service made it; use that version.",
        )
    if hash_of(content) != values.get("version"):
        raise TemplateError(
            f"The frozen template '{values.get('name')}' was changed after it was frozen.",
            fix="Restore it from a backup.",
        )
    styled = content.pop("styled", {})
    content.pop("format", None)
    return Template(
        **{
            **content,
            "version": values["version"],
            "languages": tuple(values["languages"]),
            "fields": tuple(_field(each) for each in values["fields"]),
            "lines": tuple(_field(each) for each in values["lines"]),
            "styled": {path: tuple(texts) for path, texts in styled.items()},
        }
    )


def hash_of(content: Mapping[str, Any]) -> str:
    """Return the version of a content: the SHA-256 of its JSON in one spelling."""
    canonical = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _field_json(each: Field, *, old: bool) -> dict[str, Any]:
    values = {**asdict(each), "synonyms": list(each.synonyms)}
    if old:
        del values["minimum"]
    return values


def _field(values: Mapping[str, Any]) -> Field:
    return Field(**{**values, "synonyms": tuple(values["synonyms"])})
