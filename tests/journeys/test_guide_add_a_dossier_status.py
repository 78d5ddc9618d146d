"""Follow docs/add-a-dossier-status.md to the letter.

Run and write what it says, report its event, and read the mail.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from notifier import cli
from notifier.client import DossierEvent, NotifierClient, Recipient
from notifier.domain import keys
from notifier.errors import SettingsError
from notifier.services import Services
from notifier.settings import Settings
from notifier.testing import ROOT
from tests.journeys.test_web import served

GUIDE = (ROOT / "docs" / "add-a-dossier-status.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(
        r"^`((?:templates|sources)/[^`]+)`[^\n]*:\n\n```\w+\n(.*?)^```$",
        GUIDE,
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.fixture
def followed(settings: Settings, tmp_path: Path) -> Iterator[Services]:
    """The service after somebody has followed the guide in a copy of the project."""
    project = tmp_path / "project"
    for name in ("templates", "sources"):
        shutil.copytree(ROOT / name, project / name)
    source = re.search(
        r"^`(sources/[^`]+)`;[^\n]*\n\n```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL
    )
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    subprocess.run(["/bin/sh", "-ec", commands], cwd=project, check=True)
    assert source is not None
    for path, text in {**FILES, source[1]: source[2]}.items():
        (project / path).write_text(text, encoding="utf-8")
    made = Services(settings.replace(templates=project / "templates", sources=project / "sources"))
    yield made
    made.close()


def test_the_event_of_the_guide_becomes_its_mail(followed: Services) -> None:
    (event,) = re.findall(r"^```json\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    with followed.engine.begin() as connection:
        token = keys.create(
            connection, name="office", scopes=keys.SCOPES, sandbox=False, now=datetime.now(UTC)
        )
    with served(followed.settings) as site, NotifierClient(site, token) as client:
        moved: DossierEvent = json.loads(event)
        told = client.report_event(moved)
        assert told["outcome"] == "queued"
        found = client.message(told["message_id"])
        assert (found["template"], found["state"]) == ("dossier-transferred", "queued")
        waits = datetime.fromisoformat(found["send_at"]) - datetime.fromisoformat(
            found["created_at"]
        )
        assert 590 < waits.total_seconds() <= 600
        newer = client.report_event(
            {**moved, "status": "accepted", "occurred_at": "2026-11-02T09:16:00+07:00"}
        )
        assert newer["outcome"] == "queued"
        assert client.message(told["message_id"])["state"] == "cancelled"
        data = {
            key: value
            for key, value in followed.catalogue["dossier-transferred"].example.items()
            if key not in {"name", "email", "language", "tax_code"}
        }
        recipient: Recipient = {"name": moved["applicant"]["name"], "email": "a@example.test"}
        for language, subject, body in (
            ("vi", "được chuyển cơ quan khác", "không phải nộp lại"),
            ("en", "was passed on", "do not have to file"),
        ):
            mail = client.preview_message("dossier-transferred", recipient, data, language=language)  # type: ignore[arg-type]
            assert subject in mail["subject"]
            assert body in mail["text"]
            assert body in mail["html"]


def test_the_doctor_reads_the_tables(followed: Services) -> None:
    assert followed.sources["tax-office"].statuses["transferred"].notice == "dossier-transferred"
    wrong = followed.settings.sources / "tax-office.toml"
    wrong.write_text(
        wrong.read_text(encoding="utf-8").replace("dossier-transferred", "dossier-passed"),
        encoding="utf-8",
    )
    said = CliRunner().invoke(cli.app, ["doctor"], env=followed.settings.to_env())
    assert said.exit_code != 0
    assert "sources/tax-office.toml: statuses.transferred.notice names no template." in " ".join(
        (said.stdout + said.stderr).split()
    )
    with pytest.raises(SettingsError):
        _ = Services(followed.settings).sources


def test_the_names_in_the_guide_exist() -> None:
    portal = tomllib.loads((ROOT / "sources" / "portal.toml").read_text(encoding="utf-8"))
    used = set(portal) | {key for each in portal["statuses"].values() for key in each}
    for key in used - {"statuses"}:
        assert f"| `{key}` |" in GUIDE
    mails = {path.name.removeprefix("dossier") for path in (ROOT / "templates").glob("dossier-*")}
    for each in mails:
        assert f"`{each}`" in GUIDE or f"`dossier{each}`" in GUIDE
    for path in re.findall(r"`(tests/[\w/]+\.py)`|\]\(([\w-]+\.md)\)", GUIDE):
        assert (ROOT / path[0]).is_file() if path[0] else (ROOT / "docs" / path[1]).is_file()
