"""The table of transitions, one sentence each; every pair that is not in it is refused."""

from __future__ import annotations

import itertools

import pytest

from notifier.domain.campaigns import TRANSITIONS, State, Step, next_state
from notifier.errors import TransitionError


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        (State.DRAFT, Step.LAUNCH, State.RUNNING),
        (State.DRAFT, Step.SCHEDULE, State.SCHEDULED),
        (State.SCHEDULED, Step.START, State.RUNNING),
        (State.SCHEDULED, Step.PAUSE, State.PAUSED),
        (State.SCHEDULED, Step.CANCEL, State.CANCELLING),
        (State.RUNNING, Step.PAUSE, State.PAUSED),
        (State.RUNNING, Step.CANCEL, State.CANCELLING),
        (State.RUNNING, Step.FINISH, State.FINISHED),
        (State.PAUSED, Step.RESUME, State.RUNNING),
        (State.PAUSED, Step.CANCEL, State.CANCELLING),
        (State.CANCELLING, Step.END_CANCEL, State.CANCELLED),
        (State.FINISHED, Step.REOPEN, State.RUNNING),
        (State.RUNNING, Step.REOPEN, State.RUNNING),
        (State.PAUSED, Step.REOPEN, State.PAUSED),
    ],
)
def test_step_leads_to(before: State, step: Step, after: State) -> None:
    assert next_state("c", before, step) is after


def test_the_table_above_is_the_whole_table() -> None:
    assert len(TRANSITIONS) == 14


@pytest.mark.parametrize(
    ("before", "step"), [pair for pair in itertools.product(State, Step) if pair not in TRANSITIONS]
)
def test_every_other_step_is_refused_in_a_sentence(before: State, step: Step) -> None:
    with pytest.raises(TransitionError, match="Campaign c cannot"):
        next_state("c", before, step)


def test_a_cancelled_campaign_is_final() -> None:
    assert not [step for (state, step) in TRANSITIONS if state is State.CANCELLED]
