"""What is asked of messages: their campaign's account, a report's subject, a page's proof.

Nothing here changes a row; that is `messages.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from notifier.errors import NotFoundError
from notifier.schema import Address, Campaign, Message, MessageProblem, Recipient
from notifier.states import MessageState


def problems_by_reason(
    connection: Connection, campaign_id: int, state: MessageState
) -> dict[str, int]:
    """Return how many messages of a campaign are in a state of problems, by reason."""
    rows = connection.execute(
        select(MessageProblem.reason, func.count().label("messages"))
        .where(MessageProblem.campaign_id == campaign_id, MessageProblem.state == state)
        .group_by(MessageProblem.reason)
    )
    return {row.reason: int(row.messages) for row in rows}


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report must know of the message it is about."""

    id: uuid.UUID
    address_id: int
    key_id: int | None
    sandbox: bool


def find_reported(
    connection: Connection, message_id: uuid.UUID, *, address_id: int | None = None
) -> Reported | None:
    """Return a message that a report names; with `address_id` only if it went to that address."""
    query = (
        select(Message.id, Message.address_id, Message.key_id, Campaign.sandbox)
        .join(Campaign, Campaign.id == Message.campaign_id)
        .where(Message.id == message_id)
    )
    if address_id is not None:
        query = query.where(Message.address_id == address_id)
    row = connection.execute(query).first()
    if row is None:
        return None
    return Reported(id=row.id, address_id=row.address_id, key_id=row.key_id, sandbox=row.sandbox)


@dataclass(frozen=True, slots=True)
class Account:
    """One message as a campaign's report tells it."""

    row_no: int | None
    tax_code: str | None
    name: str
    email: str
    state: MessageState
    detail: str | None
    host: str | None
    settled_at: datetime | None
    attempts: int
    doubts: int
    id: uuid.UUID
    sha256: bytes | None


def accounts(connection: Connection, campaign_id: int) -> Iterator[Account]:
    """Yield each message of a campaign in the order of its list, without holding all in memory."""
    rows = connection.execute(
        select(
            Recipient.row_no,
            Recipient.tax_code,
            Recipient.name,
            Address.email,
            Message.state,
            Message.detail,
            Message.host,
            Message.settled_at,
            Message.attempts,
            Message.doubts,
            Message.id,
            Message.sha256,
        )
        .join(Recipient, Recipient.id == Message.recipient_id)
        .join(Address, Address.id == Message.address_id)
        .where(Message.campaign_id == campaign_id)
        .order_by(Recipient.row_no, Message.id),
        execution_options={"yield_per": 2_000},
    )
    for row in rows:
        yield Account(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name


@dataclass(frozen=True, slots=True)
class Proof:
    """What a page may say of a message to whoever holds its number."""

    settled_at: datetime | None
    topic: str
    email: str
    certain: bool


def proof(connection: Connection, message_id: uuid.UUID) -> Proof:
    """Return what proves that a message is genuine; raise NotFoundError for one never sent."""
    sent = (MessageState.ACCEPTED, MessageState.BOUNCED, MessageState.COMPLAINED)
    row = connection.execute(
        select(Message.settled_at, Message.state, Campaign.topic, Address.email)
        .join(Campaign, Campaign.id == Message.campaign_id)
        .join(Address, Address.id == Message.address_id)
        .where(Message.id == message_id)
        .where(Message.state.in_(sent) | (Message.doubts > 0))
    ).first()
    if row is None:
        raise NotFoundError("There is no such message.")
    return Proof(
        settled_at=row.settled_at, topic=row.topic, email=row.email, certain=row.state in sent
    )
