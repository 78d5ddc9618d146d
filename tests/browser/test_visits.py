"""What a browser does beside showing the page.

Whom it asks, what it keeps, and how answers to forms read.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser
from sqlalchemy import text

from notifier.services import Services
from tests.browser.conftest import Home, Visit

# WCAG 2.2 asks for 24 px (2.5.8); a thumb asks for more (2.5.5).
THUMB = 44


def links(services: Services, address_id: int) -> list[str]:
    optional, statutory = (
        services.signer.token(address_id, topic) for topic in ("tax-policy", "debt-notice")
    )
    return [f"/u/{optional}", f"/u/{statutory}"]


@pytest.mark.parametrize("language", ["vi", "en"])
def test_a_visit_asks_nobody_else_and_leaves_nothing_behind(
    visit: Visit, pages: str, services: Services, address_id: int, language: str
) -> None:
    query = "?lang=en" if language == "en" else ""
    for path in ["/", "/kiem-tra", *links(services, address_id), "/inbox"]:
        answer = visit.page.goto(pages + path + query)
        assert answer is not None
        assert answer.status == 200, path
        assert visit.page.get_attribute("html", "lang") == language
    assert all(url.startswith((pages, "data:")) for url in visit.asked)
    assert visit.context.cookies() == []
    assert visit.page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert visit.complaints == []


def test_the_other_language_is_one_link_away_and_stays(
    visit: Visit, pages: str, services: Services, address_id: int
) -> None:
    visit.page.goto(pages + links(services, address_id)[0])
    visit.page.click("a[hreflang=en]")
    assert visit.page.get_attribute("html", "lang") == "en"
    visit.page.click("main form button >> nth=0")
    assert visit.page.get_attribute("html", "lang") == "en"
    assert "Stopped as of now" in visit.page.inner_text("[role=status]")


def test_a_second_stop_says_that_nothing_changed(
    visit: Visit, pages: str, services: Services, address_id: int
) -> None:
    path = pages + links(services, address_id)[0]
    visit.page.goto(path)
    stop = visit.page.content()
    visit.page.click("main form button >> nth=0")
    visit.page.goto(path)
    assert "Bạn đã ngừng nhận chủ đề này" in visit.page.inner_text("h1")
    assert "Ngừng nhận chủ đề này" in stop
    visit.page.click("button.second")
    assert "Không có gì thay đổi" in visit.page.inner_text("[role=status]")
    with services.session() as session:
        assert session.scalar(text("SELECT count(*) FROM message")) == 1


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_answers_to_forms_have_no_barrier(
    chromium: Browser, pages: str, services: Services, address_id: int, width: int, scheme: str
) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,  # type: ignore[arg-type]
        bypass_csp=True,
    )
    page = context.new_page()

    def barriers() -> str:
        found = Axe().run(page)
        wide = page.evaluate("document.documentElement.scrollWidth") > width
        return (found.generate_report() if found.violations_count else "") + (
            "wider than the window" if wide else ""
        )

    def saved() -> None:
        page.goto(pages + links(services, address_id)[0])
        page.click("button.second")

    def unknown() -> None:
        page.goto(f"{pages}/kiem-tra")
        page.fill("#code", "01a209c6-e4aa-737e-9795-258fef616c04")
        page.click("main button")

    def stopped() -> None:
        page.goto(pages + links(services, address_id)[0])
        page.click("main form button >> nth=0")

    def known() -> None:
        with services.session() as session:
            code = session.scalar(
                text("UPDATE message SET state = 'accepted', settled_at = now() RETURNING id::text")
            )
        page.goto(f"{pages}/kiem-tra?lang=en")
        page.fill("#code", str(code))
        page.click("main button")
        assert "k•••@example.test" in page.inner_text("main")

    steps: list[Callable[[], None]] = [saved, unknown, stopped, known]
    for step in steps:
        step()
        assert barriers() == "", step.__name__
    context.close()


def test_a_thumb_finds_every_button_and_focus_is_seen(
    chromium: Browser, pages: str, services: Services, address_id: int
) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    for path in ["/", "/kiem-tra", *links(services, address_id), "/inbox"]:
        page.goto(pages + path)
        for target in page.locator(
            "button, a.button, .topic label, input[type=text], input[type=search]"
        ).all():
            box = target.bounding_box()
            assert box is not None
            assert box["height"] >= THUMB, path
        page.keyboard.press("Tab")
        outline = page.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle + "
            "getComputedStyle(document.activeElement).outlineWidth"
        )
        assert outline == "solid3px", path
    context.close()


def test_a_mail_runs_no_script_and_calls_nobody(visit: Visit, pages: str, stranger: Home) -> None:
    visit.page.goto(f"{pages}/inbox/1")
    assert visit.page.frame_locator("iframe").locator("#hello").inner_text() == "Xin chào"
    # Also when somebody opens it in a window of its own, outside the frame that holds it.
    visit.page.goto(f"{pages}/inbox/1/html")
    assert visit.page.inner_text("#hello") == "Xin chào"
    assert visit.page.url == f"{pages}/inbox/1/html"
    assert stranger.callers() == 0
