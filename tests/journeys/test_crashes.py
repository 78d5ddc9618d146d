"""Everything is killed, for real, in the middle of a campaign.

Nothing is lost, and what is sent twice is counted and little.

NOTIFIER_KILLS=50 makes the last journey longer.
"""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest
from sqlalchemy import text

from notifier.flows import control as story
from notifier.instance.supervisor import kill_tree
from notifier.states import MessageState
from tests.journeys.conftest import WINDOW, World

MAILS = 2_000
SLOW = 12.0  # milliseconds a reply: the campaign lasts long enough to be struck


def duplicates(world: World) -> int:
    return int(world.sink.ask()["duplicates"])


def test_a_worker_child_is_killed(world: World) -> None:
    name = world.launch(MAILS, delay_ms=SLOW)
    world.until_done(name, 0.3)
    world.kill(world.worker_children()[0].pid)
    found = world.finish(name)
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert duplicates(world) <= found.counts.doubted <= WINDOW
    assert found.counts.doubted > 0, "the kill struck nothing, so the test proved nothing"


def test_the_whole_worker_is_killed(world: World) -> None:
    name = world.launch(MAILS, delay_ms=SLOW)
    world.until_done(name, 0.3)
    kill_tree(world.instance.processes["worker-campaign"])
    found = world.finish(name)
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert duplicates(world) <= found.counts.doubted <= 2 * WINDOW


def test_under_hold_nothing_is_sent_twice_and_an_operator_decides(world: World) -> None:
    name = world.launch(MAILS, delay_ms=SLOW, definition=world.definition(in_doubt="hold"))
    world.until_done(name, 0.3)
    kill_tree(world.instance.processes["worker-campaign"])
    found = world.finish(name)
    held = found.counts.of(MessageState.IN_DOUBT)
    assert duplicates(world) == 0
    assert 0 < held == found.counts.doubted <= 2 * WINDOW
    assert found.counts.of(MessageState.ACCEPTED) + held == MAILS
    assert story.decide_in_doubt(world.services, name, resend=True) == held
    after = world.finish(name)
    assert after.counts.states == {MessageState.ACCEPTED: MAILS}
    assert duplicates(world) <= held


def test_held_mail_can_be_given_up(world: World) -> None:
    name = world.launch(1_000, delay_ms=SLOW, definition=world.definition(in_doubt="hold"))
    world.until_done(name, 0.3)
    kill_tree(world.instance.processes["worker-campaign"])
    held = world.finish(name).counts.of(MessageState.IN_DOUBT)
    assert story.decide_in_doubt(world.services, name, resend=False) == held
    after = world.status(name)
    assert after.counts.states == {"accepted": 1_000 - held, "given_up": held}
    assert duplicates(world) == 0


def test_the_broker_is_killed_and_its_data_wiped(world: World) -> None:
    name = world.launch(MAILS, delay_ms=SLOW)
    world.until_done(name, 0.2)
    valkey = world.instance.valkey
    assert valkey is not None
    world.kill(valkey.pid)
    valkey.stop()
    for dump in valkey.folder.glob("*.rdb"):
        dump.unlink()
    valkey.start()
    assert valkey.url == world.instance.settings.broker_url
    found = world.finish(name)
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert (duplicates(world), found.counts.doubted) == (0, 0)


def test_the_database_is_killed_and_started_again(world: World) -> None:
    name = world.launch(MAILS, delay_ms=SLOW)
    world.until_done(name, 0.2)
    postgres = world.instance.postgres
    assert postgres is not None
    kill_tree(postgres.pid)
    postgres.stop()
    postgres.start()
    assert postgres.url == world.instance.settings.database_url
    found = world.finish(name)
    assert found.counts.states == {MessageState.ACCEPTED: MAILS}
    assert duplicates(world) <= found.counts.doubted <= 2 * WINDOW


@pytest.mark.timeout(600)
def test_a_polite_stop_loses_nothing_doubles_nothing_and_goes_on_by_itself(world: World) -> None:
    messages = int(os.environ.get("NOTIFIER_STOP_MESSAGES", "5000"))
    name = world.launch(messages)
    world.until_done(name, 0.3)
    began = time.monotonic()
    for part in world.instance.parts:
        assert part.process is not None
        for process in [
            psutil.Process(part.process.pid),
            *psutil.Process(part.process.pid).children(),
        ]:
            process.send_signal(signal.SIGTERM)
    for part in world.instance.parts:
        assert part.process is not None
        part.process.wait(10)
    seconds = time.monotonic() - began
    assert seconds < 10
    before = world.status(name)
    assert before.done < messages
    found = world.finish(name)
    assert found.counts.states == {"accepted": messages}
    print(f"stopped in {seconds:.1f} s with {before.done:,} of {messages:,} sent")
    assert (duplicates(world), found.counts.doubted) == (0, 0)


@pytest.mark.timeout(3600)
def test_random_kills(world: World) -> None:
    """Kill a random process at a random moment, again and again."""
    kills = int(os.environ.get("NOTIFIER_KILLS", "4"))
    chance = random.Random(os.environ.get("NOTIFIER_SEED", "7"))
    killed = in_doubt = twice = 0
    while killed < kills:
        name = world.launch(4_000, delay_ms=SLOW)
        struck = 0
        for _ in range(min(5, kills - killed)):
            deadline = time.monotonic() + chance.uniform(0.05, 1.0)
            while time.monotonic() < deadline:
                world.instance.tend()
                time.sleep(0.01)
            if world.status(name).over:
                break
            children = (
                world.worker_children()
                if psutil.pid_exists(world.instance.processes["worker-campaign"])
                else []
            )
            if not children:
                continue
            killed += 1
            if chance.random() < 0.3:
                struck += len(children)
                kill_tree(world.instance.processes["worker-campaign"])
            else:
                struck += 1
                world.kill(chance.choice(children).pid)
        found = world.finish(name, seconds=120)
        assert found.counts.states == {"accepted": 4_000}
        again = duplicates(world) - twice
        assert again <= found.counts.doubted <= WINDOW * struck
        in_doubt += found.counts.doubted
        twice += again
    print(f"{killed} kills: lost 0, in doubt {in_doubt}, sent again {twice}")


def test_a_process_that_wakes_after_its_lease_looks_before_it_sends(world: World) -> None:
    """A process is stopped (as a virtual machine is), the campaign paused, the lease runs out."""
    name = world.launch(MAILS, delay_ms=SLOW)
    world.until_done(name, 0.2)
    asleep = world.worker_children()
    for child in asleep:
        child.suspend()
    try:
        story.pause(world.services, name)
        time.sleep(2 * SLOW / 1000 + 0.2)
        before = world.sink.ask()["received"]

        def taken_back() -> bool:
            with world.services.session() as session:
                return not session.scalar(text("SELECT count(*) FROM batch WHERE state = 'leased'"))

        # The lease lasts 2 s, then the sweep takes the batches back.
        world.until(taken_back, seconds=20)
    finally:
        for child in asleep:
            child.resume()
    time.sleep(2)
    # What a process had handed to its loop when it was stopped is written after, a text a
    # connection at most. One that looks only at its next settle sends some 20 a process.
    assert world.sink.ask()["received"] - before <= 8
    assert world.status(name).campaign.state == "paused"
    story.resume(world.services, name)
    found = world.finish(name)
    assert found.counts.states == {"accepted": MAILS}
    assert duplicates(world) <= found.counts.doubted <= len(asleep) * WINDOW
