"""A single notice: one mail to one address, outside any campaign, in the lane that campaigns never hold up.

It is a message like any other. It waits without a batch until a worker of the lane gathers what waits, a few milliseconds later.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Boolean, DateTime, Integer, String, Uuid

from notifier.domain.templates import freeze
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template
from notifier.schema import Campaign
from notifier.services import Services
from notifier.states import CampaignState

LANE = "notice"


def stream(
    session: Session,
    services: Services,
    template: Template,
    *,
    sender: Sender | None = None,
    data: dict[str, Any] | None = None,
    sandbox: bool = False,
) -> int:
    """Return the id of the endless campaign to which notices of this template version, sender and data belong; made when it is missing.

    What is sent in a `sandbox` stream reaches nothing but the catcher.
    """
    topic = services.topics[template.topic]
    office = asdict(sender or services.sender)
    key = uuid.uuid5(
        uuid.NAMESPACE_OID,
        orjson.dumps(
            [office, data or {}, asdict(topic.info)], option=orjson.OPT_SORT_KEYS
        ).decode(),
    )
    name = f"{'sandbox' if sandbox else 'stream'}/{template.name}/{template.version[:16]}/{key.hex[:12]}"
    found = session.scalar(select(Campaign.id).where(Campaign.name == name))
    if found is not None:
        return found
    now = services.clock()
    freeze(session, template, now)
    session.execute(
        text("""INSERT INTO campaign (name, kind, title, topic, lane, template_version, state, sender, topic_info, data,
                                      in_doubt_policy, definition, created_at, launched_at, sandbox)
                VALUES (:name, 'stream', :title, :topic, :lane, :version, :state, cast(:sender AS jsonb), cast(:info AS jsonb),
                        cast(:data AS jsonb), :policy, '', :now, :now, :sandbox) ON CONFLICT (name) DO NOTHING"""),
        {
            "name": name,
            "title": template.title["vi"],
            "topic": template.topic,
            "lane": LANE,
            "version": template.version,
            "state": CampaignState.RUNNING.value,
            "sender": orjson.dumps(office).decode(),
            "info": orjson.dumps(asdict(topic.info)).decode(),
            "data": orjson.dumps(data or {}).decode(),
            "policy": topic.in_doubt,
            "now": now,
            "sandbox": sandbox,
        },
    )
    return session.scalars(select(Campaign.id).where(Campaign.name == name)).one()


def campaign_of(services: Services, name: str, *, sandbox: bool = False) -> int:
    """Return the stream of the template `name`, looked up once. It is made in a transaction of its own, known only once it is there."""
    template = services.catalogue[name]
    found = services.streams.get((template.version, sandbox))
    if found is None:
        with services.session() as session:
            session.execute(text("SET LOCAL lock_timeout = '3s'"))
            found = stream(session, services, template, sandbox=sandbox)
        services.streams[template.version, sandbox] = found
    return found


@dataclass(frozen=True, slots=True)
class Notice:
    """One mail to one address. `data` must fit the fields of the template of the stream `campaign_id`.

    `due_at` is when it may leave and `expires_at` until when. `key_id` is the system that asked for it. One that is `withdrawn` was replaced
    before it was even queued: it is recorded, and never sent.
    """

    campaign_id: int
    address_id: int
    name: str
    language: str
    data: dict[str, Any]
    due_at: datetime
    tax_code: str | None = None
    id: uuid.UUID | None = None
    key_id: int | None = None
    expires_at: datetime | None = None
    withdrawn: bool = False


REPLACED = "replaced"


def withdrawn(planned: Notice) -> Notice:
    """Return the notice as one that is recorded and never sent."""
    return replace(planned, withdrawn=True)


# Recipients are numbered before they are inserted, so that each message knows its own.
_QUEUE = text("""
WITH o AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('recipient', 'id')) AS recipient_id, u.*
      FROM unnest(:campaign_ids, :address_ids, :names, :languages, :data, :due_at, :tax_codes, :ids, :key_ids, :expires_at, :withdrawn)
           WITH ORDINALITY
           AS u (campaign_id, address_id, name, language, data, due_at, tax_code, id, key_id, expires_at, withdrawn, place)),
r AS (
    INSERT INTO recipient (id, tax_code, name, language, address_ids, data) OVERRIDING SYSTEM VALUE
    SELECT recipient_id, tax_code, name, language, ARRAY[address_id], cast(data AS json) FROM o)
INSERT INTO message (id, campaign_id, recipient_id, address_id, due_at, expires_at, key_id, state, settled_at, detail)
SELECT coalesce(id, uuidv7()), campaign_id, recipient_id, address_id, CASE WHEN NOT withdrawn THEN due_at END, expires_at, key_id,
       CASE WHEN withdrawn THEN 'cancelled'::message_state ELSE 'queued' END, CASE WHEN withdrawn THEN clock_timestamp() END,
       CASE WHEN withdrawn THEN :replaced END
  FROM o ORDER BY place RETURNING id
""").bindparams(
    *(bindparam(name, type_=ARRAY(BigInteger)) for name in ("campaign_ids", "address_ids")),
    *(bindparam(name, type_=ARRAY(String)) for name in ("names", "languages", "data", "tax_codes")),
    *(bindparam(name, type_=ARRAY(DateTime(timezone=True))) for name in ("due_at", "expires_at")),
    bindparam("ids", type_=ARRAY(Uuid())),
    bindparam("key_ids", type_=ARRAY(Integer)),
    bindparam("withdrawn", type_=ARRAY(Boolean)),
)


def queue_notices(session: Session, notices: Sequence[Notice]) -> list[uuid.UUID]:
    """Plan one mail each, by one statement in the caller's transaction; return the messages' ids.

    After the commit call `queues.enqueue_gather_soon(LANE)`.
    """
    rows = session.execute(
        _QUEUE,
        {
            "campaign_ids": [each.campaign_id for each in notices],
            "address_ids": [each.address_id for each in notices],
            "names": [each.name for each in notices],
            "languages": [each.language for each in notices],
            "data": [orjson.dumps(each.data).decode() for each in notices],
            "due_at": [each.due_at for each in notices],
            "tax_codes": [each.tax_code for each in notices],
            "ids": [each.id for each in notices],
            "key_ids": [each.key_id for each in notices],
            "expires_at": [each.expires_at for each in notices],
            "withdrawn": [each.withdrawn for each in notices],
            "replaced": REPLACED,
        },
    )
    return [uuid.UUID(str(number)) for number in rows.scalars()]
