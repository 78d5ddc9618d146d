"""What mail that comes back says, as programs really write it, and that no mail costs us much."""

from __future__ import annotations

import time
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifier.domain.links import LinkSigner
from notifier.inbound import reports
from notifier.inbound.reports import Report
from notifier.states import MessageState

FOLDER = Path(__file__).resolve().parents[2] / "samples" / "bounces"
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "expected.toml").read_text("utf-8"))
SAMPLES = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.eml"))}

SIGNER = LinkSigner(b"a secret of tests" * 3)
MESSAGE = uuid.UUID("0198a2c6-e4aa-737e-9795-258fef616c04")
ADDRESS_ID = 4711
OURS = f"b+{SIGNER.bounce_tag(MESSAGE)}@notices.example.test"
FORGED = f"b+{MESSAGE.hex}.0123456789abcdef@notices.example.test"
ABUSE = "abuse@notices.example.test"
LINK = SIGNER.token(ADDRESS_ID, "tax-policy")
# A mail of a stranger must not cost more, whatever it holds (seconds).
LIMIT = 0.2


def sample(name: str) -> bytes:
    return (
        SAMPLES[name].replace(b"{LINK}", LINK.encode()).replace(b"{MESSAGE}", str(MESSAGE).encode())
    )


def to(name: str) -> str:
    return ABUSE if name.startswith("arf-") else OURS


def timed(raw: bytes, recipient: str = OURS) -> Report | None:
    """Read a mail as fast as is promised; other processes of the machine do not count."""
    began = time.thread_time()
    report = reports.read(raw, recipient, SIGNER)
    assert time.thread_time() - began < LIMIT
    return report


def test_each_sample_has_its_reading_and_each_reading_its_sample() -> None:
    assert EXPECTED.keys() == SAMPLES.keys()
    assert len(SAMPLES) >= 60


@pytest.mark.parametrize("name", EXPECTED)
def test_a_report_is_understood(name: str) -> None:
    report = timed(sample(name), to(name))
    expected = EXPECTED[name]
    if not expected:
        assert report is None
        return
    assert report is not None
    assert report.state.value == expected["state"]
    assert report.detail
    assert report.detail.isprintable()
    assert len(report.detail) <= reports.MAX_DETAIL_CHARS
    assert report.message_id == MESSAGE
    if report.state is MessageState.COMPLAINED:
        assert (report.address_id, report.dead) == (ADDRESS_ID, False)
    else:
        assert report.address_id is None
        assert (report.status, report.dead) == (expected["status"], expected.get("dead", False))


@pytest.mark.parametrize("name", EXPECTED)
def test_without_a_signature_of_ours_no_report_counts(name: str) -> None:
    raw = SAMPLES[name].replace(b"{LINK}", b"A" * 43).replace(b"{MESSAGE}", MESSAGE.hex.encode())
    for recipient in (FORGED, "someone@notices.example.test", ABUSE, "", "b+@", OURS[:-30]):
        assert timed(raw, recipient) is None


def test_a_forged_return_path_is_refused_before_anything_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("it was parsed")

    monkeypatch.setattr("notifier.inbound.reports.email.message_from_bytes", fail)
    for name in EXPECTED:
        assert reports.read(sample(name), FORGED, SIGNER) is None
        assert reports.read(SAMPLES[name], ABUSE, SIGNER) is None


def test_a_large_mail_is_read_as_far_as_its_report_goes() -> None:
    raw = sample("postfix-user-unknown")
    report = timed(raw + b"x" * 50_000_000)
    assert report is not None
    assert report.dead


def nested(kind: bytes, depth: int) -> bytes:
    opened = b"".join(
        b"Content-Type: multipart/%s; boundary=b%d\n\n--b%d\n" % (kind, n, n) for n in range(depth)
    )
    return b"Subject: x\n" + opened


# What a stranger may write to make a parser work: long, nested, repeated, broken.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "semicolons": lambda: b"Content-Type: multipart/report" + b";" * 900_000 + b"\n\n",
    "quoted semicolons": lambda: b'Content-Type: multipart/report; a="' + b';"' * 120_000,
    "folded semicolons": lambda: b"Content-Type: multipart/report" + b";\n ;;;;;" * 30_000,
    "parameters": lambda: b"Content-Type: text/plain" + b"; a*0*=x''y" * 20_000 + b"\n\nx",
    "parentheses": lambda: b"From: " + b"(" * 20_000 + b"\nSubject: " + b"(" * 200_000,
    "parentheses in the type": lambda: b"Content-Type: " + b"(" * 20_000 + b"/report\n\n",
    "nested reports": lambda: nested(b"report; report-type=delivery-status", 2_000),
    "nested digests": lambda: nested(b"digest", 2_000),
    "nested messages": lambda: b"Content-Type: message/rfc822\n\n" * 8_000,
    "nested in 900 multiparts with lines": lambda: nested(b"mixed", 900) + b"a\n" * 100_000,
    "parts": lambda: b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 40_000,
    "long boundaries": lambda: (
        b"Content-Type: multipart/mixed; boundary=" + b"-" * 900 + b"\n\n" + b"-" * 200_000
    ),
    "NUL": lambda: b"\0" * 900_000,
    "NUL in a report": lambda: sample("postfix-user-unknown").replace(b" ", b"\0"),
    "line breaks": lambda: b"\n" * 900_000,
    "carriage returns": lambda: b"Subject: x" + b"\r" * 900_000,
    "headers": lambda: b"a: b\n" * 200_000,
    "folds": lambda: b"Subject: x\n" + b" y\n" * 200_000,
    "encoded words": lambda: b"Subject: " + b"=?utf-8?b?QQ==?= " * 50_000,
    "base64": lambda: (
        b"Content-Type: multipart/report; boundary=b\n\n--b\n"
        b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n"
        + b"QUFB\n"
        * 100_000
    ),
    "statuses": lambda: (
        b"Content-Type: multipart/report; boundary=b\n\n--b\n"
        b"Content-Type: message/delivery-status\n\n" + b"Action: relayed\n\n" * 50_000
    ),
    "codes": lambda: b"Hi. This is the qmail\n\n<a@b.test>:\n" + b"5.1.1.1 550 " * 50_000,
    "addresses": lambda: b"X-Failed-Recipients: " + b"<" * 200_000 + b"@" * 50_000 + b"\n\nx",
    "failed recipients": lambda: b"X-Failed-Recipients: a@b.test,\n" * 30_000 + b"\n\n550 x",
    "at signs": lambda: b"\n\nDelivery to the following recipients failed\n\n" + b"a@" * 120_000,
    "spaces": lambda: b"\n\nfailed addresses follow:\n" + b" " * 240_000 + b"@",
    "quotes of old programs": lambda: b"\n\nIntended recipient:" + b" \t" * 120_000,
    "bytes that are no text": lambda: bytes(range(256)) * 4_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("recipient", [OURS, FORGED, ABUSE])
def test_a_hostile_mail_costs_little_and_raises_nothing(name: str, recipient: str) -> None:
    timed(HOSTILE[name](), recipient)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_complaint_with_a_link_of_ours_costs_little(name: str) -> None:
    link = b"List-Unsubscribe: <https://x.test/u/" + LINK.encode() + b">\nfeedback-report\n"
    timed(link + HOSTILE[name](), ABUSE)


WORDS = st.sampled_from(
    [
        b"Content-Type: ",
        b"multipart/report; report-type=delivery-status; boundary=b\n",
        b"multipart/mixed; boundary=b\n",
        b"message/delivery-status\n",
        b"message/rfc822\n",
        b"message/feedback-report\n",
        b"text/plain\n",
        b"Content-Transfer-Encoding: base64\n",
        b"Action: failed\n",
        b"Status: 5.1.1\n",
        b"Diagnostic-Code: smtp; 550 5.1.1 unknown\n",
        b"Feedback-Type: abuse\n",
        b"X-Failed-Recipients: a@b.test\n",
        b"Hi. This is the qmail-send program\n",
        b"<a@b.test>:\n",
        b"550 5.1.1 unknown\n",
        b"--b\n",
        b"--b--\n",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\0",
        b";" * 500,
        b"(" * 500,
        b'"',
        b" ",
        b"\xff\xfe",
        b"=?utf-8?b?",
        b"List-Unsubscribe: <https://x.test/u/" + LINK.encode() + b">\n",
    ]
)
RECIPIENTS = st.sampled_from([OURS, FORGED, ABUSE])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(WORDS, st.binary(max_size=30)), max_size=80), RECIPIENTS)
def test_any_mail_is_read_soon_and_raises_nothing(pieces: list[bytes], recipient: str) -> None:
    timed(b"".join(pieces), recipient)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.integers(0, 5_000),
    st.integers(0, 400),
    st.one_of(WORDS, st.binary(max_size=60)),
    st.integers(1, 2_000),
)
def test_a_damaged_report_is_read_soon_and_raises_nothing(
    name: str, at: int, cut: int, piece: bytes, times: int
) -> None:
    raw = sample(name)
    timed(raw[:at] + piece * times + raw[at + cut :], to(name))


@given(st.text(max_size=300))
def test_any_recipient_is_read_without_raising(recipient: str) -> None:
    assert reports.read(sample("postfix-user-unknown"), recipient, SIGNER) is None
