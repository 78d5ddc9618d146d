"""Where a webhook may lead: to no machine of ours, whatever a URL or a name server says."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest

from notifier.domain import keys, webhooks
from notifier.webhooks import delivery, targets
from tests.database.conftest import World
from tests.receiver import Receiver

DAY = timedelta(days=1)
INSIDE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "fe80::1",
    "fe80::1%1",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "192.0.0.8",
    "192.0.0.9",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "203.0.113.1",
    "2001:1::1",
    "2620:4f:8000::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    "4000::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not targets.is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "203.113.131.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"]
)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert targets.is_public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0x7f.1", "2130706433"],
)
def test_nothing_is_posted_inside_unless_that_is_allowed(
    world: World, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(targets, "_PUBLIC_PORTS", (world.receiver.port,))
    url = f"https://{host}:{world.receiver.port}/hook"
    with world.services.engine.begin() as connection:
        keys.set_webhook(connection, "portal", url)
    world.private = False
    world.record()
    assert not world.deliver()
    assert world.receiver.connections == 0
    (row,) = world.rows("attempts, problem")
    assert row[0] == 1
    assert row[1] in {
        "the address is private",
        "the URL is not allowed",
        "the host name cannot be resolved",
    }


def test_a_name_with_one_address_inside_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object, **__: object) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443))
            for each in ("8.8.8.8", "127.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(targets.TargetError, match="private"):
        targets.resolve(httpx2.URL("https://receiver.example.test/"), private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver.example.test/",
        "ftp://receiver.example.test/",
        "https://",
        "https:///path",
        "receiver.example.test",
        "",
        "https://x y/",
        "https://user:secret@receiver.example.test/",
        "https://receiver.example.test/#part",
        "https://receiver.example.test:99999/",
        "https://receiver.example.test:22/",
        "https://receiver.example.test:80/",
        "https://receiver.example.test:5432/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "https://receiver.example.test/" + "x" * 2000,
        "https://a\n.test/",
    ],
)
def test_a_url_that_may_not_be_called_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(webhooks.WebhookError) as caught:
        targets.read_url(url, private=False)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("port", ["", ":443", ":8443"])
def test_a_public_receiver_listens_where_receivers_do(port: str) -> None:
    url = f"https://receiver.example.test{port}/hook"
    assert targets.read_url(url, private=False) == url


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server named so and of a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
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
        found = (
            "127.0.0.1"
            if host == "receiver.example.test" and asked.count(host) == 1
            else "127.0.0.2"
            if "example" in host
            else host
        )
        return real(found, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(delivery, "tls_context", lambda: client)
    with Receiver(tls=server) as receiver:
        with world.services.engine.begin() as connection:
            keys.set_webhook(
                connection, "portal", f"https://receiver.example.test:{receiver.port}/hook"
            )
        for n in range(3):
            world.record(n=n)
        world.deliver()
        assert len(receiver.requests) == 3
        assert set(names) == {"receiver.example.test"}
        assert {each.headers["host"] for each in receiver.requests} == {
            f"receiver.example.test:{receiver.port}"
        }
    assert asked.count("receiver.example.test") == 1
    assert world.counts() == (0, 3, 0)


def test_a_certificate_of_another_name_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = certificate(tmp_path, "somebody-else.example.test")
    monkeypatch.setattr(delivery, "tls_context", lambda: client)
    with Receiver(tls=server) as receiver:
        with world.services.engine.begin() as connection:
            keys.set_webhook(connection, "portal", f"https://localhost:{receiver.port}/hook")
        world.record()
        world.deliver()
        assert receiver.requests == []
    assert world.rows("problem") == [("SSLCertVerificationError",)]


def test_the_proxy_of_the_environment_is_not_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    world.record()
    world.deliver()
    assert world.counts() == (0, 1, 0)
