"""What other systems are told: recorded once, posted signed, in order and again, to no address of ours, and set aside in the end."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from standardwebhooks import WebhookVerificationError

from notifier.db import new_id
from notifier.delivery import targets
from notifier.delivery import webhooks as delivery
from notifier.domain import keys, suppression, webhooks
from notifier.embedded.catcher import Catcher
from notifier.flows import message, subscription, upkeep
from notifier.queues import WEBHOOKS
from notifier.services import Services
from notifier.settings import Settings
from notifier.worker import lifecycle
from tests.receiver import Receiver, Request, add_key, overview

DAY = timedelta(days=1)


@dataclass
class World:
    """Services whose clock is ours, a receiver and a key whose webhook leads to it."""

    services: Services
    receiver: Receiver
    now: datetime
    key_id: int = 0
    private: bool = True

    def record(self, *, kind: str = webhooks.BOUNCED, message_id: uuid.UUID | None = None, **data: object) -> uuid.UUID:
        """Record an event that happens now; return its message."""
        found = message_id or new_id(self.now)
        with self.services.engine.begin() as connection:
            assert webhooks.record(connection, key_id=self.key_id, message_id=found, kind=kind, at=self.now, data=data)
        return found

    def deliver(self, key_id: int | None = None, *, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Call the receiver as a worker does."""
        return delivery.deliver(
            self.services.engine,
            key_id or self.key_id,
            service_secret=self.services.settings.require_secret(),
            private=self.private,
            clock=lambda: self.now,
            stopping=stopping,
        )

    def rows(self, columns: str = "attempts, due_at, delivered_at, set_aside_at, problem") -> list[Any]:
        """Return all events in their order."""
        with self.services.engine.connect() as connection:
            return list(connection.execute(text(f"SELECT {columns} FROM webhook_event ORDER BY id")))

    def counts(self) -> tuple[int, int, int]:
        """Return how many wait, are delivered and set aside."""
        found = overview(self.services.engine, "portal")
        return found.waiting, found.delivered, found.set_aside

    @property
    def secret(self) -> str:
        """The key's secret, as its operator is given it."""
        return keys.webhook_secret(self.services.settings.require_secret(), self.key_id)

    def due_keys(self) -> list[int]:
        """Return the keys that the sweep would wake."""
        with self.services.engine.connect() as connection:
            return webhooks.keys_due(connection, self.now)


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    services = Services(replace(settings, webhooks_private=True))
    with Receiver() as receiver:
        made = World(services, receiver, datetime.now(UTC) + timedelta(seconds=1))
        services.clock = lambda: made.now
        made.key_id = add_key(services, "portal", receiver.url)
        yield made
    services.close()


# --- requests ----------------------------------------------------------------------------------------------------------------------


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
    assert datetime.fromisoformat(found["timestamp"]) == world.now.replace(microsecond=world.now.microsecond // 1000 * 1000)
    assert request.headers["webhook-timestamp"] == str(int(world.now.timestamp()))
    (row,) = world.rows("id, message_id, attempts, delivered_at")
    assert row == (uuid.UUID(request.id), number, 1, world.now)
    assert not world.deliver()
    assert len(world.receiver.requests) == 1


def test_a_forged_or_altered_request_is_told_from_ours(world: World) -> None:
    world.record()
    world.deliver()
    (request,) = world.receiver.requests
    with pytest.raises(WebhookVerificationError):
        request.verified("whsec_" + "A" * 43 + "=")
    with pytest.raises(WebhookVerificationError):
        replace(request, body=request.body.replace(b"bounced", b"refused")).verified(world.secret)
    with pytest.raises(WebhookVerificationError):
        replace(request, headers=request.headers | {"webhook-id": str(uuid.uuid4())}).verified(world.secret)


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


def test_a_key_without_a_webhook_is_told_nothing(world: World) -> None:
    silent = add_key(world.services, "silent", None)
    with world.services.engine.begin() as connection:
        for key_id in (silent, None):
            assert not webhooks.record(connection, key_id=key_id, message_id=None, kind=webhooks.COMPLAINED, at=world.now, data={})
        with pytest.raises(ValueError, match="nothing"):
            webhooks.record(connection, key_id=world.key_id, message_id=None, kind="message.nothing", at=world.now, data={})
    assert not world.rows()
    assert not world.deliver(silent)


def test_many_events_use_few_connections_and_give_way_after_two_hundred(world: World) -> None:
    for n in range(250):
        world.record(n=n)
    assert world.due_keys() == [world.key_id]
    assert world.deliver()
    assert len(world.receiver.requests) == delivery.MOST_EVENTS
    assert not world.deliver()
    assert sorted(each.event["data"]["n"] for each in world.receiver.requests) == list(range(250))
    assert world.receiver.connections <= 2 * 4
    assert world.counts() == (0, 250, 0)
    assert world.due_keys() == []


# --- order -------------------------------------------------------------------------------------------------------------------------


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


def test_an_event_that_is_set_aside_holds_up_its_message_no_longer(world: World) -> None:
    world.receiver.answer = lambda request: 500 if request.event["data"]["n"] == 1 else 200
    number = world.record(n=1)
    world.now += timedelta(days=1)
    world.record(message_id=number, n=2)
    world.deliver()
    world.now += timedelta(days=2)
    world.deliver()
    assert world.counts() == (0, 1, 1)


# --- again and again, and the end --------------------------------------------------------------------------------------------------


def test_retries_grow_longer_and_end_after_three_days(world: World) -> None:
    world.receiver.answer = lambda _: 500
    world.record()
    began = world.now
    waits: list[float] = []
    while True:
        assert not world.deliver()
        attempts, due_at, delivered_at, set_aside_at, problem = world.rows()[0]
        assert (delivered_at, problem) == (None, "status 500")
        if set_aside_at is not None:
            break
        waits.append((due_at - world.now).total_seconds())
        world.now = due_at - timedelta(seconds=1)
        assert not world.deliver()
        world.now = due_at
    expected = [5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800]
    assert waits[:9] == pytest.approx(expected, rel=0.11)
    assert waits[9:-1] == pytest.approx([28_800] * (len(waits) - 10), rel=0.11)
    assert timedelta(days=3) <= set_aside_at - began <= timedelta(days=3, seconds=2)
    assert attempts == len(world.receiver.requests) == len(waits) + 1
    assert len({each.id for each in world.receiver.requests}) == 1
    assert len({each.body for each in world.receiver.requests}) == 1
    assert len({each.headers["webhook-timestamp"] for each in world.receiver.requests}) == attempts
    world.now += DAY
    assert not world.deliver()
    assert world.counts() == (0, 0, 1)
    assert overview(world.services.engine, "portal").problem == "status 500"


def test_gone_sets_aside_and_switches_the_webhook_off(world: World) -> None:
    world.receiver.answer = lambda _: 410
    for n in range(3):
        world.record(n=n)
    assert not world.deliver()
    assert len(world.receiver.requests) == 1
    assert world.counts() == (0, 0, 3)
    assert [row[0] for row in world.rows("problem")] == ["status 410", webhooks.SWITCHED_OFF, webhooks.SWITCHED_OFF]
    with world.services.engine.begin() as connection:
        assert keys.named(connection, "portal").webhook_url is None
        assert not webhooks.record(connection, key_id=world.key_id, message_id=None, kind=webhooks.BOUNCED, at=world.now, data={})
    assert not world.deliver()
    # The operator of the other system comes back.
    world.receiver.answer = lambda _: 200
    with world.services.engine.begin() as connection:
        webhooks.set_url(connection, "portal", world.receiver.url)
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
        # Hangs up without an answer, once, as a server does that closes idle connections while a request is on its way.
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


# --- receivers that are slow or dead -------------------------------------------------------------------------------------------------


def test_a_receiver_that_does_not_answer_is_asked_once_and_then_rests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_a_dead_receiver_was_never_asked_is_set_aside_after_three_days(world: World) -> None:
    for n in range(5):
        world.record(n=n)
    with world.services.engine.begin() as connection:
        webhooks.set_url(connection, "portal", "http://127.0.0.1:1/")
    world.now += timedelta(days=3, hours=1)
    assert not world.deliver()
    assert world.counts() == (0, 0, 5)
    assert [row[0] for row in world.rows("problem")] == ["ConnectionRefusedError", *["the receiver gives no answer"] * 4]


def test_an_answer_that_trickles_ends_at_the_timeout(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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
            webhooks.set_url(connection, "portal", f"http://127.0.0.1:{server.getsockname()[1]}/")
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
                             WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL""")
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


# --- where a webhook may lead ------------------------------------------------------------------------------------------------------

INSIDE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fe80::1%1", "fc00::1", "fec0::1",
    "ff02::1", "2001:db8::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b::7f00:1", "64:ff9b:1::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not targets.is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "203.113.131.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert targets.is_public(ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0x7f.1", "2130706433"])
def test_nothing_is_posted_inside_unless_that_is_allowed(world: World, host: str) -> None:
    url = f"https://{host}:{world.receiver.port}/hook"
    with world.services.engine.begin() as connection:
        webhooks.set_url(connection, "portal", url)
    world.private = False
    world.record()
    assert not world.deliver()
    assert world.receiver.connections == 0
    (row,) = world.rows("attempts, problem")
    assert row[0] == 1
    assert row[1] in {"the address is private", "the URL is not allowed", "the host name cannot be resolved"}


def test_a_name_with_one_address_inside_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("8.8.8.8", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(targets.TargetError, match="private"):
        targets.resolve(httpx2.URL("https://receiver.example.test/"), private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver.example.test/", "ftp://receiver.example.test/", "https://", "https:///path", "receiver.example.test", "", "https://x y/",
        "https://user:secret@receiver.example.test/", "https://receiver.example.test/#part", "https://receiver.example.test:99999/",
        "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest", "https://receiver.example.test/" + "x" * 2000, "https://a\n.test/",
    ],
)  # fmt: skip
def test_a_url_that_may_not_be_called_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(webhooks.WebhookError) as caught:
        targets.read_url(url, private=False)
    assert "secret" not in str(caught.value)


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server named so and of a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - DAY).not_valid_after(now + DAY).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / "receiver.pem"
    plain = serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


def test_the_checked_address_is_called_under_the_name_and_certificate_of_the_host(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = certificate(tmp_path, "receiver.example.test")
    names: list[Any] = []
    server.sni_callback = lambda _, name, __: names.append(name)
    real, asked = socket.getaddrinfo, []

    def answer(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        # A name that is one address when it is checked, and another when it is asked again.
        found = "127.0.0.1" if host == "receiver.example.test" and asked.count(host) == 1 else "127.0.0.2" if "example" in host else host
        return real(found, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(delivery, "tls_context", lambda: client)
    with Receiver(tls=server) as receiver:
        with world.services.engine.begin() as connection:
            webhooks.set_url(connection, "portal", f"https://receiver.example.test:{receiver.port}/hook")
        for n in range(3):
            world.record(n=n)
        world.deliver()
        assert len(receiver.requests) == 3
        assert set(names) == {"receiver.example.test"}
        assert {each.headers["host"] for each in receiver.requests} == {f"receiver.example.test:{receiver.port}"}
    assert asked.count("receiver.example.test") == 1
    assert world.counts() == (0, 3, 0)


def test_a_certificate_of_another_name_is_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = certificate(tmp_path, "somebody-else.example.test")
    monkeypatch.setattr(delivery, "tls_context", lambda: client)
    with Receiver(tls=server) as receiver:
        with world.services.engine.begin() as connection:
            webhooks.set_url(connection, "portal", f"https://localhost:{receiver.port}/hook")
        world.record()
        world.deliver()
        assert receiver.requests == []
    assert world.rows("problem") == [("SSLCertVerificationError",)]


def test_the_proxy_of_the_environment_is_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    world.record()
    world.deliver()
    assert world.counts() == (0, 1, 0)


# --- what an operator does ---------------------------------------------------------------------------------------------------------


def test_replay_tells_again_what_was_set_aside_or_everything_since_a_moment(world: World) -> None:
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
    assert world.counts() == (1, 1, 0), "an event that is told again has three days again"
    world.receiver.answer = lambda _: 200
    with world.services.engine.begin() as connection:
        assert webhooks.replay(connection, world.key_id, now=world.now, since=world.now - timedelta(days=5)) == 2
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


def test_the_sweep_wakes_each_key_once(world: World) -> None:
    world.record()
    assert upkeep.wake_webhooks(world.services) == [world.key_id]
    assert world.services.queues.depth(WEBHOOKS) == 1
    upkeep.wake_webhooks(world.services)
    assert world.services.queues.depth(WEBHOOKS) == 1


# --- what is recorded --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sending(settings: Settings, catcher: Catcher) -> Iterator[tuple[Services, Callable[[], None]]]:
    """Services with a key, and what delivers every message that waits."""
    services = Services(replace(settings, smtp_url=catcher.url, smtp_timeout_seconds=2.0))
    add_key(services, "portal", "https://receiver.example.test/")
    sender = lifecycle.make_sender(services)

    def deliver() -> None:
        for batch_id in upkeep.gather(services, "notice"):
            sender.deliver(batch_id)

    yield services, deliver
    sender.close()
    services.close()


def ask(services: Services, email: str, *, key: str = "portal") -> uuid.UUID:
    template = services.catalogue["dossier-received"]
    data = {name: value for name, value in template.example.items() if name not in {"name", "tax_code", "email", "language"}}
    with services.engine.connect() as connection:
        key_id = keys.named(connection, key).id
    wanted = message.Wanted(template, email, "Hộ kinh doanh Ví Dụ", "vi", None, data)
    found = message.ask(services, wanted, key_id=key_id, sandbox=False, token=None, fingerprint=b"").id
    assert found is not None
    return found


def told(services: Services) -> list[tuple[str, dict[str, Any], Any, Any]]:
    with services.engine.connect() as connection:
        rows = connection.execute(text("SELECT kind, data, message_id, at FROM webhook_event ORDER BY id"))
        return [(kind, data, number, at) for kind, data, number, at in rows]


def test_outcomes_are_recorded_as_they_are_settled(sending: tuple[Services, Callable[[], None]], catcher: Catcher) -> None:
    services, deliver = sending
    good, bounced, busy = (ask(services, each) for each in ("ai@example.test", "bounce@simulate.test", "busy@simulate.test"))
    deliver()
    found = {str(number): (kind, data, at) for kind, data, number, at in told(services)}
    assert {key: value[0] for key, value in found.items()} == {
        str(good): "message.accepted", str(bounced): "message.refused", str(busy): "message.deferred",
    }  # fmt: skip
    _, data, at = found[str(bounced)]
    assert set(data) == {"message_id", "state", "attempts", "reply", "host"}
    assert (data["message_id"], data["state"], data["attempts"]) == (str(bounced), "refused", 1)
    assert data["reply"].startswith("550 5.1.1")
    with services.engine.connect() as connection:
        assert connection.scalar(text("SELECT settled_at FROM message WHERE id = :id"), {"id": bounced}) == at
    with services.engine.begin() as connection:
        connection.execute(text("UPDATE message SET due_at = clock_timestamp() WHERE due_at IS NOT NULL"))
    deliver()
    assert [kind for kind, _, number, _ in told(services) if number == busy] == ["message.deferred", "message.deferred"]


def test_a_doubt_is_told_though_the_message_is_sent_again(sending: tuple[Services, Callable[[], None]], catcher: Catcher) -> None:
    services, deliver = sending
    catcher.ask(script={"at_dot": "keep-drop"})
    number = ask(services, "ai@example.test")
    deliver()
    ((kind, data, found, _),) = told(services)
    assert (kind, found, data["state"]) == ("message.in_doubt", number, "deferred")


def test_a_worker_that_died_is_told_as_a_doubt(sending: tuple[Services, Callable[[], None]]) -> None:
    services, _ = sending
    number = ask(services, "ai@example.test")
    (batch_id,) = upkeep.gather(services, "notice")
    with services.engine.begin() as connection:
        connection.execute(
            text("""UPDATE batch SET state = 'leased', started_through = 5, lease_until = clock_timestamp() - interval '1 s'
                     WHERE id = :id"""),
            {"id": batch_id},
        )
    upkeep.sweep(services)
    ((kind, data, found, _),) = told(services)
    assert (kind, found, data["message_id"], data["state"], data["host"]) == ("message.in_doubt", number, str(number), "queued", "")


def test_messages_without_a_key_or_webhook_are_told_to_nobody(sending: tuple[Services, Callable[[], None]]) -> None:
    services, deliver = sending
    add_key(services, "silent", None)
    ask(services, "ai@example.test", key="silent")
    deliver()
    assert told(services) == []


def test_an_opt_out_is_told_to_every_system_that_wrote_to_the_address(sending: tuple[Services, Callable[[], None]]) -> None:
    services, _ = sending
    add_key(services, "other", "https://other.example.test/")
    add_key(services, "stranger", "https://stranger.example.test/")
    for key, email in (
        ("portal", "ai@example.test"),
        ("portal", "ai@example.test"),
        ("other", "ai@example.test"),
        ("stranger", "b@example.test"),
    ):
        ask(services, email, key=key)
    with services.session() as session:
        number = suppression.address_id(session, "ai@example.test")
    token = services.signer.token(number, "tax-policy")
    assert subscription.stop(services, token).stopped
    subscription.stop(services, token)
    clicks = subscription.OneClicks(services)
    clicks.stop(services.signer.token(number, "settlement-guidance")).result(10)
    found = told(services)
    assert [(kind, data, message_id) for kind, data, message_id, _ in found] == [
        (webhooks.UNSUBSCRIBED, {"topics": [topic], "email": "ai@example.test"}, None)
        for topic in ("tax-policy", "tax-policy", "settlement-guidance", "settlement-guidance")
    ]
    with services.engine.connect() as connection:
        names = connection.scalars(text("SELECT k.name FROM webhook_event e JOIN api_key k ON k.id = e.key_id"))
        assert sorted(names) == ["other", "other", "portal", "portal"]


def test_the_body_is_json_that_any_program_reads(world: World) -> None:
    world.record(reply="Hộp thư đầy", n=1)
    world.deliver()
    (request,) = world.receiver.requests
    assert json.loads(request.body)["data"] == {"reply": "Hộp thư đầy", "n": 1}
