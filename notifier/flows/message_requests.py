"""Single messages for other systems: ask for one, look at it, take it back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from notifier import schema
from notifier.db import born_at, id_floor, new_id
from notifier.domain import addresses, calendar, idempotency, messages
from notifier.errors import NotFoundError, TransitionError
from notifier.flows import transactional as notice
from notifier.rendering.blueprint import Preview
from notifier.rendering.catalogue import Template
from notifier.sending.jobs import make_job
from notifier.sending.ledger import Row
from notifier.services import Services
from notifier.states import MessageState

MAX_AHEAD = timedelta(days=366)
LIFETIME = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mail that a system asks for; `data` fits the template."""

    template: Template
    email: str
    name: str
    language: str
    tax_code: str | None
    data: dict[str, Any]
    send_at: datetime | None = None
    expires_at: datetime | None = None


def ask(
    services: Services,
    wanted: Wanted,
    *,
    key_id: int,
    sandbox: bool,
    token: str | None,
    fingerprint: bytes,
    request: str,
) -> uuid.UUID:
    """Plan the mail and return its message's id; it leaves within a second, or at its moment.

    Once for a `token`, an Idempotency-Key: raise IdempotencyError when it was used for a request
    with another `fingerprint`. `request` is the caller's id for the logs.
    """
    stream = notice.campaign_of(services, wanted.template.name, sandbox=sandbox)
    now = services.clock()
    with services.session() as session:
        if token is not None:
            claimed = (key_id, token)
            kept = idempotency.claim(session.connection(), {claimed: fingerprint}, now)
            if claimed in kept:
                return uuid.UUID(kept[claimed].for_request(fingerprint))
        address_id = addresses.ids(session, [wanted.email])[wanted.email]
        due_at = max(now, wanted.send_at or now)
        planned = notice.Notice(
            campaign_id=stream,
            address_id=address_id,
            name=wanted.name,
            language=wanted.language,
            data=wanted.data,
            due_at=due_at,
            tax_code=wanted.tax_code,
            id=new_id(now),
            key_id=key_id,
            expires_at=wanted.expires_at or due_at + LIFETIME,
        )
        (message_id,) = notice.queue_notices(session, [planned])
        if token is not None:
            idempotency.keep(session.connection(), {(key_id, token): str(message_id)})
    if due_at <= now:
        services.queues.enqueue_gather_soon(notice.LANE, requests=[request])
    return message_id


def dry_run(services: Services, wanted: Wanted) -> Preview:
    """Return the mail as it would be sent now; nothing is kept. Raise RenderError."""
    now = services.clock()
    job = make_job(
        0,
        notice.terms_of(services, wanted.template, sandbox=True),
        wanted.template,
        calendar.Calendar({}),
        services.settings.mail_domain,
        services.signer,
    )
    data = orjson.dumps(wanted.data).decode()
    row = Row(
        position=0,
        id=new_id(now),
        address_id=0,
        email=wanted.email,
        name=wanted.name,
        tax_code=wanted.tax_code,
        language=wanted.language,
        data=data,
        attempts=0,
        doubts=0,
        suppressed=None,
    )
    return job.blueprint(wanted.language).preview(job.letter(row, now.timestamp()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What happened to a message: a server's reply, or a later event such as a bounce."""

    at: datetime
    kind: str
    host: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as the system that asked for it may see it.

    `host` and `detail` are of the newest reply.
    """

    id: uuid.UUID
    template: str
    topic: str
    language: str
    state: MessageState
    reason: str | None
    attempts: int
    send_at: datetime | None
    expires_at: datetime | None
    settled_at: datetime | None
    sha256: bytes | None
    host: str
    detail: str
    replies: Sequence[Reply] = ()

    @property
    def created_at(self) -> datetime:
        """When it was asked for."""
        return born_at(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which messages are listed: those for which all that is given holds.

    `since` and `until` mean when they were asked for; `recipient` is an e-mail address, in upper or
    lower case.
    """

    state: MessageState | None = None
    template: str | None = None
    topic: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    recipient: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Return what holds."""
        if self.state is not None:
            yield schema.Message.state == self.state
        if self.template is not None:
            yield schema.TemplateVersion.name == self.template
        if self.topic is not None:
            yield schema.Campaign.topic == self.topic
        # An id begins with the moment of its birth.
        if self.since is not None:
            yield schema.Message.id >= id_floor(self.since)
        if self.until is not None:
            yield schema.Message.id < id_floor(self.until)
        if self.recipient is not None:
            known = func.lower(schema.Address.email) == self.recipient.lower()
            yield schema.Message.address_id == (
                select(schema.Address.id).where(known).scalar_subquery()
            )


# Their final state is the newest server's reply; later events are rows of their own.
_ANSWERED = (MessageState.ACCEPTED, MessageState.REFUSED)
# Why nothing was sent; the texts of servers are replies.
_EXPLAINED = (MessageState.SKIPPED, MessageState.CANCELLED)
_MESSAGES = (
    select(
        schema.Message.id,
        schema.TemplateVersion.name.label("template"),
        schema.Campaign.topic,
        schema.Recipient.language,
        schema.Message.state,
        case((schema.Message.state.in_(_EXPLAINED), schema.Message.detail)).label("reason"),
        schema.Message.attempts,
        schema.Message.due_at.label("send_at"),
        schema.Message.expires_at,
        schema.Message.settled_at,
        schema.Message.sha256,
        func.coalesce(schema.Message.host, "").label("host"),
        func.coalesce(schema.Message.detail, "").label("detail"),
    )
    .join(schema.Campaign, schema.Campaign.id == schema.Message.campaign_id)
    .join(
        schema.TemplateVersion, schema.TemplateVersion.version == schema.Campaign.template_version
    )
    .join(schema.Recipient, schema.Recipient.id == schema.Message.recipient_id)
)


def get(services: Services, message_id: uuid.UUID, *, key_id: int) -> Message:
    """Return a message of the key with each reply; raise NotFoundError, also for another key's."""
    with services.session() as session:
        return _get(session, message_id, key_id)


def _get(session: Session, message_id: uuid.UUID, key_id: int) -> Message:
    query = _MESSAGES.where(schema.Message.key_id == key_id, schema.Message.id == message_id)
    row = session.execute(query).first()
    if row is None:
        raise NotFoundError("This key has no such message.")
    event = schema.MessageEvent
    happened = session.execute(
        select(
            event.at,
            event.kind,
            func.coalesce(event.host, "").label("host"),
            func.coalesce(event.detail, "").label("detail"),
        )
        .where(event.message_id == message_id)
        .order_by(event.at, event.id)
    )
    found = Message(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    replies = [Reply(**each._mapping) for each in happened]  # noqa: SLF001
    if (
        found.state in _ANSWERED
        and found.settled_at is not None
        and not any(each.kind == found.state for each in replies)
    ):
        replies.append(
            Reply(at=found.settled_at, kind=found.state, host=found.host, detail=found.detail)
        )
    replies.sort(key=lambda each: each.at)
    return replace(found, replies=replies)


def listed(
    services: Services,
    *,
    key_id: int,
    wanted: Filter,
    after: uuid.UUID | None = None,
    limit: int,
) -> list[Message]:
    """Return at most `limit` messages of the key, the newest first, older than the message `after`.

    Pages are stable: a new message never moves an older one to another page.
    """
    query = _MESSAGES.where(schema.Message.key_id == key_id, *wanted.conditions())
    if after is not None:
        query = query.where(schema.Message.id < after)
    query = query.order_by(schema.Message.id.desc()).limit(limit)
    with services.session() as session:
        return [Message(**row._mapping) for row in session.execute(query)]  # noqa: SLF001


def cancel(services: Services, message_id: uuid.UUID, *, key_id: int) -> Message:
    """Take a message back that no worker has taken; return it.

    Raise NotFoundError, or TransitionError when it is too late.
    """
    with services.session() as session:
        before = _get(session, message_id, key_id)
        if before.state is MessageState.CANCELLED:
            return before
        if not messages.withdraw(session.connection(), [message_id], reason="asked"):
            raise TransitionError(f"The message is {before.state} and can no longer be taken back.")
        return _get(session, message_id, key_id)
