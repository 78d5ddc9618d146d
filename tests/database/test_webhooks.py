"""How other systems are notified: recorded, signed, in order, again, and in the end no more."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from standardwebhooks import WebhookVerificationError

from notifier.db import new_id
from notifier.domain import keys, webhooks
from notifier.flows import upkeep
from notifier.queues import WEBHOOKS
from notifier.webhooks import delivery
from tests.database.conftest import World
from tests.receiver import Receiver, Request, add_key, overview

DAY = timedelta(days=1)


# --- requests -------------------------------------------------------------------------------------


def test_a_request_is_signed_as_standard_webhooks_demand(world: World) -> None:
    number = world.record(reply="550 5.1.1 no such user", state="accepted")
    assert not world.deliver()
    (request,) = world.receiver.requests
    assert request.path == "/hook?from=notifier"
    assert request.headers["host"] == f"127.0.0.1:{world.receiver.port}"
    assert request.headers["content-type"] == "application/json"
    found = request.verified(world.secret)
    assert found["type"] == "message.bounced"
    assert found["data"] == {"reply": "550 5.1.1 no such user", "state": "accepted"}
    assert datetime.fromisoformat(found["timestamp"]) == world.now.replace(
        microsecond=world.now.microsecond // 1000 * 1000
    )
    assert request.headers["webhook-timestamp"] == str(int(world.now.timestamp()))
    (row,) = world.rows("id, message_id, attempts, delivered_at")
    assert row == (uuid.UUID(request.id), number, 1, world.now)
    assert not world.deliver()
    assert len(world.receiver.requests) == 1


def test_a_forged_or_altered_request_is_known_from_ours(world: World) -> None:
    world.record()
    world.deliver()
    (request,) = world.receiver.requests
    with pytest.raises(WebhookVerificationError):
        request.verified("whsec_" + "A" * 43 + "=")
    with pytest.raises(WebhookVerificationError):
        replace(request, body=request.body.replace(b"bounced", b"refused")).verified(world.secret)
    with pytest.raises(WebhookVerificationError):
        replace(request, headers=request.headers | {"webhook-id": str(uuid.uuid4())}).verified(
            world.secret
        )


def test_two_keys_have_two_secrets_and_hear_of_their_own_messages_only(world: World) -> None:
    with Receiver() as other:
        second = add_key(world.services, "other", other.url)
        first, world.key_id = world.key_id, second
        world.record(n=2)
        secret, world.key_id = world.secret, first
        world.record(n=1)
        world.deliver()
        world.deliver(second)
        assert [each.event["data"] for each in world.receiver.requests] == [{"n": 1}]
        assert [each.verified(secret)["data"] for each in other.requests] == [{"n": 2}]


def test_a_key_without_a_webhook_is_notified_of_nothing(world: World) -> None:
    silent = add_key(world.services, "silent", None)
    with world.services.engine.begin() as connection:
        for key_id in (silent, None):
            assert not webhooks.record(
                connection,
                key_id=key_id,
                message_id=None,
                kind="message.complained",
                at=world.now,
                data={},
            )
        with pytest.raises(ValueError, match="nothing"):
            webhooks.record(
                connection,
                key_id=world.key_id,
                message_id=None,
                kind="message.nothing",
                at=world.now,
                data={},
            )
    assert not world.rows()
    assert not world.deliver(silent)


def test_many_events_use_few_connections_and_give_way_after_two_hundred(world: World) -> None:
    for n in range(250):
        world.record(n=n)
    assert world.due_keys() == [world.key_id]
    assert world.deliver()
    assert len(world.receiver.requests) == delivery.MAX_EVENTS
    assert not world.deliver()
    assert sorted(each.event["data"]["n"] for each in world.receiver.requests) == list(range(250))
    assert world.receiver.connections <= 2 * 4
    assert world.counts() == (0, 250, 0)
    assert world.due_keys() == []


# --- order ----------------------------------------------------------------------------------------


def test_events_of_a_message_keep_their_order_though_the_first_one_fails(world: World) -> None:
    failures = [500, 302, 500]
    first, other = new_id(world.now), new_id(world.now)

    def answer(request: Request) -> int:
        return failures.pop() if request.event["data"]["n"] == 1 and failures else 200

    world.receiver.answer = answer
    for number, n in ((first, 1), (other, 2), (first, 3), (first, 4)):
        world.record(message_id=number, n=n)
    world.deliver()
    assert {each.event["data"]["n"] for each in world.receiver.requests} == {1, 2}
    assert world.due_keys() == [], "what waits for an earlier event wakes nobody"
    for _ in range(4):
        world.now += timedelta(minutes=3)
        world.deliver()
    taken = [each.event["data"]["n"] for each in world.receiver.requests]
    assert taken in ([1, 2, 1, 1, 1, 3, 4], [2, 1, 1, 1, 1, 3, 4])
    assert world.counts() == (0, 4, 0)


def test_a_dead_letter_holds_up_its_message_no_longer(world: World) -> None:
    world.receiver.answer = lambda request: 500 if request.event["data"]["n"] == 1 else 200
    number = world.record(n=1)
    world.now += timedelta(days=1)
    world.record(message_id=number, n=2)
    world.deliver()
    world.now += timedelta(days=2)
    world.deliver()
    assert world.counts() == (0, 1, 1)


# --- again and again, and the end -----------------------------------------------------------------


def test_retries_grow_longer_and_end_after_three_days(world: World) -> None:
    world.receiver.answer = lambda _: 500
    world.record()
    began = world.now
    waits: list[float] = []
    while True:
        assert not world.deliver()
        attempts, due_at, delivered_at, dead_lettered_at, problem = world.rows()[0]
        assert (delivered_at, problem) == (None, "status 500")
        if dead_lettered_at is not None:
            break
        waits.append((due_at - world.now).total_seconds())
        world.now = due_at - timedelta(seconds=1)
        assert not world.deliver()
        world.now = due_at
    expected = [5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800]
    assert waits[:9] == pytest.approx(expected, rel=0.11)
    assert waits[9:-1] == pytest.approx([28_800] * (len(waits) - 10), rel=0.11)
    assert timedelta(days=3) <= dead_lettered_at - began <= timedelta(days=3, seconds=2)
    assert attempts == len(world.receiver.requests) == len(waits) + 1
    assert len({each.id for each in world.receiver.requests}) == 1
    assert len({each.body for each in world.receiver.requests}) == 1
    assert len({each.headers["webhook-timestamp"] for each in world.receiver.requests}) == attempts
    world.now += DAY
    assert not world.deliver()
    assert world.counts() == (0, 0, 1)
    assert overview(world.services.engine, "portal").problem == "status 500"


def test_gone_makes_dead_letters_and_switches_the_webhook_off(world: World) -> None:
    world.receiver.answer = lambda _: 410
    for n in range(3):
        world.record(n=n)
    assert not world.deliver()
    assert len(world.receiver.requests) == 1
    assert world.counts() == (0, 0, 3)
    assert [row[0] for row in world.rows("problem")] == [
        "status 410",
        webhooks.SWITCHED_OFF,
        webhooks.SWITCHED_OFF,
    ]
    with world.services.engine.begin() as connection:
        assert keys.named(connection, "portal").webhook_url is None
        assert not webhooks.record(
            connection,
            key_id=world.key_id,
            message_id=None,
            kind="message.bounced",
            at=world.now,
            data={},
        )
    assert not world.deliver()
    # The operator of the other system comes back.
    world.receiver.answer = lambda _: 200
    with world.services.engine.begin() as connection:
        keys.set_webhook(connection, "portal", world.receiver.url)
        assert webhooks.replay(connection, world.key_id, now=world.now) == 3
    world.deliver()
    assert world.counts() == (0, 3, 0)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(world: World, status: int) -> None:
    with Receiver() as other:
        world.receiver.location = other.url
        world.receiver.answer = lambda _: status
        world.record()
        world.deliver()
        assert (len(world.receiver.requests), other.connections) == (1, 0)
    assert world.rows("problem") == [(f"status {status}",)]


def test_a_kept_connection_that_was_closed_is_opened_again(world: World) -> None:
    closing = threading.Event()

    def answer(request: Request) -> int:
        # Hangs up without an answer, once, as a server does that closes idle connections while a
        # request is on its way.
        if request.event["data"]["n"] == 1 and not closing.is_set():
            closing.set()
            raise ConnectionAbortedError
        return 200

    world.receiver.answer = answer
    for n in range(2):
        world.record(n=n)
    world.deliver()
    assert world.counts() == (0, 2, 0)
    assert len(world.receiver.requests) == 3


def test_what_a_receiver_says_is_kept_nowhere(world: World) -> None:
    world.receiver.answer = lambda _: 500
    world.record()
    world.deliver()
    assert "heard" not in str(world.rows("*"))


# --- receivers that are slow or dead --------------------------------------------------------------


def test_a_receiver_that_does_not_answer_is_asked_once_and_then_rests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.3)
    world.receiver.answer = world.receiver.hang
    for n in range(20):
        world.record(n=n)
    pauses = []
    for _ in range(6):
        assert not world.deliver()
        assert world.due_keys() == []
        before = world.now
        while not world.due_keys():
            world.now += timedelta(seconds=1)
        pauses.append((world.now - before).total_seconds())
    assert len(world.receiver.requests) == 6
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert {row[0] for row in world.rows("problem")} == {"timeout", None}
    world.receiver.answer = lambda _: 200
    world.receiver.released.set()
    world.deliver()
    world.now += timedelta(minutes=10)
    world.deliver()
    assert world.counts() == (0, 20, 0)


def test_what_a_dead_receiver_was_never_asked_is_a_dead_letter_after_three_days(
    world: World,
) -> None:
    for n in range(5):
        world.record(n=n)
    with world.services.engine.begin() as connection:
        keys.set_webhook(connection, "portal", "http://127.0.0.1:1/")
    world.now += timedelta(days=3, hours=1)
    assert not world.deliver()
    assert world.counts() == (0, 0, 5)
    assert [row[0] for row in world.rows("problem")] == [
        "ConnectionRefusedError",
        *["the receiver gives no answer"] * 4,
    ]


def test_an_answer_that_trickles_ends_at_the_timeout(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.5)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _ = server.accept()
            with connection:
                while not done.wait(0.05):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        with world.services.engine.begin() as connection:
            keys.set_webhook(connection, "portal", f"http://127.0.0.1:{server.getsockname()[1]}/")
        world.record()
        began = time.monotonic()
        assert not world.deliver()
        assert time.monotonic() - began < 3
        done.set()
        thread.join()
    (row,) = world.rows("attempts, delivered_at, problem")
    assert row[:2] == (1, None)


def test_a_busy_receiver_is_left_alone(world: World) -> None:
    world.receiver.answer = lambda _: 429
    for n in range(5):
        world.record(n=n)
    assert not world.deliver()
    assert not world.deliver()
    assert len(world.receiver.requests) == 1


def test_no_transaction_is_open_while_a_receiver_is_called(world: World) -> None:
    states: list[Any] = []

    def answer(_: Request) -> int:
        with world.services.engine.connect() as connection:
            states.extend(
                connection.scalars(
                    text("""SELECT state FROM pg_stat_activity
                             WHERE datname = current_database() AND pid <> pg_backend_pid()
                       AND xact_start IS NOT NULL""")
                )
            )
        return 200

    world.receiver.answer = answer
    world.record()
    world.deliver()
    assert states == []


def test_two_workers_do_not_call_the_same_receiver_at_once(world: World) -> None:
    world.receiver.answer = world.receiver.hang
    world.record()
    worker = threading.Thread(target=world.deliver)
    worker.start()
    while not world.receiver.requests:
        time.sleep(0.01)
    assert world.due_keys() == []
    assert not world.deliver()
    world.receiver.released.set()
    worker.join()
    assert len(world.receiver.requests) == 1
    assert world.counts() == (0, 1, 0)


def test_a_worker_that_died_leaves_its_receiver_after_a_minute(world: World) -> None:
    world.record()
    with world.services.engine.begin() as connection:
        assert webhooks.lease(connection, world.key_id, now=world.now)
    assert not world.deliver()
    world.now += webhooks.LEASE
    assert world.due_keys() == [world.key_id]
    world.deliver()
    assert world.counts() == (0, 1, 0)


def test_a_polite_stop_does_not_wait_for_a_receiver(world: World) -> None:
    world.receiver.answer = world.receiver.hang
    world.record()
    began = time.monotonic()
    assert world.deliver(stopping=lambda: bool(world.receiver.requests))
    assert time.monotonic() - began < 5
    assert world.rows("attempts, problem") == [(0, None)]
    assert world.due_keys() == [world.key_id]


# --- what an operator does ------------------------------------------------------------------------


def test_replay_delivers_dead_letters_or_everything_since_a_moment(world: World) -> None:
    world.record(n=1)
    world.deliver()
    world.now += timedelta(hours=1)
    world.receiver.answer = lambda _: 500
    world.record(n=2)
    world.now += timedelta(days=4)
    world.deliver()
    assert world.counts() == (0, 1, 1)
    with world.services.engine.begin() as connection:
        assert webhooks.replay(connection, world.key_id, now=world.now) == 1
    assert not world.deliver()
    assert world.counts() == (1, 1, 0), "an event that is replayed has three days again"
    world.receiver.answer = lambda _: 200
    with world.services.engine.begin() as connection:
        assert (
            webhooks.replay(
                connection, world.key_id, now=world.now, since=world.now - timedelta(days=5)
            )
            == 2
        )
    world.deliver()
    assert world.counts() == (0, 2, 0)
    ids = [each.id for each in world.receiver.requests]
    assert len(ids) == 5
    assert len(set(ids)) == 2


def test_old_events_are_forgotten_unless_they_are_open(world: World) -> None:
    world.record(n=1)
    world.deliver()
    world.record(n=2)
    with world.services.engine.begin() as connection:
        assert webhooks.forget(connection, world.now - DAY) == 0
        assert webhooks.forget(connection, world.now + DAY) == 1
    assert world.counts() == (1, 0, 0)


def test_the_sweep_enqueues_each_key_once(world: World) -> None:
    world.record()
    assert upkeep.enqueue_webhooks(world.services) == [world.key_id]
    assert world.services.queues.depth(WEBHOOKS) == 1
    upkeep.enqueue_webhooks(world.services)
    assert world.services.queues.depth(WEBHOOKS) == 1


def test_the_body_is_json_that_any_program_reads(world: World) -> None:
    world.record(reply="Hộp thư đầy", n=1)
    world.deliver()
    (request,) = world.receiver.requests
    assert json.loads(request.body)["data"] == {"reply": "Hộp thư đầy", "n": 1}


def test_a_long_queue_is_read_quickly_though_nothing_is_known_of_it(world: World) -> None:
    with world.services.engine.begin() as connection:
        connection.execute(
            text("""INSERT INTO webhook_event
                           (key_id, message_id, kind, at, data, due_at, give_up_at)
                    SELECT :key_id, uuidv7(), 'message.accepted', now(), '{}', now(),
                           now() + interval '3 days'
                      FROM generate_series(1, 20000)"""),
            {"key_id": world.key_id},
        )
    began = time.monotonic()
    assert world.due_keys() == [world.key_id]
    assert world.deliver()
    assert time.monotonic() - began < 5
