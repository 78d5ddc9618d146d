"""From a system's request to its notification, through real workers: nothing is forgotten.

A receiver that hangs holds up nobody.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from notifier import cli
from notifier.domain import keys
from notifier.errors import NotifierError
from notifier.instance.supervisor import kill_tree
from tests.journeys.conftest import World, start_world
from tests.receiver import Receiver, Request, add_key, ask, overview


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="notifier-journey-"))
    found = start_world(folder, webhooks_private=True)
    yield found
    found.services.close()
    found.instance.stop()
    shutil.rmtree(folder, ignore_errors=True)


def delivered(world: World, name: str) -> int:
    return overview(world.services.engine, name).delivered


def test_each_system_hears_of_its_own_messages_though_another_one_hangs(world: World) -> None:
    with Receiver() as hanging, Receiver() as well:
        hanging.answer = hanging.hang
        first, second = (
            add_key(world.services, "hangs", hanging.url),
            add_key(world.services, "is-well", well.url),
        )
        for number in range(30):
            ask(world.services, first, f"a{number}@example.test")
        world.until(lambda: bool(hanging.requests))
        began = time.monotonic()
        wanted = {
            str(ask(world.services, second, f"b{number}@example.test")) for number in range(60)
        }
        world.until(lambda: delivered(world, "is-well") == len(wanted))
        assert time.monotonic() - began < 8, "it was notified while the other one still hung"
        assert len(hanging.requests) == 1
        secret = keys.webhook_secret(world.services.settings.require_secret(), second)
        found = [each.verified(secret) for each in well.requests]
        assert {each["type"] for each in found} == {"message.accepted"}
        assert {each["data"]["message_id"] for each in found} == wanted
        assert len({each.id for each in well.requests}) == len(wanted)
        hanging.answer = lambda _: 200
        hanging.released.set()
        world.until(lambda: delivered(world, "hangs") == 30)


def test_the_events_of_a_message_come_in_order(world: World) -> None:
    with Receiver() as receiver:
        receiver.answer = lambda _: 500 if len(receiver.requests) == 1 else 200
        number = ask(
            world.services, add_key(world.services, "in-order", receiver.url), "defer@simulate.test"
        )
        world.until(lambda: delivered(world, "in-order") == 3)
        notified = [(each.kind, each.event["data"]["attempts"]) for each in receiver.requests]
        assert notified == [
            ("message.deferred", 1),
            ("message.deferred", 1),
            ("message.deferred", 2),
            ("message.accepted", 3),
        ]
        assert {each.event["data"]["message_id"] for each in receiver.requests} == {str(number)}


def test_a_worker_that_is_killed_forgets_nothing(world: World) -> None:
    def slowly(_: Request) -> int:
        time.sleep(0.02)
        return 200

    with Receiver(slowly) as receiver:
        key_id = add_key(world.services, "survives", receiver.url)
        wanted = {
            str(ask(world.services, key_id, f"c{number}@example.test")) for number in range(120)
        }
        world.until(lambda: len(receiver.requests) > 45)
        kill_tree(world.instance.processes["worker-webhooks"])
        before = delivered(world, "survives")
        assert 0 < before < len(wanted)
        with world.services.engine.begin() as connection:
            # The dead worker's lease, which ends by itself after a minute.
            connection.execute(
                text("UPDATE api_key SET webhook_until = now() WHERE id = :id"), {"id": key_id}
            )
        world.until(lambda: delivered(world, "survives") == len(wanted))
        ids = [each.id for each in receiver.requests]
        assert {each.event["data"]["message_id"] for each in receiver.requests} == wanted
        assert len(set(ids)) == len(wanted)
        assert len(ids) - len(set(ids)) <= 40, (
            "only what was on its way comes twice, under the same id"
        )


def run(world: World, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli.app,
        ["webhook", *arguments],
        env=world.instance.settings.to_env(),
        catch_exceptions=True,
    )


def test_an_operator_sets_looks_replays_and_removes(world: World) -> None:
    with Receiver(lambda _: 410) as receiver:
        key_id = add_key(world.services, "operated", None)
        assert run(world, "set", "operated", receiver.url).exit_code == 0
        secret = run(world, "secret", "operated").stdout.strip()
        ask(world.services, key_id, "d@example.test")
        world.until(lambda: overview(world.services.engine, "operated").dead_letter == 1)
        shown = json.loads(run(world, "list", "operated", "--json").stdout)
        assert shown["webhooks"][0] | {"url": ""} == {
            "key": "operated",
            "url": "",
            "waiting": 0,
            "delivered": 0,
            "dead_letter": 1,
            "problem": "status 410",
        }
        assert shown["webhooks"][0]["url"] is None
        assert "status 410" in run(world, "list").stdout
        refused = run(world, "replay", "operated").exception
        assert isinstance(refused, NotifierError)
        assert "has no webhook" in str(refused)
        receiver.answer = lambda _: 200
        run(world, "set", "operated", receiver.url)
        again = run(world, "replay", "operated", "--dead-letter")
        assert "1 events are posted again" in again.stdout
        world.until(lambda: delivered(world, "operated") == 1)
        assert run(world, "replay", "operated", "--since", "2020-01-01").exit_code == 0
        world.until(lambda: len(receiver.requests) == 3)
        assert len({each.id for each in receiver.requests}) == 1
        assert receiver.requests[-1].verified(secret)["type"] == "message.accepted"
        run(world, "remove", "operated")
        ask(world.services, key_id, "d@example.test")
        assert overview(world.services.engine, "operated").url is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "nobody", "https://8.8.8.8/"), "no key named nobody"),
        (("set", "nobody", "https://localhost/"), "the address is private"),
        (("set", "nobody", "http://example.test/"), "does not begin with https"),
        (("secret", "nobody"), "no key named nobody"),
        (("list", "nobody"), "no key named nobody"),
        (("replay", "nobody"), "no key named nobody"),
        (("replay", "nobody", "--dead-letter", "--since", "2026-01-01"), "exclude each other"),
        (("replay", "nobody", "--set-aside", "--since", "2026-01-01"), "exclude each other"),
        (("remove", "nobody"), "no key named nobody"),
    ],
)
def test_a_mistake_is_one_sentence(world: World, arguments: tuple[str, ...], words: str) -> None:
    environment = world.instance.settings.replace(webhooks_private=False).to_env()
    found = CliRunner().invoke(cli.app, ["webhook", *arguments], env=environment).exception
    assert isinstance(found, NotifierError)
    assert words in str(found)
