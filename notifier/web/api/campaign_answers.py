"""What answers about campaigns hold."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, create_model

from notifier.states import CampaignState, InDoubtPolicy, MessageState
from notifier.web.api.answers import Answer, example

_NAME = "tax-policy-2026-12"
_CAMPAIGN_STEPS = ("list", "check", "launch", "pause", "resume", "cancel", "report")
_CAMPAIGN_LINKS = {"self": f"/api/v1/campaigns/{_NAME}"} | {
    step: f"/api/v1/campaigns/{_NAME}/{step}" for step in _CAMPAIGN_STEPS
}


class CampaignLinks(Answer):
    """Where to go on."""

    here: Annotated[str, Field(alias="self", description="The campaign.")]
    list: Annotated[str, Field(description="PUT here attaches its list.")]
    check: str
    launch: str
    pause: str
    resume: str
    cancel: str
    report: str

    @classmethod
    def of(cls, name: str) -> CampaignLinks:
        """Return the links of a campaign."""
        here = f"/api/v1/campaigns/{name}"
        return cls.model_validate(
            {"self": here} | {step: f"{here}/{step}" for step in _CAMPAIGN_STEPS}
        )


class CampaignAnswer(Answer):
    """A campaign and its state."""

    model_config = example(name=_NAME, state="draft", links=_CAMPAIGN_LINKS)

    name: str
    state: CampaignState
    links: CampaignLinks


class CampaignPage(Answer):
    """Campaigns, the newest first."""

    model_config = example(
        campaigns=[{"name": _NAME, "state": "draft", "links": _CAMPAIGN_LINKS}], next=None
    )

    campaigns: list[CampaignAnswer]
    next: Annotated[str | None, Field(description="The cursor of the next page, if there is one.")]


class ListAnswer(CampaignAnswer):
    """A campaign whose list was attached."""

    model_config = example(name=_NAME, state="draft", bytes=48211, links=_CAMPAIGN_LINKS)

    bytes: Annotated[int, Field(ge=0, description="Of the list.")]


class CampaignCheck(Answer):
    """What a campaign would do."""

    rows_read: int
    accepted: int
    rejected: int
    merged: int
    unused_columns: list[str]
    messages: int
    to_send: int
    suppressed: Annotated[dict[str, int], Field(description="Reasons, each with how many.")]
    unrenderable: int
    largest_mail_bytes: int
    largest_mail_row: int
    control_totals: dict[str, Any]
    estimated_seconds: float
    window_opens_at: datetime | None


# A figure for each state, whatever states there are.
_Figures = create_model(
    "_Figures",
    __base__=Answer,
    **{  # type: ignore[call-overload]
        state.figure: (Annotated[int, Field(ge=0, description=state.about.en)], ...)
        for state in MessageState
    },
)


class CampaignStatus(CampaignAnswer, _Figures):  # type: ignore[misc, valid-type]
    """Where a campaign stands. The figures of the states add up to `total`, always."""

    model_config = example(
        name=_NAME,
        title="Chính sách thuế mới",
        state="running",
        total=114072,
        **{state.figure: 0 for state in MessageState} | {"queued": 80000, "accepted": 34072},
        skipped={},
        in_doubt=0,
        dead_letter=0,
        control_totals={},
        in_doubt_policy="resend",
        template_version="8d2f…",
        launch_at=None,
        launched_at="2026-12-01T01:00:00+00:00",
        started_at="2026-12-01T01:00:00+00:00",
        finished_at=None,
        not_after="2026-12-06T01:00:00+00:00",
        links=_CAMPAIGN_LINKS,
    )

    title: str
    total: Annotated[int, Field(ge=0, description="How many messages it has.")]
    skipped: Annotated[dict[str, int], Field(description="Reasons, each with how many.")]
    in_doubt: Annotated[
        int,
        Field(ge=0, description="Whose fate was unknown at some time, whatever became of them."),
    ]
    dead_letter: Annotated[int, Field(ge=0, description="In batches that are set aside.")]
    control_totals: Annotated[dict[str, Any], Field(description="Sums over the list.")]
    in_doubt_policy: InDoubtPolicy
    template_version: str | None
    launch_at: datetime | None
    launched_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    not_after: datetime | None
