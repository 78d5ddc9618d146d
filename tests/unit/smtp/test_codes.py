"""What refusals mean, in the words that real servers use."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.channel import Fate
from notifier.smtp.codes import Meaning, meaning
from notifier.smtp.verdicts import Stage, enhanced_code, judge_reply

DEAD, FULL, BUSY = Meaning.DEAD_ADDRESS, Meaning.MAILBOX_FULL, Meaning.MAILBOX_BUSY
BLOCKED, CONTENT, OTHER = Meaning.SENDER_BLOCKED, Meaning.CONTENT, Meaning.OTHER

# The text of a reply after its basic code, as a server gives it to RCPT or the final dot.
REPLIES = [
    ("5.1.1 <a@example.test>: Recipient address rejected: User unknown", DEAD),
    ("5.1.1 The email account that you tried to reach does not exist.", DEAD),
    ("5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient a not found by SMTP address lookup", DEAD),
    ("5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", DEAD),
    ("5.4.1 Recipient address rejected: Access denied. AS(201806281)", DEAD),
    ("5.4.1 [a@example.test]: Recipient address rejected: Access denied", DEAD),
    ("5.4.1 no answer from host", OTHER),
    ("5.4.4 SMTPSEND.DNS.NonExistentDomain; nonexistent domain", DEAD),
    ("5.4.4 Unable to route due to invalid MX records", OTHER),
    ("5.2.1 The email account that you tried to reach is disabled.", DEAD),
    ("5.2.1 The email account that you tried to reach is inactive.", DEAD),
    ("5.2.1 The user you are trying to contact is receiving mail at a rate that prevents", BUSY),
    ("5.2.2 The email account that you tried to reach is over quota.", FULL),
    ("5.0.0 User unknown", DEAD),
    ("5.0.0 We do not want this", OTHER),
    ("5.3.0 <a@example.test>... User unknown, not local address", DEAD),
    ("5.1.0 Address rejected.", OTHER),
    ("No such user here", DEAD),
    ("No such mailbox", DEAD),
    ("no such local user", DEAD),
    ("Unknown user", DEAD),
    ("Unknown local part a in <a@example.test>", DEAD),
    ("Invalid recipient <a@example.test>", DEAD),
    ("Requested action not taken: mailbox unavailable", DEAD),
    ("Mailbox not found", DEAD),
    ("User a@example.test not exist", OTHER),
    ("The recipient does not exist here", DEAD),
    ("delivery error: dd This user doesn't have an example.test account (a@example.test)", DEAD),
    ("sorry, no mailbox here by that name (#5.1.1 - chkuser)", DEAD),
    ("a@example.test is not a valid mailbox", DEAD),
    ("User a (a@example.test) not listed in Domino Directory", DEAD),
    ("Unrouteable address", DEAD),
    ("Account has been suspended", DEAD),
    ("This address is no longer valid", DEAD),
    ("Địa chỉ không tồn tại", DEAD),
    ("Mailbox is full", FULL),
    ("Requested mail action aborted: exceeded quota", FULL),
    ("Mailbox unavailable: user is over quota", FULL),
    ("Message rejected as spam, mailbox unavailable", OTHER),
    ("mailbox unavailable: sender listed at a DNSBL", OTHER),
    ("Message rejected due to local policy; user unknown", OTHER),
    ("Relaying denied. Invalid user", OTHER),
    ("just no", OTHER),
    ("", OTHER),
    ("5.7.1 Service unavailable; Client host blocked", BLOCKED),
    ("5.7.515 Access denied, sending domain does not meet the required level", BLOCKED),
    ("5.7.26 Unauthenticated email is not accepted due to the domain's DMARC policy", BLOCKED),
    ("5.6.0 looks like a virus", CONTENT),
    ("5.3.4 Message too big for system", CONTENT),
]


@pytest.mark.parametrize(("text", "expected"), REPLIES)
def test_a_refusal_means_what_providers_mean(text: str, expected: Meaning) -> None:
    assert meaning(enhanced_code(text), text) is expected


@pytest.mark.parametrize(("text", "expected"), REPLIES)
def test_a_reply_follows_from_what_it_means(text: str, expected: Meaning) -> None:
    verdict = judge_reply(Stage.RCPT, 550, text)
    assert verdict.dead_address is (expected is DEAD)
    assert (verdict.fate is Fate.LATER) is (expected in {FULL, BUSY})
    assert verdict.bad_content is (expected is CONTENT)


@given(st.text(max_size=20_000))
def test_any_words_have_a_meaning_soon(words: str) -> None:
    began = time.perf_counter()
    assert meaning("", words) in Meaning
    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize(
    "words",
    ["mailbox for " * 90_000, "account that " * 90_000, "doesn't have a " * 90_000, "a" * 10**6],
)
def test_words_made_to_take_long_do_not(words: str) -> None:
    began = time.perf_counter()
    meaning("", words)
    assert time.perf_counter() - began < 0.02
