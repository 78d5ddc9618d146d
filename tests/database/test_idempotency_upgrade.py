"""What an older version kept of requests with an Idempotency-Key still answers their repeats."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import Engine, text

from notifier import migrations
from notifier.db import make_engine
from notifier.domain import idempotency, keys
from notifier.domain.event_results import CONFLICT, EventResult, Fault, Outcome, Refusal
from notifier.instance.servers.postgres import Postgres

EVENT_ID, MESSAGE_ID = (
    "019a4f0e-1f7a-7c3e-9a51-5f2d8c1b7e40",
    "019a4f0e-1f7a-7d11-8f3a-2b6c9e0d4a51",
)
QUEUED = {
    "id": EVENT_ID,
    "outcome": "queued",
    "message_id": MESSAGE_ID,
    "links": {"message": f"/api/v1/messages/{MESSAGE_ID}"},
}
NOBODY = {"id": EVENT_ID, "outcome": "no-address", "message_id": None}
CLASH = {
    "type": "/api/docs#conflict",
    "title": "It contradicts what was sent before",
    "status": 409,
    "code": "conflict",
    "detail": CONFLICT.detail,
}
WRONG = {
    "type": "/api/docs#invalid",
    "title": "Some fields cannot be used",
    "status": 422,
    "code": "invalid",
    "detail": "/events/1/code: It is required.",
    "errors": [{"pointer": "/events/1/code", "code": "missing", "detail": "It is required."}],
}
ANSWERS: dict[str, tuple[int, Any]] = {
    "message": (202, {"id": MESSAGE_ID}),
    "event": (202, QUEUED),
    "nobody": (202, NOBODY),
    "conflict": (409, CLASH),
    "batch": (
        200,
        {
            "accepted": 2,
            "refused": 2,
            "results": [
                {"index": 0, "status": 202, **QUEUED},
                {"index": 1, "status": 422, "problem": WRONG},
                {"index": 2, "status": 202, **NOBODY},
                {"index": 3, "status": 409, "problem": CLASH},
            ],
        },
    ),
}


@pytest.fixture
def old(postgres: Postgres) -> Iterator[Engine]:
    """A database of the version before, in which requests were answered."""
    name = f"upgrade_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    engine = make_engine(postgres.url.rsplit("/", 1)[0] + f"/{name}")
    with engine.begin() as session:
        config = migrations._config()
        config.attributes["connection"] = session
        command.upgrade(config, "0004")
    with engine.begin() as session:
        keys.create(
            session, name="portal", scopes=["events:write"], sandbox=False, now=datetime.now(UTC)
        )
        for token, (status, body) in ANSWERS.items():
            session.execute(
                text("""INSERT INTO idempotency
                               (key_id, token, fingerprint, status, body, created_at)
                        VALUES (1, :token, :fingerprint, :status, cast(:body AS json), now())"""),
                {
                    "token": token,
                    "fingerprint": token.encode(),
                    "status": status,
                    "body": json.dumps(body),
                },
            )
    yield engine
    engine.dispose()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_repeats_after_the_upgrade_are_answered_as_before(old: Engine) -> None:
    migrations.migrate(old)
    wanted = {(1, token): token.encode() for token in ANSWERS}
    with old.begin() as connection:
        kept = idempotency.claim(connection, wanted, datetime.now(UTC))
    assert set(kept) == set(wanted)
    results = {token: kept[1, token].for_request(token.encode()) for token in ANSWERS}
    assert results.pop("message") == MESSAGE_ID
    queued = EventResult(uuid.UUID(EVENT_ID), Outcome.QUEUED, uuid.UUID(MESSAGE_ID))
    nobody = EventResult(uuid.UUID(EVENT_ID), Outcome.NO_ADDRESS, None)
    wrong = Refusal(
        "invalid",
        "/events/1/code: It is required.",
        (Fault("/events/1/code", "missing", "It is required."),),
    )
    assert {
        token: [
            EventResult.from_json(each) if "outcome" in each else Refusal.from_json(each)
            for each in listed
        ]
        for token, listed in results.items()
    } == {
        "event": [queued],
        "nobody": [nobody],
        "conflict": [CONFLICT],
        "batch": [queued, wrong, nobody, CONFLICT],
    }
    with pytest.raises(idempotency.IdempotencyError, match="another body"):
        kept[1, "event"].for_request(b"other")
