"""Dossier events: one at a time, or up to a thousand."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import ValidationError

from notifier.domain import dossiers
from notifier.domain.calendar import HANOI
from notifier.domain.event_results import EventResult, Fault, Refusal
from notifier.domain.keys import Key
from notifier.flows import dossier_events as dossier
from notifier.flows.dossier_events import Call
from notifier.rendering.catalogue import LINE_KEY, faults
from notifier.services import Services
from notifier.web.api.answers import (
    BatchAnswer,
    EventAnswer,
    EventLinks,
    Problem,
    RecordedEvent,
    RefusedEvent,
)
from notifier.web.api.bodies import JsonBody, Operation, Sent
from notifier.web.api.context import Context, EventsKey, Here, IdempotencyKey, RequestId
from notifier.web.api.models import DossierEvent, EventBatch
from notifier.web.api.problems import BODY, ProblemError, faults_of, problems, summary

MAX_BYTES = 64 * 1024
MAX_BATCH_BYTES = 4 * 1024 * 1024

router = APIRouter(prefix="/api/v1/dossier-events", tags=["Dossier events"], route_class=Operation)
_EventBody = Annotated[Sent[DossierEvent], Depends(JsonBody(DossierEvent, MAX_BYTES))]
_BatchBody = Annotated[Sent[EventBatch], Depends(JsonBody(EventBatch, MAX_BATCH_BYTES))]


@router.post(
    "",
    operation_id="reportEvent",
    summary="Report that a dossier has a new status",
    status_code=202,
    response_description="It is stored.",
    responses=problems(*BODY, 409),
)
async def report_event(
    key: EventsKey,
    body: _EventBody,
    here: Here,
    request_id: RequestId,
    token: IdempotencyKey = None,
) -> EventAnswer:
    """Record one event. Needs the scope `events:write`."""
    event = _event(await here.services(), key, body.value)
    if isinstance(event, Refusal):
        raise _problem(event)
    fingerprint = _hash("/api/v1/dossier-events", body.raw)
    (result,) = await here.record(Call(key.id, [event], token, fingerprint, request_id))
    if isinstance(result, Refusal):
        raise _problem(result)
    return EventAnswer(
        id=result.id, outcome=result.outcome, message_id=result.message_id, links=_links(result)
    )


@router.post(
    "/batch",
    operation_id="reportEvents",
    summary="Report up to 1,000 events, each answered by itself",
    response_description="Each event has an answer of its own.",
    responses=problems(*BODY, 409),
)
async def report_events(
    key: EventsKey,
    body: _BatchBody,
    here: Here,
    request_id: RequestId,
    token: IdempotencyKey = None,
) -> BatchAnswer:
    """Record many events; a bad one spoils none of the others. Needs the scope `events:write`."""
    events = await here.run(_events, here, await here.services(), key, body.value)
    fingerprint = _hash("/api/v1/dossier-events/batch", body.raw)
    results = await here.record(Call(key.id, events, token, fingerprint, request_id))
    refused = sum(isinstance(each, Refusal) for each in results)
    return BatchAnswer(
        accepted=len(results) - refused,
        refused=refused,
        results=[_result(place, each) for place, each in enumerate(results)],
    )


def _events(
    here: Context, services: Services, key: Key, batch: EventBatch
) -> list[dossiers.Event | Refusal]:
    listed = batch.checked
    here.gate.charge(key, len(listed) - 1)
    return [
        _invalid(faults_of(each.errors(include_url=False), inside=f"/events/{place}"))
        if isinstance(each, ValidationError)
        else _event(services, key, each, inside=f"/events/{place}")
        for place, each in enumerate(listed)
    ]


def _event(
    services: Services, key: Key, found: DossierEvent, *, inside: str = ""
) -> dossiers.Event | Refusal:
    """Return the event, checked against its source and its notice's template."""
    if not key.may_report_for(found.source):
        return Refusal(
            "forbidden",
            "The key may not report for this source. Ask the operator for one that may.",
        )
    source = services.sources.get(found.source)
    if source is None:
        known = ", ".join(services.sources)
        words = f"The service does not know this source. Known are: {known}."
        return _invalid([Fault(f"{inside}/source", "unknown-source", words)])
    status = source.statuses.get(found.status)
    if status is None:
        known = ", ".join(source.statuses)
        words = f"The source has no such status. Known are: {known}."
        return _invalid([Fault(f"{inside}/status", "unknown-status", words)])
    if found.occurred_at > services.clock() + dossier.CLOCK_TOLERANCE:
        words = "It lies in the future. Set the sender's clock."
        return _invalid([Fault(f"{inside}/occurred_at", "future", words)])
    data = _notice_data(found)
    if status.notice is not None:
        wrong = [
            Fault(inside + _event_pointer(pointer), code, words)
            for pointer, code, words in faults(services.catalogue[status.notice], data)
        ]
        if wrong:
            return _invalid(wrong)
    applicant = found.applicant
    return dossiers.Event(
        key_id=key.id,
        sandbox=key.sandbox,
        source=source,
        status=status,
        code=found.code,
        occurred_at=found.occurred_at,
        name=applicant.name,
        email=applicant.email,
        tax_code=applicant.tax_code,
        language=applicant.language,
        promised_at=found.promised_at,
        data=data,
        fingerprint=hashlib.sha256(found.model_dump_json().encode()).digest(),
    )


# Templates call some fields otherwise, since they speak of a mail and not of an event; all others
# go into the mail under their own names.
_NOTICE_NAMES = {"code": "dossier_code", "occurred_at": "status_at"}
_EVENT_NAMES = {theirs: ours for ours, theirs in _NOTICE_NAMES.items()}
_NOT_SHOWN = {"source", "status", "applicant", "papers"}
_SHOWN = [
    (name, _NOTICE_NAMES.get(name, name))
    for name in DossierEvent.model_fields
    if name not in _NOT_SHOWN
]


def _notice_data(event: DossierEvent) -> dict[str, Any]:
    """Return the values of a notice's template."""
    found: dict[str, Any] = {}
    for ours, theirs in _SHOWN:
        value = getattr(event, ours)
        if isinstance(value, datetime):
            value = value.astimezone(HANOI).isoformat(timespec="seconds")
        elif ours == "due_on" and value is not None:
            value = value.isoformat()
        if value is not None:
            found[theirs] = value
    if event.papers:
        found[LINE_KEY] = [{"paper": paper} for paper in event.papers]
    return found


def _event_pointer(pointer: str) -> str:
    """Return where a value of the template stands in the event."""
    name, *more = pointer.split("/")[1:]
    if name == LINE_KEY:
        return "/".join(["", "papers", *more[:1]])
    return f"/{_EVENT_NAMES.get(name, name)}"


def _invalid(wrong: list[Fault]) -> Refusal:
    return Refusal("invalid", summary(wrong), tuple(wrong))


_STATUS: dict[str, Literal[403, 409, 422]] = {"forbidden": 403, "conflict": 409, "invalid": 422}


def _problem(refusal: Refusal) -> ProblemError:
    return ProblemError(_STATUS[refusal.code], refusal.code, refusal.detail, refusal.faults)


def _links(result: EventResult) -> EventLinks | None:
    if result.message_id is None:
        return None
    return EventLinks(message=f"/api/v1/messages/{result.message_id}")


def _result(place: int, result: EventResult | Refusal) -> RecordedEvent | RefusedEvent:
    if isinstance(result, Refusal):
        return RefusedEvent(
            index=place,
            status=_STATUS[result.code],
            problem=Problem.model_validate(_problem(result).to_json()),
        )
    return RecordedEvent(
        index=place,
        status=202,
        id=result.id,
        outcome=result.outcome,
        message_id=result.message_id,
        links=_links(result),
    )


def _hash(path: str, raw: bytes) -> bytes:
    return hashlib.sha256(path.encode() + b"\n" + raw).digest()
