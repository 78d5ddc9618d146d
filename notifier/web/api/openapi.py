"""The API described by itself: FastAPI's OpenAPI document, and a page of it without scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic.json_schema import models_json_schema

from notifier.web.api.bodies import JsonBody, Operation
from notifier.web.api.problems import TITLES

_REF = "#/components/schemas/{model}"


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the application.

    FastAPI knows everything but the bodies, which dependencies read, and that its own answer to
    wrong parameters is never given.
    """
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=app.servers,
    )
    models = [
        (route.body.model, "validation")
        for route in (each.original_route for each in iter_route_contexts(app.routes))
        if isinstance(route, Operation) and isinstance(route.body, JsonBody)
    ]
    _, schemas = models_json_schema(list(dict.fromkeys(models)), ref_template=_REF)  # type: ignore[arg-type]
    components = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    components |= schemas["$defs"]
    for methods in found["paths"].values():
        for operation in methods.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", ()):
                del operation["responses"]["422"]
    return found


def page(found: Mapping[str, Any]) -> str:
    """Return the document as one HTML page that loads nothing from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = lambda value: (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    )
    schemas = found["components"]["schemas"]
    operations = [
        {"path": path, "method": method.upper(), **operation}
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    ]
    return environment.get_template("reference.html").render(
        info=found["info"],
        operations=operations,
        titles=TITLES,
        rows=lambda schema: list(_rows(schema, schemas, "")),
        kind=lambda schema: _kind(schema, schemas),
        example=lambda content: _example(content, schemas),
    )


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that a reference means."""
    while "$ref" in schema:
        named: Mapping[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]
        # What is said beside a reference counts for its place.
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**named, **beside}
    return schema


def _rows(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str, bool, str]]:
    """Yield each field: its name, type and meaning, and whether it is required.

    A field inside another is written as a.b, one inside a list as a[].b.
    """
    schema = _resolved(schema, schemas)
    for name, given in schema.get("properties", {}).items():
        field = _resolved(given, schemas)
        required = name in schema.get("required", ())
        yield prefix + name, _kind(field, schemas), required, field.get("description", "")
        options = [_resolved(each, schemas) for each in field.get("anyOf", [field])]
        for each in options:
            if "properties" in each:
                yield from _rows(each, schemas, f"{prefix}{name}.")
        if "items" in field:
            items = _resolved(field["items"], schemas)
            for each in items.get("anyOf", [items]):
                yield from _rows(each, schemas, f"{prefix}{name}[].")


def _kind(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return a type in words, with its limits."""
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each, schemas) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        items = _kind(schema["items"], schemas)
        return f"up to {schema['maxItems']} × {items}" if "maxItems" in schema else f"list: {items}"
    name = schema.get("format") or schema.get("type", "any")
    words = {
        "date-time": "moment with an offset",
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "null": "nothing",
    }.get(name, name)
    limits = [
        f"{before} {round(schema[key]):,}{behind}"
        for key, before, behind in (
            ("minimum", "at least", ""),
            ("maximum", "at most", ""),
            ("exclusiveMaximum", "below", ""),
            ("maxLength", "at most", " characters"),
        )
        if key in schema
    ]
    return ", ".join([words, *limits])


def _example(content: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """Return the example of a body, or None."""
    if "example" in content:
        return content["example"]
    examples = _resolved(content.get("schema", {}), schemas).get("examples", [])
    return examples[0] if examples else None
