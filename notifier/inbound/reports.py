"""Mail that comes back: bounces (RFC 3464) and complaints (ARF, RFC 5965), each tied to a message by a signature of ours.

Anybody can write a mail that looks like a bounce. What counts is the return path, which carries the message's id and a MAC (`LinkSigner`);
in a complaint it is the signed link of the quoted mail. Without one of the two, a report changes nothing.
"""

from __future__ import annotations

import email
import re
import uuid
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage, Message
from enum import StrEnum

from notifier.domain.links import LinkSigner
from notifier.errors import LinkError

MAX_BYTES = 1024 * 1024
_RETURN_PATH = re.compile(r"b\+([^@]+)@.*", re.IGNORECASE)
_LINK = re.compile(r"/u/([A-Za-z0-9_-]{20,200})")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
# The mailbox does not exist: these addresses are not written to again. 5.2.1 is not among them, as some providers use it for rates.
_DEAD = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})


class Kind(StrEnum):
    """What a report says."""

    BOUNCED = "bounced"
    COMPLAINED = "complained"


@dataclass(frozen=True, slots=True)
class Report:
    """A report that is proven to be about mail of ours.

    A bounce names the message; a complaint names the address, and the message only when its id was quoted. `dead`: the address is no more.
    """

    kind: Kind
    message_id: uuid.UUID | None
    address_id: int | None
    status: str
    detail: str
    dead: bool = False


def read(raw: bytes, recipient: str, signer: LinkSigner) -> Report | None:
    """Return what a mail to the envelope `recipient` reports; None when it reports nothing or nothing that is proven.

    Automatic replies, delays and mail that only looks like a report are None. Never raises for what a mail holds.
    """
    if len(raw) > MAX_BYTES:
        return None
    mail = email.message_from_bytes(raw, policy=policy.default)
    kind = (
        str(mail.get_param("report-type") or "").lower()
        if mail.get_content_type() == "multipart/report"
        else ""
    )
    if kind == "feedback-report":
        return _complaint(mail, signer)
    if kind != "delivery-status":
        return None
    found = _RETURN_PATH.fullmatch(recipient.strip().strip("<>"))
    if found is None:
        return None
    try:
        message_id = signer.read_bounce_tag(found[1])
    except LinkError:
        return None
    return _bounce(mail, message_id)


def _bounce(mail: EmailMessage, message_id: uuid.UUID) -> Report | None:
    for part in mail.walk():
        if part.get_content_type() != "message/delivery-status":
            continue
        blocks = part.get_payload()
        for block in blocks if isinstance(blocks, list) else []:
            if (
                not isinstance(block, Message)
                or str(block.get("Action", "")).strip().lower() != "failed"
            ):
                continue
            status = _STATUS.search(str(block.get("Status", "")))
            number = status[0] if status else "5.0.0"
            words = " ".join(str(block.get("Diagnostic-Code", "")).split())[:300]
            return Report(Kind.BOUNCED, message_id, None, number, words or number, number in _DEAD)
    return None


def _complaint(mail: EmailMessage, signer: LinkSigner) -> Report | None:
    if not any(part.get_content_type() == "message/feedback-report" for part in mail.walk()):
        return None
    for part in mail.walk():
        if part.get_content_type() not in {"message/rfc822", "text/rfc822-headers"}:
            continue
        quoted = _quoted(part)
        for token in _LINK.findall("".join(str(quoted.get("List-Unsubscribe", "")).split())):
            try:
                address_id, _topic = signer.read(token)
            except LinkError:
                continue
            return Report(
                Kind.COMPLAINED,
                _quoted_id(str(quoted.get("Message-ID", ""))),
                address_id,
                "",
                "complaint",
            )
    return None


def _quoted(part: Message) -> Message:
    payload = part.get_payload()
    if isinstance(payload, list) and payload and isinstance(payload[0], Message):
        return payload[0]
    return email.message_from_string(str(payload))


def _quoted_id(value: str) -> uuid.UUID | None:
    found = re.search(r"<([0-9a-f-]{36})@", value, re.IGNORECASE)
    try:
        return uuid.UUID(found[1]) if found else None
    except ValueError:
        return None
