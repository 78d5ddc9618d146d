"""What answers hold; the OpenAPI document is made of these, and of `models`."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from notifier.domain.calendar import HANOI
from notifier.domain.event_results import Outcome
from notifier.states import MessageState
from notifier.web.api.models import SUPPRESSION
from notifier.web.api.problems import TITLES

Moment = Annotated[
    datetime,
    PlainSerializer(
        lambda moment: moment.astimezone(HANOI).isoformat(timespec="milliseconds"), return_type=str
    ),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A moment, shown in Hanoi's time to the millisecond."""


def _absent(value: object) -> bool:
    return not value


def example(**values: Any) -> ConfigDict:
    """Return the configuration of an answer with an example."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class Answer(BaseModel):
    """What all answers share."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)


# --- problems ------------------------------------------------------------------------------------


class ProblemField(Answer):
    """What is wrong with one field."""

    pointer: Annotated[str, Field(description="Where: a JSON pointer, or ?name in the address.")]
    code: Annotated[str, Field(description="What, for programs.")]
    detail: Annotated[str, Field(description="What, for people; never the value itself.")]


class Problem(Answer):
    """Why a request was refused (RFC 9457)."""

    type: Annotated[str, Field(description="Where the code is explained.")]
    title: str
    status: int
    code: Annotated[
        str, Field(description="Stable, for programs.", json_schema_extra={"enum": list(TITLES)})
    ]
    detail: Annotated[str, Field(description="One sentence for people.")]
    errors: Annotated[
        list[ProblemField], Field(exclude_if=_absent, description="The fields at fault.")
    ] = []


# --- dossier events ------------------------------------------------------------------------------

_MESSAGE_ID = "019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51"
_EVENT_EXAMPLE = {
    "id": "019a4f0e-1f7a-7c3e-9a51-5f2d8c1b7e40",
    "outcome": "queued",
    "message_id": _MESSAGE_ID,
    "links": {"message": f"/api/v1/messages/{_MESSAGE_ID}"},
}


class EventLinks(Answer):
    """Where to go on."""

    message: Annotated[str, Field(description="The notice.")]


class EventAnswer(Answer):
    """What became of an event."""

    model_config = example(**_EVENT_EXAMPLE)

    id: Annotated[uuid.UUID, Field(description="The event.")]
    outcome: Annotated[Outcome, Field(description="What it led to.")]
    message_id: Annotated[uuid.UUID | None, Field(description="The notice, when one was planned.")]
    links: Annotated[
        EventLinks | SkipJsonSchema[None],
        Field(exclude_if=_absent, description="Only when a notice was planned."),
    ] = None


class RecordedEvent(EventAnswer):
    """An event of a batch that was recorded."""

    model_config = example(index=0, status=202, **_EVENT_EXAMPLE)

    index: Annotated[int, Field(ge=0, description="Its place in the batch, from 0.")]
    # As an enumeration: generators stumble over a constant that is a number.
    status: Annotated[
        Literal[202],
        Field(description="What it alone would be answered with."),
        WithJsonSchema({"type": "integer", "enum": [202]}),
    ]


class RefusedEvent(Answer):
    """An event of a batch that was refused."""

    index: Annotated[int, Field(ge=0, description="Its place in the batch, from 0.")]
    status: Annotated[
        Literal[403, 409, 422], Field(description="What it alone would be answered with.")
    ]
    problem: Problem


class BatchAnswer(Answer):
    """What became of each event of a batch."""

    model_config = example(
        accepted=1, refused=0, results=[{"index": 0, "status": 202, **_EVENT_EXAMPLE}]
    )

    accepted: Annotated[int, Field(ge=0, description="How many were recorded.")]
    refused: Annotated[int, Field(ge=0, description="How many were not.")]
    results: Annotated[
        list[RecordedEvent | RefusedEvent], Field(description="In the order of the events.")
    ]


# --- messages ------------------------------------------------------------------------------------

_MESSAGE_LINKS = {
    "self": f"/api/v1/messages/{_MESSAGE_ID}",
    "cancel": f"/api/v1/messages/{_MESSAGE_ID}/cancel",
}
_MESSAGE_EXAMPLE = {
    "id": _MESSAGE_ID,
    "state": "accepted",
    "reason": None,
    "template": "dossier-received",
    "topic": "dossier-status",
    "language": "vi",
    "attempts": 1,
    "created_at": "2026-11-02T09:15:01.204+07:00",
    "send_at": None,
    "expires_at": "2026-11-05T09:15:01.204+07:00",
    "settled_at": "2026-11-02T09:15:01.311+07:00",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "links": _MESSAGE_LINKS,
}
_REPLY_EXAMPLE = {
    "at": "2026-11-02T09:15:01.311+07:00",
    "kind": "accepted",
    "host": "mx.example.test",
    "detail": "250 2.0.0 Ok: queued",
}


class MessageLinks(Answer):
    """Where to go on."""

    here: Annotated[str, Field(alias="self", description="The message.")]
    cancel: Annotated[str, Field(description="POST here takes it back.")]


class MessageAnswer(Answer):
    """A message that was asked for."""

    model_config = example(id=_MESSAGE_ID, state="queued", links=_MESSAGE_LINKS)

    id: uuid.UUID
    state: MessageState
    links: MessageLinks


class MessageSummary(MessageAnswer):
    """A message, and how far it is."""

    model_config = example(**_MESSAGE_EXAMPLE)

    reason: Annotated[str | None, Field(description="Why it is skipped or cancelled.")]
    template: str
    topic: str
    language: str
    attempts: Annotated[int, Field(ge=0, description="How often a server was asked to take it.")]
    created_at: Annotated[Moment, Field(description="When it was asked for.")]
    send_at: Annotated[Moment | None, Field(description="When it may leave, while it waits.")]
    expires_at: Annotated[Moment | None, Field(description="When it would be too late.")]
    settled_at: Annotated[Moment | None, Field(description="When it came into its state.")]
    sha256: Annotated[str | None, Field(description="Of the bytes that went out, in hex.")]


class Reply(Answer):
    """What happened to a message at a moment."""

    at: Moment
    kind: Annotated[str, Field(description="The state that it led to, or what was reported.")]
    host: Annotated[str, Field(description="The server that replied; may be empty.")]
    detail: Annotated[str, Field(description="Its words; may be empty.")]


class Message(MessageSummary):
    """A message with each reply."""

    model_config = example(**_MESSAGE_EXAMPLE, replies=[_REPLY_EXAMPLE])

    replies: list[Reply]


class MessagePage(Answer):
    """Messages, the newest first."""

    model_config = example(messages=[_MESSAGE_EXAMPLE], next=None)

    messages: list[MessageSummary]
    next: Annotated[str | None, Field(description="The cursor of the next page, if there is one.")]


class Preview(Answer):
    """A mail as it would be sent now."""

    model_config = example(subject="…", text="…", html="…", bytes=9216)

    subject: str
    text: str
    html: str
    bytes: Annotated[int, Field(ge=0, description="Of the whole mail.")]


# --- what there is to write about ----------------------------------------------------------------


class Texts(Answer):
    """The same in both languages."""

    vi: str
    en: str


class Topic(Answer):
    """What the service writes about."""

    model_config = example(
        code="dossier-status",
        name={"vi": "Tình trạng hồ sơ", "en": "Dossier status"},
        statutory=True,
        legal_ground={"vi": "…", "en": "…"},
    )

    code: str
    name: Texts
    statutory: Annotated[bool, Field(description="The law demands it: nobody can opt out.")]
    legal_ground: Texts


class Topics(Answer):
    """All topics."""

    topics: list[Topic]


class TemplateField(Answer):
    """A value that a template needs."""

    name: str
    type: Literal["text", "money", "integer", "date", "datetime"]
    required: bool
    max_length: Annotated[int, Field(description="In characters, of a text.")]
    label: Texts


class Template(Answer):
    """A mail, and what it is filled with."""

    name: str
    version: Annotated[str, Field(description="The hash of all its texts.")]
    topic: str
    title: Texts
    languages: list[str]
    fields: list[TemplateField]
    lines: Annotated[
        list[TemplateField], Field(description="What each line of a mail with lines holds.")
    ]


class Templates(Answer):
    """All templates."""

    templates: list[Template]


# --- suppressions --------------------------------------------------------------------------------


class Suppression(Answer):
    """An address that is not written to."""

    email: str
    topic: Annotated[str, Field(description="A topic's code, or * for every topic.")]
    reason: Annotated[str, Field(description="unsubscribed, hard_bounce, complaint or manual.")]
    since: Annotated[datetime, Field(description="From when on.")]


class SuppressionPage(Answer):
    """Suppressions, the newest first."""

    model_config = example(
        suppressions=[{**SUPPRESSION, "reason": "manual", "since": "2026-11-02T02:15:00+00:00"}],
        next=None,
    )

    suppressions: list[Suppression]
    next: Annotated[str | None, Field(description="The cursor of the next page, if there is one.")]


class Suppressed(Answer):
    """What an address is not written to about from now on."""

    model_config = example(suppressed={"tax-policy": "manual"}, new=True)

    suppressed: Annotated[dict[str, str], Field(description="Topics, each with the reason.")]
    new: Annotated[bool, Field(description="Whether it was not so before.")]


class Lifted(Answer):
    """What an address is still not written to about."""

    model_config = example(suppressed={}, lifted=True)

    suppressed: Annotated[dict[str, str], Field(description="Topics, each with the reason.")]
    lifted: Annotated[bool, Field(description="Whether it was suppressed before.")]
