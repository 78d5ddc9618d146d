"""What was launched renders the same bytes for ever, whatever the code that reads it has become.

`frozen/format-1.json.xz` holds the project's templates as the code of format 1 froze them (their
files joined by our own expressions), the topics of that day, and the SHA-256 of the mails which it
made.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from notifier.errors import TemplateError
from notifier.rendering.catalogue import Template, TopicInfo, from_json, load_template, to_json
from tests.unit.rendering.conftest import MakeBlueprint, MakeLetter

FROZEN = Path(__file__).parent / "frozen" / "format-1.json.xz"
MAILS_PER_LANGUAGE = 8
_RECORD = json.loads(lzma.decompress(FROZEN.read_bytes()))
KNOWN: dict[str, dict[str, Any]] = _RECORD["templates"]

_WORDS = ("Thuế", "Hà Nội", "a < b & c", "\"'", "..", "=", "ế" * 90, "x" * 200, "1\n2", "{{ y }}")


def values(kind: str, chance: random.Random) -> Any:
    """Invent a value of a field's type."""
    if kind in {"money", "integer"}:
        return chance.choice([0, 1, -5_000, 1_234_567, 10**12, chance.randrange(10**9)])
    day = f"20{chance.randrange(10, 99)}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}"
    if kind == "date":
        return day
    if kind == "datetime":
        return f"{day}T{chance.choice(['00:00', '09:05', '17:00'])}:00+07:00"
    return " ".join(chance.choices(_WORDS, k=chance.randrange(1, 4)))


def data_of(template: Template) -> Iterator[dict[str, Any]]:
    """Yield the example's data, then the same invented ones on every run."""
    yield {}
    chance = random.Random(template.name)
    for _ in range(MAILS_PER_LANGUAGE - 1):
        found = {
            each.name: values(each.type, chance) if each.required or chance.random() < 0.6 else None
            for each in template.fields
        }
        rows = [
            {
                each.name: values(each.type, chance)
                for each in template.lines
                if each.required or chance.random() < 0.6
            }
            for _ in range(chance.choice([0, 1, 4]) if template.lines else 0)
        ]
        yield {**found, "lines": rows}


def digests(
    template: Template, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> dict[str, list[str]]:
    """Return the hash of each mail by language."""
    topic = TopicInfo(**_RECORD["topics"][template.topic])
    return {
        language: [
            hashlib.sha256(blueprint.fill(make_letter(template, data=data))).hexdigest()
            for data in data_of(template)
        ]
        for language in template.languages
        for blueprint in [make_blueprint(template, language=language, topic=topic)]
    }


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_an_earlier_version_froze_renders_the_same_bytes(
    make_blueprint: MakeBlueprint, make_letter: MakeLetter, name: str
) -> None:
    frozen = KNOWN[name]["template"]
    template = from_json(frozen)
    assert json.loads(json.dumps(to_json(template))) == frozen
    assert digests(template, make_blueprint, make_letter) == KNOWN[name]["mails"]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_same_files_give_the_same_bytes_as_an_earlier_version(
    templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter, name: str
) -> None:
    template = load_template(templates, name)
    if template.files != KNOWN[name]["template"]["files"]:
        pytest.skip("Its texts were edited since.")
    # The boundary between the parts comes from the version, which counts more than the texts.
    template = replace(template, version=KNOWN[name]["template"]["version"])
    assert digests(template, make_blueprint, make_letter) == KNOWN[name]["mails"]


def test_a_change_to_an_old_frozen_template_is_noticed() -> None:
    frozen = json.loads(json.dumps(KNOWN["debt-notice"]["template"]))
    frozen["sources"]["vi/body.txt"] += "!"
    with pytest.raises(TemplateError, match="changed after it was frozen"):
        from_json(frozen)
