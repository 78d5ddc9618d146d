"""What a reply or a failure means for a message: one pure function, no I/O.

The classes follow RFC 5321 section 4.2.1 (first digit), RFC 3463 (enhanced codes) and what the large providers do in practice. The
order of the rules matters; each says why it stands where it does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import aiosmtplib

from notifier.smtp import codes
from notifier.smtp.codes import Meaning

_ENHANCED = re.compile(r"^(?:\d{3}[ -])?([245])\.(\d{1,3})\.(\d{1,3})\b")
MAX_DETAIL_CHARS = 300


class Stage(StrEnum):
    """Where in a connection or transaction the reply or failure came."""

    CONNECT = "connect"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    # After the final dot was written and before a reply to it was read: the server may have the message.
    DOT = "dot"


class Fate(StrEnum):
    """What became of the message."""

    ACCEPTED = "accepted"  # the server took responsibility (RFC 5321 section 4.2.5)
    LATER = "later"  # certainly not taken; may be tried again
    REFUSED = "refused"  # certainly not taken; trying again is pointless
    UNKNOWN = "unknown"  # the final dot was sent, the reply was lost: it may have been taken


@dataclass(frozen=True, slots=True)
class Verdict:
    """A message's fate, the words kept as evidence, and what else follows from the reply.

    `dead_address`: never write to it again. `slow_route`: the provider asks this sender to slow down. `bad_content`: the same text will
    be refused everywhere. `unsent`: the failure came before the server heard of this message, so it is no attempt.
    """

    fate: Fate
    detail: str
    dead_address: bool = False
    slow_route: bool = False
    bad_content: bool = False
    unsent: bool = False


def enhanced_code(text: str) -> str:
    """Return the RFC 3463 code at the start of a reply's text such as `5.1.1`, or an empty string."""
    match = _ENHANCED.match(text)
    return ".".join(match.groups()) if match else ""


def _detail(text: str) -> str:
    # Replies are the server's words: bounded, printable and on one line before they reach the database, a report or a log.
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:MAX_DETAIL_CHARS]


def judge_reply(stage: Stage, code: int, text: str) -> Verdict:
    """Turn the reply `code text`, given to `stage`, into a verdict."""
    if code == 250 and stage is Stage.DOT:  # noqa: PLR2004 - the reply that hands responsibility over
        # The whole reply is evidence of receipt; no pattern is searched in it, for this is the hot path.
        return Verdict(Fate.ACCEPTED, f"250 {text}"[:MAX_DETAIL_CHARS])
    detail = _detail(f"{code} {text}")
    enhanced = enhanced_code(text)
    if code == 421:  # noqa: PLR2004 - RFC 5321 section 3.8: the server closes the channel, about the sender and not the message
        return Verdict(
            Fate.LATER, detail, slow_route=True, unsent=stage in {Stage.CONNECT, Stage.MAIL}
        )
    if 200 <= code < 300 and stage is Stage.DOT:  # noqa: PLR2004 - any other positive completion
        return Verdict(Fate.ACCEPTED, detail)
    if 400 <= code < 500:  # noqa: PLR2004
        return Verdict(Fate.LATER, detail, slow_route=enhanced.startswith("4.7."))
    if 500 <= code < 600:  # noqa: PLR2004
        if stage is Stage.CONNECT or (stage is Stage.MAIL and code in {530, 535, 550, 553, 554}):
            # Refusing us or our sender address says nothing of the recipient: a person must mend it, the messages wait.
            return Verdict(Fate.LATER, detail, slow_route=True, unsent=True)
        match codes.meaning(enhanced, text):
            case Meaning.SENDER_BLOCKED:
                return Verdict(Fate.REFUSED, detail, slow_route=True)
            case Meaning.CONTENT:
                return Verdict(Fate.REFUSED, detail, bad_content=True)
            case Meaning.MAILBOX_FULL | Meaning.MAILBOX_BUSY:
                return Verdict(Fate.LATER, detail)
            case Meaning.DEAD_ADDRESS:
                dead = stage in {Stage.RCPT, Stage.DOT}
                return Verdict(Fate.REFUSED, detail, dead_address=dead)
            case Meaning.OTHER:
                return Verdict(Fate.REFUSED, detail)
    # A reply out of place (2xx to DATA, 3xx elsewhere, garbage): the dialogue is broken.
    if stage is Stage.DOT:
        return Verdict(Fate.UNKNOWN, detail)
    return Verdict(Fate.LATER, detail, unsent=True)


def judge_failure(stage: Stage, error: BaseException) -> Verdict:
    """Turn an exception of the connection at `stage` into a verdict; only a reply lost after the final dot is unknown."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        first = error.recipients[0]
        return judge_reply(Stage.RCPT, first.code, first.message)
    if isinstance(error, aiosmtplib.SMTPResponseException) and error.code > 0:
        return judge_reply(stage, error.code, error.message)
    what = "timed out" if isinstance(error, TimeoutError) else "connection lost"
    if stage is Stage.DOT:
        return Verdict(Fate.UNKNOWN, f"{what} after the final dot")
    return Verdict(Fate.LATER, f"{what} at {stage}", unsent=True)
