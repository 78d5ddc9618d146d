"""Signatures judged by another program than ours.

Dkimpy takes them for good, and for nothing else.
"""

from __future__ import annotations

import re
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from notifier.errors import SettingsError
from notifier.rendering.catalogue import load_template
from notifier.rendering.dkim import SIGNED, DkimSigner, new_key, read_key
from tests.unit.rendering.conftest import TEMPLATES, MakeBlueprint, MakeLetter

PEM = new_key()
SIGNER = DkimSigner(read_key(PEM, "the key"), domain="notices.example.test", selector="s2026")
NOW = 1_790_000_000.0


def verified(mail: bytes, signer: DkimSigner = SIGNER) -> bool:
    """Say what a receiver would."""

    def dns(name: bytes, timeout: int = 5) -> bytes:
        assert name == f"{signer.record_name}.".encode()
        return "".join(re.findall(r'"([^"]*)"', signer.record)).encode()

    return bool(dkim.verify(mail, dnsfunc=dns))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def mail(make_blueprint: MakeBlueprint, make_letter: MakeLetter) -> bytes:
    template = load_template(TEMPLATES, "debt-notice")
    return make_blueprint(template).fill(make_letter(template))


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in TEMPLATES.glob("*/template.toml"))
)
@pytest.mark.parametrize("language", ["vi", "en"])
def test_every_mail_is_taken_for_ours(
    make_blueprint: MakeBlueprint, make_letter: MakeLetter, name: str, language: str
) -> None:
    template = load_template(TEMPLATES, name)
    mail = make_blueprint(template, language=language).fill(make_letter(template))
    signed = SIGNER.sign(mail, NOW)
    assert signed.endswith(mail), "the mail itself is not touched"
    assert verified(signed)
    head = signed.partition(b"\r\n\r\n")[0]
    own = signed.removesuffix(mail)
    assert max(map(len, own.split(b"\r\n"))) <= 78
    assert signed.isascii()
    assert b"\n" not in head.replace(b"\r\n", b"")
    found = re.search(rb"h=([^;]+);", head)
    assert found is not None
    listed = re.sub(rb"\s", b"", found[1]).decode().split(":")
    present = [
        line.partition(b":")[0].lower().decode()
        for line in mail.partition(b"\r\n\r\n")[0].split(b"\r\n")
        if line[:1] not in b" \t"
    ]
    for header in SIGNED:
        assert listed.count(header) == present.count(header) + 1, header
    for needed in (
        "from",
        "to",
        "subject",
        "date",
        "message-id",
        "list-unsubscribe",
        "list-unsubscribe-post",
    ):
        assert needed in present


def test_whatever_is_changed_is_noticed(mail: bytes) -> None:
    signed = SIGNER.sign(mail, NOW)
    changes = [
        (b"Subject: ", b"Subject: x"),
        (b"To: ", b"To: x"),
        (b"List-Unsubscribe: <http", b"List-Unsubscribe: <xttp"),
        (b"Auto-Submitted: auto-generated", b"Auto-Submitted: no"),
        (b"Date: ", b"Date: M"),
        (b"d=notices", b"d=n0tices"),
    ]
    for before, after in changes:
        assert signed.count(before) >= 1
        assert not verified_or_refused(signed.replace(before, after, 1)), before
    head, _, body = signed.partition(b"\r\n\r\n")
    assert not verified_or_refused(head + b"\r\n\r\n" + body.replace(b"=", b"+", 1))
    assert not verified_or_refused(signed + b"more\r\n")
    for added in (
        b"From: x@example.test\r\n",
        b"Subject: x\r\n",
        b"Reply-To: x@example.test\r\n",
        b"List-Unsubscribe: <https://x.test>\r\n",
    ):
        assert not verified_or_refused(added + signed), added
        assert not verified_or_refused(head + b"\r\n" + added.rstrip() + b"\r\n\r\n" + body), added
    # What relays do on the way is no forgery.
    assert verified(b"Received: from a by b\r\n" + signed)
    assert verified(signed + b"\r\n\r\n")


def verified_or_refused(mail: bytes) -> bool:
    """`verified`, where a record that is asked for under another name is a refusal."""
    try:
        return verified(mail)
    except (AssertionError, dkim.DKIMException):
        return False


@examples(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(alphabet="ab=. \t\r\n", max_size=30).map(
            lambda value: re.sub(r"\r?\n|\r", "\r\n", value).encode()
        ),
        max_size=8,
    ).map(b"".join),
    st.text(alphabet="ab \t", max_size=20).map(str.strip),
)
def test_any_body_and_blanks_are_canonical(body: bytes, blanks: str) -> None:
    mail = (
        b"From: a@notices.example.test\r\nSubject:  x"
        + blanks.encode()
        + b"y\r\n\t z \r\nTo:b@example.test\r\n\r\n"
        + body
    )
    assert verified(SIGNER.sign(mail, NOW))


def test_another_key_is_not_ours(mail: bytes) -> None:
    other = DkimSigner(
        read_key(new_key(), "the key"), domain="notices.example.test", selector="s2026"
    )
    assert not verified(other.sign(mail, NOW))


@pytest.mark.parametrize(
    ("address", "covered"),
    [
        ("a@notices.example.test", True),
        ("a@x.notices.example.test", True),
        ("a@Notices.Example.Test", True),
        ("a@example.test", False),
        ("a@evilnotices.example.test", False),
        ("a", False),
    ],
)
def test_only_our_own_senders_are_covered(address: str, covered: bool) -> None:
    assert SIGNER.covers(address) is covered


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"domain": "Not a domain"}, "NOTIFIER_DKIM_DOMAIN"),
        ({"selector": "a;b"}, "NOTIFIER_DKIM_SELECTOR"),
    ],
)
def test_what_is_no_name_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        DkimSigner(
            read_key(PEM, "the key"), **{"domain": "example.test", "selector": "s", **change}
        )


def test_weak_and_wrong_keys_are_refused() -> None:
    with pytest.raises(SettingsError, match="1024 bits"):
        DkimSigner(
            rsa.generate_private_key(public_exponent=65537, key_size=1024),
            domain="example.test",
            selector="s",
        )
    for pem in (b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(SettingsError, match="KEY_FILE is not an RSA key"):
            read_key(pem, "NOTIFIER_DKIM_KEY_FILE")


def test_the_record_fits_dns() -> None:
    strings = re.findall(r'"([^"]*)"', SIGNER.record)
    assert len(strings) == 2
    assert all(len(each) <= 255 for each in strings)
    assert "".join(strings).startswith("v=DKIM1; k=rsa; p=MII")
