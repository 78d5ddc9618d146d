"""The table of transitions, one sentence each; every pair that is not in it is refused."""

from __future__ import annotations

import itertools

import pytest

from notifier.errors import TransitionError
from notifier.states import CAMPAIGN_TRANSITIONS, CampaignState, CampaignStep, next_campaign_state


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        (CampaignState.DRAFT, CampaignStep.LAUNCH, CampaignState.RUNNING),
        (CampaignState.DRAFT, CampaignStep.SCHEDULE, CampaignState.SCHEDULED),
        (CampaignState.SCHEDULED, CampaignStep.START, CampaignState.RUNNING),
        (CampaignState.SCHEDULED, CampaignStep.PAUSE, CampaignState.PAUSED),
        (CampaignState.SCHEDULED, CampaignStep.CANCEL, CampaignState.CANCELLING),
        (CampaignState.RUNNING, CampaignStep.PAUSE, CampaignState.PAUSED),
        (CampaignState.RUNNING, CampaignStep.CANCEL, CampaignState.CANCELLING),
        (CampaignState.RUNNING, CampaignStep.FINISH, CampaignState.FINISHED),
        (CampaignState.PAUSED, CampaignStep.RESUME, CampaignState.RUNNING),
        (CampaignState.PAUSED, CampaignStep.CANCEL, CampaignState.CANCELLING),
        (CampaignState.CANCELLING, CampaignStep.END_CANCEL, CampaignState.CANCELLED),
        (CampaignState.FINISHED, CampaignStep.REOPEN, CampaignState.RUNNING),
        (CampaignState.RUNNING, CampaignStep.REOPEN, CampaignState.RUNNING),
        (CampaignState.PAUSED, CampaignStep.REOPEN, CampaignState.PAUSED),
    ],
)
def test_step_leads_to(before: CampaignState, step: CampaignStep, after: CampaignState) -> None:
    assert next_campaign_state("c", before, step) is after


def test_the_table_above_is_the_whole_table() -> None:
    assert len(CAMPAIGN_TRANSITIONS) == 14


@pytest.mark.parametrize(
    ("before", "step"),
    [
        pair
        for pair in itertools.product(CampaignState, CampaignStep)
        if pair not in CAMPAIGN_TRANSITIONS
    ],
)
def test_every_other_step_is_refused_in_a_sentence(
    before: CampaignState, step: CampaignStep
) -> None:
    with pytest.raises(TransitionError, match="Campaign c cannot"):
        next_campaign_state("c", before, step)


def test_a_cancelled_campaign_is_final() -> None:
    assert not [step for (state, step) in CAMPAIGN_TRANSITIONS if state is CampaignState.CANCELLED]
