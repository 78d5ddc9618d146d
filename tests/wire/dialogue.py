"""A source of messages that notes what it hears, and servers whose every byte a test decides."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from notifier.channel import Connection, Fate, Go, Outgoing, Verdict
from notifier.instance.servers.catcher import Catcher
from notifier.settings import SmtpServer
from notifier.smtp.connection import connect

TIMEOUT = 20.0


@dataclass
class Notes:
    """Hands out messages to `recipients`, one after the other, and notes the verdict of each."""

    recipients: Sequence[str]
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    pulled: int = 0
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    ends: list[Verdict | None] = field(default_factory=list)
    answers: dict[int, list[Go]] = field(default_factory=dict)
    idles: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def pull(self) -> Outgoing | None:
        """Hand out the next message."""
        if self.pulled == len(self.recipients):
            return None
        position, self.pulled = self.pulled, self.pulled + 1
        return Outgoing(
            position,
            "b@notices.example.test",
            self.recipients[position],
            f"Message-ID: {self.message_id(position)}\r\n"
            f"Subject: {position}\r\n\r\n{'x' * 70}\r\n".encode(),
        )

    def may_go(self, message: Outgoing) -> Go:
        """Answer as `answers` says, and let all others go."""
        assert message.position < self.pulled
        waiting = self.answers.get(message.position)
        return waiting.pop(0) if waiting else Go.NOW

    def message_id(self, position: int) -> str:
        """Return the Message-ID of a message."""
        return f"<{position}.{self.run}@notices.example.test>"

    def settled(self, message: Outgoing, verdict: Verdict, host: str) -> None:
        """Note a verdict; there is exactly one a message, and only for what was pulled."""
        assert message.position < self.pulled
        assert message.position not in self.verdicts, (
            f"message {message.position} was settled twice"
        )
        assert host
        self.verdicts[message.position] = verdict

    def idle(self, connection: Connection) -> None:
        """Note that a connection has nothing to do."""
        assert connection.usable
        self.idles += 1
        self.over.set()

    def closed(self, connection: Connection, verdict: Verdict | None) -> None:
        """Note that a connection is gone."""
        assert not connection.usable
        self.ends.append(verdict)
        self.over.set()

    @property
    def fates(self) -> list[Fate | None]:
        """The fate of each message that was pulled."""
        return [self.verdicts[n].fate if n in self.verdicts else None for n in range(self.pulled)]

    @property
    def details(self) -> list[str]:
        """The words kept of each message."""
        return [self.verdicts[n].detail for n in range(self.pulled)]


async def drive(
    notes: Notes, port: int, *, timeout: float = 5.0, limit: int = 0, host: str = "127.0.0.1"
) -> Connection:
    """Send what `notes` hands out over one connection, until it is idle or gone.

    Every message that was pulled has a verdict then.
    """
    connection = await connect(
        SmtpServer(host, port), hostname="notifier.example.test", timeout=timeout, limit=limit
    )
    await drive_connection(notes, connection)
    return connection


async def drive_connection(notes: Notes, connection: Connection) -> None:
    """Send over `connection`, asking for timeouts as a sender does."""
    loop = asyncio.get_running_loop()
    connection.send(notes)
    async with asyncio.timeout(TIMEOUT):
        while not notes.over.is_set():
            try:
                await asyncio.wait_for(notes.over.wait(), 0.02)
            except TimeoutError:
                connection.check_timeout(loop.time())
    assert sorted(notes.verdicts) == list(range(notes.pulled)), (
        "a message that was pulled has no verdict"
    )


def send(
    catcher: Catcher, recipients: Sequence[str], *, timeout: float = 5.0, limit: int = 0
) -> Notes:
    """Send to `recipients` over one connection to `catcher`, close it, and check what must hold.

    Whatever the server did, a message is stored there if it was accepted, and only if it was
    accepted or its fate is unknown.
    """

    async def main() -> Notes:
        notes = Notes(recipients)
        connection = await drive(notes, catcher.port, timeout=timeout, limit=limit)
        connection.close()
        await asyncio.sleep(0)
        return notes

    notes = asyncio.run(main())
    stored = catcher.ask(ids=True)["message_ids"]
    for position, verdict in notes.verdicts.items():
        times = stored.get(notes.message_id(position), 0)
        if verdict.fate is Fate.ACCEPTED:
            assert times == 1
        elif verdict.fate is not Fate.UNKNOWN:
            assert times == 0, f"message {position} was taken, yet reported as {verdict.fate}"
    return notes


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


async def with_server(
    answer: Answer,
    client: Callable[[int], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run `client` against a server whose every connection is `answer`ed.

    The server hears the end of it.
    """
    talks: list[asyncio.Task[None]] = []

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.ensure_future(answer(reader, writer)))

    server = await asyncio.start_server(take, host, 0, ssl=tls)
    async with server:
        await client(server.sockets[0].getsockname()[1])
        if talks:
            await asyncio.wait(talks, timeout=TIMEOUT)
