"""Single messages for other systems: ask for one, look at it, take it back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.db import born_at, id_floor, new_id
from notifier.domain import addresses, batches, calendar, idempotency
from notifier.errors import NotFoundError, TransitionError
from notifier.flows import transactional as notice
from notifier.rendering.blueprint import Preview
from notifier.rendering.catalogue import Template, to_json
from notifier.sending.jobs import make_job
from notifier.sending.ledger import Row
from notifier.services import Services

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


@dataclass(frozen=True, slots=True)
class Asked:
    """The answer to a request: the message's id; None when its Idempotency-Key was used for another request."""

    id: uuid.UUID | None


def ask(
    services: Services,
    wanted: Wanted,
    *,
    key_id: int,
    sandbox: bool,
    token: str | None,
    fingerprint: bytes,
    request: str,
) -> Asked:
    """Plan the mail, once for a `token`; it leaves within a second, or at its moment. `request` is the caller's id for the logs."""
    stream = notice.campaign_of(services, wanted.template.name, sandbox=sandbox)
    now = services.clock()
    with services.session() as session:
        if token is not None:
            known = idempotency.claim(
                session.connection(), {(key_id, token): fingerprint}, now
            ).get((key_id, token))
            if known is not None:
                return Asked(
                    uuid.UUID(known.body["id"]) if known.fingerprint == fingerprint else None
                )
        address_id = addresses.ids(session, [wanted.email])[wanted.email]
        due_at = max(now, wanted.send_at or now)
        planned = notice.Notice(
            stream,
            address_id,
            wanted.name,
            wanted.language,
            wanted.data,
            due_at,
            wanted.tax_code,
            new_id(now),
            key_id,
            wanted.expires_at or due_at + LIFETIME,
        )
        (message_id,) = notice.queue_notices(session, [planned])
        if token is not None:
            idempotency.answer(
                session.connection(), [((key_id, token), 202, {"id": str(message_id)})]
            )
    if due_at <= now:
        services.queues.enqueue_gather_soon(notice.LANE, requests=[request])
    return Asked(message_id)


def dry_run(services: Services, wanted: Wanted) -> Preview:
    """Return the mail as it would be sent now; nothing is kept. Raise RenderError."""
    topic = services.topics[wanted.template.topic]
    now = services.clock()
    fields = {
        "topic": topic.code,
        "lane": notice.LANE,
        "sender": asdict(services.sender),
        "topic_info": asdict(topic.info),
        "data": {},
        "send_window": None,
        "not_after": None,
        "pace_per_minute": None,
        "in_doubt_policy": topic.in_doubt,
        "sandbox": True,
        "content": to_json(wanted.template),
    }
    job = make_job(0, fields, calendar.Calendar({}), services.settings.mail_domain, services.signer)
    data = orjson.dumps(wanted.data).decode()
    row = Row(
        0,
        new_id(now),
        0,
        wanted.email,
        wanted.name,
        wanted.tax_code,
        wanted.language,
        data,
        0,
        0,
        None,
    )
    return job.blueprint(wanted.language).preview(job.letter(row, now.timestamp()))


@dataclass(frozen=True, slots=True)
class Reply:
    """What happened to a message at a moment: a server's reply, or a later event such as a bounce."""

    at: datetime
    kind: str
    host: str
    detail: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the system that asked for it may see it."""

    id: uuid.UUID
    template: str
    topic: str
    language: str
    state: str
    reason: str | None
    attempts: int
    send_at: datetime | None
    expires_at: datetime | None
    settled_at: datetime | None
    sha256: str | None
    host: str
    detail: str
    replies: Sequence[Reply] = ()

    @property
    def created_at(self) -> datetime:
        """When it was asked for."""
        return born_at(self.id)


_FINAL = {"accepted", "refused"}
_SELECT = """
SELECT m.id, v.name, c.topic, r.language, m.state::text, CASE WHEN m.state IN ('skipped', 'cancelled') THEN m.detail END, m.attempts,
       m.due_at, m.expires_at, m.settled_at, encode(m.sha256, 'hex'), coalesce(m.host, ''), coalesce(m.detail, '')
  FROM message m JOIN campaign c ON c.id = m.campaign_id JOIN template_version v ON v.version = c.template_version
  JOIN recipient r ON r.id = m.recipient_id
 WHERE m.key_id = :key_id"""


def get(services: Services, message_id: uuid.UUID, *, key_id: int) -> Message:
    """Return a message of the key with each reply; raise NotFoundError, also for another key's."""
    with services.session() as session:
        return _get(session, message_id, key_id)


def _get(session: Session, message_id: uuid.UUID, key_id: int) -> Message:
    row = session.execute(
        text(f"{_SELECT} AND m.id = :id"), {"key_id": key_id, "id": message_id}
    ).first()
    if row is None:
        raise NotFoundError("There is no such message.")
    rows = session.execute(
        text(
            "SELECT at, kind, coalesce(host, ''), coalesce(detail, '') FROM message_event WHERE message_id = :id ORDER BY at, id"
        ),
        {"id": message_id},
    )
    replies = [Reply(*each) for each in rows]
    found = Message(*row)
    if (
        found.state in _FINAL
        and found.settled_at is not None
        and not any(each.kind == found.state for each in replies)
    ):
        replies.append(Reply(found.settled_at, found.state, found.host, found.detail))
    replies.sort(key=lambda each: each.at)
    return replace(found, replies=replies)


def listed(
    services: Services,
    *,
    key_id: int,
    filters: Mapping[str, Any],
    after: uuid.UUID | None,
    limit: int,
) -> list[Message]:
    """Return messages of the key, the newest first, older than the message `after`.

    `filters` may hold `state`, `template`, `topic`, `since` and `until` (by the time they were asked for). Pages are stable: a new
    message never moves an older one to another page.
    """
    where, values = "", {"key_id": key_id, "after": after, "limit": limit}
    for name, condition in _FILTERS.items():
        value = filters.get(name)
        if value is not None:
            where += f" AND {condition}"
            values[name] = id_floor(value) if name in {"since", "until"} else value
    if after is not None:
        where += " AND m.id < :after"
    with services.session() as session:
        rows = session.execute(text(f"{_SELECT}{where} ORDER BY m.id DESC LIMIT :limit"), values)
        return [Message(*row) for row in rows]


_FILTERS = {
    "state": "m.state = cast(:state AS message_state)",
    "template": "v.name = :template",
    "topic": "c.topic = :topic",
    "since": "m.id >= :since",
    "until": "m.id < :until",
}


def cancel(services: Services, message_id: uuid.UUID, *, key_id: int) -> Message:
    """Take a message back that no worker has taken; raise NotFoundError, or TransitionError when it is too late."""
    with services.session() as session:
        before = _get(session, message_id, key_id)
        if before.state == "cancelled":
            return before
        if not batches.withdraw(session.connection(), [message_id], reason="asked"):
            raise TransitionError(f"The message is {before.state} and can no longer be taken back.")
        return _get(session, message_id, key_id)
