"""The API described by itself: an OpenAPI 3.1 document, and a page of it that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from notifier import __version__
from notifier.domain.campaign_files import CAMPAIGN_NAME
from notifier.domain.keys import SCOPES
from notifier.web.api.operations import Operation
from notifier.web.api.problems import MEDIA_TYPE, TITLES

_REFS = "#/components/schemas/{model}"
_ALWAYS = (401, 403, 429, 503)
_WORDS = {
    400: "The request cannot be read.",
    401: "No valid key was sent.",
    403: "The key lacks the scope.",
    404: "There is no such thing for this key.",
    409: "It contradicts what was sent before, or the state does not allow it.",
    413: "The body is too large.",
    415: "The body has the wrong type.",
    422: "Fields cannot be used; `errors` points at each.",
    429: "Too many requests; `Retry-After` says when to try again.",
    503: "A part of the service is away; `Retry-After` says when to try again.",
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": list(TITLES)},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
_EXAMPLE_PROBLEM = {
    "type": "/api/docs#invalid",
    "title": TITLES["invalid"],
    "status": 422,
    "code": "invalid",
    "detail": "/applicant/email: The address is not valid. Correct it.",
    "errors": [
        {
            "pointer": "/applicant/email",
            "code": "address",
            "detail": "The address is not valid. Correct it.",
        }
    ],
}
_RATE = {
    name: {"schema": {"type": "string"}, "description": words}
    for name, words in (
        ("Retry-After", "Seconds to wait."),
        ("RateLimit-Limit", "How many are allowed."),
        ("RateLimit-Remaining", "How many are left."),
        ("RateLimit-Reset", "Seconds until more are allowed."),
    )
}


def document(listed: Sequence[Operation], public_url: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the operations."""
    models = [(each.body, "validation") for each in listed if each.body is not None]
    _, schemas = models_json_schema(list(dict.fromkeys(models)), ref_template=_REFS)  # type: ignore[arg-type]
    components = schemas.get("$defs", {})
    # Each entry is one event; it is checked by itself, so that one bad event spoils none of the others.
    components["EventBatch"]["properties"]["events"]["items"] = {
        "$ref": _REFS.format(model="DossierEvent")
    }
    paths: dict[str, dict[str, Any]] = {}
    for each in listed:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Notifier API",
            "version": __version__,
            "description": "Report dossier events, send messages, run campaigns. Every error is RFC 9457 problem details.",
        },
        "servers": [{"url": f"{public_url}/api"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"An API key. Scopes: {', '.join(SCOPES)}.",
                },
            },
        },
    }


_IN_PATHS = {
    "id": {"type": "string", "format": "uuid"},
    "name": {"type": "string", "pattern": f"^{CAMPAIGN_NAME.pattern}$"},
}


def _operation(each: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": each.name,
        "summary": each.summary,
        "responses": _responses(each),
    }
    if each.scope is not None:
        found["description"] = f"Needs the scope `{each.scope}`."
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in _IN_PATHS.items()
        if f"{{{name}}}" in each.path
    ]
    parameters += [
        {"name": name, "in": "query", "schema": dict(schema)} for name, schema in each.query.items()
    ]
    if each.idempotent:
        words = "The same key gets the same answer again; with another body 409."
        schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[\\x21-\\x7e]+$"}
        parameters.append(
            {"name": "Idempotency-Key", "in": "header", "description": words, "schema": schema}
        )
    if parameters:
        found["parameters"] = parameters
    if each.body is not None:
        content = {
            "schema": {"$ref": _REFS.format(model=each.body.__name__)},
            "example": each.example,
        }
        found["requestBody"] = {
            "required": each.body_required,
            "content": {"application/json": content},
        }
    elif each.any_body:
        binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
        found["requestBody"] = {"required": True, "content": dict.fromkeys(each.any_body, binary)}
    return found


def _responses(each: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, example in each.answers.items():
        schema: dict[str, Any] = (
            {"type": "string"}
            if isinstance(example, str)
            else {"type": "object", "required": sorted(example)}
        )
        found[str(status)] = {
            "description": "Done.",
            "content": {each.media_type: {"schema": schema, "example": example}},
        }
    problems = {*_ALWAYS, *each.problems}
    if each.body is not None or each.any_body:
        problems |= {400, 413, 415}
    if each.idempotent:
        problems.add(400)
    for status in sorted(problems):
        content = {"schema": {"$ref": _REFS.format(model="Problem")}}
        if status == 422:  # noqa: PLR2004
            content["example"] = _EXAMPLE_PROBLEM  # type: ignore[assignment]
        found[str(status)] = {"description": _WORDS[status], "content": {MEDIA_TYPE: content}}
        if status == 429:  # noqa: PLR2004
            found[str(status)]["headers"] = _RATE
        if status == 503:  # noqa: PLR2004
            found[str(status)]["headers"] = {"Retry-After": _RATE["Retry-After"]}
    return found


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #4b5766; --line: #d9dee5; --blue: #0b57a4; --paper: #fff; --box: #f2f6fb; }
@media (prefers-color-scheme: dark) {
:root { --ink: #e6eaef; --soft: #aab4c0; --line: #2c3641; --blue: #8ab8f5; --paper: #181e25; --box: #1f2935; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: var(--paper); font: 1rem/1.5 sans-serif; }
h1, h2 { line-height: 1.25; } a { color: var(--blue); }
section { border-top: 1px solid var(--line); padding: .5rem 0 1rem; }
code, pre { font: .875rem/1.5 monospace; } pre { background: var(--box); padding: .75rem; overflow: auto; white-space: pre-wrap; }
.method { display: inline-block; min-width: 3.5rem; font-weight: bold; } .soft { color: var(--soft); }
li, dt, dd { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
tr { border-bottom: 1px solid var(--line); } tbody th { font-weight: normal; }
"""


def page(listed: Sequence[Operation]) -> bytes:
    """Return the operations and error codes as one HTML page without scripts."""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Notifier API</title>',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body><main>',
        "<h1>Notifier API</h1><p>JSON in and out. Send your key as <code>Authorization: Bearer …</code>. The machine-readable ",
        'description is <a href="/api/openapi.json">openapi.json</a> (OpenAPI 3.1). Every answer has an <code>X-Request-Id</code>; ',
        'name it when you ask for help.</p><nav aria-label="Operations"><ul>',
        *(
            f'<li><a href="#{each.name}"><code>{each.method} /api{escape(each.path)}</code></a> {escape(each.summary)}</li>'
            for each in listed
        ),
        "</ul></nav>",
    ]
    for each in listed:
        parts.append(f'<section id="{each.name}"><h2>{escape(each.summary)}</h2>')
        parts.append(
            f'<p><code><span class="method">{each.method}</span> /api{escape(each.path)}</code></p>'
        )
        needs = f"Needs the scope <code>{each.scope}</code>." if each.scope else "Any key may ask."
        idempotent = (
            " Takes an <code>Idempotency-Key</code>: a repeat gets the same answer."
            if each.idempotent
            else ""
        )
        query = (
            f" Parameters: {', '.join(f'<code>{name}</code>' for name in each.query)}."
            if each.query
            else ""
        )
        parts.append(f'<p class="soft">{needs}{idempotent}{query}</p>')
        if each.body is not None:
            parts.append(_fields(each.body))
        if each.example:
            parts.append(f"<p>Send:</p>{_example(each.example)}")
        for status, example in each.answers.items():
            parts.append(f"<p>Answer {status}:</p>{_example(example)}")
        parts.append("</section>")
    parts.append("<section><h2>Errors</h2><dl>")
    for code, title in TITLES.items():
        parts.append(f'<dt id="{code}"><code>{code}</code></dt><dd>{escape(title)}.</dd>')
    parts.append("</dl></section></main></body></html>\n")
    return "".join(parts).encode()


def _fields(model: type[BaseModel]) -> str:
    """Return a table of what a body holds; a field inside another is written as a.b."""
    schema = model.model_json_schema()
    rows = []
    for name, kind, required, words in _rows(schema, schema.get("$defs", {}), ""):
        # Long names break on a phone where a person would break them.
        shown = escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>")
        needed = "" if required else '<br><span class="soft">optional</span>'
        rows.append(
            f"<tr><th scope=row><code>{shown}</code>{needed}</th><td>{kind}</td><td>{escape(words)}</td></tr>"
        )
    return f"<table><thead><tr><th scope=col>Field<th scope=col>Type<th scope=col>Meaning</thead><tbody>{''.join(rows)}</tbody></table>"


def _rows(
    schema: Mapping[str, Any], models: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str, bool, str]]:
    for name, given in schema.get("properties", {}).items():
        if "$ref" in given:
            yield from _rows(models[given["$ref"].rpartition("/")[2]], models, f"{prefix}{name}.")
            continue
        kinds = [each for each in given.get("anyOf", [given]) if each.get("type") != "null"]
        shown = " or ".join(_kind(each) for each in kinds)
        words = given.get("description") or next(
            (each["description"] for each in kinds if "description" in each), ""
        )
        yield prefix + name, shown, name in schema.get("required", ()), words


def _kind(schema: Mapping[str, Any]) -> str:
    """Return a type in words, with its limits."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return (
            f"up to {schema['maxItems']} × {_kind(schema['items'])}"
            if "maxItems" in schema
            else "list"
        )
    kind = {"date-time": "moment with an offset", "date": "date"}.get(
        schema.get("format", ""), schema.get("type", "any")
    )
    kind = {"string": "text", "integer": "whole number"}.get(kind, kind)
    return f"{kind}, at most {schema['maxLength']} characters" if "maxLength" in schema else kind


def _example(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return f'<pre tabindex="0"><code>{escape(shown)}</code></pre>'
