"""What there is to write about, with what, and to whom not: topics, templates, suppressions."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from notifier.domain import addresses
from notifier.domain import suppressions as suppression
from notifier.rendering.catalogue import Field
from notifier.services import Services
from notifier.web.api.gate import Gate
from notifier.web.api.models import SuppressionRequest
from notifier.web.api.problems import Fault, ProblemError, invalid, of_validation

MAX_BYTES = 16 * 1024
SCOPE = "suppressions:write"
_INTERNAL = "service"
_PAGE = 100
Answer = tuple[int, Any]


def _field(each: Field) -> dict[str, Any]:
    return {
        "name": each.name,
        "type": each.type,
        "required": each.required,
        "max_length": each.max_length,
        "label": dict(each.label),
    }


class Reference:
    """Answers requests about topics, templates and suppressions."""

    def __init__(self, services: Services, gate: Gate) -> None:
        """Work through `services`."""
        self._services = services
        self._gate = gate

    def topics(self, request: Request, _: bytes) -> Answer:
        """Return all topics."""
        self._gate.enter(request, None)
        listed = [each for each in self._services.topics.values() if each.code != _INTERNAL]
        return 200, {
            "topics": [
                {
                    "code": each.code,
                    "name": dict(each.info.name),
                    "statutory": each.statutory,
                    "legal_ground": dict(each.info.legal_ground),
                }
                for each in listed
            ]
        }

    def templates(self, request: Request, _: bytes) -> Answer:
        """Return all templates with their fields."""
        self._gate.enter(request, None)
        listed = [each for each in self._services.catalogue.values() if each.topic != _INTERNAL]
        return 200, {
            "templates": [
                {
                    "name": each.name,
                    "version": each.version,
                    "topic": each.topic,
                    "title": dict(each.title),
                    "languages": list(each.languages),
                    "fields": [_field(field) for field in each.fields],
                    "lines": [_field(field) for field in each.lines],
                }
                for each in listed
            ]
        }

    def suppress(self, request: Request, raw: bytes) -> Answer:
        """Stop writing to an address about a topic."""
        key = self._gate.enter(request, SCOPE)
        asked = self._asked(raw)
        with self._services.session() as session:
            number = addresses.ids(session, [asked.email])[asked.email]
            new = suppression.suppress(
                session,
                number,
                asked.topic,
                reason="manual",
                source=f"key {key.id}: {asked.reason}",
                now=self._services.clock(),
            )
            standing = suppression.active(session, number)
        return (201 if new else 200), {"suppressed": standing, "new": new}

    def lift(self, request: Request, raw: bytes) -> Answer:
        """Write to an address about a topic again. What its owner asked for stays, for only the owner can take it back."""
        key = self._gate.enter(request, SCOPE)
        asked = self._asked(raw)
        with self._services.session() as session:
            number = addresses.ids(session, [asked.email])[asked.email]
            reason = suppression.active(session, number).get(asked.topic)
            if reason == "unsubscribed":
                raise ProblemError(
                    409,
                    "state",
                    "The owner of the address opted out; only they can take that back, by the link in a mail.",
                )
            lifted = suppression.lift(
                session,
                number,
                asked.topic,
                by=f"key {key.id}: {asked.reason}",
                now=self._services.clock(),
            )
            standing = suppression.active(session, number)
        return 200, {"suppressed": standing, "lifted": lifted}

    def listed(self, request: Request, _: bytes) -> Answer:
        """Return a page of what stands, the newest first."""
        self._gate.enter(request, SCOPE)
        asked = request.query_params
        wrong = [
            Fault(f"?{name}", "unknown", "There is no such filter.")
            for name in asked
            if name != "cursor"
        ]
        cursor = asked.get("cursor", str(2**62))
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):  # noqa: PLR2004 - what fits in 63 bits
            wrong.append(Fault("?cursor", "value", "It is no cursor of an earlier page."))
        if wrong:
            raise invalid(wrong)
        with self._services.session() as session:
            rows = suppression.page(session, before=min(int(cursor), 2**62), limit=_PAGE + 1)
        listed = [
            {
                "email": each.email,
                "topic": each.topic,
                "reason": each.reason,
                "since": each.since.isoformat(timespec="seconds"),
            }
            for each in rows[:_PAGE]
        ]
        return 200, {
            "suppressions": listed,
            "next": str(rows[_PAGE - 1].id) if len(rows) > _PAGE else None,
        }

    def _asked(self, raw: bytes) -> SuppressionRequest:
        try:
            asked = SuppressionRequest.model_validate_json(raw)
        except ValidationError as error:
            raise of_validation(error) from None
        if asked.topic not in {*self._services.topics, suppression.EVERY_TOPIC}:
            raise invalid(
                [
                    Fault(
                        "/topic", "unknown-topic", "There is no such topic. See GET /api/v1/topics."
                    )
                ]
            )
        return asked
