"""The API over a real database.

Who is asked first, what is found, what a repeat gets, what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier.domain import keys
from notifier.services import Services
from notifier.web.api.models import EVENT, MESSAGE_REQUEST
from notifier.web.api.problems import TITLES
from notifier.web.app import create_app

SEARCH = "/api/v1/messages/search"


def make(services: Services, name: str) -> dict[str, str]:
    """Return what a new key of all scopes sends."""
    with services.engine.begin() as connection:
        token = keys.create(
            connection, name=name, scopes=keys.SCOPES, sandbox=False, now=datetime.now(UTC)
        )
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    header = make(services, "portal")
    with TestClient(create_app(services), headers=header) as found:
        yield found


def send(client: TestClient, email: str, **changes: Any) -> str:
    """Ask for a mail to an address; return its id."""
    recipient = {**MESSAGE_REQUEST["recipient"], "email": email}
    answer = client.post(
        "/api/v1/messages", json={**MESSAGE_REQUEST, "recipient": recipient, **changes}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def found(client: TestClient, **asked: Any) -> list[str]:
    answer = client.post(SEARCH, json=asked)
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["messages"]]


def test_messages_are_found_by_their_recipient(client: TestClient, services: Services) -> None:
    mine = [send(client, email) for email in ("An@example.test", "an@EXAMPLE.test")]
    other = send(client, "an@example.test.example.test")
    english = send(client, "an@example.test", language="en")
    assert found(client, recipient="aN@example.TEST") == [english, mine[1], mine[0]]
    assert found(client, recipient="an@example.test.example.test") == [other]
    assert found(client, recipient="nobody@example.test") == []
    assert found(client, recipient="an@example.test", state="accepted") == []
    assert found(client, recipient="an@example.test", template="debt-notice") == []
    with services.session() as session:
        session.execute(
            text("UPDATE message SET state = 'accepted' WHERE id = :id"), {"id": mine[0]}
        )
        # Whoever only looks for an address leaves no trace of it.
        known = session.scalars(text("SELECT email FROM address")).all()
    assert "nobody@example.test" not in known
    assert found(client, recipient="an@example.test", state="accepted") == [mine[0]]
    assert len(found(client)) == 4
    another = make(services, "other")
    answer = client.post(SEARCH, json={"recipient": "an@example.test"}, headers=another)
    assert answer.json() == {"messages": [], "next": None}


def test_what_is_found_comes_in_pages(client: TestClient) -> None:
    sent = [send(client, "an@example.test") for _ in range(5)]
    asked: dict[str, Any] = {"recipient": "an@example.test", "limit": 2}
    listed: list[str] = []
    pages = 0
    while True:
        page = client.post(SEARCH, json=asked).json()
        listed += [each["id"] for each in page["messages"]]
        pages += 1
        if page["next"] is None:
            break
        asked["cursor"] = page["next"]
    assert (listed, pages) == (sent[::-1], 3)


@pytest.mark.parametrize(
    ("asked", "pointer", "code"),
    [
        ({"recipient": "nobody"}, "/recipient", "address"),
        ({"state": "lost"}, "/state", "value"),
        ({"state": None}, "/state", "value"),
        ({"limit": 0}, "/limit", "value"),
        ({"limit": "5"}, "/limit", "type"),
        ({"since": 1_700_000_000}, "/since", "type"),
        ({"since": "1700000000"}, "/since", "type"),
        ({"until": "2026-11-24T09:30:00"}, "/until", "time-zone"),
        ({"cursor": "x"}, "/cursor", "value"),
        ({"template": "a\0b"}, "/template", "characters"),
        ({"email": "an@example.test"}, "/email", "unknown"),
    ],
)
def test_a_wrong_search_names_the_field(
    client: TestClient, asked: dict[str, Any], pointer: str, code: str
) -> None:
    answer = client.post(SEARCH, json=asked)
    assert answer.status_code == 422
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [
        (pointer, code)
    ]


@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        ("recipient=an@example.test", "?recipient", "unknown"),
        ("state=lost", "?state", "value"),
        ("limit=x", "?limit", "value"),
        ("limit=201", "?limit", "value"),
        ("since=1700000000", "?since", "type"),
        ("since=2026-11-24", "?since", "type"),
        ("until=0001-01-01T00:00:00Z", "?until", "type"),
        ("cursor=%00", "?cursor", "value"),
        ("topic=a%00b", "?topic", "characters"),
    ],
)
def test_a_wrong_filter_names_the_parameter(
    client: TestClient, query: str, pointer: str, code: str
) -> None:
    answer = client.get(f"/api/v1/messages?{query}")
    assert answer.status_code == 422
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [
        (pointer, code)
    ]


def test_an_offset_that_was_not_escaped_is_read(client: TestClient) -> None:
    sent = send(client, "an@example.test")
    hour = timedelta(hours=1)
    for moment, wanted in ((datetime.now(UTC) - hour, [sent]), (datetime.now(UTC) + hour, [])):
        local = moment.isoformat(timespec="seconds")
        assert "+00:00" in local
        answer = client.get(f"/api/v1/messages?since={local}")
        assert [each["id"] for each in answer.json()["messages"]] == wanted


def test_a_repeated_batch_gets_the_same_answer_refusals_too(
    client: TestClient, services: Services
) -> None:
    late = {**EVENT, "code": "000.A0.01.H26-261102-0043", "occurred_at": "2200-01-01T00:00:00Z"}
    conflict = {**EVENT, "office": "Thuế cơ sở 2"}
    body = {"events": [EVENT, late, {"source": "portal"}, conflict, 5]}
    headers = {"Idempotency-Key": "once"}
    first = client.post("/api/v1/dossier-events/batch", json=body, headers=headers)
    assert [each["status"] for each in first.json()["results"]] == [202, 422, 422, 409, 422]
    assert [each["index"] for each in first.json()["results"]] == [0, 1, 2, 3, 4]
    # An hour of the year 2200 has come; the answer is the one of then.
    services.clock = lambda: datetime(2200, 1, 2, tzinfo=UTC)
    with services.engine.begin() as connection:
        connection.execute(text("UPDATE api_key SET expires_at = NULL"))
    again = client.post("/api/v1/dossier-events/batch", json=body, headers=headers)
    assert again.json() == first.json()
    wrong = first.json()["results"][2]["problem"]
    assert {each["pointer"] for each in wrong["errors"]} >= {
        "/events/2/code",
        "/events/2/applicant",
    }
    other = client.post("/api/v1/dossier-events/batch", json={"events": [EVENT]}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency")
    with services.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM dossier_event")) == 1


@pytest.mark.parametrize("status", [2, "2"])
def test_an_answer_without_a_notice_has_no_links(client: TestClient, status: object) -> None:
    nobody = {**EVENT, "status": status, "applicant": {"name": "Hộ Ví Dụ"}}
    answer = client.post("/api/v1/dossier-events", json=nobody)
    assert answer.status_code == 202
    assert set(answer.json()) == {"id", "outcome", "message_id"}
    assert (answer.json()["outcome"], answer.json()["message_id"]) == ("no-address", None)


def test_a_fault_of_the_notice_names_the_field_of_the_event(client: TestClient) -> None:
    payment = {**EVENT, "status": 6}
    answer = client.post("/api/v1/dossier-events", json=payment)
    assert answer.status_code == 422
    assert ("/amount", "missing") in {
        (each["pointer"], each["code"]) for each in answer.json()["errors"]
    }
    # The template calls it otherwise.
    long = {**EVENT, "code": "AAAA.AAAA.AAAA.AAAA.AAAA.AAAA-261102-004242"}
    answer = client.post("/api/v1/dossier-events", json=long)
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [
        ("/code", "too-long")
    ]


def test_what_is_read_may_be_asked_for_by_head(client: TestClient) -> None:
    assert client.head("/api/v1/topics").status_code == 200
    assert client.options("/api/v1/topics").headers["allow"] == "GET"
    assert client.delete("/api/v1/messages").headers["allow"] == "GET, POST"
    assert client.patch("/api/v1/campaigns/x").headers["allow"] == "GET, PUT, DELETE"


def test_the_page_shows_every_operation_and_every_code(client: TestClient) -> None:
    page = client.get("/api/docs").text
    anchors = set(re.findall(r' id="([^"]+)"', page))
    document = client.get("/api/openapi.json").json()
    for path, methods in document["paths"].items():
        assert path.startswith("/api/v1/")
        assert f"{path}</code>" in page
        anchors -= {each["operationId"] for each in methods.values()}
    # What is left are the codes that `type` of problem details leads to.
    assert anchors == set(TITLES)
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!#)([^"]+)"', page) == ["/api/openapi.json"]
