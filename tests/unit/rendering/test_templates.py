"""The project's own mails.

Every one renders, in each language, and keeps what the office promises its readers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email import message_from_bytes, policy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from notifier.rendering.catalogue import TopicInfo, load_all, load_template
from tests.unit.rendering.conftest import SENDER, TEMPLATES, TOKEN, MakeBlueprint, MakeLetter

CASES = [
    (name, language)
    for name, template in load_all(TEMPLATES).items()
    for language in template.languages
]
MAX_HTML_BYTES = 60_000
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Collects what the checks look at, and whether every element is closed by its own end tag."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append((dict(attrs)["href"] or "", ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data
        if self.open[-1:] == ["a"]:
            self.links[-1] = (self.links[-1][0], self.links[-1][1] + data)


def page(html: str) -> Page:
    read = Page()
    read.feed(html)
    read.close()
    assert read.open == []
    return read


@pytest.mark.parametrize(("name", "language"), CASES)
def test_every_template_renders_its_example(
    templates: Path,
    make_blueprint: MakeBlueprint,
    make_letter: MakeLetter,
    name: str,
    language: str,
) -> None:
    template = load_template(templates, name)
    preview = make_blueprint(template, language=language).preview(make_letter(template))
    read = page(preview.html)
    tags = dict(read.elements)
    assert tags["html"]["lang"] == language
    assert ("meta", {"name": "color-scheme", "content": "light dark"}) in read.elements
    assert "@media (prefers-color-scheme:dark)" in preview.html
    assert len(preview.html.encode()) < MAX_HTML_BYTES
    for tag, attributes in read.elements:
        if tag == "table":
            assert attributes.get("role") == "presentation" or "data" in (
                attributes.get("class") or ""
            )
        if tag == "th":
            assert attributes["scope"] in {"col", "row"}
        assert tag not in {"script", "img", "form", "input", "iframe", "link", "object"}
    for text in (preview.text, preview.html, preview.subject):
        assert "None" not in text
        assert "{{" not in text
        assert "{%" not in text
    assert not re.search(r"\n{3,}|[ \t]\n", preview.text)
    assert message_from_bytes(preview.raw, policy=policy.default)["Subject"] == preview.subject


@pytest.mark.parametrize(("name", "language"), CASES)
def test_links_are_shown_in_full_and_lead_to_the_office_only(
    templates: Path,
    make_blueprint: MakeBlueprint,
    make_letter: MakeLetter,
    name: str,
    language: str,
) -> None:
    template = load_template(templates, name)
    preview = make_blueprint(template, language=language).preview(make_letter(template))
    links = page(preview.html).links
    assert links
    for target, shown in links:
        assert target == shown
        assert target.startswith(SENDER.public_url + "/")
    for text in (preview.text, page(preview.html).words):
        assert f"{SENDER.public_url}/u/{TOKEN}" in text
        assert f"{SENDER.public_url}/kiem-tra" in text
        assert {address.rstrip(".") for address in re.findall(r"https?://[^\s/]+", text)} == {
            SENDER.public_url
        }


@pytest.mark.parametrize(("name", "language"), CASES)
def test_the_sender_stands_right_before_the_opt_out(
    templates: Path,
    make_blueprint: MakeBlueprint,
    make_letter: MakeLetter,
    name: str,
    language: str,
    topics: Mapping[str, TopicInfo],
) -> None:
    template = load_template(templates, name)
    topic = topics[template.topic]
    text = make_blueprint(template, language=language).preview(make_letter(template)).text
    foot = text[text.rindex(SENDER.reply_to) :]
    assert topic.name[language] in foot
    assert topic.legal_ground[language] in foot
    cannot = {"vi": "không thể ngừng nhận", "en": "cannot be switched off"}[language]
    assert (cannot in foot) == topic.statutory


def test_the_debt_notice_follows_its_form(
    templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    template = load_template(templates, "debt-notice")
    preview = make_blueprint(template).preview(make_letter(template))
    for text in (preview.text, page(preview.html).words):
        flat = " ".join(text.split())
        for piece in (
            "tháng 11 năm 2026",
            "Số 12345/TB-HAN",
            "ngày 05 tháng 11 năm 2026",
            "0100023459",
            "tính đến hết ngày 31/10/2026",
            "80.216.501 đồng",
            "Bằng chữ: Tám mươi triệu hai trăm mười sáu nghìn năm trăm linh một đồng",
            "84.716.501 đồng",
            "10 ngày làm việc",
            "tra soát",
            "từ ngày 01/11/2026 đến nay, xin bỏ qua",
            "52.000.000",
            "21/09/2026",
            "tiểu mục 1701",
            "quyết định số 678/QĐ-HAN ngày 05/10/2026",
            "cưỡng chế",
            "024 0000 0101",
            "có ký số",
        ):
            assert piece in flat, piece


def test_subjects_tell_no_amounts_and_no_personal_data(
    templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    template = load_template(templates, "debt-notice")
    for language in template.languages:
        subject = make_blueprint(template, language=language).preview(make_letter(template)).subject
        assert not set(re.findall(r"\d+", subject)) - {"11", "2026"}
        assert template.example["name"] not in subject


def test_a_personal_number_is_masked(
    templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    template = load_template(templates, "debt-notice")
    raw = make_blueprint(template).preview(make_letter(template, tax_code="001012345645"))
    assert "0010******45" in raw.text
    assert "001012345645" not in raw.text + raw.html


@pytest.mark.parametrize("language", ["vi", "en"])
def test_the_debt_notice_reads_well_without_its_optional_values(
    templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter, language: str
) -> None:
    template = load_template(templates, "debt-notice")
    absent = {each.name: None for each in template.fields if not each.required}
    lines = [
        {
            each.name: template.example["lines"][0][each.name]
            for each in template.lines
            if each.required
        }
    ]
    blueprint = make_blueprint(template, language=language)
    for some_lines in (lines, []):
        data: dict[str, Any] = {**absent, "lines": some_lines}
        preview = blueprint.preview(make_letter(template, data=data))
        assert "()" not in preview.text
        assert SENDER.phone in preview.text
        assert not re.search(r"\n{3,}", preview.text)


@pytest.mark.parametrize(
    ("amount", "vi", "en"),
    [(-5_000, "nộp thừa", "overpaid"), (0, "không còn số tiền phải nộp", "Nothing was payable")],
)
def test_nobody_is_asked_to_pay_what_is_not_owed(
    templates: Path,
    make_blueprint: MakeBlueprint,
    make_letter: MakeLetter,
    amount: int,
    vi: str,
    en: str,
) -> None:
    template = load_template(templates, "debt-notice")
    for language, words in (("vi", vi), ("en", en)):
        preview: Any = make_blueprint(template, language=language).preview(
            make_letter(template, data={"amount_payable": amount})
        )
        for text in (preview.text, preview.html):
            assert words in text
            assert "Đề nghị người nộp thuế nộp đủ" not in text
            assert "Please pay" not in text
            assert "-5" not in page(preview.html).words


def test_an_opt_out_is_confirmed_with_its_times(
    templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    template = load_template(templates, "unsubscribe-confirmation")
    preview = make_blueprint(template, bulk=False).preview(
        make_letter(template, to_name="", tax_code="")
    )
    assert (
        "Nhận đề nghị lúc: 09:05 ngày 23/11/2026\nNgừng gửi từ: 09:05 ngày 23/11/2026"
        in preview.text
    )
    assert "- Hướng dẫn quyết toán thuế" in preview.text
    assert "Kính gửi: Quý vị" in preview.text
