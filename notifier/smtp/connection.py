"""SMTP as a channel: one connection sends many messages, pipelined where allowed (RFC 2920).

aiosmtplib connects, upgrades to TLS and logs in. With PIPELINING the transaction loop is ours: this
message's text and the next one's MAIL, RCPT and DATA leave in one write, so a message costs one
round trip. DATA is always the last command of a group, as RFC 2920 section 3.1 demands. Without
PIPELINING, aiosmtplib sends each command by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass, replace
from typing import cast

import aiosmtplib

from notifier.channel import Connection, Fate, Go, Outgoing, Source, Unreachable, Verdict
from notifier.settings import SmtpServer
from notifier.smtp.verdicts import Stage, judge_failure, judge_reply

_WRITE_BUFFER = 1 << 20
MAX_REPLY_BYTES = 32_768  # a server that streams without an end of line must not fill our memory
# RFC 5321 section 4.5.3.2 gives the server longer after the final dot than for a command: giving up
# early makes duplicates (RFC 1047).
DOT_PATIENCE = 5
# An address goes into a command: nothing that ends the command or the path may be in it (RFC 5321
# section 4.1.2), and it is no longer than section 4.5.3.1 allows.
_ADDRESS = r"[!-;=?-~]{1,64}@[!-;=?A-Z\[\]^-~]{1,255}"
_SAFE_COMMANDS = re.compile(rf"MAIL FROM:<(?:{_ADDRESS})?>\r\nRCPT TO:<{_ADDRESS}>\r\nDATA\r\n")
_NOW = Go.NOW
_UNSAFE = Verdict(Fate.REFUSED, "not sent: an address cannot be written in an SMTP command")
_WITHDRAWN = Verdict(Fate.LATER, "withdrawn before its text was sent", unsent=True)
_ENDLESS = Verdict(Fate.LATER, "a reply without an end", slow_route=True, unsent=True)


def _commands(message: Outgoing) -> bytes | None:
    """Return MAIL, RCPT and DATA, None when an address does not belong in a command.

    An empty sender is the null reverse-path (RFC 5321 section 4.5.5).
    """
    lines = f"MAIL FROM:<{message.sender}>\r\nRCPT TO:<{message.recipient}>\r\nDATA\r\n"
    return lines.encode("ascii") if _SAFE_COMMANDS.fullmatch(lines) is not None else None


def _judged(verdict: Verdict, taken: int) -> Verdict:
    """Return the verdict in the light of how many messages the connection had carried before.

    "Enough" after successes is the habit of many servers and no reason to slow down.
    """
    if verdict.enough and taken:
        return replace(verdict, slow_route=False)
    return verdict


@dataclass(slots=True)
class _Reply:
    stage: Stage | None  # None: the reply of RSET or of a lone dot, which tells of no message
    message: Outgoing | None


class PipelinedConnection(asyncio.Protocol):
    """The transaction loop over a server that offers PIPELINING; a `channel.Connection`.

    At most two messages are under way: the text of one, the envelope of the next.
    """

    def __init__(
        self, transport: asyncio.Transport, host: str, *, timeout: float, limit: int
    ) -> None:
        """Take over `transport` after EHLO; `timeout` seconds per reply, `limit` messages or 0."""
        self.host = host
        self.sent = 0
        self.taken = 0
        self.source: Source | None = None
        self._transport = transport
        self._timeout = timeout
        self._limit = limit
        self._expected: deque[_Reply] = deque()
        self._buffer = b""
        self._next: Outgoing | None = None  # its envelope was written, its text was not
        self._failure: Verdict | None = None  # of `_next`, from MAIL or RCPT
        self._held = False  # 354 was read for `_next`, whose text was told to wait
        self._in_text: Outgoing | None = None  # its text was written, the reply is awaited
        self._needs_reset = False
        self._enough: Verdict | None = None  # the server takes no more over this connection
        self._waiting_since = 0.0
        self._open = True
        self._quitting = False
        self._loop = asyncio.get_running_loop()
        # Writes then wait for the end of the loop's round: several messages are rendered in a row
        # before the receiver is woken.
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Say whether another message may be sent over it."""
        return (
            self._open
            and not self._quitting
            and self._enough is None
            and not self._transport.is_closing()
        )

    def send(self, source: Source) -> None:
        """Send what `source` hands out until it has nothing more."""
        self.source = source
        if self.usable and not self._expected and not self._held:
            envelope = self._pull()
            if envelope:
                self._write(envelope)
            elif self._limit and self.sent >= self._limit:
                self.close()
            else:
                source.idle(self)

    def _write(self, data: bytes) -> None:
        self._waiting_since = self._loop.time()
        self._transport.write(data)

    def _pull(self) -> bytes:
        """Return what opens the transaction of the source's next message (empty: there is none)."""
        source = self.source
        if (
            self._quitting
            or self._enough is not None
            or source is None
            or (self._limit and self.sent >= self._limit)
        ):
            return b""
        while True:
            message = source.pull()
            if message is None:
                return b""
            commands = _commands(message)
            if commands is not None:
                break
            source.settled(message, _UNSAFE, self.host)
        self.sent += 1
        self._next = message
        self._failure = None
        expected = self._expected
        prefix = b""
        if self._needs_reset:
            # The transaction before was left open by a refusal; a second MAIL in it would be
            # refused as well (RFC 5321 section 4.1.4).
            self._needs_reset = False
            expected.append(_Reply(None, None))
            prefix = b"RSET\r\n"
        expected.append(_Reply(Stage.MAIL, message))
        expected.append(_Reply(Stage.RCPT, message))
        expected.append(_Reply(Stage.DATA, message))
        return prefix + commands if prefix else commands

    def data_received(self, data: bytes) -> None:
        """Read as many whole replies as have come; each is checked against its command."""
        if self._buffer:
            data = self._buffer + data
        lines = data.split(b"\r\n")
        self._buffer = lines.pop()
        if len(self._buffer) > MAX_REPLY_BYTES:
            self._broken(_ENDLESS)
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
                self._broken(_ENDLESS)
                return
        if self._expected:
            self._waiting_since = self._loop.time()
        elif not self._held:
            self._go_on()

    def _go_on(self) -> None:
        """Nothing is under way: take the next message, or part when this connection has had all."""
        if self._enough is not None or (self._limit and self.sent >= self._limit):
            self.close()
        elif self.source is not None:
            self.send(self.source)

    def _on_reply(self, code: int, text: str) -> None:
        if not self._expected:
            # Unasked words are a goodbye (421) or a confused server: the dialogue is over.
            self._broken(_judged(judge_reply(Stage.CONNECT, code, text), self.taken))
            return
        reply = self._expected.popleft()
        if reply.stage is Stage.DOT:
            message = self._in_text
            self._in_text = None
            if message is not None and self.source is not None:
                verdict = judge_reply(Stage.DOT, code, text)
                if verdict.fate is Fate.ACCEPTED:
                    self.taken += 1
                elif verdict.enough:
                    verdict = self._enough = _judged(verdict, self.taken)
                self.source.settled(message, verdict, self.host)
        elif reply.stage is Stage.DATA:
            self._on_data_reply(code, text)
        elif reply.stage is not None and self._failure is None and code // 100 != 2:  # noqa: PLR2004
            self._failure = self._failed(reply.stage, code, text)
        # 421: the server is closing the channel (RFC 5321 section 3.8). 3yz answers DATA alone, 2yz
        # everything else: a reply out of place may be somebody else's, so that from here on no
        # reply could be trusted to be the one of its command.
        if code == 421 or code // 100 not in (  # noqa: PLR2004
            (3, 4, 5) if reply.stage is Stage.DATA else (2, 4, 5)
        ):
            self._broken(_judged(judge_reply(Stage.CONNECT, code, text), self.taken))

    def _failed(self, stage: Stage, code: int, text: str) -> Verdict:
        """Judge a reply that is not the good one, and note when it ends this connection."""
        verdict = _judged(judge_reply(stage, code, text), self.taken)
        if verdict.enough:
            self._enough = verdict
        return verdict

    def _on_data_reply(self, code: int, text: str) -> None:
        message = cast("Outgoing", self._next)
        failure = self._failure
        if code == 354 and failure is None:  # noqa: PLR2004 - start mail input
            self._hand_over(message)
            return
        self._next = self._failure = None
        if failure is None:
            failure = self._failed(Stage.DATA, code, text)
        if code == 354:  # noqa: PLR2004
            # RFC 2920 section 3.1: DATA was taken although no recipient was; a lone dot ends it.
            self._expected.append(_Reply(None, None))
            self._write(b".\r\n")
        else:
            self._needs_reset = True
        if self.source is not None:
            self.source.settled(message, failure, self.host)

    def _hand_over(self, message: Outgoing) -> None:
        """Write the text of `message`, which the server awaits, if it may still go."""
        source = self.source
        if source is None:
            self._held = True  # nobody hears of it any more: the connection is about to be closed
            return
        answer = source.may_go(message)
        if answer is not _NOW:
            self._held = answer is Go.WAIT
            if self._held:
                return
            # SMTP has no way back after 354 but to break the connection off: whatever ends the
            # text in good order would deliver it.
            self._quitting = True
            self._failure = _WITHDRAWN
            self._broken(_WITHDRAWN)
            return
        self._held = False
        self._next = None
        self._in_text = message
        self._expected.append(_Reply(Stage.DOT, message))
        self._write(b"".join((message.content, b".\r\n", self._pull())))

    def resume(self) -> None:
        """Ask the source again about a text that was told to wait."""
        if self._held and self._next is not None:
            self._hand_over(self._next)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report what was under way: a text without a reply is unknown, an envelope is unsent."""
        if self._open:
            self._broken(judge_failure(Stage.CONNECT, exc or ConnectionResetError()))

    def eof_received(self) -> bool:
        """Close our side, too."""
        return False

    def check_timeout(self, now: float) -> None:
        """Break it off when the server has been silent too long at `now` (loop time, seconds)."""
        patience = self._timeout * (DOT_PATIENCE if self._in_text is not None else 1)
        if self._open and self._expected and now - self._waiting_since > patience:
            self._broken(judge_failure(Stage.CONNECT, TimeoutError()), timed_out=True)

    def _broken(self, verdict: Verdict, *, timed_out: bool = False) -> None:
        self._open = self._held = False
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
                Fate.LATER,
                verdict.detail,
                slow_route=verdict.slow_route,
                unsent=True,
                enough=verdict.enough,
                retry_after=verdict.retry_after,
            )
            source.settled(pending, failure, self.host)
        source.closed(self, None if self._quitting else verdict)

    def close(self) -> None:
        """Say QUIT and close; messages under way are reported to the source."""
        if not self._open:
            return
        self._quitting = True
        if self._expected or self._held:
            self._broken(judge_failure(Stage.CONNECT, ConnectionAbortedError()))
            return
        self._open = False
        self._transport.write(b"QUIT\r\n")
        self._transport.close()
        if self.source is not None:
            self.source.closed(self, self._enough)


class PlainConnection:
    """One command at a time through aiosmtplib, for servers without PIPELINING."""

    def __init__(self, client: aiosmtplib.SMTP, host: str, *, timeout: float, limit: int) -> None:
        """Use `client` after EHLO; `timeout` seconds per reply, `limit` messages or 0."""
        self.host = host
        self.sent = 0
        self.taken = 0
        self.source: Source | None = None
        self._client = client
        self._timeout = timeout
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self._asked_again = asyncio.Event()
        self._ended = False

    @property
    def usable(self) -> bool:
        """Say whether another message may be sent over it."""
        return self._client.is_connected and not (self._limit and self.sent >= self._limit)

    def send(self, source: Source) -> None:
        """Send what `source` hands out until it has nothing more."""
        self.source = source
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def resume(self) -> None:
        """Ask the source again about a text that was told to wait."""
        self._asked_again.set()

    def check_timeout(self, now: float) -> None:
        """Do nothing: each command has a timeout of its own."""

    async def _run(self) -> None:
        while self.usable and self.source is not None:
            message = self.source.pull()
            if message is None:
                self.source.idle(self)
                return
            commands = _commands(message)
            if commands is None:
                self.source.settled(message, _UNSAFE, self.host)
                continue
            self.sent += 1
            verdict = _judged(await self._transact(message, commands), self.taken)
            self.taken += verdict.fate is Fate.ACCEPTED
            if self.source is not None:
                self.source.settled(message, verdict, self.host)
            if verdict is _WITHDRAWN:
                self._end(None)
                return
            if (
                verdict.fate is Fate.UNKNOWN
                or verdict.unsent
                or verdict.enough
                or not self._client.is_connected
            ):
                self._end(verdict)
                return
        self.close()

    async def _transact(self, message: Outgoing, commands: bytes) -> Verdict:
        stage = Stage.MAIL
        try:
            for line in commands.splitlines()[:2]:
                stage = Stage.RCPT if line.startswith(b"RCPT") else Stage.MAIL
                code, text = await self._client.execute_command(line, timeout=self._timeout)
                if not 200 <= code < 300:  # noqa: PLR2004
                    return await self._refused(stage, code, text)
            stage = Stage.DATA
            # The two halves of DATA go by themselves, so that a silence before 354 is never taken
            # for one after the dot.
            code, text = await self._client.execute_command(b"DATA", timeout=self._timeout)
            if code != 354:  # noqa: PLR2004
                return await self._refused(stage, code, text)
            if not await self._may_go(message):
                # See PipelinedConnection: there is no other way back.
                if self._client.transport is not None:
                    cast("asyncio.WriteTransport", self._client.transport).abort()
                return _WITHDRAWN
            stage = Stage.DOT
            cast("asyncio.WriteTransport", self._client.transport).write(message.content)
            code, text = await self._client.execute_command(
                b".", timeout=self._timeout * DOT_PATIENCE
            )
            return judge_reply(Stage.DOT, code, text)
        except (aiosmtplib.SMTPException, OSError) as error:
            return judge_failure(stage, error)

    async def _may_go(self, message: Outgoing) -> bool:
        """Wait until the source has decided about the text of `message`."""
        while self.source is not None and not self._ended:
            self._asked_again.clear()
            answer = self.source.may_go(message)
            if answer is not Go.WAIT:
                return answer is Go.NOW
            await self._asked_again.wait()
        return False

    async def _refused(self, stage: Stage, code: int, text: str) -> Verdict:
        """Make the connection ready for the next message, which changes nothing about this one."""
        try:
            await self._client.rset(timeout=self._timeout)
        except (aiosmtplib.SMTPException, OSError):
            self._client.close()
        return judge_reply(stage, code, text)

    def _end(self, verdict: Verdict | None) -> None:
        self._client.close()
        self._asked_again.set()
        if not self._ended and self.source is not None:
            self._ended = True
            self.source.closed(self, verdict)

    def close(self) -> None:
        """Close; a message under way ends with an exception and is reported."""
        if self._client.is_connected:
            cast("asyncio.WriteTransport", self._client.transport).write(b"QUIT\r\n")
        self._end(None)


@dataclass(frozen=True, slots=True)
class SmtpChannel:
    """The way to one mail server, as `hostname`, with `timeout` seconds a reply: a `Channel`."""

    server: SmtpServer
    hostname: str
    timeout: float

    async def connect(self, *, limit: int) -> Connection:
        """Open a connection for at most `limit` messages (0: no limit); raise Unreachable."""
        try:
            return await connect(
                self.server, hostname=self.hostname, timeout=self.timeout, limit=limit
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unreachable(judge_failure(Stage.CONNECT, error)) from error


async def connect(server: SmtpServer, *, hostname: str, timeout: float, limit: int) -> Connection:
    """Open a connection to `server`, upgrade to TLS, log in when it has a user, and say EHLO.

    TLS is always checked against the system's certificates; STARTTLS when offered, and demanded
    when a password is to be sent. Loopback is left in the clear, for it carries nothing past this
    machine. `timeout` seconds per reply, `limit` messages per connection. Raise
    aiosmtplib.SMTPException or OSError; `judge_failure(Stage.CONNECT, error)` says what they mean.
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
            # uvloop's transports are no subclass of asyncio.Transport, yet keep its interface.
            transport = cast("asyncio.Transport", client.transport)
            return PipelinedConnection(transport, server.host, timeout=timeout, limit=limit)
    except BaseException:
        client.close()
        raise
    return PlainConnection(client, server.host, timeout=timeout, limit=limit)
