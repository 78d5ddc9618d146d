"""The pages when something is amiss.

Mail that no program should have written, servers that do not answer, crowds, proxies.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import unescape
from threading import Event
from urllib.parse import quote, urljoin, urlsplit

import psutil
import pytest
from fastapi.testclient import TestClient
from httpx2 import Client
from sqlalchemy import text

from notifier.db import OVERFLOW, POOL
from notifier.domain import addresses
from notifier.domain import suppressions as suppression
from notifier.errors import SettingsError
from notifier.flows import unsubscribe as subscription
from notifier.instance.processes import kept_port, spawn, stop, wait_for_port
from notifier.instance.servers.mailbox import Mailbox, MailboxWriter
from notifier.instance.servers.postgres import Postgres
from notifier.rendering.blueprint import Letter, compile_blueprint
from notifier.services import Services
from notifier.settings import Settings
from notifier.web.app import create_app

UUID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(
        create_app(services), raise_server_exceptions=False, follow_redirects=False
    ) as found:
        yield found


@pytest.fixture
def address(services: Services) -> int:
    with services.session() as session:
        return addresses.id_of(session, "ketoan@example.test")


def until(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def keep(services: Services, *mails: bytes) -> None:
    """Put mails into the inbox."""
    writer = MailboxWriter(services.settings.var / "mail")
    for content in mails:
        writer.add("a@example.test", "b@example.test", content)
    writer.close()


@pytest.mark.parametrize(
    "charset", ["x-unknown", "hex", "idna", "undefined", "unicode_escape", '"a\0b"']
)
def test_a_mail_in_a_charset_that_nobody_knows_is_shown(services: Services, charset: str) -> None:
    keep(
        services,
        (
            f"Subject: Tin\r\nContent-Type: text/html; charset={charset}\r\n\r\n"
            "<p>Xin chào \\ud800</p>\r\n"
        ).encode(),
    )
    with TestClient(create_app(services), raise_server_exceptions=False) as client:
        page = client.get("/inbox/1/html")
        assert client.get("/inbox/1").status_code == 200
    assert page.status_code == 200
    assert "<p>Xin ch" in page.text
    if charset == "x-unknown":
        assert "chào" in page.text


def test_headers_that_cannot_be_decoded_are_kept_and_shown(services: Services) -> None:
    subjects = [b"=?utf-8?b?a?=", b"=?unicode-escape?q?=5Cud800?=", b"=?x-unknown?q?=ff?="]
    keep(
        services,
        *(b"Subject: " + each + b"\r\nList-Id: " + each + b"\r\n\r\nXin\r\n" for each in subjects),
    )
    with TestClient(create_app(services), raise_server_exceptions=False) as client:
        assert client.get("/inbox").status_code == 200
        assert [client.get(f"/inbox/{number}").status_code for number in (1, 2, 3)] == [200] * 3
    assert [each.subject for each in Mailbox(services.settings.var / "mail").entries()] == [
        "=?utf-8?b?a?=",
        "?",
        "=?x-unknown?q?=ff?=",
    ]


def test_a_refused_method_hears_which_are_taken(client: TestClient) -> None:
    expected = {
        "/u/x": "GET, HEAD, POST",
        "/u/x/chu-de": "POST",
        "/kiem-tra": "GET, HEAD, POST",
        "/style.css": "GET",
        "/": "GET, HEAD",
    }
    answers = {path: client.put(path) for path in expected}
    assert {path: answer.headers["allow"] for path, answer in answers.items()} == expected
    assert {answer.status_code for answer in answers.values()} == {405}
    assert "allow" not in client.get("/nothing").headers


@pytest.mark.parametrize("query", ["", "?lang=en"])
@pytest.mark.parametrize("token", ["bad", 'a"b<c&d?e%', "ngừng"])
def test_the_other_language_of_an_error_page_is_a_page(
    client: TestClient, settings: Settings, token: str, query: str
) -> None:
    away = TestClient(
        create_app(Services(settings.replace(database_url="postgresql://nobody@127.0.0.1:9/none")))
    )
    path = f"/u/{quote(token, safe='')}"
    good = f"/u/{Services(settings).signer.token(1, 'tax-policy')}"
    for answer, target in [
        (client.post(f"{path}/chu-de{query}"), path),
        (client.post(f"{path}{query}", data={"stop": "1"}), path),
        (client.get(f"{path}/chu-de{query}"), path),
        (away.post(f"{good}/chu-de{query}"), good),
    ]:
        link = re.search(r'<a class="lang" href="([^"]*)"', answer.text)
        assert link is not None
        other = urljoin(str(answer.url), unescape(link[1]))
        assert urlsplit(other).path == target
        assert client.get(other).status_code == (200 if target == good else 404)
        assert client.get(other).headers["content-language"] == ("en" if not query else "vi")


def active(services: Services, address: int) -> dict[str, str]:
    with services.session() as session:
        return suppression.active(session, address)


def test_a_click_that_was_given_up_counts_and_stops_nobody_else(
    services: Services, address: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with services.session() as session:
        other = addresses.id_of(session, "khac@example.test")
    clicks = subscription.OneClicks(services)
    hold = Event()
    write = clicks._writer._write
    monkeypatch.setattr(clicks._writer, "_write", lambda group: (hold.wait(10), write(group))[1])
    first = clicks.stop(services.signer.token(other, "debt-notice"))
    until(first.running)
    given_up = clicks.stop(services.signer.token(address, "tax-policy"))
    assert given_up.cancel()
    last = clicks.stop(services.signer.token(other, "tax-policy"))
    hold.set()
    assert first.result(10) is last.result(10) is None
    assert active(services, address) == {"tax-policy": "unsubscribed"}


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_one_bad_group_hears_of_it_and_the_next_is_written(
    services: Services, address: int, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    clicks = subscription.OneClicks(services)
    token = services.signer.token(address, "tax-policy")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(addresses, "lock", fail)
        assert isinstance(clicks.stop(token).exception(10), error)
    assert active(services, address) == {}
    assert clicks.stop(token).result(10) is None
    assert active(services, address) == {"tax-policy": "unsubscribed"}


@pytest.mark.parametrize("body", ["List-Unsubscribe=One-Click", "stop=1"])
def test_a_stop_does_not_wait_long_for_a_lock(
    client: TestClient, services: Services, address: int, body: str
) -> None:
    path = f"/u/{services.signer.token(address, 'tax-policy')}"
    with services.session() as session:
        addresses.lock(session, [address])
        started = time.monotonic()
        answer = client.post(path, content=body)
        assert 2 < time.monotonic() - started < 6
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "60"
    assert active(services, address) == {}
    assert client.post(path, content=body).status_code == 200
    assert active(services, address) == {"tax-policy": "unsubscribed"}


@pytest.mark.parametrize("reason", ["hard_bounce", "complaint", "manual", "unsubscribed"])
def test_what_stays_stopped_is_not_called_sent_again(
    client: TestClient, services: Services, address: int, reason: str
) -> None:
    token = services.signer.token(address, "tax-policy")
    both = {"topic": ["tax-policy", "settlement-guidance"]}
    client.post(f"/u/{token}/chu-de", data={"topic": "settlement-guidance"})
    with services.session() as session:
        suppression.suppress(
            session, address, "*", reason=reason, source="test", now=services.clock()
        )
    vi, en = (
        client.post(f"/u/{token}/chu-de", data=both).text,
        client.post(f"/u/{token}/chu-de?lang=en", data=both).text,
    )
    assert "Gửi lại" not in vi
    assert "Không có gì thay đổi" not in vi
    assert "Vẫn ngừng gửi" in vi
    assert "Nothing has changed" not in en
    assert re.search(
        r"Still stopped: <strong>[^<]+, [^<]+</strong>, because [^.]+; "
        r"to receive it again, call the tax office\.",
        en,
    )
    assert active(services, address) == {"*": reason}


def test_one_topic_comes_back_and_another_stays_stopped(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    client.post(f"/u/{token}/chu-de", data={"topic": "settlement-guidance"})
    with services.session() as session:
        suppression.suppress(
            session,
            address,
            "settlement-guidance",
            reason="complaint",
            source="test",
            now=services.clock(),
        )
    page = client.post(
        f"/u/{token}/chu-de?lang=en", data={"topic": ["tax-policy", "settlement-guidance"]}
    ).text
    assert re.search(r"Sent again: <strong>[^<,]+</strong>\.", page)
    assert re.search(
        r"Still stopped: <strong>[^<,]+</strong>, "
        r"because our mail to this address was reported as spam",
        page,
    )
    assert active(services, address) == {"settlement-guidance": "complaint"}


def health(client: TestClient) -> dict[str, str]:
    """Ask for the health of the parts, which must not take long."""
    started = time.monotonic()
    answer = client.get("/healthz")
    assert time.monotonic() - started < 3
    return dict(answer.json()["parts"])


def test_health_needs_neither_the_pool_nor_its_threads(
    client: TestClient, services: Services, address: int
) -> None:
    path = f"/u/{services.signer.token(address, 'tax-policy')}"
    with ExitStack() as stack, ThreadPoolExecutor(60) as crowd:
        taken = [stack.enter_context(services.engine.connect()) for _ in range(POOL + OVERFLOW)]
        waiting = [crowd.submit(client.get, path) for _ in range(60)]
        time.sleep(1)
        assert not any(each.done() for each in waiting)
        assert health(client)["database"] == "ok"
        for each in taken:
            each.close()
        assert {each.result(30).status_code for each in waiting} == {200}


def test_health_answers_although_no_server_does(services: Services) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        hung = Services(
            services.settings.replace(
                database_url=f"postgresql://nobody@{at}/none",
                broker_url=f"redis://{at}/0",
            )
        )
        with TestClient(create_app(hung)) as client:
            expected = {"database": "unreachable", "broker": "unreachable", "smtp": "unreachable"}
            assert health(client) == expected
            with ThreadPoolExecutor(10) as crowd:
                assert list(crowd.map(lambda _: health(client), range(10))) == [expected] * 10


def test_health_answers_although_the_database_stops_in_the_middle(
    services: Services, postgres: Postgres
) -> None:
    with TestClient(create_app(services)) as client:
        assert health(client)["database"] == "ok"
        family = [
            psutil.Process(postgres.pid),
            *psutil.Process(postgres.pid).children(recursive=True),
        ]
        try:
            for each in family:
                each.suspend()
            time.sleep(2.1)
            assert health(client)["database"] == "unreachable"
        finally:
            for each in family:
                each.resume()
        time.sleep(2.1)
        assert health(client)["database"] == "ok"


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The pages as `notifier web` serves them."""
    port = kept_port(settings.var / "port")
    log = settings.var / "web.log"
    environment = {**os.environ, **settings.to_env()}
    with log.open("wb") as output:
        process = spawn(
            [sys.executable, "-m", "notifier", "web", "--port", str(port)],
            env=environment,
            output=output.fileno(),
        )
        try:
            wait_for_port(port, process, what="The web server", log=log)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process)


@pytest.mark.parametrize(
    ("trusted", "last"),
    [("127.0.0.9, 127.0.0.0/30", [200, 429]), ("10.0.0.0/8", [429, 429]), ("", [429, 429])],
)
def test_clients_of_a_trusted_proxy_are_counted_one_by_one(
    settings: Settings, trusted: str, last: list[int]
) -> None:
    found = Settings.from_env({"NOTIFIER_TRUSTED_PROXIES": trusted}).trusted_proxies
    with served(settings.replace(trusted_proxies=found)) as site, Client(base_url=site) as client:
        # The limit is kept by the minute of the clock.
        time.sleep(max(0.0, 62 - time.time() % 60) if time.time() % 60 > 50 else 0.0)

        def check(forwarded: str) -> int:
            return client.post(
                "/kiem-tra", data={"code": "x"}, headers={"X-Forwarded-For": forwarded}
            ).status_code

        # A client may invent addresses, but the proxy writes the true one at the end.
        assert {check(f"192.0.2.{number}, 198.51.100.1") for number in range(20)} == {200}
        assert [check("198.51.100.2"), check("203.0.113.7, 198.51.100.1")] == last


@pytest.mark.parametrize("wrong", ["proxy.example.test", "*", "10.0.0.0/40", "10.0.0.1,,10.0.0.2"])
def test_a_proxy_that_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="NOTIFIER_TRUSTED_PROXIES"):
        Settings.from_env({"NOTIFIER_TRUSTED_PROXIES": wrong})


@pytest.mark.parametrize("language", ["vi", "en"])
def test_every_mail_prints_the_code_that_its_check_asks_for(
    client: TestClient, services: Services, address: int, language: str
) -> None:
    client.post(
        f"/u/{services.signer.token(address, 'tax-policy')}", content="List-Unsubscribe=One-Click"
    )
    with services.session() as session:
        message_id = session.scalar(
            text("UPDATE message SET state = 'accepted', settled_at = now() RETURNING id")
        )
    for template in services.catalogue.values():
        blueprint = compile_blueprint(
            template,
            language=language,
            sender=services.sender,
            topic=services.topics[template.topic].info,
            bulk=False,
            feedback_id="x",
            mail_domain="notices.example.test",
        )
        example = dict(template.example)
        to = {
            "to_address": example.pop("email"),
            "to_name": example.pop("name"),
            "tax_code": example.pop("tax_code"),
        }
        # No value of a list may take the code's place.
        data = {**example, "check_code": "forged"}
        raw = blueprint.fill(
            Letter(
                message_id=message_id, **to, data=data, unsubscribe_token="x", date=services.clock()
            )
        )
        mail = message_from_bytes(raw, EmailMessage, policy=policy.default)
        page = services.sender.public_url + "/kiem-tra"
        for kind, shown in (
            ("plain", rf"\n{UUID}\n\S+ {page}\n"),
            ("html", rf">{UUID}</strong> \S+ <a href=\"{page}\""),
        ):
            part = mail.get_body((kind,))
            assert part is not None
            printed = re.search(shown, part.get_content().replace("\r\n", "\n"))
            assert printed is not None, (template.name, kind)
            assert printed[1] == str(message_id)
    assert (
        client.post("/kiem-tra?lang=en", data={"code": f" {message_id} "}).text.count(
            "Yes, we sent this mail"
        )
        == 1
    )
