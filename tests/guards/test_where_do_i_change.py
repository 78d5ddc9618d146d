"""The README's table "Where do I change …" sends nobody to a file or name that is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Where do I change …\n")[2].partition("\n## ")[0]
ROWS = [
    (change, files)
    for change, files in re.findall(r"^\| (.+?) \| (.*) \|$", SECTION, re.MULTILINE)
    if files.strip() and change not in {"…", "---"}
]
FOLDERS = ("notifier", "templates", "campaigns", "sources", "tests", "bench", "docs")


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def named(text: str) -> list[str]:
    """Return what is a path from the root, with the name behind the colon if it has one."""
    at_root = {path.name for path in ROOT.iterdir() if path.is_file()}
    return [
        each
        for each in code(text)
        if each.split("/")[0] in FOLDERS or each.partition(":")[0] in at_root
    ]


def names_in(path: Path) -> set[str]:
    """Return what a module defines at its top."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {each.id for each in targets if isinstance(each, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


def test_the_table_is_read() -> None:
    assert len(ROWS) >= 30
    assert len({change for change, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("change", "files"), ROWS, ids=[change for change, _ in ROWS])
def test_every_file_and_name_of_a_change_exists(change: str, files: str) -> None:
    found = named(files)
    assert found, f"{change}: no file is named"
    for each in found:
        place, _, name = each.partition(":")
        path = ROOT / place
        assert path.exists(), f"{change}: there is no {place}"
        if name:
            assert name in names_in(path), f"{change}: {place} has no {name}"


@pytest.mark.parametrize(("change", "files"), ROWS, ids=[change for change, _ in ROWS])
def test_names_without_a_folder_lie_in_the_folder_that_was_named_before(
    change: str, files: str
) -> None:
    folder: Path | None = None
    for each in code(files):
        if named(f"`{each}`"):
            path = ROOT / each.partition(":")[0]
            folder = path if path.is_dir() else path.parent
        elif re.fullmatch(r"[\w-]+\.(?:py|html|txt|toml|md)", each):
            assert folder is not None, f"{change}: {each} is in no folder"
            assert (folder / each).exists(), f"{change}: {each} is not in {folder}"


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"NOTIFIER_[A-Z_]+[A-Z]", SECTION))))
def test_settings_that_are_named_exist(setting: str) -> None:
    from notifier.settings import Settings

    assert setting.removeprefix("NOTIFIER_").lower() in Settings.model_fields
