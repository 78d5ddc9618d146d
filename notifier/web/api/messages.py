"""Messages: ask for one, look at it, list them, take one back."""

from __future__ import annotations

import hashlib
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from notifier.domain.event_results import Fault
from notifier.flows import message_requests as message
from notifier.flows.message_requests import Filter, Wanted
from notifier.rendering.catalogue import LINE_KEY, faults
from notifier.services import Services
from notifier.states import MessageState
from notifier.web.api import answers
from notifier.web.api.answers import MessageAnswer, MessageLinks, MessagePage, Preview
from notifier.web.api.bodies import JSON, JsonBody, Operation, Sent
from notifier.web.api.context import (
    Here,
    IdempotencyKey,
    MessagesKey,
    ReadKey,
    RequestId,
)
from notifier.web.api.models import MessageQuery, MessageRequest, MessageSearch
from notifier.web.api.problems import BODY, ProblemError, invalid, problems
from notifier.web.api.values import cursor, prose

MAX_BYTES = 256 * 1024
_MAX_SEARCH_BYTES = 4096
_MAX_LINES = 500

router = APIRouter(prefix="/api/v1/messages", tags=["Messages"], route_class=Operation)
_MessageBody = Annotated[Sent[MessageRequest], Depends(JsonBody(MessageRequest, MAX_BYTES))]
_SearchBody = Annotated[Sent[MessageSearch], Depends(JsonBody(MessageSearch, _MAX_SEARCH_BYTES))]


@router.post(
    "",
    operation_id="sendMessage",
    summary="Send one mail, or show it with dry_run=true",
    status_code=202,
    response_model=MessageAnswer,
    response_description="It is stored.",
    responses={
        200: {"model": Preview, "description": "The mail; none is sent."},
        **problems(*BODY, 409),
    },
)
async def send_message(
    key: MessagesKey,
    body: _MessageBody,
    here: Here,
    request_id: RequestId,
    token: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Show the mail, and send nothing.")] = False,  # noqa: FBT002 - in a query it has a name
) -> MessageAnswer | Response:
    """Plan a mail, or show it. Needs the scope `messages:write`."""
    services = await here.services()

    def show() -> Response:
        found = message.dry_run(services, _wanted(services, body.value))
        preview = Preview(
            subject=found.subject, text=found.text, html=found.html, bytes=len(found.raw)
        )
        return Response(preview.model_dump_json(), media_type=JSON)

    def plan() -> MessageAnswer:
        wanted = _wanted(services, body.value)
        if key.sandbox and not services.settings.sandbox_smtp_url:
            raise ProblemError(
                503, "unavailable", "No catcher is set for sandbox keys: NOTIFIER_SANDBOX_SMTP_URL."
            )
        here.gate.recipient(wanted.email)
        message_id = message.ask(
            services,
            wanted,
            key_id=key.id,
            sandbox=key.sandbox,
            token=token,
            fingerprint=hashlib.sha256(b"messages\n" + body.raw).digest(),
            request=request_id,
        )
        return MessageAnswer(id=message_id, state=MessageState.QUEUED, links=_links(message_id))

    return await here.run(show) if dry_run else await here.run(plan)


@router.get(
    "",
    operation_id="listMessages",
    summary="List the key's messages, the newest first",
    response_description="A page of messages.",
    responses=problems(422),
)
async def list_messages(
    key: ReadKey, asked: Annotated[MessageQuery, Query()], here: Here
) -> MessagePage:
    """Return a page of messages. Needs the scope `messages:read`."""
    return await here.run(_page, await here.services(), key.id, asked.filter(), asked)


@router.post(
    "/search",
    operation_id="searchMessages",
    summary="List the key's messages to an address",
    response_description="A page of messages.",
    responses=problems(*BODY),
)
async def search_messages(key: ReadKey, body: _SearchBody, here: Here) -> MessagePage:
    """Return a page of messages, as by GET, also by recipient. Needs the scope `messages:read`.

    An e-mail address is personal: it must not stand in a URL, which every proxy writes down.
    """
    asked = body.value
    return await here.run(_page, await here.services(), key.id, asked.filter(), asked)


def _page(
    services: Services, key_id: int, wanted: Filter, asked: MessageQuery | MessageSearch
) -> MessagePage:
    found = message.listed(
        services, key_id=key_id, wanted=wanted, after=asked.cursor, limit=asked.limit + 1
    )
    page = found[: asked.limit]
    more = len(found) > asked.limit
    return MessagePage(
        messages=[answers.MessageSummary(**_summary(each)) for each in page],
        next=cursor(page[-1].id) if more else None,
    )


@router.get(
    "/{id}",
    operation_id="getMessage",
    summary="Look at one message, with each reply",
    response_description="The message.",
    responses=problems(404),
)
async def get_message(key: ReadKey, id: uuid.UUID, here: Here) -> answers.Message:  # noqa: A002 - its name in the path
    """Return one message with each reply. Needs the scope `messages:read`."""
    return _message(await here.run(message.get, await here.services(), id, key_id=key.id))


@router.post(
    "/{id}/cancel",
    operation_id="cancelMessage",
    summary="Take a message back while it is queued",
    response_description="The message.",
    responses=problems(404, 409),
)
async def cancel_message(key: MessagesKey, id: uuid.UUID, here: Here) -> answers.Message:  # noqa: A002 - its name in the path
    """Take a message back while it is queued. Needs the scope `messages:write`."""
    return _message(await here.run(message.cancel, await here.services(), id, key_id=key.id))


def _links(message_id: uuid.UUID) -> MessageLinks:
    here = f"/api/v1/messages/{message_id}"
    return MessageLinks.model_validate({"self": here, "cancel": f"{here}/cancel"})


def _summary(found: message.Message) -> dict[str, Any]:
    return {
        "id": found.id,
        "state": found.state,
        "reason": found.reason,
        "template": found.template,
        "topic": found.topic,
        "language": found.language,
        "attempts": found.attempts,
        "created_at": found.created_at,
        "send_at": found.send_at,
        "expires_at": found.expires_at,
        "settled_at": found.settled_at,
        "sha256": None if found.sha256 is None else found.sha256.hex(),
        "links": _links(found.id),
    }


def _message(found: message.Message) -> answers.Message:
    replies = [
        answers.Reply(at=each.at, kind=each.kind, host=each.host, detail=each.detail)
        for each in found.replies
    ]
    return answers.Message(**_summary(found), replies=replies)


def _wanted(services: Services, asked: MessageRequest) -> Wanted:
    """Return what is asked for, checked against its template; raise ProblemError."""
    template = services.catalogue.get(asked.template)
    if template is None or services.topics[template.topic].code == "service":
        words = "There is no such template. See GET /api/v1/templates."
        raise invalid([Fault("/template", "unknown-template", words)])
    if asked.language not in template.languages:
        words = f"The template has only: {', '.join(template.languages)}."
        raise invalid([Fault("/language", "language", words)])
    data = _clean(asked.data)
    wrong = [
        Fault("/data" + pointer, code, words) for pointer, code, words in faults(template, data)
    ]
    now = services.clock()
    if asked.send_at is not None and asked.send_at > now + message.MAX_AHEAD:
        wrong.append(Fault("/send_at", "too-far", "It lies more than 366 days ahead."))
    if asked.expires_at is not None and asked.expires_at <= max(now, asked.send_at or now):
        wrong.append(Fault("/expires_at", "past", "It lies before the message could leave."))
    if wrong:
        raise invalid(wrong)
    return Wanted(
        template=template,
        email=asked.recipient.email,
        name=asked.recipient.name,
        language=asked.language,
        tax_code=asked.recipient.tax_code,
        data=data,
        send_at=asked.send_at,
        expires_at=asked.expires_at,
    )


def _clean(data: dict[str, Any]) -> dict[str, Any]:
    """Return the values with their texts checked as those of events are; raise ProblemError."""
    wrong: list[Fault] = []

    def texts(place: str, values: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in values.items():
            if isinstance(value, str):
                try:
                    found[name] = prose(value)
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
            words = f"It must be a list of at most {_MAX_LINES} objects."
            wrong.append(Fault(f"/data/{LINE_KEY}", "type", words))
    if wrong:
        raise invalid(wrong)
    return cleaned
