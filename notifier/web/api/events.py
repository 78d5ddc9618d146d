"""Dossier events: one at a time, or up to a thousand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from notifier.domain.calendar import HANOI
from notifier.domain.keys import Key
from notifier.flows import dossier_events as dossier
from notifier.flows.dossier_events import Call, Event, Told
from notifier.group_commit import GroupWriter
from notifier.rendering.catalogue import LINE_KEY, faults
from notifier.services import Services
from notifier.web.api.gate import Gate, idempotency_key, request_id
from notifier.web.api.models import DossierEvent, EventBatch
from notifier.web.api.problems import Fault, ProblemError, invalid, of_validation

MAX_BYTES = 64 * 1024
MAX_BATCH_BYTES = 4 * 1024 * 1024
SCOPE = "events:write"


class Events:
    """Answers requests with events; those that come at once are written in one transaction."""

    def __init__(self, services: Services, gate: Gate) -> None:
        """Work through `services`."""
        self._services = services
        self._gate = gate
        self._writer: GroupWriter[Call, dossier.Answer] = GroupWriter(
            lambda calls: dossier.accept(services, calls),
            name="dossier-events",
            most=dossier.MAX_EVENTS,
            size=lambda call: max(1, len(call.events)),
            linger=0.003,
            alone=True,
        )

    def one(self, request: Request, raw: bytes) -> dossier.Answer:
        """Record one event."""
        key = self._gate.enter(request, SCOPE)
        token = idempotency_key(request)
        event = self._event(key, raw)
        return self._submit(
            Call(
                key.id,
                key.sandbox,
                [event],
                _answer_one,
                token,
                _hash(request, raw),
                request_id(request),
            )
        )

    def batch(self, request: Request, raw: bytes) -> dossier.Answer:
        """Record many events; a bad one spoils none of the others."""
        key = self._gate.enter(request, SCOPE)
        token = idempotency_key(request)
        try:
            listed = EventBatch.model_validate_json(raw).events
        except ValidationError as error:
            raise of_validation(error) from None
        self._gate.charge(key, len(listed) - 1)
        results: list[dict[str, Any] | None] = []
        events: list[Event] = []
        for number, value in enumerate(listed):
            try:
                events.append(self._event(key, orjson.dumps(value), inside=("events", number)))
                results.append(None)
            except (ProblemError, TypeError) as error:
                # orjson cannot write a lone surrogate, which is no text either.
                problem = error if isinstance(error, ProblemError) else invalid([_BROKEN])
                results.append(
                    {"index": number, "status": problem.status, "problem": problem.to_json()}
                )

        def answer(told: Sequence[Told]) -> dossier.Answer:
            each = iter(told)
            filled = [
                result or {"index": number, **_result(next(each))}
                for number, result in enumerate(results)
            ]
            refused = sum(result["status"] >= 400 for result in filled)  # noqa: PLR2004 - where HTTP's errors begin
            return 200, {"accepted": len(filled) - refused, "refused": refused, "results": filled}

        return self._submit(
            Call(
                key.id, key.sandbox, events, answer, token, _hash(request, raw), request_id(request)
            )
        )

    def _submit(self, call: Call) -> dossier.Answer:
        status, body = self._writer.submit(call).result(30)
        if body is None:
            raise ProblemError(
                409,
                "idempotency",
                "This Idempotency-Key was sent before with another body. Use a new one.",
            )
        if "code" in body:
            raise ProblemError(status, body["code"], body["detail"])
        return status, body

    def _event(self, key: Key, raw: bytes, *, inside: Sequence[str | int] = ()) -> Event:
        try:
            found = DossierEvent.model_validate_json(raw)
        except ValidationError as error:
            raise of_validation(error, inside=inside) from None
        if not key.may_report_for(found.source):
            raise ProblemError(
                403,
                "forbidden",
                "The key may not report for this source. Ask the operator for one that may.",
            )
        prefix = "".join(f"/{part}" for part in inside)
        source = self._services.sources.get(found.source)
        if source is None:
            known = ", ".join(self._services.sources)
            raise invalid(
                [
                    Fault(
                        f"{prefix}/source",
                        "unknown-source",
                        f"The service does not know this source. Known are: {known}.",
                    )
                ]
            )
        status = source.statuses.get(found.status)
        if status is None:
            known = ", ".join(source.statuses)
            raise invalid(
                [
                    Fault(
                        f"{prefix}/status",
                        "unknown-status",
                        f"The source has no such status. Known are: {known}.",
                    )
                ]
            )
        if found.occurred_at > self._services.clock() + dossier.CLOCK_TOLERANCE:
            raise invalid(
                [
                    Fault(
                        f"{prefix}/occurred_at",
                        "future",
                        "It lies in the future. Set the sender's clock.",
                    )
                ]
            )
        data = _data(found)
        if status.notice is not None:
            wrong = faults(self._services.catalogue[status.notice], data)
            if wrong:
                raise invalid(
                    [
                        Fault(prefix + _event_pointer(pointer), code, words)
                        for pointer, code, words in wrong
                    ]
                )
        applicant = found.applicant
        return Event(
            source,
            status,
            found.code,
            found.occurred_at,
            applicant.name,
            applicant.email,
            applicant.tax_code,
            applicant.language,
            found.promised_at,
            data,
            hashlib.sha256(found.model_dump_json().encode()).digest(),
        )


_BROKEN = Fault("", "characters", "It holds broken text.")


def _event_pointer(pointer: str) -> str:
    parts = pointer.split("/")
    if parts[1:2] == [LINE_KEY]:
        return "/".join(["", "papers", *parts[2:3]])
    return {"/dossier_code": "/code", "/status_at": "/occurred_at"}.get(pointer, pointer)


def _local(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(HANOI).isoformat(timespec="seconds")


def _data(event: DossierEvent) -> dict[str, Any]:
    """Return the values of a notice's template."""
    values = {
        "dossier_code": event.code,
        "procedure": event.procedure,
        "status_at": _local(event.occurred_at),
        "promised_at": _local(event.promised_at),
        "reason": event.reason,
        "amount": event.amount,
        "due_on": event.due_on.isoformat() if event.due_on else None,
        "result_place": event.result_place,
        "office": event.office,
    }
    found: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    if event.papers:
        found[LINE_KEY] = [{"paper": paper} for paper in event.papers]
    return found


def _hash(request: Request, raw: bytes) -> bytes:
    return hashlib.sha256(request.url.path.encode() + b"\n" + raw).digest()


def _result(told: Told) -> dict[str, Any]:
    if told.outcome == "conflict":
        return {
            "status": 409,
            "problem": ProblemError(
                409,
                "conflict",
                "This source, dossier, status and moment were reported before with other content; that report stands.",
            ).to_json(),
        }
    found: dict[str, Any] = {
        "status": 202,
        "id": str(told.id),
        "outcome": told.outcome,
        "message_id": None,
    }
    if told.message_id is not None:
        found["message_id"] = str(told.message_id)
        found["links"] = {"message": f"/api/v1/messages/{told.message_id}"}
    return found


def _answer_one(told: Sequence[Told]) -> dossier.Answer:
    found = _result(told[0])
    status = found.pop("status")
    return status, found.get("problem", found)
