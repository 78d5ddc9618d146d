"""What a permanent refusal means, by its enhanced code (RFC 3463) and its words.

One table for both places where servers say it: in replies (`verdicts.py`) and in the reports of
mail that bounced (`notifier.inbound.reports`). Codes that say what they mean decide alone; of those
that may mean anything the words decide, as the large providers choose them.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Meaning(StrEnum):
    """What a refusal says, and of whom."""

    DEAD_ADDRESS = "dead-address"
    """The mailbox or its domain does not exist: never write to it again."""
    MAILBOX_FULL = "mailbox-full"
    """It will be emptied some day, whatever the first digit says."""
    MAILBOX_BUSY = "mailbox-busy"
    """One mailbox gets too much at once."""
    SENDER_BLOCKED = "sender-blocked"
    """A policy against this sender (DMARC, blocklist): never held against the address."""
    CONTENT = "content"
    """The same text will be refused everywhere."""
    OTHER = "other"
    """Nothing is known but that it was refused."""


MAX_WORDS = 1_000
"""No more characters of a reply are looked at: it bounds the time, and servers say it at once."""

RATE_WORDS = re.compile(
    r"\brate\b|too many|too much|unusual|throttl|temporar|try again", re.IGNORECASE
)
_CONTENT = frozenset(
    {"5.3.4", "5.6.0", "5.6.1", "5.6.2", "5.6.3", "5.6.4", "5.6.5", "5.6.6", "5.6.7"}
)
# 5.2.1 is also Gmail's word for a mailbox that gets too much at once: see MAILBOX_BUSY.
_DEAD = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"})
# Codes that servers give for anything: none at all, "undefined" (x.x.0), Outlook's 5.5.0, and
# Exchange's 5.4.1 (it knows no such recipient) and 5.4.4 (there is no such domain), which elsewhere
# speak of the way there.
_VAGUE = frozenset({"", "5.0.0", "5.1.0", "5.2.0", "5.3.0", "5.4.0", "5.4.1", "5.4.4", "5.5.0"})
# Of the sender or the text, whatever else the sentence says.
_BLOCK_WORDS = re.compile(
    r"spam|\bblock(?:ed|ing|list|listed)?\b|blacklist|\brbl\b|dnsbl|policy|\bspf\b|dkim|dmarc"
    r"|reputation|virus"
    r"|\bbanned\b|not authori[sz]ed|unauthenticated|relay(?:ing)? (?:access )?denied"
    r"|unable to relay|authentication required|sender",
    re.IGNORECASE,
)
_FULL_WORDS = re.compile(
    r"mailbox (?:is |size )?(?:full|limit)|mailbox for .{1,80} is full|\bquota\b"
    r"|out of storage|insufficient (?:disk )?(?:space|storage)|inbox is full",
    re.IGNORECASE,
)
_DEAD_WORDS = re.compile(
    r"(?:user|recipient|mailbox|address|account|addressee)s? (?:is |was |are )?"
    r"(?:unknown|not found|not known|invalid|unavailable|disabled|inactive|not exist)"
    r"|(?:unknown|invalid|no such|nonexistent|non-existent|bad destination|undeliverable) "
    r"(?:local |virtual |mail ?|e-?mail )?"
    r"(?:user|recipient|mailbox|mail ?box|address|account|alias|person|part|domain|host)"
    r"|(?:does not|doesn't|do not|don't|didn't|doesn.t) (?:exist|have an? .{1,40}account)"
    r"|no (?:mailbox|account|user|recipient)s? (?:here )?(?:by|with|of) that name"
    r"|not (?:a )?(?:valid|known) (?:user|recipient|mailbox|address|account)"
    r"|not listed in (?:domino|public name)|unrouteable address|recipientnotfound"
    r"|(?:host|domain)(?: or domain name)? not found|nonexistentdomain|nxdomain"
    r"|account (?:has been |is |that you tried to reach is )"
    r"(?:disabled|suspended|deactivated|closed|deleted|inactive|terminated)"
    r"|no longer (?:valid|active|available|in use|works|employed|accepts? mail)"
    r"|recipient address rejected: access denied|recipient (?:rejected|not found)"
    r"|không tồn tại",
    re.IGNORECASE,
)


def meaning(enhanced: str, words: str) -> Meaning:
    """Return what a permanent refusal (5yz) means.

    `enhanced` is its code such as `5.1.1`, or empty; `words` are the server's, of any length.
    """
    words = words[:MAX_WORDS]
    if enhanced.startswith("5.7."):
        return Meaning.SENDER_BLOCKED
    if enhanced in _CONTENT:
        return Meaning.CONTENT
    if enhanced == "5.2.2":
        return Meaning.MAILBOX_FULL
    if enhanced == "5.2.1" and RATE_WORDS.search(words):
        return Meaning.MAILBOX_BUSY
    if enhanced in _DEAD:
        return Meaning.DEAD_ADDRESS
    if enhanced in _VAGUE and not _BLOCK_WORDS.search(words):
        if _FULL_WORDS.search(words):
            return Meaning.MAILBOX_FULL
        if _DEAD_WORDS.search(words):
            return Meaning.DEAD_ADDRESS
    return Meaning.OTHER
