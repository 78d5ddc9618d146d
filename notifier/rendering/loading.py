"""A folder becomes a template: texts put together, names known, styles in the elements."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from jinja2 import TemplateSyntaxError, meta, nodes

from notifier.errors import TemplateError
from notifier.rendering import styles
from notifier.rendering.assembly import assemble, texts, too_deep
from notifier.rendering.description import (
    CONSTANT_NAMES,
    RECIPIENT_NAMES,
    describe,
    read_example,
)
from notifier.rendering.fields import Field
from notifier.rendering.folder import Folder
from notifier.rendering.frozen import PARTS, Template, hash_of, to_json
from notifier.rendering.sandbox import Sandbox

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_NO_VERSION = ""


def load_template(root: Path, name: str) -> Template:
    """Read and check the folder `root/name`; raise TemplateError naming the file and the field.

    Everything is bounded, but a parser may have a hole that nobody knows of: `catalogue.load_all`
    reads in a process of its own.
    """
    if not _NAME.fullmatch(name) or not (root / name / "template.toml").is_file():
        raise TemplateError(
            f"There is no template '{name}'.",
            fix=f"Make the folder {name} with a template.toml in {root}.",
        )
    folder = Folder(root, name)
    about = describe(folder)
    fields = tuple(table.field(key) for key, table in about.fields.items())
    lines = tuple(table.field(key) for key, table in about.lines.items())
    example = read_example(folder, fields, lines)
    styled: dict[str, tuple[str, ...]] = {}
    for language in about.languages:
        environment = Sandbox(language, {}, folder)
        for part in PARTS:
            path = f"{language}/{part}"
            tree = assemble(environment, path, f"{name}/")
            _check(tree, folder.shown(path), fields)
            if part.endswith(".html"):
                styled[path] = tuple(styles.inline(tree, folder.shown(path)))
    template = Template(
        name=name,
        topic=about.topic,
        title=about.title.texts(),
        languages=tuple(about.languages),
        fields=fields,
        lines=lines,
        control_total=about.control_total,
        files=dict(sorted(folder.used.items())),
        example=example,
        styled=styled,
        version=_NO_VERSION,
    )
    content = {key: value for key, value in to_json(template).items() if key != "version"}
    return replace(template, version=hash_of(content))


def _check(tree: nodes.Template, shown: str, fields: tuple[Field, ...]) -> None:
    """Raise TemplateError for an unknown name or filter, and for a subject of several lines."""
    if shown.endswith("subject.txt") and "\n" in "".join(each.data for each in texts(tree)).strip():
        raise TemplateError(f"The subject in {shown} has more than one line.")
    known = {*(each.name for each in fields), *CONSTANT_NAMES, *RECIPIENT_NAMES, "range"}
    try:
        unknown = meta.find_undeclared_variables(tree) - known
    except TemplateSyntaxError as error:
        raise TemplateError(f"{shown}: {error.message} (near line {error.lineno}).") from error
    except RecursionError:
        raise too_deep(shown) from None
    if unknown:
        raise TemplateError(
            f"{shown} uses '{min(unknown)}', which is no field of the template.",
            fix="Add it to template.toml.",
        )
