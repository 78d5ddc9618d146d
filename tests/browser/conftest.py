"""A real browser and the pages on a real port, with one hostile mail in the inbox."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from notifier.domain import addresses
from notifier.instance.processes import kept_port
from notifier.instance.servers.mailbox import MailboxWriter
from notifier.services import Services
from notifier.web.app import create_app

CHROMIUM = shutil.which("chromium")
OWNER = "ke.toan@example.test"

# What a forged or careless mail would try: run a script, call home, lead the reader's window away.
_MAIL = """<html lang="vi"><head><title>Thông báo</title></head><body><p id="hello">Xin chào</p>
<script>document.getElementById("hello").textContent = "a script ran"; \
parent.location = "{home}/away"</script>
<img src="{home}/pixel.png" alt=""><link rel="stylesheet" href="{home}/style.css"></body></html>"""


@dataclass
class Visit:
    """A page, and what the browser asked for and complained about meanwhile."""

    page: Page
    context: BrowserContext
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, which asks nobody for anything by itself."""
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield found
        found.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """A desktop window that notes every request and complaint."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    found = Visit(context.new_page(), context)
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.on("console", lambda message: found.complaints.append(message.text))
    yield found
    context.close()


class Home:
    """The stranger to whom the hostile mail calls; it only counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def callers(self) -> int:
        """Return how many connections came since the last time."""
        number = 0
        try:
            while True:
                self._socket.accept()[0].close()
                number += 1
        except TimeoutError:
            return number

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@pytest.fixture
def stranger() -> Iterator[Home]:
    """Whoever wrote the hostile mail."""
    found = Home()
    yield found
    found.close()


@pytest.fixture
def pages(services: Services, tmp_path: Path, stranger: Home) -> Iterator[str]:
    """The address of the running pages."""
    folder = tmp_path / "mail"
    folder.mkdir()
    writer = MailboxWriter(folder)
    head = (
        "From: office@example.test\r\nTo: ke.toan@example.test\r\nSubject: Tin\r\n"
        "Message-ID: <1@example.test>\r\nMIME-Version: 1.0\r\n"
    )
    kind = "Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    writer.add(
        "office@example.test",
        OWNER,
        (head + kind + _MAIL.format(home=stranger.url).replace("\n", "\r\n")).encode(),
    )
    writer.close()
    port = kept_port(tmp_path / "port")
    server = uvicorn.Server(
        uvicorn.Config(create_app(services), port=port, log_level="error", ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(500):
        if server.started:
            break
        threading.Event().wait(0.02)
    assert server.started
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(5)


@pytest.fixture
def address_id(services: Services) -> int:
    """The number of an address that has links."""
    with services.session() as session:
        return addresses.id_of(session, OWNER)
