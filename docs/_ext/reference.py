"""The reference, written from the code each time the site is built.

It covers commands, settings, states, tables and the API. Each page is a pure function of what it
describes, so a page cannot say what the code does not. The pages of the root folder (changelog, how
to contribute) join the site here as well. What is written goes to docs/reference/, which is not
kept in the repository.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sqlalchemy.dialects import postgresql
from starlette.testclient import TestClient
from typer.main import get_command

from notifier import schema
from notifier import states as lives
from notifier.cli import app as program
from notifier.services import Services
from notifier.settings import Settings
from notifier.web.api.app import make_api

NOTE = "Written from the code when this site is built.\n"
# Pages of the repository that are read outside of docs/, too, each with its name on the site.
BORROWED = {
    "campaign-files": "campaigns/README.md",
    "benchmarks": "bench/README.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "changelog": "CHANGELOG.md",
}


# --- Markdown ------------------------------------------------------------------------------------


def plain(words: object) -> str:
    """Return words as one line of Markdown that shows exactly them.

    Code in backticks stays code.
    """
    parts = " ".join(str(words).split()).split("`")
    for at in range(0, len(parts), 2):
        for sign in ("\\", "*", "_", "[", "]", "<", ">", "#"):
            parts[at] = parts[at].replace(sign, "\\" + sign)
    return "`".join(parts)


def code(words: object) -> str:
    """Return words as code; nothing for nothing."""
    return f"`{words}`" if str(words) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, or nothing when it has no rows."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    if not lines:
        return ""
    all_lines = [list(head), ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in all_lines) + "\n"


def fenced(text: str, language: str = "text") -> str:
    """Return text as a block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n\n"


# --- commands ------------------------------------------------------------------------------------


def commands(app: Any) -> str:
    """Describe every command of a Typer application: what it does, its arguments and options."""
    root = get_command(app)
    parts = ["# Commands\n\n", NOTE, f"\n{plain(root.help)}\n\n", _parameters(root.params)]
    for path, command in _walk(root, ("notifier",)):
        parts += [f"{'#' * len(path)} {' '.join(path)}\n\n", f"{plain(command.help or '')}\n\n"]
        if not hasattr(command, "commands") or command.invoke_without_command:
            parts += [fenced(_usage(path, command)), _parameters(command.params)]
    return "".join(parts)


def _walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from _walk(command, (*path, name))


def _usage(path: tuple[str, ...], command: Any) -> str:
    words = list(path)
    for each in command.params:
        if each.param_type_name == "argument":
            name = _argument(each) + (" …" if each.nargs == -1 else "")
            words.append(name if each.required else f"[{name}]")
    options = [each for each in command.params if each.param_type_name == "option"]
    words += [f"{each.opts[0]} …" for each in options if each.required]
    if any(not each.required for each in options):
        words.append("[OPTIONS]")
    return " ".join(words)


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _parameters(parameters: Iterable[Any]) -> str:
    rows = []
    for each in parameters:
        if getattr(each, "hidden", False) or each.name in {"help", *_COMPLETION}:
            continue
        if each.param_type_name == "argument":
            names = code(_argument(each))
        else:
            names = ", ".join(code(name) for name in (*each.opts, *each.secondary_opts))
        rows.append((names, plain(each.help or ""), _default(each)))
    return table(("option", "meaning", "default"), rows)


_COMPLETION = ("install_completion", "show_completion")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == () or callable(value):
        return ""
    if getattr(parameter, "show_default", None) is False:
        return ""
    return code(value.value if isinstance(value, Enum) else value)


# --- settings ------------------------------------------------------------------------------------


def settings(model: Any, prefix: str = "NOTIFIER_") -> str:
    """Describe every field of the settings: its variable, meaning, unit, example and default.

    Raises LookupError naming the first field that has no description.
    """
    rows = []
    for name, field in model.model_fields.items():
        if not field.description:
            raise LookupError(f"The setting {name} has no description in notifier/settings.py.")
        notes = field.json_schema_extra or {}
        unit = f" ({notes['unit']})" if notes.get("unit") else ""
        example = code((field.examples or [""])[0])
        default = plain(notes["unset"]) if notes.get("unset") else code(_value(field.default))
        rows.append(
            (code(prefix + name.upper()), plain(field.description) + unit, default, example)
        )
    head = ("variable", "meaning", "while it is unset", "example")
    words = "\nRead once, from the environment, when a program starts.\n\n"
    return "# Settings\n\n" + NOTE + words + table(head, rows)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


# --- states --------------------------------------------------------------------------------------


def states(module: Any) -> str:
    """Describe the states of campaigns, batches and messages, and the steps between them."""
    parts = [
        "# States\n\n",
        NOTE,
        "\nA step that is not listed is refused and changes nothing.\n\n",
    ]
    for title, kind, transitions in (
        ("Campaigns", module.CampaignState, module.CAMPAIGN_TRANSITIONS),
        ("Batches", module.BatchState, module.BATCH_TRANSITIONS),
        ("Messages", module.MessageState, module.MESSAGE_TRANSITIONS),
    ):
        words = _member_docs(kind)
        rows = [
            (
                code(state.value),
                plain(state.about.vi),
                plain(words[state.name]),
                "final" if state.is_final else "",
                code(state.about.webhook or ""),
            )
            for state in kind
        ]
        head = ("state", "tiếng Việt", "meaning", "", "webhook")
        parts += [f"## {title}\n\n", f"{plain(inspect.getdoc(kind))}\n\n", table(head, rows)]
        steps = [
            (code(before.value), code(step.value), code(after.value))
            for (before, step), after in transitions.items()
        ]
        parts.append(table(("from", "step", "to"), steps))
    return "".join(parts)


def _member_docs(kind: type) -> dict[str, str]:
    """Return the string that stands below each member or field of a class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - the source of a class is one
    found = {}
    for member, below in zip(body.body, body.body[1:], strict=False):
        match member, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = words
    return found


# --- tables --------------------------------------------------------------------------------------


def tables(base: Any, owners: Mapping[str, str]) -> str:
    """Describe every table of the database: its owner, its columns and what is looked up fast."""
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    parts = ["# Tables\n\n", NOTE, "\nOne module of verbs owns each table: it alone writes it.\n\n"]
    for mapper in sorted(base.registry.mappers, key=lambda each: each.local_table.name):
        each, words = mapper.local_table, _member_docs(mapper.class_)
        owner = f"Written by `notifier/domain/{owners[each.name]}.py`."
        parts += [
            f"## {plain(each.name)}\n\n",
            f"{plain(inspect.getdoc(mapper.class_))}\n\n",
            owner,
        ]
        rows = [
            (
                code(column.name),
                code(column.type.compile(dialect=dialect).lower()),
                "" if column.nullable else "not null",
                plain(words.get(column.name, "")),
            )
            for column in each.columns
        ]
        parts += ["\n\n", table(("column", "type", "", "meaning"), rows)]
        found = [
            (code(index.name), ", ".join(code(column) for column in index.expressions))
            for index in sorted(each.indexes, key=lambda index: str(index.name))
        ]
        parts.append(table(("index", "of"), found))
    return "".join(parts)


# --- API -----------------------------------------------------------------------------------------


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document as the API answers it; no server is asked.

    The only place of this file that knows how the API is made.
    """
    # Nothing listens on port 9: to describe itself the API needs neither database nor broker.
    given = Settings(
        database_url="postgresql://notifier@127.0.0.1:9/notifier",
        broker_url="redis://127.0.0.1:9/0",
        secret_key="for the document alone " * 2,
        templates=ROOT / "templates",
        campaigns=ROOT / "campaigns",
        sources=ROOT / "sources",
    )
    answer = TestClient(make_api(Services(given))).get("/api/openapi.json")
    document: dict[str, Any] = answer.raise_for_status().json()
    return document


def api(document: Mapping[str, Any]) -> str:
    """Describe every operation of an OpenAPI 3.1 document: parameters, body, answers, examples."""
    parts = [
        "# HTTP API\n\n",
        NOTE,
        f"\n{plain(document['info'].get('description', ''))}\n\n",
        (
            "The service itself has the document under `/api/openapi.json` "
            "and a page under `/api/docs`.\n\n"
        ),
    ]
    for path, methods in document["paths"].items():
        full = path if path.startswith("/api") else f"/api{path}"
        shared = methods.get("parameters", [])
        for method, each in methods.items():
            if method == "parameters":
                continue
            parts += [f"## {plain(each['summary'])}\n\n", fenced(f"{method.upper()} {full}")]
            if each.get("description"):
                parts.append(f"{plain(each['description'])}\n\n")
            parts.append(_query([*shared, *each.get("parameters", [])], document))
            parts.append(_body(each.get("requestBody"), document))
            parts.append(_answers(each["responses"], document))
    return "".join(parts)


def _resolved(value: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow `$ref` to what it names."""
    while "$ref" in value:
        found: Any = document
        for step in value["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        value = found
    return value


def _query(listed: Iterable[Mapping[str, Any]], document: Mapping[str, Any]) -> str:
    rows = []
    for given in listed:
        each = _resolved(given, document)
        words = plain(each.get("description", ""))
        needed = "required" if each.get("required") else ""
        kind = _kind(each["schema"], document)
        rows.append((code(each["name"]), f"{each['in']}, {kind}", needed, words))
    return table(("parameter", "type", "", "meaning"), rows)


def _body(given: Mapping[str, Any] | None, document: Mapping[str, Any]) -> str:
    if given is None:
        return ""
    parts = []
    for media, content in _resolved(given, document)["content"].items():
        parts.append(f"Send `{media}`:\n\n")
        rows = _fields(content.get("schema", {}), document, "")
        parts.append(table(("field", "type", "", "meaning"), rows))
        parts += [_example(each) for each in _examples(content, document)]
    return "".join(parts)


def _answers(responses: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    parts, problems = [], []
    for status, given in responses.items():
        each = _resolved(given, document)
        if not status.startswith("2"):
            problems.append((code(status), plain(each["description"])))
            continue
        for content in each.get("content", {}).values():
            rows = _fields(content.get("schema", {}), document, "")
            parts.append(f"Answer {code(status)}: {plain(each['description'])}\n\n")
            parts.append(table(("field", "type", "", "meaning"), rows))
            parts += [_example(example) for example in _examples(content, document)]
    return "".join(parts) + table(("problem", "meaning"), sorted(problems))


def _examples(content: Mapping[str, Any], document: Mapping[str, Any]) -> list[Any]:
    """Return the examples of a body: its own, or else those of its schema."""
    if "example" in content:
        return [content["example"]]
    named = [each["value"] for each in content.get("examples", {}).values() if "value" in each]
    found: list[Any] = _resolved(content.get("schema", {}), document).get("examples", [])
    return named or found


def _example(value: Any) -> str:
    if isinstance(value, str):
        return fenced(value)
    return fenced(json.dumps(value, ensure_ascii=False, indent=2), "json")


def _fields(
    schema: Mapping[str, Any], document: Mapping[str, Any], prefix: str, depth: int = 0
) -> Iterator[tuple[str, str, str, str]]:
    """Return the fields of a body, one inside another as `a.b`, down to four levels."""
    found = _resolved(schema, document)
    for name, given in found.get("properties", {}).items():
        each = _resolved(given, document)
        words = plain(given.get("description") or each.get("description") or "")
        needed = "required" if name in found.get("required", ()) else ""
        yield code(prefix + name), _kind(given, document), needed, words
        inner, mark = each, "."
        if "items" in each:
            inner, mark = each["items"], "[]."
        for option in inner.get("anyOf", [inner]):
            if depth < 3:  # noqa: PLR2004 - as the docstring says
                yield from _fields(option, document, prefix + name + mark, depth + 1)


def _kind(given: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return a type in words, with its limits."""
    schema = _resolved(given, document)
    if "anyOf" in schema:
        kinds = [_kind(each, document) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in schema:
        return ", ".join(code(each) for each in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    if schema.get("type") == "array":
        most = f"up to {schema['maxItems']} × " if "maxItems" in schema else "list of "
        return most + _kind(schema.get("items", {}), document)
    named = _KINDS.get(schema.get("format", ""), "") or _KINDS.get(schema.get("type", ""), "")
    kind = named or str(schema.get("type", "anything"))
    limits = [
        words.format(schema[limit])
        for limit, words in (
            ("minimum", "from {}"),
            ("maximum", "to {}"),
            ("maxLength", "at most {} characters"),
        )
        if limit in schema
    ]
    return ", ".join([kind, *limits])


_KINDS = {
    "date-time": "moment with an offset",
    "date": "date",
    "uuid": "id",
    "string": "text",
    "integer": "whole number",
    "boolean": "true or false",
}


# --- the build -----------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"


def pages() -> dict[str, str]:
    """Return every page of the reference by its name."""
    written = {
        "commands": commands(program),
        "settings": settings(Settings),
        "states": states(lives),
        "tables": tables(schema.Base, schema.OWNERS),
        "api": api(openapi_document()),
    }
    borrowed = {
        name: rebased((ROOT / path).read_text(encoding="utf-8"), ROOT / path, REFERENCE)
        for name, path in BORROWED.items()
    }
    return {**written, **borrowed}


def rebased(text: str, source: Path, folder: Path) -> str:
    """Return the Markdown of `source` with its links as they lead from a page in `folder`.

    A link to a file of the repository that is no page of the site becomes its words alone.
    """
    at_root = {(ROOT / path).resolve(): REFERENCE / f"{name}.md" for name, path in BORROWED.items()}

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = (source.parent / target).resolve()
        path = at_root.get(path, path)
        if not path.is_relative_to(DOCS):
            return words
        return f"[{words}]({os.path.relpath(path, folder)}{anchor})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", link, text)


def write(folder: Path) -> None:
    """Write the pages to `folder`; one that says the same as before is left alone."""
    folder.mkdir(exist_ok=True)
    made = {folder / f"{name}.md": text for name, text in pages().items()}
    for path in set(folder.glob("*.md")) - made.keys():
        path.unlink()
    for path, text in made.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _write(_: Sphinx) -> None:
    # The theme's colours set up logging for everybody; what libraries note at INFO is no news here.
    logging.disable(logging.INFO)
    write(REFERENCE)
    logging.disable(logging.NOTSET)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links of a page that leave docs/ lead to where the site has what they name."""
    path = Path(app.env.doc2path(name))
    if path.parent != REFERENCE:
        source[0] = rebased(source[0], path, path.parent)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the reference before Sphinx looks for pages."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
