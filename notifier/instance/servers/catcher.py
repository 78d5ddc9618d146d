"""An SMTP server that keeps mail instead of delivering it.

It is the demo's inbox, the benchmark's sink, and in tests a server that misbehaves. It answers
like a real server, with PIPELINING. At `simulate.test` the recipient's name selects the outcome
(`SIMULATED`); a `Script` selects it for everybody. What it accepted is counted by Message-ID, so
that a test can tell lost from doubled mail at the sink.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

import uvloop

from notifier.instance.processes import LOOPBACK, Server, kept_port, spawn, wait_for_port
from notifier.instance.servers.mailbox import MailboxWriter
from notifier.instance.servers.scripts import SIMULATED, Script, State

_DEFERRALS = 2
_MAX_LINE = 8192


class Session(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, state: State, writer: MailboxWriter | None) -> None:
        """Count in `state`; keep mail in `writer` when there is one."""
        self.state = state
        self.writer = writer
        self.buffer = b""
        self.in_data = False
        self.in_mail = False
        self.mail_from = b""
        self.rcpt_to = b""
        self.messages = 0
        self.strike = False
        self.hanging = False
        self.replies: list[bytes] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast("asyncio.Transport", transport)
        self.state.connections += 1
        self.state.most_connections = max(self.state.most_connections, self.state.connections)
        script = self.state.script
        if script.hang_at == "greeting":
            self.hanging = True
        elif script.close_at == "greeting":
            self.transport.close()
        elif script.limit_connections and self.state.connections > script.limit_connections:
            self.transport.write(b"421 4.7.0 too many connections\r\n")
            self.transport.close()
        else:
            self.transport.write((script.greeting or "220 catcher.test ESMTP").encode() + b"\r\n")
            if script.greeting.startswith("421"):
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client, whatever `exc` was."""
        del exc
        self.state.connections -= 1
        self.transport = None

    def data_received(self, data: bytes) -> None:
        """Answer everything that has come, in one write."""
        buffer = self.buffer + data if self.buffer else data
        while self.transport is not None and not self.hanging:
            if self.in_data:
                end = buffer.find(b"\r\n.\r\n") if not buffer.startswith(b".\r\n") else -2
                if end == -1:
                    break
                content, buffer = buffer[: end + 2], buffer[end + 5 :]
                self.in_data = False
                self._content(content)
            else:
                end = buffer.find(b"\r\n")
                if end < 0:
                    if len(buffer) > _MAX_LINE:
                        self._close()
                    break
                line, buffer = buffer[:end], buffer[end + 2 :]
                self._command(line)
        self.buffer = buffer
        self._flush()

    def _flush(self) -> None:
        if self.replies and self.transport is not None:
            out = b"".join(self.replies)
            self.replies.clear()
            delay = self.state.script.delay_ms
            if delay:
                asyncio.get_running_loop().call_later(delay / 1000, self._write, out)
            else:
                self.transport.write(out)

    def _write(self, out: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(out)

    def _close(self) -> None:
        self._flush()
        if self.transport is not None:
            self.transport.close()
            self.transport = None

    def _say(self, reply: bytes) -> None:
        self.replies.append(reply + b"\r\n")

    def _scripted(self, stage: str, reply: str) -> bool:
        """Misbehave at `stage` as the script says; True when the command was dealt with."""
        script = self.state.script
        if not self.strike:
            return False
        if script.hang_at == stage:
            self.hanging = True
        elif script.close_at == stage:
            self._close()
        elif reply:
            self._say(reply.encode())
            if reply.startswith("421"):
                self._close()
        else:
            return False
        return True

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        script = self.state.script
        if verb == b"MAIL":
            self.mail_from, self.rcpt_to = line[line.find(b"<") + 1 : line.find(b">")], b""
            self.strike = self.state.strikes()
            if script.enough_after and self.messages >= script.enough_after:
                self.in_mail = False
                self._say(script.enough_reply.encode())
                if script.enough_reply.startswith("421"):
                    self._close()
                return
            self.in_mail = not self._scripted("mail", script.mail_reply)
            if self.in_mail:
                self._say(b"250 2.1.0 Ok")
        elif verb == b"RCPT":
            if not self.in_mail:
                self._say(b"503 5.5.1 need MAIL first")
            elif not self._scripted("rcpt", script.rcpt_reply):
                self._recipient(line[line.find(b"<") + 1 : line.find(b">")])
        elif verb == b"DATA":
            if self._scripted("data", script.data_reply):
                return
            if self.rcpt_to or script.accept_data_anyway:
                self.in_data = True
                self._say(b"354 End data with <CR><LF>.<CR><LF>")
            else:
                self._say(b"554 5.5.1 no valid recipients")
        elif verb == b"EHLO":
            if script.close_at == "ehlo":
                self._close()
                return
            offers = [b"catcher.test", b"8BITMIME", b"SIZE 52428800", b"ENHANCEDSTATUSCODES"]
            if script.pipelining:
                offers.append(b"PIPELINING")
            self.replies.append(
                b"".join(b"250-" + offer + b"\r\n" for offer in offers[:-1])
                + b"250 "
                + offers[-1]
                + b"\r\n"
            )
        elif verb == b"QUIT":
            self._say(b"221 2.0.0 Bye")
            self._close()
        elif verb in {b"RSET", b"NOOP", b"HELO"}:
            self.rcpt_to = b""
            self._say(b"250 2.0.0 Ok")
        else:
            self._say(b"502 5.5.2 not implemented")

    def _recipient(self, address: bytes) -> None:
        name, _, domain = address.partition(b"@")
        if domain.lower() == b"simulate.test":
            word = name.lower().decode("ascii", "replace").split("+")[0]
            if word in SIMULATED:
                code, text = SIMULATED[word]
                self._say(f"{code} {text}".encode())
                return
            if word == "defer":
                self.state.deferred[name] += 1
                if self.state.deferred[name] <= _DEFERRALS:
                    self._say(b"451 4.3.0 try again later")
                    return
        self.rcpt_to = address
        self._say(b"250 2.1.5 Ok")

    def _content(self, content: bytes) -> None:
        script = self.state.script
        if not self.rcpt_to:
            self._say(b"554 5.5.1 no valid recipients")
            return
        if self.strike and script.at_dot:
            if script.at_dot == "keep-drop":
                self._keep(content)
            if script.at_dot in {"drop", "keep-drop"}:
                self.replies.clear()
                if self.transport is not None:
                    self.transport.abort()
                    self.transport = None
                return
            if script.at_dot == "hang":
                self.hanging = True
                return
            self._say(script.at_dot.encode())
            if script.at_dot.startswith("421"):
                self._close()
            return
        self._keep(content)
        self._say(b"250 2.0.0 Ok: queued as %X" % self.state.received)
        self.messages += 1
        if script.close_after and self.messages >= script.close_after:
            self._close()

    def _keep(self, content: bytes) -> None:
        self.state.received += 1
        start = content.find(b"Message-ID: ")
        self.state.ids[
            content[start + 12 : content.find(b"\r\n", start)] if start >= 0 else b""
        ] += 1
        if self.writer is not None:
            if b"\r\n.." in content:
                content = content.replace(b"\r\n..", b"\r\n.")
            content = content.removeprefix(b".")
            self.writer.add(
                self.mail_from.decode("ascii", "replace"),
                self.rcpt_to.decode("ascii", "replace"),
                content,
            )


class Control(asyncio.Protocol):
    """The loopback port by which tests ask and command: a JSON object a line, answered by one."""

    def __init__(self, state: State) -> None:
        """Answer from `state`."""
        self.state = state
        self.transport: asyncio.Transport | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Carry out each line."""
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "script" in request:
                self.state.script = Script(**request["script"])
                self.state.begun = self.state.struck = 0
                self.state.deferred.clear()
            if request.get("reset"):
                self.state.received = 0
                self.state.most_connections = self.state.connections
                self.state.ids.clear()
            if self.transport is not None:
                answer = self.state.to_json(ids=bool(request.get("ids")))
                self.transport.write(json.dumps(answer).encode() + b"\n")


async def serve(
    host: str, port: int, folder: Path | None, control_port: int, script: Script
) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    state = State(script)
    writer = MailboxWriter(folder) if folder is not None else None
    done = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, done.set)
    servers = [await loop.create_server(lambda: Session(state, writer), host, port, backlog=1024)]
    if control_port:
        servers.append(await loop.create_server(lambda: Control(state), LOOPBACK, control_port))
    while not done.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 0.2)
        if writer is not None:
            writer.flush()
    for server in servers:
        server.close()
    if writer is not None:
        writer.close()


class Catcher(Server):
    """The catcher as a process of its own."""

    def __init__(
        self, *, folder: Path | None = None, state: Path | None = None, script: Script | None = None
    ) -> None:
        """Keep mail in `folder`, or only count it when there is none.

        The folder `state` keeps the port, so that a restarted server has the same one.
        """
        super().__init__()
        self.folder = folder
        self._state = state
        self._script = script or Script()
        self._own_state: Path | None = None
        self.port = 0
        self._control = 0

    def start(self) -> Self:
        """Start the process and wait for it; raise UnavailableError."""
        state = self._state
        if state is None:
            state = self._own_state = Path(tempfile.mkdtemp(prefix="notifier-catcher-"))
        state.mkdir(parents=True, exist_ok=True)
        self.port = kept_port(state / "port")
        self._control = kept_port(state / "control")
        self.url = f"smtp://{LOOPBACK}:{self.port}"
        command = [
            sys.executable,
            "-m",
            "notifier.instance.servers.catcher",
            "--port",
            str(self.port),
            "--control",
            str(self._control),
            "--script",
            json.dumps(asdict(self._script)),
        ]
        if self.folder is not None:
            command += ["--folder", str(self.folder)]
        log = state / "log"
        with log.open("ab") as out:
            self._process = spawn(command, output=out)
        wait_for_port(self._control, self._process, what="The mail catcher", log=log)
        return self

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request to the control port and return the answer.

        {received, distinct, duplicates, connections, most_connections[, message_ids]}.
        """
        with socket.create_connection((LOOPBACK, self._control), timeout=10) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                found: dict[str, Any] = json.loads(answers.readline())
        return found

    def set_script(self, **values: Any) -> None:
        """Let the server misbehave from now on; without arguments it behaves."""
        self.ask(script=values)

    def stop(self) -> None:
        """Stop the process."""
        super().stop()
        if self._own_state is not None:
            shutil.rmtree(self._own_state, ignore_errors=True)
            self._own_state = None


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(
        prog="notifier catcher", description="Keep mail instead of delivering it."
    )
    parser.add_argument("--port", type=int, default=2525)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--folder", type=Path, help="where to keep mail (default: only count it)")
    parser.add_argument("--control", type=int, default=0)
    parser.add_argument("--script", default="{}")
    arguments = parser.parse_args()
    # It shares the machine with those who send to it: a mail that arrives must not take the
    # processor from them, or each of the two starts with cold caches, mail after mail (12 % of a
    # campaign's speed on two cores).
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    uvloop.run(
        serve(
            arguments.host,
            arguments.port,
            arguments.folder,
            arguments.control,
            Script(**json.loads(arguments.script)),
        )
    )


if __name__ == "__main__":
    main()
