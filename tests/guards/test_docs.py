"""The documents say what the code does; `make docs` itself fails on links that lead nowhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from datetime import date
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from notifier import schema, states
from notifier.cli import app
from notifier.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "decisions"
# Changelog and decisions speak of what was; they are not corrected when a file moves.
PRESENT = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "campaigns", ROOT / "bench")
    for path in folder.glob("*.md")
    if path.name != "CHANGELOG.md"
)


@cache
def reference() -> ModuleType:
    path = ROOT / "docs" / "_ext" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["reference"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pages() -> dict[str, str]:
    found: dict[str, str] = reference().pages()
    return found


def paths(group: object, above: str = "notifier") -> set[str]:
    found = set()
    for name, command in getattr(group, "commands", {}).items():
        if not command.hidden:
            found |= {f"{above} {name}"} | paths(command, f"{above} {name}")
    return found


def test_the_reference_has_every_command_with_its_options() -> None:
    root = get_command(app)
    text = pages()["commands"]
    assert set(re.findall(r"^#+ (notifier .+)$", text, re.MULTILINE)) == paths(root)
    assert "| `--audience` | The list: CSV, XLSX, XLS or ODS." in text
    assert "notifier campaign report NAME --out …" in text
    assert "--set-aside" not in text


def test_the_reference_has_every_setting_with_words() -> None:
    rows = re.findall(r"^\| `NOTIFIER_(\w+)` \| (.+?) \|", pages()["settings"], re.MULTILINE)
    assert {name.lower() for name, _ in rows} == set(Settings.model_fields)
    assert all(words.strip() for _, words in rows)


def test_a_setting_without_words_ends_the_build() -> None:
    class Bare(Settings):
        new_one: int = 1

    with pytest.raises(LookupError, match="new_one"):
        reference().settings(Bare)


def test_the_reference_has_every_state_with_words() -> None:
    for kind in (states.CampaignState, states.BatchState, states.MessageState):
        for state in kind:
            assert re.search(rf"\| `{state.value}` \| {state.about.vi} \| \w", pages()["states"])


def test_the_reference_has_every_table() -> None:
    named = re.findall(r"^## (.+)$", pages()["tables"], re.MULTILINE)
    assert {name.replace("\\", "") for name in named} == set(schema.Base.metadata.tables)


def test_the_reference_has_every_operation() -> None:
    document = reference().openapi_document()
    listed = set(
        re.findall(r"^(GET|POST|PUT|PATCH|DELETE) (/api\S+)$", pages()["api"], re.MULTILINE)
    )
    expected = {
        (method.upper(), path if path.startswith("/api") else f"/api{path}")
        for path, methods in document["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert listed == expected


def test_words_of_the_code_are_shown_as_they_are() -> None:
    plain = reference().plain
    assert plain("a_b *c* <d> [e](f) `g_h`") == r"a\_b \*c\* \<d\> \[e\](f) `g_h`"
    assert reference().table(("a",), [("x|y",)]).splitlines()[-2:][0] == r"| x\|y |"


def test_links_of_borrowed_pages_lead_to_pages_of_the_site() -> None:
    folder = ROOT / "docs" / "reference"
    text = (
        "[a](docs/officers.md) [b](campaigns/README.md#x) "
        "[c](notifier/db.py) ![d](docs/images/e.png)"
    )
    assert reference().rebased(text, ROOT / "README.md", folder) == (
        "[a](../officers.md) [b](campaign-files.md#x) c ![d](docs/images/e.png)"
    )


# --- decisions and glossary ----------------------------------------------------------------------


def test_every_decision_is_dated_and_listed() -> None:
    index = (DECISIONS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\S+) \| \[(.+)\]\((\S+)\) \|$", index, re.MULTILINE)
    assert [name for _, _, name in listed] == sorted(
        path.name for path in DECISIONS.glob("*.md") if path.name != "index.md"
    )
    for day, title, name in listed:
        date.fromisoformat(day)
        first, _, dated, *_ = (DECISIONS / name).read_text(encoding="utf-8").splitlines()
        assert name.startswith(f"{day}-")
        assert first == f"# {title}"
        assert dated.startswith(f"{day} · ")


def glossary() -> list[tuple[str, str, str]]:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return [row for row in rows if row[0] not in {"word", "---"}]


def test_the_glossary_is_in_order_and_complete() -> None:
    rows = glossary()
    words = [word for word, _, _ in rows]
    assert words == sorted(set(words), key=str.lower)
    for _, vietnamese, meaning in rows:
        assert vietnamese.strip()
        assert meaning.endswith(".")


def test_the_glossary_speaks_of_states_as_the_code_does() -> None:
    known = {word: vietnamese for word, vietnamese, _ in glossary()}
    for state in (*states.CampaignState, *states.MessageState):
        word = state.value.replace("_", " ")
        assert known.get(word, state.about.vi) == state.about.vi, word


@pytest.mark.parametrize("document", PRESENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"`((?:notifier|tests|bench|docs|\.ci)/[\w./-]+)(?::\w+)?`", text)
    assert [each for each in named if not (ROOT / each).exists()] == []
