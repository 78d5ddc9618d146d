"""What all ways of reaching a person have in common: what is sent, what became of it, who sends.

SMTP is the one channel there is (`notifier/smtp/`). Another one, such as text messages, has a class
with the methods of `Channel`, connections with those of `Connection`, and gives back `Verdict`s;
nothing in `notifier/sending/` knows which channel it sends over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Fate(StrEnum):
    """What became of a message."""

    ACCEPTED = "accepted"  # the server took responsibility (RFC 5321 section 4.2.5)
    LATER = "later"  # certainly not taken; may be tried again
    REFUSED = "refused"  # certainly not taken; trying again is pointless
    UNKNOWN = "unknown"  # all of it was sent, the reply was lost: it may have been taken


@dataclass(frozen=True, slots=True)
class Verdict:
    """A message's fate, the words kept as evidence, and what else follows from the reply.

    `dead_address`: never write to it again. `slow_route`: the provider asks this sender to slow
    down. `bad_content`: the same text will be refused everywhere. `unsent`: what failed was not
    about this message, so it is no attempt. `enough`: the server takes no more over this
    connection (it is `unsent` then). `retry_after`: seconds that the reply asks to wait (0: it
    asks nothing).
    """

    fate: Fate
    detail: str
    dead_address: bool = False
    slow_route: bool = False
    bad_content: bool = False
    unsent: bool = False
    enough: bool = False
    retry_after: float = 0.0


@dataclass(slots=True)
class Outgoing:
    """A message on its way: who sends it to whom, as the channel addresses them, and its content.

    `position` is the sending side's own number for it. Mail ends with CRLF and needs no
    dot-stuffing (RFC 5321 section 4.5.2): the blueprint lets no line begin with a dot.
    """

    position: int
    sender: str
    recipient: str
    content: bytes


class Go(StrEnum):
    """The answer to whether the content of a message may be handed over at this moment."""

    NOW = "now"
    WAIT = "wait"  # ask again when `Connection.resume` is called
    NEVER = "never"  # it was withdrawn


class Source(Protocol):
    """Who hands out messages and hears what became of them."""

    def pull(self) -> Outgoing | None:
        """Return the next message to start, or None when none may start now."""

    def may_go(self, message: Outgoing) -> Go:
        """Say whether the content of a message that was pulled may be handed over now.

        Asked at the last moment: between `pull` and that moment a slow server may let minutes go.
        """

    def settled(self, message: Outgoing, verdict: Verdict, host: str) -> None:
        """Hear the fate of a message that was pulled; called once for each."""

    def idle(self, connection: Connection) -> None:
        """Hear that the connection has nothing left to do (call `send` when there is more)."""

    def closed(self, connection: Connection, verdict: Verdict | None) -> None:
        """Hear that the connection is gone; `verdict` says why when it was not our own wish."""


class Connection(Protocol):
    """An open connection that takes many messages, made by `Channel.connect`.

    `host` names the other side in evidence, `taken` counts what it accepted over this connection.
    Who sets `source` to None hears nothing more.
    """

    host: str
    taken: int
    source: Source | None

    @property
    def usable(self) -> bool:
        """Say whether another message may be sent over it."""

    def send(self, source: Source) -> None:
        """Send what `source` hands out until it has nothing more; no effect while it does so."""

    def resume(self) -> None:
        """Ask the source again about a message whose content was told to wait."""

    def check_timeout(self, now: float) -> None:
        """Break it off when the server has been silent too long at `now` (loop time, seconds)."""

    def close(self) -> None:
        """Say goodbye and close; messages under way are reported to the source."""


class Channel(Protocol):
    """The way to one destination."""

    async def connect(self, *, limit: int) -> Connection:
        """Open a connection for at most `limit` messages (0: no limit); raise Unreachable."""


class Unreachable(Exception):  # noqa: N818 - the name says what is so, not that it is an error
    """No connection came about; `verdict` says what that means."""

    def __init__(self, verdict: Verdict) -> None:
        """Keep the verdict."""
        super().__init__(verdict.detail)
        self.verdict = verdict
