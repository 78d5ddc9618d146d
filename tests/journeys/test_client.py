"""The Python client and every example of docs/integrate.md, against a live service.

A proxy between them loses what it is told to.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from notifier.client import (
    _LIST_TYPES,
    ApiError,
    ApiUnavailable,
    Applicant,
    DossierEvent,
    NotifierClient,
    Recipient,
    WebhookForged,
    verify_webhook,
)
from notifier.domain import keys
from notifier.instance.processes import LOOPBACK
from notifier.instance.servers.scripts import SIMULATED
from notifier.services import Services
from notifier.settings import Settings
from notifier.testing import ROOT
from notifier.web.api import models
from notifier.web.api.campaigns import LIST_TYPES
from tests.journeys.test_web import served

GUIDE = (ROOT / "docs" / "integrate.md").read_text(encoding="utf-8")
RECIPIENT: Recipient = {
    "name": "Công ty TNHH Ban Mai",
    "email": "ketoan@banmai.example.test",
    "tax_code": "0100109106",
}
GUIDANCE = {"tax_year": 2026, "tax_kind": "thuế thu nhập doanh nghiệp", "deadline": "2027-03-31"}
EVENT: DossierEvent = {
    "source": "portal",
    "code": "000.A0.01.H26-261102-0042",
    "status": 2,
    "occurred_at": "2026-11-02T09:15:00+07:00",
    "procedure": "Đăng ký thuế lần đầu",
    "promised_at": "2026-11-09T17:00:00+07:00",
    "applicant": {"name": "Công ty TNHH Ban Mai", "email": "ketoan@banmai.example.test"},
}


class Proxy:
    """Passes requests on. For each word of `faults` one request is treated badly first.

    "lose": it is passed on and its answer is lost; "refuse": it is answered with 503 before it
    reaches the service; "date": so too, with a date in Retry-After; "limit": with 429.
    """

    def __init__(self, target: str) -> None:
        self.faults: list[str] = []
        self.seen: list[tuple[str, str, str]] = []
        host = urllib.parse.urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                fault = proxy.faults.pop(0) if proxy.faults else ""
                proxy.seen.append(
                    (self.command, self.path, self.headers.get("idempotency-key", ""))
                )
                if fault in {"refuse", "date", "limit"}:
                    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
                    self.send_response(429 if fault == "limit" else 503)
                    self.send_header("retry-after", later if fault == "date" else "1")
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(host, timeout=10)
                sent = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in {"host", "content-length"}
                }
                connection.request(self.command, self.path, body, sent)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if fault == "lose":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name in ("content-type", "retry-after", "x-request-id"):
                    if answer.getheader(name):
                        self.send_header(name, answer.getheader(name, ""))
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815 - the names in the standard library

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site(settings: Settings) -> Iterator[str]:
    with served(settings) as found:
        yield found


@pytest.fixture
def token(services: Services) -> str:
    with services.engine.begin() as connection:
        return keys.create(
            connection,
            name="one-stop-shop",
            scopes=keys.SCOPES,
            sandbox=False,
            now=datetime.now(UTC),
        )


@pytest.fixture
def proxy(site: str) -> Iterator[Proxy]:
    found = Proxy(site)
    yield found
    found.close()


@pytest.fixture
def client(proxy: Proxy, token: str) -> Iterator[NotifierClient]:
    with NotifierClient(proxy.url, token) as found:
        yield found


def count(services: Services, what: str) -> int:
    with services.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {what}")).scalar_one())


def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(
    client: NotifierClient, proxy: Proxy, services: Services
) -> None:
    proxy.faults = ["lose", "lose"]
    sent = client.send_message("settlement-guidance", RECIPIENT, GUIDANCE)
    assert [key for _, _, key in proxy.seen] == [proxy.seen[0][2]] * 3
    assert count(services, "message") == 1
    assert client.message(sent["id"])["state"] == "queued"
    proxy.faults = ["lose"]
    told = client.report_event(EVENT)
    assert told["outcome"] == "queued"
    assert count(services, "dossier_event") == 1
    assert count(services, "message") == 2


def test_taking_back_twice_is_taking_back_once(client: NotifierClient, proxy: Proxy) -> None:
    number = client.send_message("settlement-guidance", RECIPIENT, GUIDANCE)["id"]
    proxy.faults = ["lose"]
    assert client.cancel_message(number)["state"] == "cancelled"
    for change, gone in ((client.suppress, "new"), (client.lift_suppression, "lifted")):
        proxy.faults = ["lose"]
        assert change(RECIPIENT["email"], "tax-policy", "Yêu cầu qua điện thoại")[gone] is False, (
            "the first request had done it"
        )
    assert list(client.suppressions()) == []


@pytest.mark.parametrize(("fault", "least"), [("refuse", 1.0), ("limit", 1.0), ("date", 0.9)])
def test_it_waits_as_long_as_it_is_asked_to(
    client: NotifierClient, proxy: Proxy, fault: str, least: float
) -> None:
    proxy.faults = [fault]
    began = time.monotonic()
    assert client.report_event(EVENT)["outcome"] == "queued"
    assert least <= time.monotonic() - began < 10
    assert len(proxy.seen) == 2


def test_it_gives_up_with_a_clear_error(proxy: Proxy, token: str) -> None:
    with NotifierClient(proxy.url, token, attempts=2) as client:
        proxy.faults = ["refuse", "refuse"]
        with pytest.raises(ApiError) as busy:
            client.topics()
        assert busy.value.status == 503
        proxy.faults = ["lose", "lose"]
        with pytest.raises(ApiUnavailable, match="No answer in 2 attempts"):
            client.topics()
    with (
        NotifierClient(f"http://{LOOPBACK}:9", token, attempts=1) as client,
        pytest.raises(ApiUnavailable, match="ConnectError"),
    ):
        client.topics()


def test_errors_name_the_field_and_the_request(client: NotifierClient) -> None:
    wrong: Any = {**EVENT, "applicant": {"name": "A", "email": "nobody"}}
    with pytest.raises(ApiError) as caught:
        client.report_event(wrong)
    assert (caught.value.status, caught.value.code) == (422, "invalid")
    assert [each["pointer"] for each in caught.value.errors] == ["/applicant/email"]
    assert caught.value.request_id
    client.report_event(EVENT, idempotency_key="k")
    with pytest.raises(ApiError) as clash:
        client.report_event({**EVENT, "status": 4}, idempotency_key="k")
    assert (clash.value.status, clash.value.code) == (409, "idempotency")
    with pytest.raises(ValueError, match="time zone"):
        client.send_message(
            "settlement-guidance", RECIPIENT, GUIDANCE, send_at=datetime(2027, 1, 1)
        )
    with pytest.raises(ValueError, match="no name of a campaign"):
        client.campaign("../messages")


def test_pages_are_fetched_as_they_are_read(client: NotifierClient, proxy: Proxy) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    sent = {
        client.send_message("settlement-guidance", RECIPIENT, GUIDANCE, send_at=later)["id"]
        for _ in range(7)
    }
    before = len(proxy.seen)
    listed = [each["id"] for each in client.messages(state="queued", page=3)]
    assert set(listed) == sent
    assert len(listed) == 7
    assert len(proxy.seen) - before == 3
    assert list(client.messages(until=datetime(2026, 1, 1, tzinfo=UTC))) == []
    found = client.messages(recipient=RECIPIENT["email"].upper(), page=3)
    assert [each["id"] for each in found] == listed
    assert list(client.messages(recipient="nobody@example.test")) == []
    assert not [path for _, path, _ in proxy.seen if "%40" in path or "@" in path]
    preview = client.preview_message("settlement-guidance", RECIPIENT, GUIDANCE, language="en")
    assert "2026" in preview["subject"]
    assert {"dossier-status", "tax-policy"} <= {each["code"] for each in client.topics()}
    assert any(each["name"] == "debt-notice" for each in client.templates())


def test_a_batch_is_answered_event_by_event(client: NotifierClient) -> None:
    wrong: Any = {**EVENT, "status": 99}
    found = client.report_events([EVENT, wrong, {**EVENT, "code": "000.A0.01.H26-261102-0099"}])
    assert (found["accepted"], found["refused"]) == (2, 1)
    assert [each["status"] for each in found["results"]] == [202, 422, 202]


def test_a_campaign_from_its_definition_to_its_report(
    client: NotifierClient, proxy: Proxy, tmp_path: Path
) -> None:
    audience = tmp_path / "list.csv"
    audience.write_text(
        "Mã số thuế,Tên người nộp thuế,Thư điện tử\n"
        "0100109106,Công ty TNHH Ban Mai,ketoan@banmai.example.test\n",
        "utf-8",
    )
    with (ROOT / "campaigns" / "tax-policy.toml").open("rb") as file:
        written = {
            key: value
            for key, value in tomllib.load(file).items()
            if key in {"title", "topic", "template", "data"}
        }
    definition = json.loads(json.dumps(written, default=str))
    assert client.create_campaign("policy-2026-12", definition)["state"] == "draft"
    assert [(each["name"], each["state"]) for each in client.campaigns(state="draft")] == [
        ("policy-2026-12", "draft")
    ]
    client.create_campaign("mistaken", definition)
    client.delete_campaign("mistaken")
    assert client.edit_campaign("policy-2026-12", definition)["state"] == "draft"
    assert [each["name"] for each in client.campaigns()] == ["policy-2026-12"]
    client.attach_list("policy-2026-12", audience)
    with pytest.raises(ValueError, match="a list is one of"):
        client.attach_list("policy-2026-12", tmp_path / "list.pdf")
    assert client.check_campaign("policy-2026-12")["messages"] == 1
    proxy.faults = ["lose"]
    with pytest.raises(ApiUnavailable):
        client.launch_campaign("policy-2026-12")
    # It may have been launched, so it is not launched again; a look tells.
    assert client.campaign("policy-2026-12")["total"] == 1
    assert client.step_campaign("policy-2026-12", "pause")["state"] == "paused"
    assert client.step_campaign("policy-2026-12", "cancel")["state"] == "cancelled"
    assert b"banmai.example.test" in client.campaign_report("policy-2026-12")


def test_the_client_knows_the_fields_and_files_that_the_service_takes() -> None:
    for mine, theirs in (
        (DossierEvent, models.DossierEvent),
        (Applicant, models.Applicant),
        (Recipient, models.Recipient),
    ):
        known = theirs.model_fields
        hints = get_type_hints(mine, include_extras=True)
        assert set(hints) == set(known)
        assert {name for name, hint in hints.items() if get_origin(hint) is not NotRequired} == {
            name for name, field in known.items() if field.is_required()
        }
    assert {kind: ending for ending, kind in _LIST_TYPES.items()} == LIST_TYPES


# The guide.


def blocks(language: str) -> list[str]:
    """Return the guide's code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_guide_runs(
    site: str, token: str, services: Services, tmp_path: Path
) -> None:
    examples = blocks("python")
    assert len(examples) == 3
    environment = {
        "NOTIFIER_URL": site,
        "NOTIFIER_KEY": token,
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        "PATH": "/usr/bin:/bin",
    }
    said = []
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
    assert said[0].startswith("queued ")
    assert said[1].splitlines()[1] == "queued"
    assert count(services, "message") == 2


def test_the_curl_of_the_guide_runs(site: str, token: str, services: Services) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: apt-get install curl")
    answers = []
    for example in blocks("sh"):
        environment = {"NOTIFIER_URL": site, "NOTIFIER_KEY": token, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            ["/bin/sh", "-ec", example], env=environment, capture_output=True, text=True, check=True
        )
        answers.append(json.loads(done.stdout))
    event, preview, listed = answers
    assert event["outcome"] == "queued"
    assert set(preview) == {"subject", "text", "html", "bytes"}
    assert [each["id"] for each in listed["messages"]] == [event["message_id"]]
    assert count(services, "message") == 1


def test_the_problem_of_the_guide_is_the_one_that_comes(site: str, token: str) -> None:
    (shown,) = blocks("json")
    with NotifierClient(site, token) as client:
        wrong: Any = {**EVENT, "applicant": {"name": "A", "email": "nobody"}}
        with pytest.raises(ApiError) as caught:
            client.report_event(wrong)
    told = json.loads(shown)
    assert (told["status"], told["code"], told["detail"]) == (
        caught.value.status,
        caught.value.code,
        caught.value.detail,
    )
    assert told["errors"] == caught.value.errors


def test_the_guide_tells_every_outcome_and_every_simulated_address() -> None:
    for word in ("queued", "recorded", "older", "no-address"):
        assert f"| `{word}` |" in GUIDE
    for word in (*SIMULATED, "defer", "delivered"):
        assert f"`{word}@simulate.test`" in GUIDE
    for path in re.findall(r"`(tests/[\w/]+\.py)`", GUIDE):
        assert (ROOT / path).is_file()


def test_only_calls_that_were_signed_by_us_just_now_are_believed() -> None:
    secret, body, now = "whsec_" + "c2VjcmV0" * 5, '{"type":"message.accepted"}', datetime.now(UTC)
    good = {
        "webhook-id": "a",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("a", now, body),
    }
    verify_webhook(secret, good, body.encode())
    verify_webhook(
        secret, {**good, "webhook-signature": "v1,xxxx " + good["webhook-signature"]}, body.encode()
    )
    for headers, content in (
        (good, body.encode() + b" "),
        ({**good, "webhook-id": "b"}, body.encode()),
        ({**good, "webhook-signature": "v1,ü"}, body.encode()),
        ({**good, "webhook-signature": ""}, body.encode()),
        ({**good, "webhook-timestamp": "nan"}, body.encode()),
        ({}, body.encode()),
    ):
        with pytest.raises(WebhookForged):
            verify_webhook(secret, headers, content)
    with pytest.raises(WebhookForged, match="too long ago"):
        verify_webhook(secret, good, body.encode(), now=now.timestamp() + 600)
