"""What a reply or a failure means for a message: one pure function, no I/O.

The classes follow RFC 5321 section 4.2.1 (first digit), RFC 3463 (enhanced codes) and what the
large providers do in practice. The order of the rules matters; each says why it stands where it
does.
"""

from __future__ import annotations

import re
from enum import StrEnum

import aiosmtplib

from notifier.channel import Fate, Verdict
from notifier.smtp import codes
from notifier.smtp.codes import Meaning

_ENHANCED = re.compile(r"^(?:\d{3}[ -])?([245])\.(\d{1,3})\.(\d{1,3})\b")
# RFC 6647 section 4: a stranger is asked to come again. It is meant for everybody, so no reason to
# slow down.
_GREYLIST = re.compile(r"gr[ea]y[- ]?list", re.IGNORECASE)
_MAILBOX_WORDS = re.compile(r"mailbox|quota|inbox|user.{0,20}(?:full|storage)", re.IGNORECASE)
# Said by servers that limit what one connection may carry, with whatever code they like.
_CONNECTION_WORDS = re.compile(
    r"(?:too many|maximum|max|limit).{0,40}\b(?:connection|session|channel)\b"
    r"|\b(?:connection|session|channel)\b.{0,40}(?:limit|maximum)",
    re.IGNORECASE,
)
# "Too many connections": it is their number, not what one of them carries.
_NUMBER_WORDS = re.compile(r"too many (?:concurrent |open |simultaneous )*(?:connections|sessions)")
# "try again in 300 seconds", "come back after 5 minutes", "greylisted for 10 min".
_ASKED_WAIT = re.compile(
    r"\b(?:in|after|for|within)\s+(\d{1,5})\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b",
    re.IGNORECASE,
)
MAX_DETAIL_CHARS = 300

# How long to wait before the next attempt where the reply tells more than "later" (seconds).
# A full mailbox is emptied by a person, who must see it first.
MAILBOX_FULL_SECONDS = 6 * 3600.0
# One mailbox gets too much at once: the providers count by the hour (Gmail 4.2.1 and 5.2.1).
MAILBOX_RATE_SECONDS = 3600.0
# This sender is too fast, or under suspicion for a while (4.7.x): nothing is gained by haste.
SENDER_RATE_SECONDS = 900.0
# The server is short of disk or not at work (4.3.1, 4.3.2).
SERVER_TROUBLE_SECONDS = 900.0
# The usual delay of greylisting is five minutes (RFC 6647 section 5).
GREYLIST_SECONDS = 360.0
# 421: it closes the channel, about the sender and not the message.
CLOSING_SECONDS = 300.0
# What a reply asks for in words is heeded within these bounds.
MIN_ASKED_SECONDS, MAX_ASKED_SECONDS = 60.0, 86_400.0


class Stage(StrEnum):
    """Where in a connection or transaction the reply or failure came."""

    CONNECT = "connect"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    # After the final dot was written and before a reply to it was read: the server may have it.
    DOT = "dot"


def enhanced_code(text: str) -> str:
    """Return the RFC 3463 code at the start of a reply's text, as `5.1.1`, or an empty string."""
    match = _ENHANCED.match(text)
    return ".".join(match.groups()) if match else ""


def _detail(text: str) -> str:
    # Replies are the server's words: bounded, printable and on one line before they reach the
    # database, a report or a log.
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:MAX_DETAIL_CHARS]


def judge_reply(stage: Stage, code: int, text: str) -> Verdict:
    """Turn the reply `code text`, given to `stage`, into a verdict."""
    if code == 250 and stage is Stage.DOT:  # noqa: PLR2004 - hands responsibility over
        # The whole reply is evidence; no pattern is searched in it, for this is the hot path.
        return Verdict(Fate.ACCEPTED, f"250 {text}"[:MAX_DETAIL_CHARS])
    detail = _detail(f"{code} {text}")
    if 200 <= code < 300 and stage is Stage.DOT:  # noqa: PLR2004 - any other positive completion
        return Verdict(Fate.ACCEPTED, detail)
    if 400 <= code < 500:  # noqa: PLR2004
        return _later(stage, code, text, detail)
    if 500 <= code < 600:  # noqa: PLR2004
        return _refused(stage, code, text, detail)
    # A reply out of place (2xx to DATA, 3xx elsewhere, garbage): the dialogue is broken.
    if stage is Stage.DOT:
        return Verdict(Fate.UNKNOWN, detail)
    return Verdict(Fate.LATER, detail, unsent=True)


def _later(stage: Stage, code: int, text: str, detail: str) -> Verdict:
    """Judge a 4yz reply: certainly not taken, may be tried again."""
    enhanced = enhanced_code(text)
    wait = _asked_seconds(text)
    if code == 421:  # noqa: PLR2004
        # RFC 5321 section 3.8: the server closes the channel, whatever command it answers. That is
        # about the sender and not the message, so that it is no attempt of the message.
        return Verdict(
            Fate.LATER,
            detail,
            slow_route=True,
            unsent=True,
            enough=True,
            retry_after=wait or CLOSING_SECONDS,
        )
    if _GREYLIST.search(text):
        return Verdict(Fate.LATER, detail, retry_after=wait or GREYLIST_SECONDS)
    mailbox = enhanced.startswith(("4.1.", "4.2.")) or (
        not enhanced and stage is not Stage.MAIL and bool(_MAILBOX_WORDS.search(text))
    )
    if mailbox:
        full = code == 452 and not enhanced.startswith("4.1.")  # noqa: PLR2004
        if enhanced == "4.2.2" or full:
            return Verdict(Fate.LATER, detail, retry_after=wait or MAILBOX_FULL_SECONDS)
        rate = enhanced == "4.2.1" and codes.RATE_WORDS.search(text)
        return Verdict(
            Fate.LATER, detail, retry_after=wait or (MAILBOX_RATE_SECONDS if rate else 0)
        )
    # What is left of 452 ("insufficient system storage", "too many recipients") is about the
    # server or this connection; so is what other replies say of it in words.
    enough = code == 452 or bool(  # noqa: PLR2004
        _CONNECTION_WORDS.search(text) and not _NUMBER_WORDS.search(text.lower())
    )
    if enhanced.startswith("4.7."):
        return Verdict(
            Fate.LATER,
            detail,
            slow_route=True,
            unsent=enough,
            enough=enough,
            retry_after=wait or SENDER_RATE_SECONDS,
        )
    trouble = enough or enhanced in {"4.3.1", "4.3.2"}
    return Verdict(
        Fate.LATER,
        detail,
        slow_route=trouble,
        unsent=enough,
        enough=enough,
        retry_after=wait or (SERVER_TROUBLE_SECONDS if trouble else 0),
    )


def _refused(stage: Stage, code: int, text: str, detail: str) -> Verdict:
    """Judge a 5yz reply: certainly not taken, and in most cases for good."""
    enhanced = enhanced_code(text)
    if stage is Stage.CONNECT or (stage is Stage.MAIL and code in {530, 535, 550, 553, 554}):
        # Refusing us or our sender address says nothing of the recipient: a person must mend it,
        # the messages wait.
        return Verdict(Fate.LATER, detail, slow_route=True, unsent=True)
    match codes.meaning(enhanced, text):
        case Meaning.SENDER_BLOCKED:
            return Verdict(Fate.REFUSED, detail, slow_route=True)
        case Meaning.CONTENT:
            return Verdict(Fate.REFUSED, detail, bad_content=True)
        case Meaning.MAILBOX_FULL:
            return Verdict(Fate.LATER, detail, retry_after=MAILBOX_FULL_SECONDS)
        case Meaning.MAILBOX_BUSY:
            return Verdict(Fate.LATER, detail, retry_after=MAILBOX_RATE_SECONDS)
        case Meaning.DEAD_ADDRESS:
            dead = stage in {Stage.RCPT, Stage.DOT}
            return Verdict(Fate.REFUSED, detail, dead_address=dead)
        case Meaning.OTHER:
            return Verdict(Fate.REFUSED, detail)


def _asked_seconds(text: str) -> float:
    """Return the wait that a reply asks for in words, within bounds; 0 when it asks for none."""
    match = _ASKED_WAIT.search(text)
    if match is None:
        return 0.0
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}[match[2][0].lower()]
    return min(max(int(match[1]) * unit, MIN_ASKED_SECONDS), MAX_ASKED_SECONDS)


def judge_failure(stage: Stage, error: BaseException) -> Verdict:
    """Turn an exception at `stage` into a verdict; only a reply lost after the dot is unknown."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        first = error.recipients[0]
        return judge_reply(Stage.RCPT, first.code, first.message)
    if isinstance(error, aiosmtplib.SMTPResponseException) and error.code > 0:
        return judge_reply(stage, error.code, error.message)
    what = "timed out" if isinstance(error, TimeoutError) else "connection lost"
    if stage is Stage.DOT:
        return Verdict(Fate.UNKNOWN, f"{what} after the final dot")
    return Verdict(Fate.LATER, f"{what} at {stage}", unsent=True)
