"""Campaigns: what is sent to whom, and the states it goes through.

Every message belongs to a row here. A `campaign` has an audience and an end; a `stream` is the endless kind, made once for each template
version, to which single notices belong, so that one engine delivers both.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Enum, Identity, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, mapped_column

from notifier.db import Base
from notifier.errors import NotFoundError, TransitionError


class State(StrEnum):
    """Where a campaign is in its life."""

    DRAFT = "draft"  # prepared, nothing planned yet
    SCHEDULED = "scheduled"  # launched for a later moment; frozen, its messages are planned
    RUNNING = "running"  # messages leave, or wait for their time
    PAUSED = "paused"  # nothing new starts; what is on the wire is finished
    CANCELLING = "cancelling"  # cancelled, the last batches are being given back
    CANCELLED = "cancelled"  # final: what had not left will not leave
    FINISHED = "finished"  # final, unless held messages are sent again


class Step(StrEnum):
    """What can be asked of a campaign, or happens to it."""

    LAUNCH = "launch"
    SCHEDULE = "schedule"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    END_CANCEL = "end-cancel"
    FINISH = "finish"
    REOPEN = "reopen"


# The whole life of a campaign. A step that is not listed for a state is refused and changes nothing.
TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.DRAFT, Step.LAUNCH): State.RUNNING,
    (State.DRAFT, Step.SCHEDULE): State.SCHEDULED,
    (State.SCHEDULED, Step.START): State.RUNNING,
    (State.SCHEDULED, Step.PAUSE): State.PAUSED,
    (State.SCHEDULED, Step.CANCEL): State.CANCELLING,
    (State.RUNNING, Step.PAUSE): State.PAUSED,
    (State.RUNNING, Step.CANCEL): State.CANCELLING,
    (State.RUNNING, Step.FINISH): State.FINISHED,
    (State.PAUSED, Step.RESUME): State.RUNNING,
    (State.PAUSED, Step.CANCEL): State.CANCELLING,
    (State.CANCELLING, Step.END_CANCEL): State.CANCELLED,
    # Held messages that an operator sends again.
    (State.FINISHED, Step.REOPEN): State.RUNNING,
    (State.RUNNING, Step.REOPEN): State.RUNNING,
    (State.PAUSED, Step.REOPEN): State.PAUSED,
}

_WHY_NOT = {
    State.DRAFT: "it has not been launched",
    State.SCHEDULED: "it is scheduled and has not started",
    State.RUNNING: "it is running",
    State.PAUSED: "it is paused",
    State.CANCELLING: "it is being cancelled",
    State.CANCELLED: "it was cancelled",
    State.FINISHED: "it is finished",
}


def next_state(name: str, state: State, step: Step) -> State:
    """Return the state after `step`; raise TransitionError when the table does not allow it."""
    after = TRANSITIONS.get((state, step))
    if after is None:
        possible = sorted(
            s.value
            for (from_state, s) in TRANSITIONS
            if from_state is state and s.value in _ASKABLE
        )
        raise TransitionError(
            f"Campaign {name} cannot {step.value}: {_WHY_NOT[state]}.",
            fix=f"Possible now: {', '.join(possible)}." if possible else "Nothing was changed.",
        )
    return after


_ASKABLE = {Step.LAUNCH, Step.SCHEDULE, Step.PAUSE, Step.RESUME, Step.CANCEL}


class Campaign(Base):
    """One template version to one frozen audience, or a stream of single notices."""

    __tablename__ = "campaign"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    title: Mapped[str]
    topic: Mapped[str]
    lane: Mapped[str]
    template_version: Mapped[str]
    audience_id: Mapped[int | None]
    state: Mapped[State] = mapped_column(
        Enum(State, name="campaign_state", values_callable=lambda kind: [s.value for s in kind])
    )
    sender: Mapped[dict[str, Any]] = mapped_column(JSONB)
    topic_info: Mapped[dict[str, Any]] = mapped_column(JSONB)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    send_window: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    not_after: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    pace_per_minute: Mapped[int | None]
    in_doubt_policy: Mapped[str]
    definition: Mapped[str]
    total: Mapped[int] = mapped_column(default=0)
    totals: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    launch_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    launched_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    sandbox: Mapped[bool] = mapped_column(default=False)
    key_id: Mapped[int | None]

    def take(self, step: Step) -> None:
        """Go to the state that `step` leads to; raise TransitionError when it is not allowed."""
        self.state = next_state(self.name, self.state, step)


def get(session: Session, name: str, *, lock: bool = False) -> Campaign:
    """Return the campaign called `name`, locked until the transaction ends if asked; raise NotFoundError."""
    query = select(Campaign).where(Campaign.name == name, Campaign.kind == "campaign")
    campaign = session.scalar(query.with_for_update() if lock else query)
    if campaign is None:
        known = list(
            session.scalars(
                select(Campaign.name)
                .where(Campaign.kind == "campaign")
                .order_by(Campaign.id.desc())
                .limit(5)
            )
        )
        raise NotFoundError(
            f"There is no campaign {name}.",
            fix=f"The newest are: {', '.join(known)}." if known else "None has been launched yet.",
        )
    return campaign
