"""Encryption and passwords: a certificate is checked, and a password never travels in the clear."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiosmtplib
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from notifier.channel import Fate
from notifier.settings import SmtpServer
from notifier.smtp.connection import PipelinedConnection, connect
from notifier.smtp.verdicts import Stage, judge_failure
from tests.wire.dialogue import Notes, drive_connection, with_server
from tests.wire.test_replies import Server


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + made.public_bytes(pem))
    return path


def context(certificate: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificate)
    return made


def test_mail_and_password_travel_encrypted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Server(
        {b"AUTH": [b"235 2.7.0 welcome\r\n"]},
        offer=b"250-s.test\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n",
    )
    notes = Notes([f"u{n}@example.test" for n in range(5)])

    async def client(port: int) -> None:
        relay = SmtpServer(
            "127.0.0.1", port, implicit_tls=True, username="office", password="secret"
        )
        connection = await connect(relay, hostname="n.test", timeout=5, limit=0)
        assert isinstance(connection, PipelinedConnection)
        await drive_connection(notes, connection)
        connection.close()

    asyncio.run(with_server(server, client, tls=context(certificate)))
    assert notes.fates == [Fate.ACCEPTED] * 5
    assert server.lines[:3] == [b"EHLO", b"AUTH", b"MAIL"]


def test_unknown_certificate_is_refused_and_the_messages_wait(certificate: Path) -> None:
    server = Server({})

    async def client(port: int) -> None:
        with pytest.raises((aiosmtplib.SMTPException, OSError)) as caught:
            await connect(
                SmtpServer("127.0.0.1", port, implicit_tls=True),
                hostname="n.test",
                timeout=5,
                limit=0,
            )
        verdict = judge_failure(Stage.CONNECT, caught.value)
        assert (verdict.fate, verdict.unsent) == (Fate.LATER, True)

    asyncio.run(with_server(server, client, tls=context(certificate)))
    assert b"MAIL" not in server.lines


def test_password_is_not_sent_where_encryption_is_not_offered() -> None:
    server = Server({}, offer=b"250-s.test\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n")

    async def client(port: int) -> None:
        # Not one of the loopback names, so the rule takes it for a server beyond this machine.
        relay = SmtpServer("127.0.0.2", port, username="office", password="secret")
        with pytest.raises((aiosmtplib.SMTPException, OSError)):
            await connect(relay, hostname="n.test", timeout=5, limit=0)

    asyncio.run(with_server(server, client, host="127.0.0.2"))
    assert b"AUTH" not in server.lines


def test_wrong_password_makes_the_messages_wait(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Server(
        {b"AUTH": [b"535 5.7.8 no\r\n"]},
        offer=b"250-s.test\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n",
    )

    async def client(port: int) -> None:
        relay = SmtpServer(
            "127.0.0.1", port, implicit_tls=True, username="office", password="secret"
        )
        with pytest.raises(aiosmtplib.SMTPException) as caught:
            await connect(relay, hostname="n.test", timeout=5, limit=0)
        verdict = judge_failure(Stage.CONNECT, caught.value)
        assert (verdict.fate, verdict.slow_route, verdict.dead_address) == (Fate.LATER, True, False)
        assert base64.b64encode(b"\0office\0secret").decode() not in verdict.detail

    asyncio.run(with_server(server, client, tls=context(certificate)))
    assert b"MAIL" not in server.lines
