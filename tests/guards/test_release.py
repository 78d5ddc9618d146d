"""What a release consists of says the same everywhere: version, changelog, licence, hooks."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import yaml
from typer.testing import CliRunner

from notifier import __version__, cli

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
# Keep a Changelog 1.1.0 names these and no others.
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "notifier/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_program_says_its_version() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"notifier {__version__}\n")


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    found = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)
    assert found[0][0] == __version__
    days = [date.fromisoformat(day) for _, day in found]
    assert days == sorted(days, reverse=True)
    assert len(found) == len(re.findall(r"^## \[\d", CHANGELOG, re.MULTILINE))


def test_the_changelog_keeps_to_its_kinds() -> None:
    assert set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)) <= KINDS


def test_the_licence_is_the_one_that_is_named() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text


def test_users_of_the_package_see_its_types() -> None:
    assert (ROOT / "notifier" / "py.typed").exists()


def test_the_hooks_run_what_ci_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    # Nothing is downloaded: every hook is a program of the project's own .venv.
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"unsupported"}
    run = {hook["entry"].replace(" --force-exclude", "") for hook in hooks}
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    lines = [line.strip().lstrip("@") for line in lint[1].splitlines()]
    assert run == {line.replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in lines}


def test_ci_runs_the_checks_and_builds_the_docs() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make check", "make docs"]
