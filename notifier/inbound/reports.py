"""Mail that comes back: bounces (RFC 3464 and older shapes) and complaints (ARF, RFC 5965).

Anybody can write a mail that looks like a report. What counts is the return path, which carries the
message's id and a MAC (`LinkSigner`); in a complaint it is the signed link of the quoted mail.
Without one of the two nothing is even parsed.

What is parsed is bounded before: in bytes, lines, length of a line, folds of a header, parts and
depth. The standard library's parser needs quadratic time for some headers and recursion for nested
parts, and a stranger may have written all of it.
"""

from __future__ import annotations

import email
import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email import policy
from email.message import Message
from email.parser import HeaderParser

import structlog
from flufl.bounce import all_failures

from notifier.domain.links import LinkSigner
from notifier.errors import LinkError
from notifier.smtp import codes
from notifier.smtp.codes import Meaning
from notifier.states import MessageState

log = structlog.get_logger(__name__)
# It logs what a stranger wrote; what it cannot read we log ourselves, without that.
logging.getLogger("flufl.bounce").disabled = True

MAX_BYTES = 256 * 1024
"""What follows is not read: a report begins with what it reports, the mail it quotes comes last."""
MAX_DETAIL_CHARS = 300
_MAX_LINES = 4_000
_MAX_LINE = 998  # RFC 5322 section 2.1.1
_MAX_FOLDS = 20
_MAX_SEMICOLONS = 10
_MAX_TYPES = 20
_MAX_PARTS = 50
_MAX_DEPTH = 8
_MAX_TEXT_LINES = 120
_MAX_TOKENS = 20
_MAX_QUOTED = 32 * 1024

_RETURN_PATH = re.compile(r"b\+([^@]{1,100})@.{0,255}", re.IGNORECASE | re.DOTALL)
_LINK = re.compile(rb"/u/([A-Za-z0-9_-]{20,200})")
_QUOTED_ID = re.compile(r"<([0-9a-f-]{36})@", re.IGNORECASE)
# What is inside such a part (fields, a quoted mail) is read here as text, not by the parser.
_MESSAGE_TYPE = re.compile(
    rb"^(content-type:\s{0,80})message/(?:global-)?", re.IGNORECASE | re.MULTILINE
)
_DELIVERY_STATUS, _FEEDBACK = "text/x-delivery-status", "text/x-feedback-report"
_QUOTED = frozenset({"text/x-rfc822", "text/x-global", "text/x-headers", "text/rfc822-headers"})
# Only these are complaints; "not-spam" takes one back, others are about viruses or signatures.
_COMPLAINTS = frozenset({"abuse", "fraud"})

_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
# "550 5.1.1", "550-5.1.1", "550 #5.1.1"; then "(#5.1.1)" of qmail and a code by itself, which is no
# part of an address or version.
_REPLY = re.compile(r"(?<![\d.])[245]\d\d[ -]#?([245]\.\d{1,3}\.\d{1,3})(?!\d|\.\d)")
_ALONE = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?!\d|\.\d)")
_BASIC = re.compile(r"(?<![\w.])([45])\d\d(?=[ -]\S)")
# From here on a report quotes the mail that bounced.
_QUOTE_BEGINS = re.compile(
    r"^[-= ]{2,}.{0,60}(?:copy of|original message|returned message|message header|below this line)"
    r"|^(?:original message|message headers?) (?:follows|attached)|^return-path:|^received:",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Report:
    """A report that is proven to be about mail of ours.

    `state`: BOUNCED names the message; COMPLAINED names the address, and the message only when its
    id was quoted. `status` is the enhanced code (RFC 3463) of a bounce, `detail` the server's
    words. `dead`: the address is no more.
    """

    state: MessageState
    message_id: uuid.UUID | None
    address_id: int | None
    status: str
    detail: str
    dead: bool = False


def read(raw: bytes, recipient: str, signer: LinkSigner) -> Report | None:
    """Return what a mail to the envelope `recipient` reports.

    None when it reports nothing, or nothing that is proven: automatic replies, delays, mail that
    only looks like a report. Never raises for what a mail holds, and takes less than 0.2 s.
    """
    raw = raw[:MAX_BYTES]
    found = _RETURN_PATH.fullmatch(recipient.strip().strip("<>"))
    message_id: uuid.UUID | None = None
    if found is not None:
        try:
            message_id = signer.read_bounce_tag(found[1])
        except LinkError:
            return None
    elif not _may_be_complaint(raw, signer):
        return None
    try:
        mail = email.message_from_bytes(_bounded(raw), policy=policy.compat32)
        parts = list(_parts(mail))
        if any(part.get_content_type() == _FEEDBACK for part in parts):
            return _complaint(parts, signer)
        return None if message_id is None else _bounce(mail, parts, message_id)
    except Exception as error:  # noqa: BLE001 - parsers of others' code, over what strangers write
        log.warning("report_unreadable", error=type(error).__name__)
        return None


# --- bounds --------------------------------------------------------------------------------------


def _may_be_complaint(raw: bytes, signer: LinkSigner) -> bool:
    """Say whether a mail speaks of feedback and holds a link that we signed, without parsing it."""
    if b"feedback-report" not in raw.lower():
        return False
    for number, token in enumerate(_LINK.finditer(raw)):
        if number == _MAX_TOKENS:
            break
        try:
            signer.read(token[1].decode("ascii"))
        except (LinkError, UnicodeDecodeError):
            continue
        return True
    return False


def _bounded(raw: bytes) -> bytes:
    """Return a mail that costs the parser little, whatever it holds."""
    kept: list[bytes] = []
    folds = types = 0
    for line in raw.replace(b"\0", b" ").splitlines()[:_MAX_LINES]:
        folds = folds + 1 if line[:1] in {b" ", b"\t"} else 0
        if folds > _MAX_FOLDS:
            continue
        types += line[:13].lower() == b"content-type:"
        if types > _MAX_TYPES:
            break
        short = line[:_MAX_LINE]
        if short.count(b";") > _MAX_SEMICOLONS:
            short = b";".join(short.split(b";")[:_MAX_SEMICOLONS])
        kept.append(short)
    return _MESSAGE_TYPE.sub(rb"\1text/x-", b"\n".join(kept))


def _parts(mail: Message) -> Iterator[Message]:
    """Yield the parts of a mail that hold something, in their order; not those nested too deep."""
    waiting = [(mail, 0)]
    for _ in range(_MAX_PARTS):
        if not waiting:
            return
        part, depth = waiting.pop()
        inner = part.get_payload()
        if not isinstance(inner, list):
            yield part
        elif depth < _MAX_DEPTH:
            nested = [each for each in inner if isinstance(each, Message)]
            waiting.extend((each, depth + 1) for each in reversed(nested))


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def _blocks(text: str) -> Iterator[Mapping[str, str]]:
    """Yield the groups of fields of a delivery status or feedback report, names in lower case."""
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        fields: dict[str, str] = {}
        for line in re.sub(r"\n[ \t]+", " ", block).splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip().lower(), value.strip())
        yield fields


# --- bounces -------------------------------------------------------------------------------------


def _bounce(mail: Message, parts: list[Message], message_id: uuid.UUID) -> Report | None:
    statuses = [part for part in parts if part.get_content_type() == _DELIVERY_STATUS]
    human = _before_quote(parts)
    if not statuses:
        return _of_text(mail, human, message_id)
    for part in statuses:
        for block in _blocks(_text(part)):
            status = _STATUS.search(block.get("status", ""))
            action = block.get("action", "").lower()
            # OpenSMTPD writes "error". One that names none has failed if its status is permanent.
            if not action.startswith(("fail", "error")) and (
                action or status is None or not status[0].startswith("5")
            ):
                continue
            words = block.get("diagnostic-code", "")
            return _judged(message_id, status[0] if status else "", words, human)
    # Delayed, delivered or relayed: nothing has bounced.
    return None


def _before_quote(parts: list[Message]) -> list[str]:
    """Return the lines that a report has for people, without the mail that it quotes."""
    for part in parts:
        if part.get_content_type() == "text/plain":
            lines = _text(part).splitlines()[:_MAX_TEXT_LINES]
            for number, line in enumerate(lines):
                if _QUOTE_BEGINS.search(line):
                    return lines[:number]
            return lines
    return []


def _of_text(mail: Message, lines: list[str], message_id: uuid.UUID) -> Report | None:
    """Read a report that only speaks to people (qmail, Exim, gateways); flufl.bounce knows them."""
    plain = Message(policy.compat32)
    plain["From"] = "mailer-daemon@localhost"  # it insists on one
    failed = mail.get("X-Failed-Recipients")
    if failed is not None:
        plain["X-Failed-Recipients"] = str(failed)
    plain.set_payload("\n".join(lines))
    _temporary, permanent = all_failures(plain)
    return _judged(message_id, "", "", lines) if permanent else None


def _judged(message_id: uuid.UUID, status: str, words: str, lines: list[str]) -> Report:
    """Return the bounce that a code, the server's words and the text for people speak of.

    A code that says what it means decides. Many reports say 5.0.0 and hide the code, or only the
    words, in the diagnostic; some only in their text.
    """
    number, dead = _code_of(status, words)
    if not dead and _is_vague(number) and lines:
        said = _words_of(lines)
        by_text, dead = _code_of("", said)
        number = by_text or number
        words = words or said
    detail = _printable(words) or number or "5.0.0"
    return Report(
        state=MessageState.BOUNCED,
        message_id=message_id,
        address_id=None,
        status=number or "5.0.0",
        detail=detail,
        dead=dead,
    )


def _is_vague(number: str) -> bool:
    return not number or number.endswith(".0.0")


def _code_of(status: str, words: str) -> tuple[str, bool]:
    """Return the code that counts (or nothing), and whether it says that the address is dead."""
    number = status
    if _is_vague(number):
        said = _REPLY.search(words) or _ALONE.search(words)
        number = said[1] if said else number
    basic = _BASIC.search(words)
    if number.startswith("4") or (_is_vague(number) and basic and basic[1] == "4"):
        return number, False
    return number, codes.meaning(number, words) is Meaning.DEAD_ADDRESS


def _words_of(lines: list[str]) -> str:
    """Return the words around the first code in a text, or all of it when there is none."""
    for pattern in (_REPLY, _ALONE, _BASIC):
        for number, line in enumerate(lines):
            found = pattern.search(line)
            if found:
                return " ".join([line[found.start() :], *lines[number + 1 : number + 3]])
    return " ".join(lines)


def _printable(words: str) -> str:
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in words).split())
    return line[:MAX_DETAIL_CHARS]


# --- complaints ----------------------------------------------------------------------------------


def _complaint(parts: list[Message], signer: LinkSigner) -> Report | None:
    feedback = next(part for part in parts if part.get_content_type() == _FEEDBACK)
    kind = next(_blocks(_text(feedback).lstrip("\r\n"))).get("feedback-type", "").lower()
    if kind not in _COMPLAINTS:
        return None
    for part in parts:
        if part.get_content_type() not in _QUOTED:
            continue
        quoted = HeaderParser(policy=policy.compat32).parsestr(_text(part)[:_MAX_QUOTED])
        link = "".join(str(quoted.get("List-Unsubscribe", "")).split())
        for token in _LINK.findall(link.encode("ascii", "replace")):
            try:
                address_id, _topic = signer.read(token.decode("ascii"))
            except LinkError:
                continue
            return Report(
                state=MessageState.COMPLAINED,
                message_id=_quoted_id(str(quoted.get("Message-ID", ""))),
                address_id=address_id,
                status="",
                detail="complaint" if kind == "abuse" else f"complaint: {kind}",
            )
    return None


def _quoted_id(value: str) -> uuid.UUID | None:
    found = _QUOTED_ID.search(value)
    try:
        return uuid.UUID(found[1]) if found else None
    except ValueError:
        return None
