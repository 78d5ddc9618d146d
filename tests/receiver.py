"""A system that is notified: a real HTTP server on loopback that keeps what it gets.

It misbehaves as a test wants.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from sqlalchemy import Engine
from standardwebhooks import Webhook

from notifier.domain import keys, webhooks
from notifier.flows import message_requests as message
from notifier.services import Services


@dataclass(frozen=True)
class Request:
    """What came: headers in small letters, the body's bytes, and when."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        """The event's id."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The body."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def kind(self) -> str:
        """The event's kind."""
        return str(self.event["type"])

    def verified(self, secret: str) -> dict[str, Any]:
        """Return the body when another program than ours takes the signature for good."""
        found: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return found


class Receiver:
    """The server.

    `answer` gives the status for a request and may raise or wait; `released` ends all waiting in
    `hang`.
    """

    def __init__(
        self,
        answer: Callable[[Request], int] = lambda _: 200,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        """Answer every request by `answer`."""
        self.answer = answer
        self.requests: list[Request] = []
        self.connections = 0
        self.released = threading.Event()
        self.location = ""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # the answer leaves in one piece, or TCP waits 40 ms between its two

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = Request(
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    body,
                    time.time(),
                )
                receiver.requests.append(request)
                status = receiver.answer(request)
                self.send_response(status)
                if receiver.location:
                    self.send_header("location", receiver.location)
                self.send_header("content-length", "5")
                self.end_headers()
                self.wfile.write(b"heard")

            do_GET = do_POST  # noqa: N815 - the name in the standard library

            def log_message(
                self,
                format: str,  # noqa: A002 - the name in the standard library
                *args: object,
            ) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # who asks may hang up

        self._server = Server((host, 0), Handler)
        self.port = self._server.server_address[1]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook?from=notifier"

    def hang(self, _: Request) -> int:
        """Do not answer until `released`."""
        self.released.wait(60)
        return 200

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def add_key(services: Services, name: str, url: str | None) -> int:
    """Make a key whose webhook leads to `url`; return its number."""
    with services.engine.begin() as connection:
        keys.create(
            connection, name=name, scopes=["messages:write"], sandbox=False, now=services.clock()
        )
        if url is not None:
            keys.set_webhook(connection, name, url)
        return keys.named(connection, name).id


def overview(engine: Engine, name: str) -> webhooks.Overview:
    """Return the counts of a key."""
    with engine.connect() as connection:
        return webhooks.overview(connection, name)[0]


def ask(services: Services, key_id: int, email: str) -> uuid.UUID:
    """Ask for a notice as the system behind a key does; return the message's id."""
    template = services.catalogue["dossier-received"]
    data = {
        name: value
        for name, value in template.example.items()
        if name not in {"name", "tax_code", "email", "language"}
    }
    wanted = message.Wanted(template, email, "Hộ kinh doanh Ví Dụ", "vi", None, data)
    return message.ask(
        services, wanted, key_id=key_id, sandbox=False, token=None, fingerprint=b"", request="test"
    )
