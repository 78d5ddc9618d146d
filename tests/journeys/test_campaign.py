"""A campaign's way.

Servers misbehave, officers change their minds and recipients opt out.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from notifier.domain import suppressions as suppression
from notifier.domain.campaign_files import load_definition
from notifier.errors import CampaignError, NotFoundError, TransitionError
from notifier.flows import control as story
from notifier.flows.launch import launch
from notifier.states import CampaignState, MessageState
from notifier.testing import ROOT
from tests.journeys.conftest import World

MAILS = 600


def sink(world: World) -> tuple[int, int]:
    """Return how many different messages the sink has, and how many came twice."""
    found = world.sink.ask()
    return int(found["distinct"]), int(found["duplicates"])


def test_every_mail_is_accepted_once(world: World) -> None:
    found = world.finish(world.launch(MAILS))
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert sink(world) == (MAILS, 0)
    assert found.campaign.started_at is not None
    assert found.campaign.finished_at is not None
    with world.services.session() as session:
        row = session.execute(
            text(
                "SELECT host, detail, length(sha256), attempts FROM message "
                "WHERE campaign_id = :id LIMIT 1"
            ),
            {"id": found.campaign.id},
        ).one()
    assert row.host == "127.0.0.1"
    assert row.detail.startswith("250 2.0.0 Ok")
    assert (row.length, row.attempts) == (32, 1)


def test_refused_recipients_are_refused_and_the_rest_arrives(world: World) -> None:
    found = world.finish(world.launch(MAILS, rcpt_reply="550 5.1.1 no such user", every=10))
    assert found.counts.states == {"accepted": MAILS * 9 // 10, "refused": MAILS // 10}
    with world.services.session() as session:
        dead = session.scalar(
            text(
                "SELECT count(*) FROM suppression "
                "WHERE reason = 'hard_bounce' AND lifted_at IS NULL"
            )
        )
        assert dead == MAILS // 10
        session.execute(text("UPDATE suppression SET lifted_at = now()"))


def test_a_450_is_tried_again_and_accepted(world: World) -> None:
    found = world.finish(world.launch(MAILS, rcpt_reply="450 4.2.1 busy", first=40))
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert sink(world) == (MAILS, 0)
    assert found.counts.doubted == 0


def test_data_refused_after_a_good_recipient_is_tried_again(world: World) -> None:
    found = world.finish(world.launch(MAILS, data_reply="451 4.3.0 later", first=20))
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert sink(world) == (MAILS, 0)


def test_a_421_after_the_dot_backs_the_route_off_and_loses_nothing(world: World) -> None:
    found = world.finish(world.launch(MAILS, at_dot="421 4.7.0 slow down", first=3))
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert sink(world) == (MAILS, 0)


def test_a_server_that_closes_early_loses_nothing(world: World) -> None:
    found = world.finish(world.launch(MAILS, close_after=7))
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert sink(world) == (MAILS, 0)


@pytest.mark.parametrize("kept", ["drop", "keep-drop"])
def test_a_reply_lost_after_the_dot_is_in_doubt_and_sent_again(world: World, kept: str) -> None:
    found = world.finish(world.launch(MAILS, at_dot=kept, first=5))
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert found.counts.doubted == 5
    assert sink(world) == (MAILS, 5 if kept == "keep-drop" else 0)


def test_a_reply_lost_after_the_dot_is_held_under_hold(world: World) -> None:
    found = world.finish(
        world.launch(
            MAILS, definition=world.definition(in_doubt="hold"), at_dot="keep-drop", first=5
        )
    )
    assert found.counts.states == {"accepted": MAILS - 5, "in_doubt": 5}
    assert sink(world) == (MAILS, 0)


def test_a_server_that_hangs_is_given_up_and_tried_again(world: World) -> None:
    found = world.finish(world.launch(200, hang_at="rcpt", first=2))
    assert found.counts.states == {"accepted": 200}
    assert found.counts.doubted == 0
    assert sink(world) == (200, 0)


def test_a_server_without_pipelining_gets_everything(world: World) -> None:
    found = world.finish(world.launch(MAILS, pipelining=False))
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert sink(world) == (MAILS, 0)
    world.sink.set_script()


def test_pause_is_quick_and_resume_goes_on(world: World) -> None:
    name = world.launch(4_000, delay_ms=8)
    world.until_done(name, 0.2)
    began = time.monotonic()
    story.pause(world.services, name)
    world.until(lambda: world.status(name).counts.in_flight_batches == 0, seconds=5)
    assert time.monotonic() - began < 1
    done = world.status(name).done
    time.sleep(0.5)
    assert world.status(name).done == done < 4_000
    with pytest.raises(TransitionError, match="cannot pause: it is paused"):
        story.pause(world.services, name)
    story.resume(world.services, name)
    found = world.finish(name)
    assert found.counts.states == {"accepted": 4_000}
    assert sink(world) == (4_000, 0)
    assert found.counts.doubted == 0
    with pytest.raises(TransitionError, match="cannot pause: it is finished"):
        story.pause(world.services, name)
    assert world.status(name).campaign.state is CampaignState.FINISHED


def test_cancel_stops_for_good_and_the_books_are_right(world: World) -> None:
    name = world.launch(4_000, delay_ms=8)
    world.until_done(name, 0.2)
    story.cancel(world.services, name)
    found = world.finish(name)
    accepted = found.counts.of(MessageState.ACCEPTED)
    assert found.campaign.state is CampaignState.CANCELLED
    assert found.counts.states == {"accepted": accepted, "cancelled": 4_000 - accepted}
    assert sink(world) == (accepted, 0)
    with pytest.raises(TransitionError, match="it was cancelled"):
        story.resume(world.services, name)


def test_launching_twice_is_refused_without_effect(world: World) -> None:
    definition = world.definition()
    name = world.launch(MAILS, definition=definition)
    with pytest.raises(TransitionError, match="was launched before"):
        world.launch(MAILS, definition=definition)
    world.sink.set_script()
    assert world.finish(name).campaign.total == MAILS


def test_opting_out_works_for_mail_that_is_still_queued(world: World) -> None:
    policy = load_definition(ROOT / "campaigns" / "tax-policy.toml", name="journey-policy")
    name = world.launch(
        3_000, delay_ms=10, definition=replace(policy, window=None, pace_per_minute=None)
    )
    world.until_done(name, 0.1)
    with world.services.session() as session:
        last = (
            session.execute(
                text("""SELECT m.address_id FROM message m JOIN campaign c ON c.id = m.campaign_id
                     WHERE c.name = :name ORDER BY m.id DESC LIMIT 30"""),
                {"name": name},
            )
            .scalars()
            .all()
        )
        for address_id in last:
            suppression.suppress(
                session,
                address_id,
                "tax-policy",
                reason="unsubscribed",
                source="test",
                now=datetime.now(UTC),
            )
    found = world.finish(name)
    assert found.counts.skipped == {"unsubscribed": 30}
    assert found.counts.states == {"accepted": 2_970, "skipped": 30}


def test_a_later_launch_waits_and_starts_by_itself(world: World) -> None:
    world.sink.ask(reset=True, script={})
    path = world.folder / f"list-{MAILS}.csv"
    at = datetime.now(UTC) + timedelta(seconds=1.5)
    name = launch(world.services, world.definition(), audience=path, at=at).name
    assert world.status(name).campaign.state is CampaignState.SCHEDULED
    found = world.finish(name)
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert found.campaign.started_at is not None
    assert found.campaign.started_at >= at


def test_a_campaign_whose_time_is_over_expires(world: World) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    name = world.launch(
        MAILS, rcpt_reply="450 4.2.1 busy", definition=world.definition(not_after=soon)
    )
    found = world.finish(name)
    assert found.counts.states == {"expired": MAILS}
    assert sink(world) == (0, 0)
    world.sink.set_script()


def test_the_pace_is_kept_by_all_workers_together(world: World) -> None:
    began = time.monotonic()
    world.finish(world.launch(200, definition=world.definition(pace_per_minute=6_000)))
    # 100 a second, the first 100 at once.
    assert time.monotonic() - began > 0.8


def test_what_cannot_be_launched_says_why(world: World) -> None:
    path = world.folder / f"list-{MAILS}.csv"
    with pytest.raises(CampaignError, match="has passed"):
        launch(
            world.services, world.definition(), audience=path, at=datetime(2020, 1, 1, tzinfo=UTC)
        )
    with pytest.raises(NotFoundError, match="no template nothing"):
        launch(world.services, world.definition(template="nothing"), audience=path)
    with pytest.raises(CampaignError, match="names no list"):
        launch(world.services, world.definition())
    with pytest.raises(NotFoundError, match="There is no campaign nobody"):
        story.status(world.services, "nobody")
