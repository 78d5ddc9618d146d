"""One SMTP connection that sends many messages, pipelined where the server allows it (RFC 2920).

aiosmtplib connects, upgrades to TLS and logs in. With PIPELINING the transaction loop is ours: this message's text and the next one's
MAIL, RCPT and DATA leave in one write, so a message costs one round trip. DATA is always the last command of a group, as RFC 2920
section 3.1 demands. Without PIPELINING, aiosmtplib sends each command by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

import aiosmtplib

from notifier.settings import SmtpServer
from notifier.smtp.verdicts import Fate, Stage, Verdict, judge_failure, judge_reply

_WRITE_BUFFER = 1 << 20
MAX_REPLY_BYTES = 32_768  # a server that streams without an end of line must not fill our memory
# RFC 5321 section 4.5.3.2 gives the server longer after the final dot than for a command: giving up early makes duplicates (RFC 1047).
DOT_PATIENCE = 5


@dataclass(slots=True)
class Outgoing:
    """A message on its way: envelope and text ready for the wire.

    The text ends with CRLF and needs no dot-stuffing (RFC 5321 section 4.5.2): the blueprint lets no line begin with a dot.
    """

    position: int
    envelope: bytes  # MAIL FROM and RCPT TO, with their line ends
    content: bytes


class Source(Protocol):
    """Who hands out messages and hears what became of them."""

    def pull(self) -> Outgoing | None:
        """Return the next message to start, or None when none may start now."""

    def settled(self, message: Outgoing, verdict: Verdict, host: str) -> None:
        """Hear the fate of a message that was pulled; called once for each."""

    def idle(self, connection: Connection) -> None:
        """Hear that the connection has nothing left to do (call `kick` when there is more)."""

    def closed(self, connection: Connection, verdict: Verdict | None) -> None:
        """Hear that the connection is gone; `verdict` says why when it was not our own wish."""


class Connection:
    """A connection that is open and logged in. Made by `connect`; driven by `kick`."""

    host: str
    sent = 0
    taken = 0  # messages that the server accepted over it
    source: Source | None = None

    @property
    def usable(self) -> bool:
        """Say whether another message may be sent over it."""
        raise NotImplementedError

    def kick(self) -> None:
        """Start pulling from `source` if nothing is under way."""
        raise NotImplementedError

    def check_timeout(self, now: float) -> None:
        """Break the connection off when the server has been silent too long at `now` (loop time)."""

    def close(self) -> None:
        """Say QUIT and close; messages under way are reported to the source."""
        raise NotImplementedError


@dataclass(slots=True)
class _Reply:
    stage: (
        Stage | None
    )  # None: the reply of RSET or of a lone dot, which tells nothing about a message
    message: Outgoing | None


class PipelinedConnection(asyncio.Protocol, Connection):
    """The transaction loop over a server that offers PIPELINING. At most two messages are under way: one's text, the next one's envelope."""

    def __init__(
        self, transport: asyncio.Transport, host: str, *, timeout: float, limit: int
    ) -> None:
        """Take over `transport` after EHLO; `timeout` seconds per reply, QUIT after `limit` messages (0: never)."""
        self.host = host
        self._transport = transport
        self._timeout = timeout
        self._limit = limit
        self._expected: deque[_Reply] = deque()
        self._buffer = b""
        self._next: Outgoing | None = None  # its envelope was written, its text was not
        self._failure: Verdict | None = None  # of `_next`, from MAIL or RCPT
        self._in_text: Outgoing | None = None  # its text was written, the reply is awaited
        self._needs_reset = False
        self._waiting_since = 0.0
        self._open = True
        self._quitting = False
        self._loop = asyncio.get_running_loop()
        # Writes then wait for the end of the loop's round: several messages are rendered in a row before the receiver is woken.
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Say whether another message may be sent over it."""
        return self._open and not self._quitting and not self._transport.is_closing()

    def kick(self) -> None:
        """Start pulling from `source` if nothing is under way."""
        if self.usable and not self._expected:
            envelope = self._pull()
            if envelope:
                self._write(envelope)
            elif self.source is not None:
                self.source.idle(self)

    def _write(self, data: bytes) -> None:
        self._waiting_since = self._loop.time()
        self._transport.write(data)

    def _pull(self) -> bytes:
        """Take the next message from the source and return what opens its transaction (empty: there is none)."""
        if self._quitting or self.source is None or (self._limit and self.sent >= self._limit):
            return b""
        message = self.source.pull()
        if message is None:
            return b""
        self.sent += 1
        self._next = message
        self._failure = None
        expected = self._expected
        prefix = b""
        if self._needs_reset:
            # The transaction before was left open by a refusal; a second MAIL in it would be refused as well (RFC 5321 section 4.1.4).
            self._needs_reset = False
            expected.append(_Reply(None, None))
            prefix = b"RSET\r\n"
        expected.append(_Reply(Stage.MAIL, message))
        expected.append(_Reply(Stage.RCPT, message))
        expected.append(_Reply(Stage.DATA, message))
        return prefix + message.envelope + b"DATA\r\n"

    def data_received(self, data: bytes) -> None:
        """Read as many whole replies as have come; every one is checked against the command it answers."""
        if self._buffer:
            data = self._buffer + data
        lines = data.split(b"\r\n")
        self._buffer = lines.pop()
        if len(self._buffer) > MAX_REPLY_BYTES:
            self._broken(
                Verdict(Fate.LATER, "a reply without an end", slow_route=True, unsent=True)
            )
            return
        held: list[bytes] = []
        for line in lines:
            if line[3:4] == b"-":
                held.append(line[4:])
                continue
            code = int(line[:3]) if line[:3].isdigit() else 0
            text = line[4:].decode("ascii", "replace")
            if held:
                text = b" ".join(held).decode("ascii", "replace") + " " + text
                held = []
            self._on_reply(code, text)
            if not self._open:
                return
        if held:
            # A reply of several lines was cut by the network: keep its lines for the next read.
            self._buffer = b"".join(b"250-" + part + b"\r\n" for part in held) + self._buffer
            if len(self._buffer) > MAX_REPLY_BYTES:
                self._broken(
                    Verdict(Fate.LATER, "a reply without an end", slow_route=True, unsent=True)
                )
                return
        if self._expected:
            self._waiting_since = self._loop.time()
        elif self._limit and self.sent >= self._limit:
            self.close()
        else:
            self.kick()

    def _on_reply(self, code: int, text: str) -> None:
        if not self._expected:
            # Unasked words are a goodbye (421) or a confused server: either way the dialogue is over.
            self._broken(judge_reply(Stage.CONNECT, code, text))
            return
        reply = self._expected.popleft()
        if reply.stage is Stage.DOT:
            message = self._in_text
            self._in_text = None
            if message is not None and self.source is not None:
                verdict = judge_reply(Stage.DOT, code, text)
                self.taken += verdict.fate is Fate.ACCEPTED
                self.source.settled(message, verdict, self.host)
        elif reply.stage is Stage.DATA:
            self._on_data_reply(code, text)
        elif reply.stage is not None and self._failure is None and not 200 <= code < 300:  # noqa: PLR2004
            self._failure = judge_reply(reply.stage, code, text)
        # 421: the server is closing the channel (RFC 5321 section 3.8). 3yz answers DATA alone, 2yz everything else: a reply out of place
        # may be somebody else's, so that from here on no reply could be trusted to be the one of its command.
        if code == 421 or code // 100 not in (
            (3, 4, 5) if reply.stage is Stage.DATA else (2, 4, 5)
        ):  # noqa: PLR2004
            self._broken(judge_reply(Stage.CONNECT, code, text))

    def _on_data_reply(self, code: int, text: str) -> None:
        message = cast("Outgoing", self._next)
        failure = self._failure
        self._next = self._failure = None
        if code == 354 and failure is None:  # noqa: PLR2004 - start mail input
            self._in_text = message
            self._expected.append(_Reply(Stage.DOT, message))
            self._write(b"".join((message.content, b".\r\n", self._pull())))
            return
        if failure is None:
            failure = judge_reply(Stage.DATA, code, text)
        if code == 354:  # noqa: PLR2004 - RFC 2920 section 3.1: DATA was taken although no recipient was; a lone dot ends it
            self._expected.append(_Reply(None, None))
            self._write(b".\r\n")
        else:
            self._needs_reset = True
        if self.source is not None:
            self.source.settled(message, failure, self.host)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report what was under way: a text whose reply is missing is unknown, an envelope is simply unsent."""
        if self._open:
            self._broken(judge_failure(Stage.CONNECT, exc or ConnectionResetError()))

    def eof_received(self) -> bool:
        """Close our side, too."""
        return False

    def check_timeout(self, now: float) -> None:
        """Break the connection off when the server has been silent too long at `now` (loop time)."""
        patience = self._timeout * (DOT_PATIENCE if self._in_text is not None else 1)
        if self._open and self._expected and now - self._waiting_since > patience:
            self._broken(judge_failure(Stage.CONNECT, TimeoutError()), timed_out=True)

    def _broken(self, verdict: Verdict, *, timed_out: bool = False) -> None:
        self._open = False
        self._transport.abort()
        in_text, pending, source = self._in_text, self._next, self.source
        self._in_text = self._next = None
        self._expected.clear()
        if source is None:
            return
        if in_text is not None:
            error: Exception = TimeoutError() if timed_out else ConnectionResetError()
            source.settled(in_text, judge_failure(Stage.DOT, error), self.host)
        if pending is not None:
            failure = self._failure or Verdict(
                Fate.LATER, verdict.detail, slow_route=verdict.slow_route, unsent=True
            )
            source.settled(pending, failure, self.host)
        source.closed(self, None if self._quitting else verdict)

    def close(self) -> None:
        """Say QUIT and close; messages under way are reported to the source."""
        if not self._open:
            return
        self._quitting = True
        if self._expected:
            self._broken(judge_failure(Stage.CONNECT, ConnectionAbortedError()))
            return
        self._open = False
        self._transport.write(b"QUIT\r\n")
        self._transport.close()
        if self.source is not None:
            self.source.closed(self, None)


class PlainConnection(Connection):
    """One command at a time through aiosmtplib, for servers that do not offer PIPELINING."""

    def __init__(self, client: aiosmtplib.SMTP, host: str, *, timeout: float, limit: int) -> None:
        """Use `client` after EHLO; `timeout` seconds per reply, QUIT after `limit` messages (0: never)."""
        self.host = host
        self._client = client
        self._timeout = timeout
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def usable(self) -> bool:
        """Say whether another message may be sent over it."""
        return self._client.is_connected and not (self._limit and self.sent >= self._limit)

    def kick(self) -> None:
        """Start pulling from `source` if nothing is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self.usable and self.source is not None:
            message = self.source.pull()
            if message is None:
                self.source.idle(self)
                return
            self.sent += 1
            verdict = await self._send(message)
            self.taken += verdict.fate is Fate.ACCEPTED
            if self.source is not None:
                self.source.settled(message, verdict, self.host)
            if verdict.fate is Fate.UNKNOWN or verdict.unsent or not self._client.is_connected:
                self._end(verdict)
                return
        self.close()

    async def _send(self, message: Outgoing) -> Verdict:
        stage = Stage.MAIL
        try:
            for line in message.envelope.splitlines():
                stage = Stage.RCPT if line.startswith(b"RCPT") else Stage.MAIL
                code, text = await self._client.execute_command(line, timeout=self._timeout)
                if not 200 <= code < 300:  # noqa: PLR2004
                    return await self._refused(stage, code, text)
            stage = Stage.DATA
            # The two halves of DATA go by themselves, so that a silence before 354 is never taken for one after the dot.
            code, text = await self._client.execute_command(b"DATA", timeout=self._timeout)
            if code != 354:  # noqa: PLR2004
                return await self._refused(stage, code, text)
            stage = Stage.DOT
            cast("asyncio.WriteTransport", self._client.transport).write(message.content)
            code, text = await self._client.execute_command(
                b".", timeout=self._timeout * DOT_PATIENCE
            )
            return judge_reply(Stage.DOT, code, text)
        except (aiosmtplib.SMTPException, OSError) as error:
            return judge_failure(stage, error)

    async def _refused(self, stage: Stage, code: int, text: str) -> Verdict:
        """Make the connection ready for the next message; whether that works changes nothing about this one."""
        try:
            await self._client.rset(timeout=self._timeout)
        except (aiosmtplib.SMTPException, OSError):
            self._client.close()
        return judge_reply(stage, code, text)

    def _end(self, verdict: Verdict | None) -> None:
        self._client.close()
        if not self._ended and self.source is not None:
            self._ended = True
            self.source.closed(self, verdict)

    def close(self) -> None:
        """Close; a message under way ends with an exception and is reported."""
        if self._client.is_connected:
            cast("asyncio.WriteTransport", self._client.transport).write(b"QUIT\r\n")
        self._end(None)


async def connect(server: SmtpServer, *, hostname: str, timeout: float, limit: int) -> Connection:
    """Open a connection to `server`, upgrade to TLS, log in when it has a user, and say EHLO as `hostname`.

    TLS: always checked against the system's certificates; STARTTLS when offered, and demanded when a password is to be sent. Loopback
    is left in the clear, for it carries nothing past this machine. `timeout` seconds per reply, `limit` messages per connection.
    Raise aiosmtplib.SMTPException or OSError; `judge_failure(Stage.CONNECT, error)` says what either means.
    """
    loopback = server.host in {"127.0.0.1", "::1", "localhost"}
    start_tls = (
        None
        if not loopback and not server.username
        else (server.username is not None and not loopback)
    )
    client = aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        username=server.username,
        password=server.password,
        local_hostname=hostname,
        timeout=timeout,
        use_tls=server.implicit_tls,
        start_tls=False if server.implicit_tls else start_tls,
    )
    await client.connect()
    try:
        if client.last_ehlo_response is None:
            await client.ehlo()
        if client.supports_extension("pipelining"):
            # uvloop's transports are no subclass of asyncio.Transport, yet keep its whole interface.
            transport = cast("asyncio.Transport", client.transport)
            return PipelinedConnection(transport, server.host, timeout=timeout, limit=limit)
    except BaseException:
        client.close()
        raise
    return PlainConnection(client, server.host, timeout=timeout, limit=limit)
