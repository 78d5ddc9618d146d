"""What the tests of rendering share.

An office, the topics, letters from examples, and small templates written on the spot.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from notifier.rendering.blueprint import Blueprint, Letter, Sender, compile_blueprint
from notifier.rendering.catalogue import Template, TopicInfo, load_template

TEMPLATES = Path(__file__).parents[3] / "templates"

SENDER = Sender(
    name_vi="Thuế thành phố Hà Nội",
    name_en="Hanoi City Tax Office",
    address="thongbao@notices.example.test",
    reply_to="hotro@notices.example.test",
    phone="024 0000 0000",
    postal_address_vi="Số 1 phố Mẫu, thành phố Hà Nội",
    postal_address_en="1 Mau Street, Hanoi",
    website="https://tax.example.test",
    public_url="https://thongbao.example.test",
)
TOKEN = "AbCdEf0123456789AbCdEf0123456789AbCdEf01234"

DOCUMENT = "<html><head><title>x</title></head><body>\n%s\n</body></html>\n"

MakeBlueprint = Callable[..., Blueprint]
MakeLetter = Callable[..., Letter]
WriteTemplate = Callable[..., Path]


@pytest.fixture(scope="session")
def templates() -> Path:
    """Return the folder of the project's own templates."""
    return TEMPLATES


@pytest.fixture(scope="session")
def topics() -> Mapping[str, TopicInfo]:
    """Return the project's topics by code."""
    tables = tomllib.loads((TEMPLATES / "topics.toml").read_text(encoding="utf-8"))
    return {
        code: TopicInfo(
            code, each["name"], each["statutory"], each["legal_ground"], each["description"]
        )
        for code, each in tables.items()
    }


@pytest.fixture(scope="session")
def make_blueprint(topics: Mapping[str, TopicInfo]) -> MakeBlueprint:
    """Compile a template as a campaign does; any argument of compile_blueprint may be replaced."""

    def make(template: Template, **changes: Any) -> Blueprint:
        arguments: dict[str, Any] = {
            "language": "vi",
            "sender": SENDER,
            "topic": topics[template.topic],
            "bulk": True,
            "feedback_id": "2026-11:debt-notice:campaign:hanoi",
            "mail_domain": "notices.example.test",
        }
        return compile_blueprint(template, **{**arguments, **changes})

    return make


@pytest.fixture(scope="session")
def make_letter() -> MakeLetter:
    """Write a letter to the example recipient of a template.

    `data` is merged into the example's values.
    """

    def make(
        template: Template, *, data: Mapping[str, Any] | None = None, **changes: Any
    ) -> Letter:
        example = dict(template.example)
        arguments: dict[str, Any] = {
            "message_id": UUID("0b0e7a4e-6f0e-4d5c-9f39-6c1d1b8f2a10"),
            "to_address": example.pop("email"),
            "to_name": example.pop("name"),
            "tax_code": example.pop("tax_code"),
            "data": {**example, **(data or {})},
            "unsubscribe_token": TOKEN,
            "date": datetime(2026, 11, 23, 2, 5, 9, tzinfo=UTC),
        }
        return Letter(**{**arguments, **changes})

    return make


@pytest.fixture
def write_template(tmp_path: Path) -> WriteTemplate:
    """Write a small template of one language into a folder and return that folder.

    `html` is what stands in its body.
    """

    def write(
        *,
        subject: str = "Thư",
        text: str = "{{ note }}",
        html: str = "<p>{{ note }}</p>",
        toml: str = "",
        example: Any = None,
        **files: str,
    ) -> Path:
        folder = tmp_path / "small"
        (folder / "vi").mkdir(parents=True, exist_ok=True)
        description = toml or (
            'topic = "service"\ntitle = { vi = "Thư", en = "Mail" }\nlanguages = ["vi"]\n'
            '[fields.note]\ntype = "text"\nlabel = { vi = "Ghi chú", en = "Note" }\n'
            '[lines.item]\ntype = "text"\nlabel = { vi = "Mục", en = "Item" }\n'
        )
        shown = (
            example
            if example is not None
            else {"name": "An", "tax_code": "0100023459", "email": "an@example.test", "note": "x"}
        )
        (folder / "template.toml").write_text(description, encoding="utf-8")
        (folder / "example.json").write_text(json.dumps(shown), encoding="utf-8")
        for name, content in {
            "subject.txt": subject,
            "body.txt": text,
            "body.html": DOCUMENT % html,
        }.items():
            (folder / "vi" / name).write_text(content, encoding="utf-8")
        for name, content in files.items():
            place = tmp_path / "_base" / f"{name}.html"
            place.parent.mkdir(exist_ok=True)
            place.write_text(content, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def small_blueprint(write_template: WriteTemplate, make_blueprint: MakeBlueprint) -> MakeBlueprint:
    """Write, load and compile a small template; `limits` are those of compile_blueprint."""

    def make(limits: Mapping[str, Any] | None = None, **texts: Any) -> Blueprint:
        return make_blueprint(load_template(write_template(**texts), "small"), **(limits or {}))

    return make
