"""The seams of the house: what is written down holds, and nothing lacks its counterpart."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from importlinter.cli import lint_imports
from typer.main import get_command
from typer.testing import CliRunner

from notifier import cli, migrations
from notifier.db import make_engine
from notifier.instance.supervisor import parts
from notifier.queues import QUEUES
from notifier.rendering.catalogue import load_all
from notifier.settings import Settings
from notifier.worker.schedule import entries

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notifier").rglob("*.py"))
# Of at most 100 columns; a screen holds some 60.
MAX_LINES = 600


def test_imports_go_downwards_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml") == 0


CATALOGUES = {"schema.py"}  # every table once: long, and one idea


@pytest.mark.parametrize(
    "path",
    [each for each in SOURCES if each.name not in CATALOGUES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_file_holds_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_every_queue_is_consumed_by_a_worker() -> None:
    consumed = {
        queue
        for part in parts(2, web=True, port=1)
        if "-Q" in part.command
        for queue in part.command[part.command.index("-Q") + 1].split(",")
    }
    assert consumed == set(QUEUES)


def test_every_scheduled_task_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFIER_BROKER_URL", "redis://127.0.0.1:9/0")
    code = (
        "from notifier.worker.app import app; app.loader.import_default_modules(); "
        "print('\\n'.join(app.tasks))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(run.stdout.split())
    assert {entry["task"] for entry in entries(2.0).values()} <= names
    assert {"notifier.deliver", "notifier.gather", "notifier.webhooks"} <= names


def test_migrations_lead_to_the_schema(database_url: str) -> None:
    engine = make_engine(database_url)
    migrations.check(engine)
    engine.dispose()


def test_every_template_belongs_to_a_topic() -> None:
    from notifier.domain.topics import load_topics

    topics = load_topics(ROOT / "templates" / "topics.toml")
    assert {template.topic for template in load_all(ROOT / "templates").values()} <= set(topics)


def commands() -> set[str]:
    root: Any = get_command(cli.app)
    found = set(root.commands)
    for name, command in root.commands.items():
        found |= {f"{name} {sub}" for sub in getattr(command, "commands", {})}
    return found


DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "docs", "docs/decisions", "campaigns", "bench")
    for path in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_documents_exist(document: str) -> None:
    known = commands()
    groups = {each.partition(" ")[0] for each in known if " " in each}
    text = (ROOT / document).read_text()
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"(?m)^(?:\$ )?(notifier \S.*)$", text)
    named = [each.split() for each in code if each.startswith("notifier ")]
    for _, *words in named:
        first = words[0]
        if first.startswith("-") or first == "…":
            continue
        full = (
            f"{first} {words[1]}"
            if first in groups and len(words) > 1 and words[1] != "…"
            else first
        )
        assert full in known, f"{document}: notifier {full}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_in_documents_lead_somewhere(document: str) -> None:
    place = (ROOT / document).parent
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / document).read_text(encoding="utf-8"))
    assert [each for each in targets if "://" not in each and not (place / each).exists()] == []


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text())) <= targets


def test_nothing_names_a_package_index_or_a_pinned_file() -> None:
    for path in [
        ROOT / "requirements.txt",
        ROOT / "requirements-dev.txt",
        ROOT / "pyproject.toml",
        ROOT / "Dockerfile",
        ROOT / "Makefile",
    ]:
        text = path.read_text()
        assert not re.search(
            r"https?://\S+\.(whl|tar\.gz)|--(extra-)?index-url|--find-links", text
        ), path


# --- docker-compose.yml --------------------------------------------------------------------------

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_compose_follows_the_official_schema() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(ROOT / "docker-compose.yml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_has_every_part() -> None:
    services = COMPOSE["services"]
    assert set(services) == {
        "postgres",
        "valkey",
        "migrate",
        "web",
        "worker-campaign",
        "worker-notice",
        "worker-webhooks",
        "beat",
        "flower",
        "catcher",
    }
    for service in services.values():
        assert "image" in service
        for needed in service.get("depends_on", {}):
            assert needed in services
    volumes = {
        mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])
    }
    assert volumes == set(COMPOSE["volumes"])


def test_compose_sets_only_what_is_read() -> None:
    read = {f"NOTIFIER_{name.upper()}" for name in Settings.model_fields}
    for name, service in COMPOSE["services"].items():
        named = {key for key in service.get("environment", {}) if key.startswith("NOTIFIER_")}
        assert named <= read, name


def test_the_image_holds_every_folder_that_is_read() -> None:
    copied = set(re.findall(r"^COPY (\w+) \w+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    folders = {
        name for name, field in Settings.model_fields.items() if isinstance(field.default, Path)
    } - {"var"}
    assert {"templates", "campaigns", "sources"} <= folders
    assert folders | {"notifier"} <= copied


def test_compose_holds_no_secret() -> None:
    for service in COMPOSE["services"].values():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "SECRET" in key or "AUTH" in key:
                assert str(value).startswith("${"), key


@pytest.mark.parametrize(
    "name",
    [name for name, service in COMPOSE["services"].items() if service["image"] == "notifier"],
)
def test_each_command_of_compose_is_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFIER_BROKER_URL", "redis://127.0.0.1:9/0")
    program, *arguments = COMPOSE["services"][name]["command"]
    if program == "notifier":
        done = CliRunner().invoke(cli.app, [*arguments, "--help"])
        assert done.exit_code == 0, done.output
        return
    arguments = [each for each in arguments if "${" not in each]
    command = [sys.executable, "-m", program, *arguments, "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr[-500:]
