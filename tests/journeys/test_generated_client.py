"""A client that a generator makes of the API's document.

It is complete, typed, and good for the guide's first request.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from httpx2 import Client
from sqlalchemy import text

from notifier.domain import keys
from notifier.services import Services
from notifier.settings import Settings
from notifier.testing import ROOT
from notifier.web.api.campaigns import LIST_TYPES
from tests.journeys.test_web import served

PACKAGE = "notifier_api"


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
            scopes=["events:write"],
            sandbox=False,
            now=datetime.now(UTC),
        )


def run(*command: str, folder: Path, **environment: str) -> str:
    """Run a program of this environment in `folder`; return what it says."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONUTF8": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def generate(site: str, folder: Path) -> None:
    """Make the client in a folder, from the document as the service gives it, without a network."""
    with Client(base_url=site) as client:
        (folder / "openapi.json").write_bytes(client.get("/api/openapi.json").content)
    # The generator knows no spreadsheets; they are bytes.
    overrides = dict.fromkeys(LIST_TYPES, "application/octet-stream")
    config = {"post_hooks": [], "content_type_overrides": overrides}
    (folder / "config.json").write_text(json.dumps(config))
    said = run(
        *("-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"),
        *("--config", "config.json", "--output-path", PACKAGE, "--fail-on-warning"),
        folder=folder,
    )
    assert "WARNING" not in said
    assert "ERROR" not in said


def test_the_first_request_of_the_guide_with_types(
    site: str, token: str, services: Services, tmp_path: Path
) -> None:
    generate(site, tmp_path)
    guide = (ROOT / "docs" / "integrate.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```py\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (tmp_path / "guide.py").write_text(example, encoding="utf-8")
    types = """
from typing import assert_type
from uuid import UUID

from notifier_api.models import (
    BatchAnswer,
    CampaignState,
    CampaignStatus,
    EventAnswer,
    Message,
    MessageAnswer,
    MessageState,
    Outcome,
    RecordedEvent,
    RefusedEvent,
)


def event(found: EventAnswer) -> None:
    assert_type(found.id, UUID)
    assert_type(found.outcome, Outcome)
    assert_type(found.message_id, UUID | None)


def batch(found: BatchAnswer) -> None:
    assert_type(found.results, list[RecordedEvent | RefusedEvent])


def message(asked: MessageAnswer, found: Message) -> None:
    assert_type(asked.id, UUID)
    assert_type(asked.state, MessageState)
    assert_type(asked.links.cancel, str)
    assert_type(found.replies[0].host, str)


def campaign(found: CampaignStatus) -> None:
    assert_type(found.state, CampaignState)
    assert_type(found.accepted, int)
"""
    (tmp_path / "types_of_answers.py").write_text(types, encoding="utf-8")
    strict = ("-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path))
    said = run(*strict, "guide.py", "types_of_answers.py", folder=tmp_path)
    assert "no issues found in 2 source files" in said
    said = run("guide.py", folder=tmp_path, NOTIFIER_URL=site, NOTIFIER_KEY=token)
    outcome, message_id = said.split()
    assert outcome == "queued"
    with services.session() as session:
        found = session.scalars(text("SELECT id::text FROM message")).all()
    assert found == [message_id]
    # A refusal is a typed answer too.
    refused = run("guide.py", folder=tmp_path, NOTIFIER_URL=site, NOTIFIER_KEY="wrong-" * 6)
    assert refused.startswith("unauthorized ")
