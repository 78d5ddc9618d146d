"""Follow docs/add-a-template.md to the letter: write its files, load them, and read the mail."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from notifier.rendering.catalogue import STANDARD_FIELDS, Template, load_template
from notifier.rendering.sandbox import Sandbox
from tests.unit.rendering.conftest import TEMPLATES, MakeBlueprint, MakeLetter

GUIDE = TEMPLATES.parent / "docs" / "add-a-template.md"
FILES = dict(
    re.findall(
        r"^`templates/([^`]+)`:\n\n```\w+\n(.*?)^```$",
        GUIDE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.fixture
def template(tmp_path: Path) -> Template:
    """Load the guide's template, beside a copy of what the project's own share."""
    shutil.copytree(TEMPLATES / "_base", tmp_path / "_base")
    for path, text in FILES.items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return load_template(tmp_path, "office-move")


def test_the_guide_writes_every_file_of_a_template() -> None:
    parts = [
        f"{language}/{part}"
        for language in ("vi", "en")
        for part in ("subject.txt", "body.txt", "body.html")
    ]
    assert sorted(FILES) == sorted(
        f"office-move/{each}" for each in ("template.toml", "example.json", *parts)
    )


def test_the_mail_of_the_guide_is_what_it_promises(
    template: Template, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    vietnamese = make_blueprint(template).preview(make_letter(template))
    assert vietnamese.subject == "Thuế cơ sở 2 thành phố Hà Nội chuyển trụ sở"
    assert (
        "Từ ngày 01 tháng 12 năm 2026, Thuế cơ sở 2 thành phố Hà Nội làm việc tại:"
        in vietnamese.text
    )
    assert "- Đăng ký thuế: quầy 3\n- Hoàn thuế\n" in vietnamese.text
    assert "Ngừng nhận chủ đề này" in vietnamese.text
    assert re.search(r"<td[^>]*>Hoàn thuế</td><td[^>]*>–</td>", vietnamese.html)
    english = make_blueprint(template, language="en").preview(make_letter(template))
    assert english.subject == "Thuế cơ sở 2 thành phố Hà Nội is moving"
    assert "From 1 December 2026 you find" in english.text


def test_the_names_in_the_guide_exist() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    (filters,) = re.findall(r"^\| (`money`.*?) \| filters, written", text, re.MULTILINE)
    (jinja_filters,) = re.findall(r"^\| (`join`.*?) … \| filters of Jinja", text, re.MULTILINE)
    known = Sandbox("vi", {}).filters
    for name in re.findall(r"`(\w+)`", filters + jinja_filters):
        assert name in known
    for standard in STANDARD_FIELDS:
        assert f"`{standard.name}`" in text
    for path in re.findall(r"(?:tests|templates)/[\w/.-]+\.(?:py|toml)", text):
        assert path.startswith("templates/office-move") or (TEMPLATES.parent / path).is_file(), path
