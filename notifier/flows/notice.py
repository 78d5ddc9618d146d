"""A single notice: one mail to one address, outside any campaign, in the lane that campaigns never hold up.

It is a message like any other. It waits without a batch until a worker of the lane gathers what waits, a few milliseconds later.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, String

from notifier.domain.campaigns import Campaign, State
from notifier.domain.templates import freeze
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template

if TYPE_CHECKING:
    from notifier.services import Services

LANE = "notice"


def stream(
    session: Session, services: Services, template: Template, *, sender: Sender | None = None, data: dict[str, Any] | None = None
) -> int:
    """Return the id of the endless campaign to which notices of this template version, sender and data belong; made when it is missing."""
    topic = services.topics[template.topic]
    office = asdict(sender or services.sender)
    key = uuid.uuid5(uuid.NAMESPACE_OID, orjson.dumps([office, data or {}, asdict(topic.info)], option=orjson.OPT_SORT_KEYS).decode())
    name = f"stream/{template.name}/{template.version[:16]}/{key.hex[:12]}"
    found = session.scalar(select(Campaign.id).where(Campaign.name == name))
    if found is not None:
        return found
    now = services.clock()
    freeze(session, template, now)
    session.execute(
        text("""INSERT INTO campaign (name, kind, title, topic, lane, template_version, state, sender, topic_info, data,
                                      in_doubt_policy, definition, created_at, launched_at)
                VALUES (:name, 'stream', :title, :topic, :lane, :version, :state, cast(:sender AS jsonb), cast(:info AS jsonb),
                        cast(:data AS jsonb), :policy, '', :now, :now) ON CONFLICT (name) DO NOTHING"""),
        {
            "name": name,
            "title": template.title["vi"],
            "topic": template.topic,
            "lane": LANE,
            "version": template.version,
            "state": State.RUNNING.value,
            "sender": orjson.dumps(office).decode(),
            "info": orjson.dumps(asdict(topic.info)).decode(),
            "data": orjson.dumps(data or {}).decode(),
            "policy": topic.in_doubt,
            "now": now,
        },
    )
    return session.scalars(select(Campaign.id).where(Campaign.name == name)).one()


@dataclass(frozen=True, slots=True)
class Notice:
    """One mail to one address. `data` must fit the template's fields."""

    address_id: int
    name: str
    language: str
    data: dict[str, Any]
    tax_code: str | None = None


_QUEUE = text("""
WITH r AS (
    INSERT INTO recipient (tax_code, name, language, address_ids, data)
    SELECT o.tax_code, o.name, o.language, ARRAY[o.address_id], cast(o.data AS json)
      FROM unnest(:tax_codes, :names, :languages, :address_ids, :data) AS o (tax_code, name, language, address_id, data)
    RETURNING id, address_ids[1] AS address_id)
INSERT INTO message (campaign_id, recipient_id, address_id, due_at)
SELECT :campaign_id, r.id, r.address_id, :due_at FROM r RETURNING id
""").bindparams(
    bindparam("address_ids", type_=ARRAY(BigInteger)),
    *(bindparam(name, type_=ARRAY(String)) for name in ("tax_codes", "names", "languages", "data")),
)


def queue_notices(session: Session, notices: Sequence[Notice], *, campaign_id: int, due_at: datetime) -> list[uuid.UUID]:
    """Plan one mail each, by one statement in the caller's transaction; return the messages' ids, in no order.

    `campaign_id` is the stream they belong to. After the commit call `queues.wake_gather_soon(LANE)`.
    """
    rows = session.execute(
        _QUEUE,
        {
            "tax_codes": [each.tax_code for each in notices],
            "names": [each.name for each in notices],
            "languages": [each.language for each in notices],
            "address_ids": [each.address_id for each in notices],
            "data": [orjson.dumps(each.data).decode() for each in notices],
            "campaign_id": campaign_id,
            "due_at": due_at,
        },
    )
    return [uuid.UUID(str(number)) for number in rows.scalars()]


def queue_notice(
    session: Session,
    services: Services,
    *,
    template: str,
    address_id: int,
    name: str,
    language: str,
    data: dict[str, Any],
    tax_code: str | None = None,
    due_at: datetime | None = None,
    campaign_id: int | None = None,
) -> uuid.UUID:
    """Plan one mail in the caller's transaction and return its id; after the commit call `queues.wake_gather_soon("notice")`.

    `data` must fit the template's fields. `campaign_id` names the stream when the caller made one of its own.
    """
    if campaign_id is None:
        campaign_id = stream(session, services, services.catalogue[template])
    planned = Notice(address_id, name, language, data, tax_code)
    return queue_notices(session, [planned], campaign_id=campaign_id, due_at=due_at or services.clock())[0]
