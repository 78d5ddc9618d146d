"""The pages in a real browser.

Without JavaScript, by keyboard, on a phone, and for screen readers (axe).
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from notifier.domain import addresses
from notifier.domain import suppressions as suppression
from notifier.instance.processes import kept_port
from notifier.instance.servers.mailbox import MailboxWriter
from notifier.services import Services
from notifier.web.app import create_app

CHROMIUM = shutil.which("chromium")
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Debian's chromium is missing: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
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
def site(services: Services, tmp_path: Path) -> Iterator[str]:
    """The pages on a real port, with one mail in the inbox."""
    (tmp_path / "mail").mkdir()
    writer = MailboxWriter(tmp_path / "mail")
    content = (
        b"From: a@example.test\r\nTo: b@example.test\r\nSubject: =?utf-8?b?VGjDtG5nIGLDoW8=?=\r\n"
        b"Message-ID: <1@example.test>\r\n"
        b"MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
        b"<html lang='vi'><body><p>Xin ch&agrave;o</p></body></html>\r\n"
    )
    writer.add("a@example.test", "b@example.test", content)
    writer.close()
    port = kept_port(tmp_path / "port")
    server = uvicorn.Server(
        uvicorn.Config(create_app(services), port=port, log_level="error", ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(5)


@pytest.fixture
def token(services: Services) -> str:
    with services.session() as session:
        return services.signer.token(addresses.id_of(session, "b@example.test"), "tax-policy")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A phone without JavaScript."""
    context = browser.new_context(viewport=PHONE, java_script_enabled=False)  # type: ignore[arg-type]
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier(
    browser: Browser, site: str, token: str, services: Services, scheme: str
) -> None:
    statutory = services.signer.token(services.signer.read(token)[0], "debt-notice")
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    paths = [
        "/",
        "/kiem-tra",
        f"/u/{token}",
        f"/u/{token}?lang=en",
        f"/u/{statutory}",
        "/u/bad",
        "/inbox",
        "/inbox/1",
        "/nothing",
        "/api/docs",
    ]
    for path in paths:
        page.goto(site + path)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{path} is wider than a phone"
    context.close()


def test_a_topic_is_stopped_by_keyboard_alone_without_javascript(
    page: Page, site: str, token: str, services: Services
) -> None:
    page.goto(f"{site}/u/{token}")
    assert "Chính sách thuế mới" in page.inner_text("h1")
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=status]")
    assert "Ngừng gửi ngay từ bây giờ" in page.inner_text("[role=status]")
    with services.session() as session:
        assert suppression.active(session, services.signer.read(token)[0]) == {
            "tax-policy": "unsubscribed"
        }


def test_topics_are_chosen_and_taken_back(
    page: Page, site: str, token: str, services: Services
) -> None:
    page.goto(f"{site}/u/{token}?lang=en")
    page.uncheck("#t-settlement-guidance")
    page.click("button.second")
    assert "Stopped as of now" in page.inner_text("[role=status]")
    page.click("main a")
    page.check("#t-settlement-guidance")
    page.click("button.second")
    assert "Sent again" in page.inner_text("[role=status]")
    with services.session() as session:
        assert suppression.active(session, services.signer.read(token)[0]) == {}


def test_the_inbox_shows_a_mail(page: Page, site: str) -> None:
    page.goto(f"{site}/inbox")
    page.click("text=Thông báo")
    assert page.inner_text("h1") == "Thông báo"
    frame = page.frame_locator("iframe")
    assert frame.locator("p").inner_text() == "Xin chào"


def test_the_inbox_is_searched(page: Page, site: str) -> None:
    page.goto(f"{site}/inbox?q=nobody")
    assert page.locator("table.mails tbody tr").count() == 0
    page.fill("input[type=search]", "b@example")
    page.keyboard.press("Enter")
    page.wait_for_selector("table.mails tbody tr")


def luminance(colour: str) -> float:
    """Return the relative luminance of an opaque `rgb(r, g, b)` (WCAG 2.2)."""
    found = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert found is not None
    parts = [int(part) / 255 for part in found.groups()]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_an_empty_field_suggests_can_be_read(browser: Browser, site: str, scheme: str) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{site}/inbox")
    style = """field => {
        const hint = getComputedStyle(field, "::placeholder");
        return [hint.color, hint.opacity, getComputedStyle(field).backgroundColor];
    }"""
    ink, opacity, ground = page.locator("input[type=search]").evaluate(style)
    darker, lighter = sorted([luminance(ink), luminance(ground)])
    assert opacity == "1"
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
    context.close()
