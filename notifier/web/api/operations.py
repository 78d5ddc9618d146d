"""Every operation of the API in one table; routes and the OpenAPI document are both made of it, so they cannot differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from notifier.services import Services
from notifier.web.api import campaigns, events, messages, reference
from notifier.web.api.campaigns import CampaignRequest, Campaigns, LaunchRequest
from notifier.web.api.events import Events
from notifier.web.api.gate import Gate
from notifier.web.api.messages import Messages
from notifier.web.api.models import DossierEvent, EventBatch, MessageRequest, SuppressionRequest
from notifier.web.api.reference import Reference

Handler = Callable[..., tuple[int, Any] | Response]

EVENT = {
    "source": "portal",
    "code": "000.A0.01.H26-261102-0042",
    "status": 2,
    "occurred_at": "2026-11-02T09:15:00+07:00",
    "procedure": "Đăng ký thuế lần đầu",
    "applicant": {
        "name": "Công ty TNHH Ban Mai",
        "tax_code": "0100109106",
        "email": "ketoan@banmai.example.test",
        "language": "vi",
    },
    "promised_at": "2026-11-09T17:00:00+07:00",
    "office": "Thuế cơ sở 1 thành phố Hà Nội",
}
_TOLD = {
    "id": "019a4f0e-1f7a-7c3e-9a51-5f2d8c1b7e40",
    "outcome": "queued",
    "message_id": "019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51",
    "links": {"message": "/api/v1/messages/019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51"},
}
_MESSAGE_REQUEST = {
    "template": "settlement-guidance",
    "recipient": {
        "name": "Công ty TNHH Ban Mai",
        "email": "ketoan@banmai.example.test",
        "tax_code": "0100109106",
    },
    "language": "vi",
    "data": {"tax_year": 2026, "tax_kind": "thuế thu nhập doanh nghiệp", "deadline": "2027-03-31"},
}
_ASKED = {
    "id": "019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51",
    "state": "queued",
    "links": {
        "self": "/api/v1/messages/019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51",
        "cancel": "/api/v1/messages/019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51/cancel",
    },
}
_MESSAGE = {
    "id": "019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51",
    "state": "accepted",
    "reason": None,
    "template": "dossier-received",
    "topic": "dossier-status",
    "language": "vi",
    "attempts": 1,
    "created_at": "2026-11-02T09:15:01.204+07:00",
    "send_at": None,
    "expires_at": None,
    "settled_at": "2026-11-02T09:15:01.311+07:00",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "links": _ASKED["links"],
}
_REPLY = {
    "at": "2026-11-02T09:15:01.311+07:00",
    "kind": "accepted",
    "host": "mx.example.test",
    "detail": "250 2.0.0 Ok: queued",
}
_CAMPAIGN = {
    "name": "tax-policy-2026-12",
    "definition": {
        "title": "Chính sách thuế mới",
        "topic": "tax-policy",
        "template": "tax-policy",
        "pace_per_minute": 60000,
    },
}
_DRAFT = {
    "name": "tax-policy-2026-12",
    "state": "draft",
    "links": {"self": "/api/v1/campaigns/tax-policy-2026-12"},
}
_STATUS = {
    "name": "tax-policy-2026-12",
    "state": "running",
    "total": 114072,
    "queued": 80000,
    "accepted": 34072,
}
_SUPPRESSION = {
    "email": "ketoan@banmai.example.test",
    "topic": "tax-policy",
    "reason": "Yêu cầu qua điện thoại ngày 02/11/2026",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `body` is the model of its JSON body, `answers` an example for each status of success."""

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    scope: str | None
    answers: Mapping[int, Any]
    most_bytes: int = 0
    body: type[BaseModel] | None = None
    body_required: bool = True
    example: Any = None
    idempotent: bool = False
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: tuple[int, ...] = ()
    any_body: tuple[str, ...] = ()
    media_type: str = "application/json"


_STATE = {"type": "string", "enum": list(messages.STATES)}
_MOMENT = {"type": "string", "format": "date-time"}
_PAGES: dict[str, Mapping[str, Any]] = {
    "state": _STATE,
    "template": {"type": "string"},
    "topic": {"type": "string"},
    "since": _MOMENT,
    "until": _MOMENT,
    "limit": {"type": "integer", "minimum": 1, "maximum": messages.MAX_PAGE},
    "cursor": {"type": "string"},
}


def operations(services: Services, gate: Gate) -> list[Operation]:
    """Return all operations over `services`."""
    event, single, whole, known = (
        Events(services, gate),
        Messages(services, gate),
        Campaigns(services, gate),
        Reference(services, gate),
    )
    draft = "/v1/campaigns/{name}"

    def step(name: str, summary: str, handler: Handler) -> Operation:
        return Operation(
            "POST",
            f"{draft}/{name}",
            f"{name}Campaign",
            summary,
            handler,
            campaigns.SCOPE,
            {200: _STATUS},
            problems=(404, 409),
        )

    return [
        Operation(
            "POST",
            "/v1/dossier-events",
            "reportEvent",
            "Report that a dossier has a new status",
            event.one,
            events.SCOPE,
            {202: _TOLD},
            events.MAX_BYTES,
            DossierEvent,
            example=EVENT,
            idempotent=True,
            problems=(409, 422),
        ),
        Operation(
            "POST",
            "/v1/dossier-events/batch",
            "reportEvents",
            "Report up to 1,000 events, each answered by itself",
            event.batch,
            events.SCOPE,
            {200: {"accepted": 1, "refused": 0, "results": [{"index": 0, "status": 202, **_TOLD}]}},
            events.MAX_BATCH_BYTES,
            EventBatch,
            example={"events": [EVENT]},
            idempotent=True,
            problems=(409, 422),
        ),
        Operation(
            "POST",
            "/v1/messages",
            "sendMessage",
            "Send one mail, or show it with dry_run=true",
            single.create,
            messages.WRITE,
            {202: _ASKED, 200: {"subject": "…", "text": "…", "html": "…", "bytes": 9216}},
            messages.MAX_BYTES,
            MessageRequest,
            example=_MESSAGE_REQUEST,
            idempotent=True,
            query={"dry_run": {"type": "boolean"}},
            problems=(409, 422),
        ),
        Operation(
            "GET",
            "/v1/messages",
            "listMessages",
            "List the key's messages, the newest first",
            single.list,
            messages.READ,
            {200: {"messages": [_MESSAGE], "next": None}},
            query=_PAGES,
            problems=(422,),
        ),
        Operation(
            "GET",
            "/v1/messages/{id}",
            "getMessage",
            "Look at one message, with each reply",
            single.get,
            messages.READ,
            {200: {**_MESSAGE, "replies": [_REPLY]}},
            problems=(404,),
        ),
        Operation(
            "POST",
            "/v1/messages/{id}/cancel",
            "cancelMessage",
            "Take a message back while it is queued",
            single.cancel,
            messages.WRITE,
            {200: {**_MESSAGE, "state": "cancelled", "replies": []}},
            problems=(404, 409),
        ),
        Operation(
            "GET",
            "/v1/topics",
            "listTopics",
            "List what the service writes about",
            known.topics,
            None,
            {
                200: {
                    "topics": [
                        {
                            "code": "dossier-status",
                            "name": {"vi": "Tình trạng hồ sơ", "en": "Dossier status"},
                            "statutory": True,
                        }
                    ]
                }
            },
        ),
        Operation(
            "GET",
            "/v1/templates",
            "listTemplates",
            "List the templates with their fields",
            known.templates,
            None,
            {
                200: {
                    "templates": [
                        {
                            "name": "dossier-received",
                            "topic": "dossier-status",
                            "languages": ["vi", "en"],
                            "fields": [],
                        }
                    ]
                }
            },
        ),
        Operation(
            "GET",
            "/v1/suppressions",
            "listSuppressions",
            "List addresses that are not written to",
            known.listed,
            reference.SCOPE,
            {
                200: {
                    "suppressions": [
                        {**_SUPPRESSION, "reason": "manual", "since": "2026-11-02T02:15:00+00:00"}
                    ],
                    "next": None,
                }
            },
            query={"cursor": {"type": "string"}},
            problems=(422,),
        ),
        Operation(
            "POST",
            "/v1/suppressions",
            "suppress",
            "Stop writing to an address",
            known.suppress,
            reference.SCOPE,
            {
                201: {"suppressed": {"tax-policy": "manual"}, "new": True},
                200: {"suppressed": {"tax-policy": "manual"}, "new": False},
            },
            reference.MAX_BYTES,
            SuppressionRequest,
            example=_SUPPRESSION,
            problems=(422,),
        ),
        Operation(
            "POST",
            "/v1/suppressions/lift",
            "liftSuppression",
            "Write to an address again",
            known.lift,
            reference.SCOPE,
            {200: {"suppressed": {}, "lifted": True}},
            reference.MAX_BYTES,
            SuppressionRequest,
            example=_SUPPRESSION,
            problems=(409, 422),
        ),
        Operation(
            "POST",
            "/v1/campaigns",
            "createCampaign",
            "Prepare a campaign",
            whole.create,
            campaigns.SCOPE,
            {201: _DRAFT},
            campaigns.MAX_BYTES,
            CampaignRequest,
            example=_CAMPAIGN,
            problems=(404, 409, 422),
        ),
        Operation(
            "PUT",
            f"{draft}/list",
            "attachList",
            "Attach the list of recipients",
            whole.attach,
            campaigns.SCOPE,
            {200: _DRAFT},
            campaigns.MAX_LIST_BYTES,
            any_body=tuple(campaigns.LIST_TYPES),
            problems=(404, 422),
        ),
        Operation(
            "POST",
            f"{draft}/check",
            "checkCampaign",
            "Render every mail without sending one",
            whole.check,
            campaigns.SCOPE,
            {
                200: {
                    "rows_read": 3,
                    "accepted": 3,
                    "rejected": 0,
                    "messages": 3,
                    "largest_mail_bytes": 15239,
                }
            },
            problems=(404, 409, 422),
        ),
        Operation(
            "POST",
            f"{draft}/launch",
            "launchCampaign",
            "Start it, or schedule it",
            whole.launch,
            campaigns.SCOPE,
            {202: _STATUS},
            campaigns.MAX_BYTES,
            LaunchRequest,
            body_required=False,
            example={},
            problems=(404, 409, 422),
        ),
        Operation(
            "GET",
            draft,
            "getCampaign",
            "See where it stands",
            whole.status,
            campaigns.SCOPE,
            {200: _STATUS},
            problems=(404,),
        ),
        step("pause", "Let nothing more start", whole.pause),
        step("resume", "Let it go on", whole.resume),
        step("cancel", "Let nothing more leave, for good", whole.cancel),
        Operation(
            "GET",
            f"{draft}/report",
            "reportCampaign",
            "One row per message",
            whole.report,
            campaigns.SCOPE,
            {200: "row,tax_code,email,state\n"},
            media_type="text/csv",
            problems=(404,),
        ),
    ]


def run(operation: Operation, request: Request, raw: bytes) -> tuple[int, Any] | Response:
    """Carry out an operation with the parameters of its path."""
    return operation.handler(request, raw, *request.path_params.values())
