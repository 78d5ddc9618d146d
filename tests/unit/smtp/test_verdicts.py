"""Replies and failures, as servers really give them, and what each means for the message."""

from __future__ import annotations

import aiosmtplib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.channel import Fate
from notifier.smtp.verdicts import (
    CLOSING_SECONDS,
    GREYLIST_SECONDS,
    MAILBOX_FULL_SECONDS,
    MAILBOX_RATE_SECONDS,
    MAX_DETAIL_CHARS,
    SENDER_RATE_SECONDS,
    SERVER_TROUBLE_SECONDS,
    Stage,
    judge_failure,
    judge_reply,
)


@pytest.mark.parametrize(
    ("stage", "code", "text", "fate"),
    [
        (Stage.DOT, 250, "2.0.0 Ok: queued as 4F2A", Fate.ACCEPTED),
        (Stage.DOT, 251, "will forward", Fate.ACCEPTED),
        (Stage.RCPT, 450, "4.2.1 mailbox busy", Fate.LATER),
        (Stage.RCPT, 452, "4.2.2 over quota", Fate.LATER),
        (Stage.RCPT, 550, "5.1.1 no such user", Fate.REFUSED),
        (Stage.RCPT, 552, "5.2.2 mailbox full", Fate.LATER),
        (
            Stage.RCPT,
            550,
            "5.2.1 The user you are trying to contact is receiving mail at a rate that",
            Fate.LATER,
        ),
        (Stage.DATA, 451, "4.3.0 try later", Fate.LATER),
        (Stage.DATA, 554, "5.5.1 no valid recipients", Fate.REFUSED),
        (Stage.DOT, 554, "5.6.0 looks like a virus", Fate.REFUSED),
        (Stage.DOT, 550, "5.7.26 unauthenticated", Fate.REFUSED),
        (Stage.CONNECT, 554, "5.7.1 go away", Fate.LATER),
        (Stage.MAIL, 530, "5.7.0 authentication required", Fate.LATER),
        (Stage.DOT, 0, "", Fate.UNKNOWN),
        (Stage.DATA, 250, "what?", Fate.LATER),
    ],
)
def test_a_reply_has_a_fate(stage: Stage, code: int, text: str, fate: Fate) -> None:
    assert judge_reply(stage, code, text).fate is fate


@pytest.mark.parametrize("code", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"])
def test_a_dead_address_is_told_from_its_enhanced_code(code: str) -> None:
    assert judge_reply(Stage.RCPT, 550, f"{code} unknown").dead_address


@pytest.mark.parametrize(
    "text", ["5.7.1 blocked", "5.7.515 not authenticated", "5.4.1 no route", "just no"]
)
def test_a_block_is_never_held_against_the_address(text: str) -> None:
    assert not judge_reply(Stage.RCPT, 550, text).dead_address


def test_a_421_slows_the_route_down_and_refuses_nothing() -> None:
    for stage in Stage:
        verdict = judge_reply(stage, 421, "4.7.0 too many messages")
        assert (verdict.fate, verdict.slow_route, verdict.unsent) == (Fate.LATER, True, True)


def test_bad_content_is_recognised() -> None:
    assert judge_reply(Stage.DOT, 552, "5.3.4 message too big").bad_content


def test_only_a_reply_lost_after_the_final_dot_is_unknown() -> None:
    for error in (
        ConnectionResetError(),
        TimeoutError(),
        aiosmtplib.SMTPServerDisconnected("gone"),
    ):
        fates = {stage: judge_failure(stage, error).fate for stage in Stage}
        assert fates.pop(Stage.DOT) is Fate.UNKNOWN
        assert set(fates.values()) == {Fate.LATER}


def test_every_error_of_the_smtp_library_has_a_verdict() -> None:
    made: dict[type[Exception], Exception] = {
        aiosmtplib.SMTPRecipientRefused: aiosmtplib.SMTPRecipientRefused(
            550, "5.1.1 no", "a@example.test"
        ),
        aiosmtplib.SMTPSenderRefused: aiosmtplib.SMTPSenderRefused(
            550, "5.1.0 no", "a@example.test"
        ),
        aiosmtplib.SMTPRecipientsRefused: aiosmtplib.SMTPRecipientsRefused(
            [aiosmtplib.SMTPRecipientRefused(550, "5.1.1 no", "a@example.test")]
        ),
    }
    for kind in vars(aiosmtplib).values():
        if not (isinstance(kind, type) and issubclass(kind, aiosmtplib.SMTPException)):
            continue
        if issubclass(kind, aiosmtplib.SMTPResponseException):
            error = made.get(kind) or kind(451, "4.0.0 later")
        else:
            error = made.get(kind) or kind("words")
        for stage in Stage:
            assert judge_failure(stage, error).fate in Fate


@given(st.sampled_from(list(Stage)), st.integers(0, 999), st.text(max_size=2000))
def test_whatever_a_server_says_the_detail_is_one_bounded_line(
    stage: Stage, code: int, text: str
) -> None:
    verdict = judge_reply(stage, code, text)
    assert len(verdict.detail) <= MAX_DETAIL_CHARS
    if not (code == 250 and stage is Stage.DOT):
        assert verdict.detail.isprintable()


@given(st.sampled_from(list(Stage)), st.integers(300, 999), st.text(max_size=80))
def test_nothing_but_a_positive_reply_to_the_dot_is_acceptance(
    stage: Stage, code: int, text: str
) -> None:
    assert judge_reply(stage, code, text).fate is not Fate.ACCEPTED


@pytest.mark.parametrize(
    ("stage", "code", "text", "seconds"),
    [
        (Stage.RCPT, 452, "4.2.2 mailbox full", MAILBOX_FULL_SECONDS),
        (Stage.DOT, 452, "4.2.2 over quota", MAILBOX_FULL_SECONDS),
        (Stage.RCPT, 452, "Mailbox full", MAILBOX_FULL_SECONDS),
        (Stage.RCPT, 552, "5.2.2 mailbox full", MAILBOX_FULL_SECONDS),
        (Stage.RCPT, 450, "4.2.1 is receiving mail at a rate that", MAILBOX_RATE_SECONDS),
        (Stage.RCPT, 550, "5.2.1 is receiving mail at a rate that", MAILBOX_RATE_SECONDS),
        (Stage.RCPT, 450, "4.2.1 mailbox busy", 0),
        (Stage.RCPT, 451, "4.7.1 you send too fast", SENDER_RATE_SECONDS),
        (Stage.RCPT, 451, "4.7.1 Greylisting in action", GREYLIST_SECONDS),
        (Stage.RCPT, 450, "4.2.0 Greylisted, see http://example.test", GREYLIST_SECONDS),
        (Stage.DOT, 452, "4.3.1 insufficient system storage", SERVER_TROUBLE_SECONDS),
        (Stage.CONNECT, 421, "4.3.2 closing", CLOSING_SECONDS),
        (Stage.DATA, 451, "4.3.0 try later", 0),
        (Stage.RCPT, 451, "4.7.1 Greylisted, please try again in 300 seconds", 300),
        (Stage.RCPT, 450, "come back after 10 min", 600),
        (Stage.RCPT, 450, "come back in 1 second", 60),
        (Stage.RCPT, 450, "come back in 99999 hours", 86_400),
        (Stage.DOT, 250, "queued, will try again in 5 minutes", 0),
        (Stage.RCPT, 550, "5.1.1 nobody, not in 5 hours", 0),
    ],
)
def test_a_reply_says_how_long_to_wait(stage: Stage, code: int, text: str, seconds: float) -> None:
    assert judge_reply(stage, code, text).retry_after == seconds


def test_a_full_mailbox_is_tried_again_after_six_hours_at_the_earliest() -> None:
    assert judge_reply(Stage.RCPT, 452, "4.2.2 full").retry_after >= 6 * 3600


@pytest.mark.parametrize(
    ("code", "text", "enough"),
    [
        (421, "too many messages", True),
        (452, "4.5.3 too many recipients", True),
        (452, "too many messages", True),
        (450, "4.7.1 too many messages in this connection", True),
        (451, "maximum number of mails per session reached", True),
        (452, "4.2.2 mailbox full", False),
        (451, "4.7.1 too many connections from your host", False),
        (451, "4.7.0 temporarily deferred", False),
        (450, "4.2.1 mailbox busy", False),
    ],
)
def test_enough_of_one_connection_is_told_from_other_trouble(
    code: int, text: str, enough: bool
) -> None:
    verdict = judge_reply(Stage.RCPT, code, text)
    assert (verdict.fate, verdict.enough, verdict.unsent) == (Fate.LATER, enough, enough)


def test_greylisting_is_meant_for_everybody_and_slows_nothing_down() -> None:
    assert not judge_reply(
        Stage.RCPT, 450, "4.7.1 Recipient address rejected: Greylisted"
    ).slow_route
    assert judge_reply(Stage.RCPT, 450, "4.7.1 you are too fast").slow_route
