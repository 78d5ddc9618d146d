"""Keys of other systems at the door of the API.

What is kept of them, what they may do, when they stop, how often they may call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import text
from typer.testing import CliRunner, Result

from notifier import cli
from notifier.domain import keys
from notifier.domain.keys import SCOPES, KeyRequestError
from notifier.errors import NotFoundError
from notifier.services import Services
from notifier.settings import Settings
from notifier.web.api.models import EVENT
from notifier.web.app import create_app

ANY = "/api/v1/topics"


@contextmanager
def calling(settings: Settings) -> Iterator[TestClient]:
    """A client of the API over `settings`."""
    services = Services(settings)
    try:
        with TestClient(create_app(services), raise_server_exceptions=False) as found:
            yield found
    finally:
        services.close()


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), raise_server_exceptions=False) as found:
        yield found


def make(
    services: Services, name: str = "portal", *, scopes: Sequence[str] = SCOPES, **more: Any
) -> str:
    with services.engine.begin() as connection:
        return keys.create(
            connection,
            name=name,
            scopes=scopes,
            sandbox=more.pop("sandbox", False),
            now=datetime.now(UTC),
            **more,
        )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def problem(answer: Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["code"]) == (status, code)
    return found


def test_only_the_hash_of_a_key_is_kept(services: Services) -> None:
    token, sandbox = make(services), make(services, "trial", sandbox=True)
    assert token.startswith("notifier_live_")
    assert sandbox.startswith("notifier_test_")
    with services.engine.connect() as connection:
        row = connection.execute(
            text("SELECT api_key::text, digest FROM api_key WHERE name = 'portal'")
        ).one()
        shown = repr(keys.every(connection))
    assert bytes(row.digest) == hashlib.sha256(token.encode()).digest()
    for place in (row.api_key, shown):
        assert token not in place
        assert token.removeprefix("notifier_live_") not in place
        assert token.encode().hex() not in place


@pytest.mark.parametrize(
    ("name", "scopes", "expires_in"),
    [(" ", SCOPES, 1), ("x" * 101, SCOPES, 1), ("x", [], 1), ("x", ["all"], 1), ("x", SCOPES, -1)],
)
def test_a_key_that_makes_no_sense_is_refused(
    services: Services, name: str, scopes: Sequence[str], expires_in: int
) -> None:
    with pytest.raises(KeyRequestError):
        make(
            services,
            name,
            scopes=scopes,
            expires_at=datetime.now(UTC) + timedelta(hours=expires_in),
        )


def test_a_name_is_taken_once(services: Services) -> None:
    make(services)
    with pytest.raises(KeyRequestError, match="already"):
        make(services)
    with services.engine.begin() as connection, pytest.raises(NotFoundError):
        keys.revoke(connection, "nobody", datetime.now(UTC))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_does_what_its_scopes_say(services: Services, client: TestClient, scope: str) -> None:
    header = bearer(make(services, scopes=[scope]))
    asked = {
        "events:write": ("POST", "/api/v1/dossier-events"),
        "messages:write": ("POST", "/api/v1/messages"),
        "messages:read": ("GET", "/api/v1/messages"),
        "campaigns:write": ("POST", "/api/v1/campaigns"),
        "suppressions:write": ("POST", "/api/v1/suppressions"),
    }
    assert set(asked) == set(SCOPES)
    for needed, (method, path) in asked.items():
        answer = client.request(method, path, headers=header, json={} if method == "POST" else None)
        if needed == scope:
            assert answer.status_code in {200, 422}
        else:
            assert needed in problem(answer, 403, "forbidden")["detail"]
    assert client.get(ANY, headers=header).status_code == 200


def test_a_key_reports_for_its_own_sources_alone(services: Services, client: TestClient) -> None:
    bound, free = (
        bearer(make(services, "bound", sources=["tax-office"])),
        bearer(make(services, "free")),
    )
    problem(client.post("/api/v1/dossier-events", headers=bound, json=EVENT), 403, "forbidden")
    batch = client.post(
        "/api/v1/dossier-events/batch",
        headers=bound,
        json={"events": [EVENT, {**EVENT, "code": "x"}]},
    ).json()
    assert [each["status"] for each in batch["results"]] == [403, 422]
    with services.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM dossier_event")).scalar_one() == 0
        assert keys.named(connection, "bound").sources == frozenset({"tax-office"})
        assert keys.named(connection, "free").sources is None
    assert client.post("/api/v1/dossier-events", headers=free, json=EVENT).status_code == 202
    own = bearer(make(services, "own", sources=["portal", "tax-office"]))
    assert client.post("/api/v1/dossier-events", headers=own, json=EVENT).status_code == 202


def test_an_operator_binds_a_key_to_known_sources_only(services: Services) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.app, ["api-key", *arguments], env=services.settings.to_env())

    wrong = run("create", "--name", "a", "--scope", "events:write", "--source", "nowhere").exception
    assert isinstance(wrong, KeyRequestError)
    assert str(wrong) == "There is no source nowhere. Known are: portal."
    assert (
        run("create", "--name", "a", "--scope", "events:write", "--source", "portal").exit_code == 0
    )
    assert "portal" in run("list").stdout


def test_a_revoked_key_is_refused_at_the_very_next_request(
    services: Services, client: TestClient
) -> None:
    header = bearer(make(services))
    assert client.get(ANY, headers=header).status_code == 200
    with services.engine.begin() as connection:
        assert keys.revoke(connection, "portal", datetime.now(UTC))
        assert not keys.revoke(connection, "portal", datetime.now(UTC))
    answer = client.get(ANY, headers=header)
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_ends_at_its_moment(services: Services, client: TestClient) -> None:
    header = bearer(make(services, expires_at=datetime.now(UTC) + timedelta(hours=1)))
    assert client.get(ANY, headers=header).status_code == 200
    with services.engine.begin() as connection:
        connection.execute(text("UPDATE api_key SET expires_at = now()"))
    problem(client.get(ANY, headers=header), 401, "unauthorized")


def test_the_last_use_is_noted_once_a_minute(services: Services, client: TestClient) -> None:
    def last() -> datetime | None:
        with services.engine.connect() as connection:
            return keys.named(connection, "portal").last_used_at

    header = bearer(make(services))
    assert last() is None
    client.get(ANY, headers=header)
    first = last()
    assert first is not None
    assert abs(datetime.now(UTC) - first) < timedelta(seconds=30)
    client.get(ANY, headers=header)
    assert last() == first
    with services.engine.begin() as connection:
        connection.execute(
            text("UPDATE api_key SET last_used_at = last_used_at - interval '2 minutes'")
        )
    client.get(ANY, headers=header)
    again = last()
    assert again is not None
    assert again >= first


def limited(answer: Response, limit: int) -> None:
    problem(answer, 429, "rate-limit")
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert answer.headers["ratelimit-limit"] == str(limit)
    assert answer.headers["ratelimit-remaining"].isdigit()
    assert int(answer.headers["ratelimit-reset"]) >= 1


def test_a_key_is_limited_by_itself(services: Services, settings: Settings) -> None:
    assert Settings.from_env({"NOTIFIER_API_PER_MINUTE": "5"}).api_per_minute == 5
    busy, quiet = bearer(make(services)), bearer(make(services, "other"))
    with calling(settings.replace(api_per_minute=5)) as client:
        answers = [client.get(ANY, headers=busy) for _ in range(12)]
        assert [each.status_code for each in answers[:5]] == [200] * 5
        limited(answers[-1], 5)
        assert client.get(ANY, headers=quiet).status_code == 200
        # Every event of a batch counts.
        problem(
            client.post("/api/v1/dossier-events/batch", headers=quiet, json={"events": [{}] * 9}),
            429,
            "rate-limit",
        )


def test_wrong_keys_are_limited_by_address(services: Services, client: TestClient) -> None:
    header = bearer(make(services))
    answers = [client.get(ANY, headers=bearer("notifier_live_" + "x" * 43)) for _ in range(130)]
    problem(answers[0], 401, "unauthorized")
    limited(answers[-1], 60)
    # Whoever has a key is not held up by those who guess.
    assert client.get(ANY, headers=header).status_code == 200


def unavailable(answer: Response) -> None:
    problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_without_the_database_callers_are_told_to_come_again(settings: Settings) -> None:
    with calling(settings.replace(database_url="postgresql://nobody@127.0.0.1:9/none")) as client:
        unavailable(client.get(ANY, headers=bearer("notifier_live_" + "x" * 43)))


def test_without_the_broker_nothing_is_stored(services: Services, settings: Settings) -> None:
    header = bearer(make(services))
    with calling(settings.replace(broker_url="redis://127.0.0.1:9/0")) as client:
        unavailable(client.post("/api/v1/dossier-events", headers=header, json=EVENT))
    with services.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM dossier_event")) == 0
        assert connection.scalar(text("SELECT count(*) FROM message")) == 0


@pytest.mark.parametrize("given", ["a", "Portal-2026.11_1", "x" * 64])
def test_a_request_keeps_its_id(client: TestClient, given: str) -> None:
    assert client.get(ANY, headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a/b", "<script>", "ti\xe1ng"])
def test_a_request_without_a_good_id_gets_one(client: TestClient, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    ids = {client.get(ANY, headers=headers).headers["x-request-id"] for _ in range(2)}  # type: ignore[arg-type]
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
