"""Messages: ask for one, look at it, list them, take one back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from notifier.domain.calendar import HANOI
from notifier.domain.keys import Key
from notifier.errors import NotFoundError, RenderError, TransitionError
from notifier.flows import message_requests as message
from notifier.flows.message_requests import Message, Wanted
from notifier.rendering.catalogue import LINE_KEY, faults
from notifier.services import Services
from notifier.web.api import models
from notifier.web.api.gate import Gate, idempotency_key, request_id
from notifier.web.api.models import MessageRequest
from notifier.web.api.problems import Fault, ProblemError, invalid, of_validation

MAX_BYTES = 256 * 1024
WRITE, READ = "messages:write", "messages:read"
STATES = (
    "queued",
    "deferred",
    "accepted",
    "refused",
    "skipped",
    "in_doubt",
    "given_up",
    "expired",
    "cancelled",
)
PAGE, MAX_PAGE = 50, 200
_MAX_LINES = 500
Answer = tuple[int, Any]


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(HANOI).isoformat(timespec="milliseconds")


def to_json(found: Message, *, whole: bool) -> dict[str, Any]:
    """Return a message as it stands in an answer: with its replies when `whole`."""
    here = f"/api/v1/messages/{found.id}"
    values: dict[str, Any] = {
        "id": str(found.id),
        "state": found.state,
        "reason": found.reason,
        "template": found.template,
        "topic": found.topic,
        "language": found.language,
        "attempts": found.attempts,
        "created_at": _shown(found.created_at),
        "send_at": _shown(found.send_at),
        "expires_at": _shown(found.expires_at),
        "settled_at": _shown(found.settled_at),
        "sha256": found.sha256,
        "links": {"self": here, "cancel": f"{here}/cancel"},
    }
    if whole:
        values["replies"] = [
            {"at": _shown(each.at), "kind": each.kind, "host": each.host, "detail": each.detail}
            for each in found.replies
        ]
    return values


class Messages:
    """Answers requests about single messages."""

    def __init__(self, services: Services, gate: Gate) -> None:
        """Work through `services`."""
        self._services = services
        self._gate = gate

    def create(self, request: Request, raw: bytes) -> Answer:
        """Plan a mail, or with `dry_run=true` show it."""
        key = self._gate.enter(request, WRITE)
        token = idempotency_key(request)
        dry = self._flag(request, "dry_run")
        wanted = self._wanted(raw)
        if dry:
            return self._dry_run(wanted)
        if key.sandbox and not self._services.settings.sandbox_smtp_url:
            raise ProblemError(
                503, "unavailable", "No catcher is set for sandbox keys: NOTIFIER_SANDBOX_SMTP_URL."
            )
        self._gate.recipient(wanted.email)
        asked = message.ask(
            self._services,
            wanted,
            key_id=key.id,
            sandbox=key.sandbox,
            token=token,
            fingerprint=hashlib.sha256(b"messages\n" + raw).digest(),
            request=request_id(request),
        )
        if asked.id is None:
            raise ProblemError(
                409,
                "idempotency",
                "This Idempotency-Key was sent before with another body. Use a new one.",
            )
        here = f"/api/v1/messages/{asked.id}"
        return 202, {
            "id": str(asked.id),
            "state": "queued",
            "links": {"self": here, "cancel": f"{here}/cancel"},
        }

    def _dry_run(self, wanted: Wanted) -> Answer:
        try:
            found = message.dry_run(self._services, wanted)
        except RenderError as error:
            raise ProblemError(422, "unrenderable", str(error)) from None
        return 200, {
            "subject": found.subject,
            "text": found.text,
            "html": found.html,
            "bytes": len(found.raw),
        }

    @staticmethod
    def _flag(request: Request, name: str) -> bool:
        value = request.query_params.get(name, "false")
        if value not in {"true", "false"}:
            raise invalid([Fault(f"?{name}", "type", "It must be true or false.")])
        return value == "true"

    def _wanted(self, raw: bytes) -> Wanted:
        try:
            asked = MessageRequest.model_validate_json(raw)
        except ValidationError as error:
            raise of_validation(error) from None
        template = self._services.catalogue.get(asked.template)
        if template is None or self._services.topics[template.topic].code == "service":
            raise invalid(
                [
                    Fault(
                        "/template",
                        "unknown-template",
                        "There is no such template. See GET /api/v1/templates.",
                    )
                ]
            )
        if asked.language not in template.languages:
            raise invalid(
                [
                    Fault(
                        "/language",
                        "language",
                        f"The template has only: {', '.join(template.languages)}.",
                    )
                ]
            )
        data = _clean(asked.data)
        wrong = [
            Fault("/data" + pointer, code, words) for pointer, code, words in faults(template, data)
        ]
        now = self._services.clock()
        if asked.send_at is not None and asked.send_at > now + message.MAX_AHEAD:
            wrong.append(Fault("/send_at", "too-far", "It lies more than 366 days ahead."))
        if asked.expires_at is not None and asked.expires_at <= max(now, asked.send_at or now):
            wrong.append(Fault("/expires_at", "past", "It lies before the message could leave."))
        if wrong:
            raise invalid(wrong)
        to = asked.recipient
        return Wanted(
            template,
            to.email,
            to.name,
            asked.language,
            to.tax_code,
            data,
            asked.send_at,
            asked.expires_at,
        )

    def get(self, request: Request, _: bytes, number: str) -> Answer:
        """Return one message with each reply."""
        key = self._gate.enter(request, READ)
        return 200, to_json(self._found(number, key), whole=True)

    def _found(self, number: str, key: Key) -> Message:
        try:
            return message.get(self._services, uuid.UUID(number), key_id=key.id)
        except (ValueError, NotFoundError):
            raise ProblemError(404, "not-found", "This key has no such message.") from None

    def cancel(self, request: Request, _: bytes, number: str) -> Answer:
        """Take a message back while it is queued."""
        key = self._gate.enter(request, WRITE)
        found = self._found(number, key)
        try:
            return 200, to_json(message.cancel(self._services, found.id, key_id=key.id), whole=True)
        except TransitionError as error:
            raise ProblemError(409, "state", error.message) from None

    def list(self, request: Request, _: bytes) -> Answer:
        """Return a page of the key's messages, the newest first."""
        key = self._gate.enter(request, READ)
        asked = request.query_params
        wrong = [
            Fault(f"?{name}", "unknown", "There is no such filter.")
            for name in asked
            if name not in _QUERY
        ]
        filters: dict[str, Any] = {name: asked.get(name) for name in ("template", "topic")}
        if "state" in asked:
            filters["state"] = asked["state"]
            if asked["state"] not in STATES:
                wrong.append(Fault("?state", "value", f"It must be one of: {', '.join(STATES)}."))
        for name in ("since", "until"):
            if name in asked:
                filters[name] = _moment(asked[name], name, wrong)
        limit = PAGE
        if "limit" in asked:
            limit = (
                int(asked["limit"])
                if asked["limit"].isascii() and asked["limit"].isdigit() and len(asked["limit"]) < 6
                else 0
            )  # noqa: PLR2004
            if not 1 <= limit <= MAX_PAGE:
                wrong.append(
                    Fault("?limit", "value", f"It must be a whole number from 1 to {MAX_PAGE}.")
                )
        after = _cursor(asked["cursor"], wrong) if "cursor" in asked else None
        for name in ("template", "topic"):
            if "\0" in (filters[name] or ""):
                wrong.append(Fault(f"?{name}", "characters", "It holds control characters."))
        if wrong:
            raise invalid(wrong)
        rows = message.listed(
            self._services, key_id=key.id, filters=filters, after=after, limit=limit + 1
        )
        more = len(rows) > limit
        page = rows[:limit]
        return 200, {
            "messages": [to_json(each, whole=False) for each in page],
            "next": base64.urlsafe_b64encode(page[-1].id.bytes).rstrip(b"=").decode()
            if more
            else None,
        }


_QUERY = {"state", "template", "topic", "since", "until", "limit", "cursor"}


def _moment(value: str, name: str, wrong: list[Fault]) -> datetime | None:
    try:
        # An unescaped "+" of an offset arrives as a space.
        found = datetime.fromisoformat(value.replace(" ", "+"))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or not 1970 < found.year < 9000:  # noqa: PLR2004 - what an id can say
        wrong.append(
            Fault(f"?{name}", "type", "It must be a moment such as 2026-11-24T09:30:00+07:00.")
        )
        return None
    return found


def _cursor(value: str, wrong: list[Fault]) -> uuid.UUID | None:
    try:
        return uuid.UUID(
            bytes=base64.b64decode(
                value.encode("ascii") + b"=" * (-len(value) % 4), altchars=b"-_", validate=True
            )
        )
    except (ValueError, UnicodeEncodeError, binascii.Error):
        wrong.append(Fault("?cursor", "value", "It is no cursor of an earlier page."))
        return None


def _clean(data: dict[str, Any]) -> dict[str, Any]:
    """Return the values with their texts checked as those of events are; raise ProblemError."""
    wrong: list[Fault] = []

    def texts(place: str, values: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in values.items():
            if isinstance(value, str):
                try:
                    found[name] = models.prose(value)
                except ValueError as error:
                    code, _, words = str(error).partition(": ")
                    wrong.append(Fault(f"{place}/{name}", code, words))
            else:
                found[name] = value
        return found

    cleaned = texts("/data", {name: value for name, value in data.items() if name != LINE_KEY})
    if LINE_KEY in data:
        rows = data[LINE_KEY]
        if isinstance(rows, list) and len(rows) <= _MAX_LINES:
            cleaned[LINE_KEY] = [
                texts(f"/data/{LINE_KEY}/{at}", row) if isinstance(row, dict) else row
                for at, row in enumerate(rows)
            ]
        else:
            wrong.append(
                Fault(
                    f"/data/{LINE_KEY}",
                    "type",
                    f"It must be a list of at most {_MAX_LINES} objects.",
                )
            )
    if wrong:
        raise invalid(wrong)
    return cleaned
