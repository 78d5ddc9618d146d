"""Errors as RFC 9457 problem details: a stable code, one sentence, and a JSON pointer (RFC 6901) for every field at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
_MAX_FAULTS = 50

TITLES = {
    "bad-json": "The body is not JSON",
    "too-large": "The body is too large",
    "media-type": "The body has the wrong type",
    "invalid": "Some fields cannot be used",
    "unauthorized": "No valid key was sent",
    "forbidden": "The key may not do this",
    "not-found": "There is no such thing",
    "method": "The method is not allowed here",
    "conflict": "It contradicts what was sent before",
    "idempotency": "The Idempotency-Key was used for another request",
    "state": "The state does not allow this",
    "rate-limit": "Too many requests",
    "unavailable": "A part of the service is away",
    "unrenderable": "The mail cannot be made",
    "internal": "Something went wrong",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field. It never repeats the value: that may be personal."""

    pointer: str
    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """Return it as it stands in an answer."""
        return {"pointer": self.pointer, "code": self.code, "detail": self.detail}


@dataclass(slots=True)
class ProblemError(Exception):
    """Raised anywhere under the API to answer with problem details."""

    status: int
    code: str
    detail: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the problem's members; `type` is a page's anchor that explains the code."""
        found: dict[str, Any] = {
            "type": f"/api/docs#{self.code}",
            "title": TITLES[self.code],
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.faults:
            found["errors"] = [each.to_json() for each in self.faults[:_MAX_FAULTS]]
        return found


def respond(problem: ProblemError) -> Response:
    """Return the answer."""
    return Response(
        orjson.dumps(problem.to_json()), problem.status, dict(problem.headers), MEDIA_TYPE
    )


def invalid(faults: Sequence[Fault]) -> ProblemError:
    """Return 422 with what is wrong, field by field."""
    shown = "; ".join(f"{each.pointer or '/'}: {each.detail}" for each in faults[:3])
    return ProblemError(422, "invalid", shown + ("; …" if len(faults) > 3 else ""), faults)  # noqa: PLR2004 - three are read


def pointer(path: Sequence[str | int]) -> str:
    """Return a JSON pointer."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


_WORDS = {
    "missing": ("missing", "It is required."),
    "extra_forbidden": ("unknown", "There is no such field."),
    "string_type": ("type", "It must be a text."),
    "int_type": ("type", "It must be a whole number."),
    "bool_type": ("type", "It must be true or false."),
    "list_type": ("type", "It must be a list."),
    "dict_type": ("type", "It must be an object."),
    "model_type": ("type", "It must be an object."),
    "model_attributes_type": ("type", "It must be an object."),
    "datetime_type": ("type", "It must be a moment such as 2026-11-24T09:30:00+07:00."),
    "datetime_from_date_parsing": (
        "type",
        "It must be a moment such as 2026-11-24T09:30:00+07:00.",
    ),
    "datetime_parsing": ("type", "It must be a moment such as 2026-11-24T09:30:00+07:00."),
    "timezone_aware": ("time-zone", "It needs an offset such as +07:00."),
    "date_type": ("type", "It must be a day such as 2026-11-24."),
    "date_from_datetime_parsing": ("type", "It must be a day such as 2026-11-24."),
    "date_parsing": ("type", "It must be a day such as 2026-11-24."),
}


def of_validation(error: ValidationError, *, inside: Sequence[str | int] = ()) -> ProblemError:
    """Return what pydantic found as problem details: 400 for what is no JSON at all, else 422."""
    found = error.errors(include_url=False, include_input=False)
    if any(each["type"] == "json_invalid" for each in found):
        return ProblemError(
            400,
            "bad-json",
            "The body is not valid JSON: " + str(found[0]["ctx"].get("error", "")) + ".",
        )
    faults = []
    for each in found:
        # A union names the type it tried behind the field.
        path = [
            part
            for part in each["loc"]
            if not (
                isinstance(part, str) and (part.startswith("function-") or part in {"str", "int"})
            )
        ]
        code, words = _WORDS.get(each["type"], ("value", ""))
        if each["type"] == "value_error":
            code, _, words = str(each["ctx"]["error"]).partition(": ")
        faults.append(Fault(pointer([*inside, *path]), code, words or _sentence(each["msg"])))
    return invalid(faults)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")
