"""How the mail catcher misbehaves when it is told to, and what it has seen."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SIMULATED = {
    "bounce": (550, "5.1.1 no such user here"),
    "full": (452, "4.2.2 mailbox full"),
    "block": (550, "5.7.1 blocked by policy"),
    "busy": (450, "4.2.1 mailbox busy"),
}


@dataclass(slots=True)
class Script:
    """How the server misbehaves.

    A `*_reply` such as "421 4.7.0 later" is given instead of the good one. `at_dot` is what
    happens after the final dot: "" (accept), "drop" (close without a word, mail not kept),
    "keep-drop" (mail kept, then close without a word), "hang", or a reply. It strikes every
    `every`-th message, of those the part `share` (0 to 1), and of those the `first` so many (0:
    all).
    """

    greeting: str = ""
    mail_reply: str = ""
    rcpt_reply: str = ""
    data_reply: str = ""
    at_dot: str = ""
    hang_at: str = ""  # "greeting", "mail", "rcpt", "data"
    close_at: str = ""  # "greeting", "ehlo", "mail", "rcpt", "data"
    close_after: int = 0  # close politely after so many messages of a connection
    enough_after: int = 0  # answer MAIL by `enough_reply` after so many messages of a connection
    enough_reply: str = "421 4.7.0 enough for one connection"
    share: float = 1.0
    every: int = 1
    first: int = 0
    delay_ms: float = 0.0
    pipelining: bool = True
    accept_data_anyway: bool = False  # 354 although no recipient was taken
    limit_connections: int = 0


@dataclass(slots=True)
class State:
    """What the server has seen."""

    script: Script = field(default_factory=Script)
    received: int = 0
    ids: Counter[bytes] = field(default_factory=Counter)
    begun: int = 0
    struck: int = 0
    connections: int = 0
    most_connections: int = 0
    deferred: Counter[bytes] = field(default_factory=Counter)
    # Misbehaviour is to be repeatable, not secure.
    random: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311

    def strikes(self) -> bool:
        """Decide whether the script strikes this message."""
        script = self.script
        self.begun += 1
        if self.begun % script.every:
            return False
        if script.first and self.struck >= script.first:
            return False
        if script.share < 1.0 and self.random.random() >= script.share:
            return False
        self.struck += 1
        return True

    def to_json(self, *, ids: bool = False) -> dict[str, Any]:
        """Return what the control port answers."""
        value: dict[str, Any] = {
            "received": self.received,
            "distinct": len(self.ids),
            "duplicates": self.received - len(self.ids),
            "connections": self.connections,
            "most_connections": self.most_connections,
        }
        if ids:
            value["message_ids"] = {
                key.decode("ascii", "replace"): number for key, number in self.ids.items()
            }
        return value
