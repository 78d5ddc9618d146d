"""Every table of the database, once: columns, constraints, indexes, and why they are so.

One module of verbs in `domain/` owns each table and alone writes it (`OWNERS`, held by a guard).
Migrations bring a database here; `alembic check` shows that the two are equal. What it cannot
compare (partitions, storage settings, the conditions of checks) stands in the migrations.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from notifier.states import BatchState, CampaignState, MessageState

OWNERS: Mapping[str, str] = {
    "address": "addresses",
    "api_key": "keys",
    "audience": "audiences",
    "audience_reject": "audiences",
    "batch": "batches",
    "calendar_day": "calendar",
    "campaign": "campaigns",
    "dossier": "dossiers",
    "dossier_event": "dossiers",
    "idempotency": "idempotency",
    "list_file": "audiences",
    "message": "messages",
    "message_event": "messages",
    "message_problem": "messages",
    "recipient": "recipients",
    "suppression": "suppressions",
    "tally": "tallies",
    "taxpayer": "taxpayers",
    "taxpayer_address": "taxpayers",
    "template_version": "templates",
    "webhook_event": "webhooks",
}
"""The module of `notifier/domain/` whose verbs write each table."""


class Base(DeclarativeBase):
    """Base of every table. The names of constraints are those that PostgreSQL gives by itself."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        str: Text(),
        bytes: LargeBinary(),
        datetime: DateTime(timezone=True),
        uuid.UUID: Uuid(),
        dict[str, Any]: JSON(),
    }


def _states(kind: type[StrEnum], name: str) -> Enum:
    return Enum(kind, name=name, values_callable=lambda states: [each.value for each in states])


CAMPAIGN_STATE = _states(CampaignState, "campaign_state")
BATCH_STATE = _states(BatchState, "batch_state")
MESSAGE_STATE = _states(MessageState, "message_state")


# --- the register --------------------------------------------------------------------------------


class Address(Base):
    """An e-mail address; upper and lower case are the same, the first spelling is kept."""

    __tablename__ = "address"
    __table_args__ = (Index("uq_address_email", text("lower(email)"), unique=True),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    email: Mapped[str]
    domain: Mapped[str] = mapped_column(
        Computed("lower(split_part(email, '@'::text, 2))", persisted=True)
    )
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class Taxpayer(Base):
    """A business or citizen by tax code, as the newest list named them."""

    __tablename__ = "taxpayer"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tax_code: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    language: Mapped[str] = mapped_column(server_default="vi")
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class TaxpayerAddress(Base):
    """Which addresses a taxpayer has been written to.

    Rows are made only by INSERT … SELECT from the two tables they name; foreign keys would double
    the time of a list. The key begins with the address, because an opt-out knows that and asks for
    its owners.
    """

    __tablename__ = "taxpayer_address"

    address_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    taxpayer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class Suppression(Base):
    """Who must not be written to, about what, and why. Lifted, never deleted; `*` is every topic.

    Each reason is a row of its own, lifted by itself.
    """

    __tablename__ = "suppression"
    __table_args__ = (
        CheckConstraint(
            "reason IN ('unsubscribed', 'hard_bounce', 'complaint', 'manual')", name="reason"
        ),
        Index(
            "uq_suppression_active",
            "address_id",
            "topic",
            "reason",
            unique=True,
            postgresql_where=text("lifted_at IS NULL"),
        ),
        Index(
            "ix_suppression_created_at", "created_at", postgresql_where=text("lifted_at IS NULL")
        ),
        Index("ix_suppression_address_id", "address_id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    address_id: Mapped[int] = mapped_column(ForeignKey(Address.id))
    topic: Mapped[str]
    reason: Mapped[str]
    source: Mapped[str]
    created_at: Mapped[datetime]
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[str | None]


# --- lists ---------------------------------------------------------------------------------------


class ListFile(Base):
    """A list as it was attached to a draft: the file itself, until the draft is launched."""

    __tablename__ = "list_file"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str]
    sha256: Mapped[bytes]
    content: Mapped[bytes]
    created_at: Mapped[datetime]


class Audience(Base):
    """A list that was read for one template version: what became of its rows, and its sums."""

    __tablename__ = "audience"
    __table_args__ = (Index("ix_audience_sha256", "sha256"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    file_name: Mapped[str]
    sha256: Mapped[bytes]
    template: Mapped[str]
    template_version: Mapped[str]
    rows_read: Mapped[int]
    accepted: Mapped[int]
    rejected: Mapped[int]
    merged: Mapped[int]
    header: Mapped[list[str]] = mapped_column(JSONB)
    unused_columns: Mapped[list[str]] = mapped_column(JSONB)
    totals: Mapped[dict[str, int]] = mapped_column(JSONB)
    created_at: Mapped[datetime]


class AudienceReject(Base):
    """A row of a list that was rejected, merged or accepted with a warning, and what to do."""

    __tablename__ = "audience_reject"
    __table_args__ = (
        CheckConstraint("kind IN ('rejected', 'warning', 'merged')", name="kind"),
        Index("ix_audience_reject_row", "audience_id", "row_no"),
    )
    # It has no key: rows come by COPY and are read in the order of the list.
    __mapper_args__ = {"primary_key": ["audience_id", "row_no", "kind", "column_name"]}  # noqa: RUF012

    audience_id: Mapped[int] = mapped_column(ForeignKey(Audience.id, ondelete="CASCADE"))
    row_no: Mapped[int]
    kind: Mapped[str]
    column_name: Mapped[str]
    value: Mapped[str]
    code: Mapped[str]
    problem_vi: Mapped[str]
    problem_en: Mapped[str]
    cells: Mapped[list[str]] = mapped_column(JSONB)


class Recipient(Base):
    """Whom one mail is for, with the values that fill its template; of a list, or of one notice."""

    __tablename__ = "recipient"
    __table_args__ = (Index("ix_recipient_audience_id", "audience_id", "row_no"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    audience_id: Mapped[int | None] = mapped_column(BigInteger)
    row_no: Mapped[int | None]
    tax_code: Mapped[str | None]
    name: Mapped[str]
    language: Mapped[str]
    address_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    data: Mapped[dict[str, Any]]


# --- templates and campaigns ---------------------------------------------------------------------


class TemplateVersion(Base):
    """A template's texts under the hash of their content: what was sent can never change."""

    __tablename__ = "template_version"

    version: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    topic: Mapped[str]
    content: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class ApiKey(Base):
    """How another system proves who it is (only the SHA-256 of the key is kept), and its webhook.

    `webhook_until`: until then nobody else calls the receiver: a worker has the lease, or it gave
    no answer `webhook_silences` times in a row and rests.
    """

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    sandbox: Mapped[bool]
    webhook_url: Mapped[str | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    webhook_until: Mapped[datetime | None]
    webhook_silences: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    sources: Mapped[list[str] | None] = mapped_column(ARRAY(Text))


class Campaign(Base):
    """One template version to one frozen audience; or `transactional`, the endless kind of notices.

    A draft has no template version yet; its terms are worked out anew when it is launched.
    """

    __tablename__ = "campaign"
    __table_args__ = (
        CheckConstraint("kind IN ('campaign', 'transactional')", name="kind"),
        CheckConstraint("lane IN ('notice', 'campaign')", name="lane"),
        CheckConstraint("in_doubt_policy IN ('resend', 'hold')", name="in_doubt_policy"),
        CheckConstraint("pace_per_minute > 0", name="pace_per_minute"),
        CheckConstraint("state = 'draft' OR template_version IS NOT NULL", name="frozen"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    title: Mapped[str]
    topic: Mapped[str]
    lane: Mapped[str]
    template_version: Mapped[str | None] = mapped_column(ForeignKey(TemplateVersion.version))
    audience_id: Mapped[int | None] = mapped_column(ForeignKey(Audience.id))
    state: Mapped[CampaignState] = mapped_column(CAMPAIGN_STATE)
    sender: Mapped[dict[str, Any]] = mapped_column(JSONB)
    topic_info: Mapped[dict[str, Any]] = mapped_column(JSONB)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    send_window: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    not_after: Mapped[datetime | None]
    pace_per_minute: Mapped[int | None]
    in_doubt_policy: Mapped[str]
    definition: Mapped[str]
    total: Mapped[int] = mapped_column(server_default="0", default=0)
    totals: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}", default=dict)
    launch_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    launched_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    sandbox: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    key_id: Mapped[int | None] = mapped_column(ForeignKey(ApiKey.id))
    list_file_id: Mapped[int | None] = mapped_column(ForeignKey(ListFile.id, ondelete="SET NULL"))


class Batch(Base):
    """Up to 500 messages of one route, leased by one worker.

    Positions beyond `started_through` were never handed to a connection. Half of each page is left
    free (fillfactor 50), so that leases and watermarks are written on the same page (HOT).
    """

    __tablename__ = "batch"
    __table_args__ = (
        Index("ix_batch_ready", "lane", "due_at", postgresql_where=text("state = 'ready'")),
        # On the id: each settle moves `lease_until`, and would add an entry to every index.
        Index("ix_batch_leased", "id", postgresql_where=text("state = 'leased'")),
        Index("ix_batch_campaign_id", "campaign_id", "state"),
        {"postgresql_with": {"fillfactor": 50}},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey(Campaign.id))
    lane: Mapped[str]
    route: Mapped[str]
    state: Mapped[BatchState] = mapped_column(BATCH_STATE, server_default="ready")
    size: Mapped[int]
    started_through: Mapped[int] = mapped_column(server_default="-1")
    due_at: Mapped[datetime]
    lease_owner: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    recoveries: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    created_at: Mapped[datetime]


class Message(Base):
    """One e-mail to one address: a row before it is sent, and its outcome after.

    Partitioned by month on the id, a UUIDv7 that begins with its time of birth. It has no foreign
    keys: rows are made only by INSERT … SELECT from the tables they would point to, and three
    checks a row would cost more than sending the mail does. The state is in no index and in no
    index's condition: a settle then changes no index entry (HOT), which halves its cost. `key_id`
    and `expires_at` are of messages that other systems asked for.
    """

    __tablename__ = "message"
    __table_args__ = (
        Index("ix_message_batch_id", "batch_id", "position"),
        Index("ix_message_campaign_id", "campaign_id"),
        Index("ix_message_waiting", "due_at", postgresql_where=text("batch_id IS NULL")),
        Index("ix_message_key_id", "key_id", "id", postgresql_where=text("key_id IS NOT NULL")),
        Index("ix_message_key_address", "address_id", postgresql_where=text("key_id IS NOT NULL")),
        {"postgresql_partition_by": "RANGE (id)"},
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    batch_id: Mapped[int | None] = mapped_column(BigInteger)
    recipient_id: Mapped[int] = mapped_column(BigInteger)
    address_id: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime | None]
    settled_at: Mapped[datetime | None]
    position: Mapped[int] = mapped_column(server_default="0")
    state: Mapped[MessageState] = mapped_column(MESSAGE_STATE, server_default="queued")
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    doubts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    sha256: Mapped[bytes | None]
    host: Mapped[str | None]
    detail: Mapped[str | None]
    key_id: Mapped[int | None]
    expires_at: Mapped[datetime | None]


class MessageEvent(Base):
    """What happened to a message beside its last outcome: deferrals, doubts, reports."""

    __tablename__ = "message_event"
    __table_args__ = (Index("ix_message_event_message_id", "message_id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    message_id: Mapped[uuid.UUID]
    at: Mapped[datetime]
    kind: Mapped[str]
    host: Mapped[str | None]
    detail: Mapped[str | None]


class MessageProblem(Base):
    """The messages of campaigns that are not accepted, with the reason: what reports filter."""

    __tablename__ = "message_problem"
    __table_args__ = (Index("ix_message_problem_campaign_id", "campaign_id", "state"),)

    message_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[MessageState] = mapped_column(MESSAGE_STATE)
    reason: Mapped[str]


class Tally(Base):
    """Entries of how many messages entered (or, below 0, left) a state within a minute.

    The sum over a campaign's entries of one state is how many messages are in it now. Entries are
    only added, in the statement that changes the messages, so that settles never wait for each
    other; the sweep sums up those of past minutes. Messages without a batch are counted at the
    route ''. `doubted` counts those whose fate became unknown for the first time.
    """

    __tablename__ = "tally"
    __table_args__ = (
        Index("ix_tally_campaign_id", "campaign_id", "minute"),
        Index("ix_tally_minute", "minute"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    minute: Mapped[datetime]
    route: Mapped[str]
    state: Mapped[MessageState] = mapped_column(MESSAGE_STATE)
    messages: Mapped[int]
    doubted: Mapped[int] = mapped_column(server_default="0")


# --- other systems -------------------------------------------------------------------------------


class Idempotency(Base):
    """What became of a request with an Idempotency-Key, for as long as it may be repeated."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("ix_idempotency_created_at", "created_at"),)

    key_id: Mapped[int] = mapped_column(ForeignKey(ApiKey.id), primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    result: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime]


class Dossier(Base):
    """How far a dossier is: `seen_at` of its newest event, `notified_at` of the newest notified."""

    __tablename__ = "dossier"
    __table_args__ = (
        UniqueConstraint("source", "code", "sandbox"),
        Index(
            "ix_dossier_promised_at",
            "promised_at",
            postgresql_where=text("NOT closed AND NOT waits AND apologised_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    source: Mapped[str]
    code: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="")
    seen_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    notified_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    message_id: Mapped[uuid.UUID | None]
    address_id: Mapped[int | None] = mapped_column(ForeignKey(Address.id))
    name: Mapped[str] = mapped_column(server_default="")
    language: Mapped[str] = mapped_column(server_default="vi")
    tax_code: Mapped[str | None]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    promised_at: Mapped[datetime | None]
    new_promised_at: Mapped[datetime | None]
    waits: Mapped[bool] = mapped_column(server_default=text("false"))
    closed: Mapped[bool] = mapped_column(server_default=text("false"))
    apologised_at: Mapped[datetime | None]
    key_id: Mapped[int] = mapped_column(ForeignKey(ApiKey.id))
    sandbox: Mapped[bool]


class DossierEvent(Base):
    """A change of a dossier that was reported, and what became of it."""

    __tablename__ = "dossier_event"
    __table_args__ = (
        UniqueConstraint("source", "code", "status", "occurred_at", "sandbox"),
        Index(
            "ix_dossier_event_undeliverable",
            "received_at",
            postgresql_where=text("outcome = 'no-address'"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source: Mapped[str]
    code: Mapped[str]
    status: Mapped[str]
    occurred_at: Mapped[datetime]
    sandbox: Mapped[bool]
    received_at: Mapped[datetime]
    key_id: Mapped[int] = mapped_column(ForeignKey(ApiKey.id))
    fingerprint: Mapped[bytes]
    outcome: Mapped[str]
    message_id: Mapped[uuid.UUID | None]


_OPEN = "delivered_at IS NULL AND dead_lettered_at IS NULL"


class WebhookEvent(Base):
    """What another system is to be notified of, and what became of that."""

    __tablename__ = "webhook_event"
    __table_args__ = (
        Index("ix_webhook_event_due", "key_id", "due_at", postgresql_where=text(_OPEN)),
        Index("ix_webhook_event_message", "message_id", "id", postgresql_where=text(_OPEN)),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    key_id: Mapped[int] = mapped_column(ForeignKey(ApiKey.id))
    message_id: Mapped[uuid.UUID | None]
    kind: Mapped[str]
    at: Mapped[datetime]
    data: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    due_at: Mapped[datetime]
    give_up_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    dead_lettered_at: Mapped[datetime | None]
    problem: Mapped[str | None]


class CalendarDay(Base):
    """A day that is, or is not, worked on, whatever the rule Monday to Friday says."""

    __tablename__ = "calendar_day"

    day: Mapped[date] = mapped_column(primary_key=True)
    working: Mapped[bool]
    name: Mapped[str]
