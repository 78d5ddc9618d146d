"""Errors as RFC 9457 problem details: a stable code, a sentence, a pointer to each faulty field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from notifier.domain.event_results import Fault

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
    "unavailable": "A part of the service is unavailable",
    "unrenderable": "The mail cannot be made",
    "internal": "Something went wrong",
}


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
            found["errors"] = [each._asdict() for each in self.faults[:_MAX_FAULTS]]
        return found


def respond(problem: ProblemError) -> Response:
    """Return the answer."""
    return Response(
        orjson.dumps(problem.to_json()), problem.status, dict(problem.headers), MEDIA_TYPE
    )


def invalid(faults: Sequence[Fault]) -> ProblemError:
    """Return 422 with what is wrong, field by field."""
    return ProblemError(422, "invalid", summary(faults), faults)


def summary(faults: Sequence[Fault]) -> str:
    """Return the first three faults in one line."""
    shown = "; ".join(f"{each.pointer or '/'}: {each.detail}" for each in faults[:3])
    return shown + ("; …" if len(faults) > 3 else "")  # noqa: PLR2004 - three are read


def pointer(path: Sequence[str | int]) -> str:
    """Return a JSON pointer."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


_MOMENT = "It must be a moment such as 2026-11-24T09:30:00+07:00."
_DAY = "It must be a day such as 2026-11-24."
# What pydantic finds, as a code that is stable and a sentence for people.
_WORDS = {
    "missing": ("missing", "It is required."),
    "extra_forbidden": ("unknown", "There is no such field."),
    "string_type": ("type", "It must be a text."),
    "int_type": ("type", "It must be a whole number."),
    "int_parsing": ("value", "It must be a whole number."),
    "bool_type": ("type", "It must be true or false."),
    "bool_parsing": ("type", "It must be true or false."),
    "list_type": ("type", "It must be a list."),
    "dict_type": ("type", "It must be an object."),
    "model_type": ("type", "It must be an object."),
    "model_attributes_type": ("type", "It must be an object."),
    "datetime_type": ("type", _MOMENT),
    "datetime_from_date_parsing": ("type", _MOMENT),
    "datetime_parsing": ("type", _MOMENT),
    "datetime_object_invalid": ("type", _MOMENT),
    "timezone_aware": ("time-zone", "It needs an offset such as +07:00."),
    "date_type": ("type", _DAY),
    "date_from_datetime_parsing": ("type", _DAY),
    "date_from_datetime_inexact": ("type", _DAY),
    "date_parsing": ("type", _DAY),
}


def of_validation(error: ValidationError) -> ProblemError:
    """Return what pydantic found as problem details: 400 for what is no JSON at all, else 422."""
    found = error.errors(include_url=False, include_input=False)
    if any(each["type"] == "json_invalid" for each in found):
        return ProblemError(
            400, "bad-json", f"The body is not valid JSON: {found[0]['ctx'].get('error', '')}."
        )
    return invalid(faults_of(found))


def faults_of(errors: Iterable[Mapping[str, Any]], *, inside: str = "") -> list[Fault]:
    """Return what pydantic found wrong with a body, whose place in the whole is `inside`."""
    return [Fault(inside + pointer(_path(each["loc"])), *code_and_words(each)) for each in errors]


def _path(place: Sequence[str | int]) -> list[str | int]:
    # A union names the type that it tried behind the field.
    return [
        part
        for part in place
        if not (isinstance(part, str) and (part.startswith("function-") or part in {"str", "int"}))
    ]


def code_and_words(error: Mapping[str, Any]) -> tuple[str, str]:
    """Return the stable code and the sentence of what pydantic found."""
    if error["type"] == "value_error":
        # Validators of ours say both.
        code, _, words = str(error["ctx"]["error"]).partition(": ")
        return code, words
    code, words = _WORDS.get(error["type"], ("value", ""))
    return code, words or _sentence(error["msg"])


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


# --- as the document describes them --------------------------------------------------------------

_DESCRIPTIONS = {
    400: "The request cannot be read.",
    401: "No valid key was sent.",
    403: "The key lacks the scope.",
    404: "There is no such thing for this key.",
    409: "It contradicts what was sent before, or the state does not allow it.",
    413: "The body is too large.",
    415: "The body has the wrong type.",
    422: "Fields cannot be used; `errors` points at each.",
    429: "Too many requests; `Retry-After` says when to try again.",
    503: "A part of the service is unavailable; `Retry-After` says when to try again.",
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds to wait."}}
_HEADERS = {
    429: _RETRY_AFTER
    | {
        name: {"schema": {"type": "string"}, "description": words}
        for name, words in (
            ("RateLimit-Limit", "How many are allowed."),
            ("RateLimit-Remaining", "How many are left."),
            ("RateLimit-Reset", "Seconds until more are allowed."),
        )
    },
    503: _RETRY_AFTER,
}
_EXAMPLES = {
    422: invalid(
        [Fault("/applicant/email", "address", "The address is not valid. Correct it.")]
    ).to_json()
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return problem details as `responses` of a route."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}}
        if status in _EXAMPLES:
            content["example"] = _EXAMPLES[status]
        found[status] = {
            "description": _DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: content},
        }
        if status in _HEADERS:
            found[status]["headers"] = _HEADERS[status]
    return found


# Any operation may be answered so.
ALWAYS = problems(401, 403, 429, 503)
BODY = (400, 413, 415, 422)
"""What any operation with a body may be answered with."""
