"""The one module of verbs for `campaign`: what is sent to whom, on which terms, and its life.

Every message belongs to a row here. A `campaign` has an audience and an end; a `transactional` one
is the endless kind, made once for each template version, to which single notices belong, so that
one engine delivers both.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from notifier.domain.calendar import Window
from notifier.errors import NotFoundError, TransitionError
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template, TopicInfo
from notifier.schema import Campaign
from notifier.states import CampaignState, CampaignStep, InDoubtPolicy, Lane, next_campaign_state

KIND, TRANSACTIONAL = "campaign", "transactional"


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for all messages of a campaign. Frozen when it is launched.

    `not_after` is aware; None is three days after a notice was made. `pace_per_minute` is the
    campaign's own limit; None is none. `sandbox`: mail reaches nothing but the catcher.
    """

    title: str
    topic: TopicInfo
    lane: Lane
    sender: Sender
    data: Mapping[str, Any]
    in_doubt: InDoubtPolicy
    window: Window | None = None
    not_after: datetime | None = None
    pace_per_minute: int | None = None
    sandbox: bool = False

    def to_row(self) -> dict[str, Any]:
        """Return the columns of a campaign that hold the terms."""
        return {
            "title": self.title,
            "topic": self.topic.code,
            "topic_info": asdict(self.topic),
            "lane": self.lane.value,
            "sender": asdict(self.sender),
            "data": dict(self.data),
            "in_doubt_policy": self.in_doubt.value,
            "send_window": self.window.to_json() if self.window else None,
            "not_after": self.not_after,
            "pace_per_minute": self.pace_per_minute,
            "sandbox": self.sandbox,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Terms:
        """Return the terms that `to_row` wrote."""
        window = row["send_window"]
        return cls(
            title=row["title"],
            topic=TopicInfo(**row["topic_info"]),
            lane=Lane(row["lane"]),
            sender=Sender(**row["sender"]),
            data=row["data"],
            in_doubt=InDoubtPolicy(row["in_doubt_policy"]),
            window=Window.from_json(window) if window else None,
            not_after=row["not_after"],
            pace_per_minute=row["pace_per_minute"],
            sandbox=row["sandbox"],
        )


TERMS_COLUMNS = (
    "title",
    "topic",
    "topic_info",
    "lane",
    "sender",
    "data",
    "in_doubt_policy",
    "send_window",
    "not_after",
    "pace_per_minute",
    "sandbox",
)
"""The columns that `Terms.from_row` reads."""

# What a sending worker runs (psycopg's %s).
FROZEN = f"""
SELECT {", ".join(TERMS_COLUMNS)},
       (SELECT content FROM template_version v WHERE v.version = c.template_version) AS content
  FROM campaign c WHERE c.id = %s
"""
MARK_STARTED = """
UPDATE campaign SET started_at = clock_timestamp() WHERE id = %s AND started_at IS NULL
"""


def take(campaign: Campaign, step: CampaignStep) -> None:
    """Go to the state that `step` leads to; raise TransitionError when it is not allowed."""
    campaign.state = next_campaign_state(campaign.name, campaign.state, step)


def put_terms(campaign: Campaign, terms: Terms) -> None:
    """Write the terms into the row."""
    for column, value in terms.to_row().items():
        setattr(campaign, column, value)


def rewrite_draft(campaign: Campaign, terms: Terms, definition: str) -> None:
    """Give a draft another file."""
    put_terms(campaign, terms)
    campaign.definition = definition


def attach_list(campaign: Campaign, list_file_id: int | None) -> int | None:
    """Give a draft another list, or take it away; return the one before."""
    before, campaign.list_file_id = campaign.list_file_id, list_file_id
    return before


def launch(
    campaign: Campaign,
    terms: Terms,
    *,
    template_version: str,
    audience_id: int,
    totals: Mapping[str, int],
    total: int,
    at: datetime | None,
    now: datetime,
) -> None:
    """Freeze a draft whose `total` messages are planned, and launch it: `at` a moment, or now.

    Raise TransitionError when it is no draft.
    """
    take(campaign, CampaignStep.LAUNCH if at is None else CampaignStep.SCHEDULE)
    put_terms(campaign, terms)
    campaign.template_version = template_version
    campaign.audience_id = audience_id
    campaign.totals = dict(totals)
    campaign.total = total
    campaign.launch_at = at
    campaign.launched_at = now


def end(campaign: Campaign, step: CampaignStep, now: datetime) -> None:
    """Take the last step of a campaign; raise TransitionError when it is not allowed."""
    take(campaign, step)
    campaign.finished_at = now


def reopen(campaign: Campaign) -> None:
    """Let a campaign go on whose held messages are sent again; raise TransitionError."""
    take(campaign, CampaignStep.REOPEN)
    campaign.finished_at = None


def get(session: Session, name: str, *, lock: bool = False, key_id: int | None = None) -> Campaign:
    """Return the campaign called `name`, locked until the transaction ends if asked.

    With `key_id`, only that key's campaigns are known. Raise NotFoundError.
    """
    query = select(Campaign).where(Campaign.name == name, Campaign.kind == KIND)
    if key_id is not None:
        query = query.where(Campaign.key_id == key_id)
    campaign = session.scalar(query.with_for_update() if lock else query)
    if campaign is not None:
        return campaign
    if key_id is not None:
        raise NotFoundError(f"This key has no campaign {name}.", fix="Create it first.")
    known = [each.name for each in listed(session, limit=5)]
    raise NotFoundError(
        f"There is no campaign {name}.",
        fix=f"The newest are: {', '.join(known)}." if known else "None has been prepared yet.",
    )


def listed(
    session: Session,
    *,
    key_id: int | None = None,
    state: CampaignState | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Sequence[Campaign]:
    """Return campaigns, the newest first, older than the one numbered `before`."""
    query = select(Campaign).where(Campaign.kind == KIND)
    if key_id is not None:
        query = query.where(Campaign.key_id == key_id)
    if state is not None:
        query = query.where(Campaign.state == state)
    if before is not None:
        query = query.where(Campaign.id < before)
    return session.scalars(query.order_by(Campaign.id.desc()).limit(limit)).all()


def refuse_taken(session: Session, name: str) -> None:
    """Raise TransitionError when there is a campaign called `name`."""
    taken = session.scalar(select(Campaign).where(Campaign.name == name))
    if taken is None:
        return
    if taken.state is CampaignState.DRAFT:
        raise TransitionError(
            f"A campaign {name} is being prepared.",
            fix=f"See it with: notifier campaign status {name}. Delete it, or choose another name.",
        )
    raise TransitionError(
        f"The campaign {name} was launched before and is {taken.state.value}.",
        fix=f"See it with: notifier campaign status {name}. "
        "To send again, launch it under a new name with --name.",
    )


def create_draft(
    session: Session,
    name: str,
    terms: Terms,
    definition: str,
    *,
    key_id: int | None = None,
    now: datetime,
) -> Campaign:
    """Add a draft.

    Raise TransitionError when the name is taken, also by a transaction meanwhile.
    """
    row = session.execute(
        insert(Campaign)
        .values(
            **terms.to_row(),
            name=name,
            kind=KIND,
            state=CampaignState.DRAFT,
            definition=definition,
            created_at=now,
            key_id=key_id,
        )
        .on_conflict_do_nothing(index_elements=[Campaign.name])
        .returning(Campaign.id)
    ).first()
    if row is None:
        refuse_taken(session, name)
        raise TransitionError(f"A campaign {name} was added just now.", fix="Choose another name.")
    return session.get_one(Campaign, row.id)


def delete_draft(session: Session, campaign: Campaign) -> None:
    """Delete a draft for good; raise TransitionError for what was launched."""
    if campaign.state is not CampaignState.DRAFT:
        raise TransitionError(
            f"The campaign {campaign.name} was launched and stays as evidence.",
            fix="Cancel it if it must not go on.",
        )
    session.execute(delete(Campaign).where(Campaign.id == campaign.id))


def transactional(
    session: Session, template: Template, terms: Terms, version: str, *, now: datetime
) -> int:
    """Return the number of the endless campaign for notices on these terms; made when missing."""
    key = uuid.uuid5(
        uuid.NAMESPACE_OID,
        orjson.dumps(
            [asdict(terms.sender), dict(terms.data), asdict(terms.topic)],
            option=orjson.OPT_SORT_KEYS,
        ).decode(),
    )
    # "stream" is what it was called when the first of them were made; a name never changes.
    kind = "sandbox" if terms.sandbox else "stream"
    name = f"{kind}/{template.name}/{version[:16]}/{key.hex[:12]}"
    find = select(Campaign.id).where(Campaign.name == name)
    found = session.scalar(find)
    if found is None:
        session.execute(
            insert(Campaign)
            .values(
                **terms.to_row(),
                name=name,
                kind=TRANSACTIONAL,
                template_version=version,
                state=CampaignState.RUNNING,
                definition="",
                created_at=now,
                launched_at=now,
            )
            .on_conflict_do_nothing(index_elements=[Campaign.name])
        )
        found = session.scalars(find).one()
    return found


def lock_due(session: Session, now: datetime) -> Sequence[Campaign]:
    """Return the scheduled campaigns whose moment has come, locked.

    Not those others have locked.
    """
    due = select(Campaign).where(
        Campaign.state == CampaignState.SCHEDULED, Campaign.launch_at <= now
    )
    return session.scalars(due.with_for_update(skip_locked=True)).all()


def numbers(session: Session, state: CampaignState) -> list[int]:
    """Return the numbers of the campaigns in a state, in order."""
    query = select(Campaign.id).where(Campaign.kind == KIND, Campaign.state == state)
    return list(session.scalars(query.order_by(Campaign.id)))


def pace_of_last(session: Session, *, at_least: int = 1000) -> float | None:
    """Return the messages a second of the campaign that finished last, of those large enough."""
    seconds = func.extract("epoch", Campaign.finished_at - Campaign.started_at)
    rate = session.scalar(
        select(Campaign.total / func.greatest(seconds, 0.1))
        .where(
            Campaign.kind == KIND,
            Campaign.state == CampaignState.FINISHED,
            Campaign.started_at.is_not(None),
            Campaign.total >= at_least,
        )
        .order_by(Campaign.finished_at.desc())
        .limit(1)
    )
    return None if rate is None else float(rate)
