"""The eight dossier notices.

One event fills any of them, and each reads well whatever its source leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from notifier.rendering.blueprint import Blueprint, Preview
from notifier.rendering.catalogue import Template, faults, load_template
from tests.unit.rendering.conftest import SENDER, MakeBlueprint, MakeLetter
from tests.unit.rendering.test_templates import page

NAMES = [
    "dossier-received",
    "dossier-refused",
    "dossier-papers-missing",
    "dossier-payment-due",
    "dossier-stopped",
    "dossier-done",
    "dossier-handed-over",
    "dossier-new-date",
]
LANGUAGES = ("vi", "en")
CASES = [(name, language) for name in NAMES for language in LANGUAGES]

CODE = "000.A0.01.H26-261102-0042"
PAPERS = ["Bản sao giấy chứng nhận đăng ký", "Văn bản ủy quyền <bản gốc> & bản dịch"]
EVENT: Mapping[str, Any] = {
    "dossier_code": CODE,
    "procedure": "Đăng ký thuế lần đầu",
    "status_at": "2026-11-04T09:05:00+07:00",
    "promised_at": "2026-11-09T16:30:00+07:00",
    "new_promised_at": "2026-11-16T16:30:00+07:00",
    "reason": "Thiếu chữ ký của người đại diện.",
    "amount": 12_345_000,
    "due_on": "2026-11-18",
    "result_place": "Bộ phận một cửa, số 20 phố Mẫu",
    "office": "Thuế cơ sở 2 thành phố Hà Nội",
    "lines": [{"paper": each} for each in PAPERS],
}
NAME = "Nguyễn Thị Thí Dụ"
PERSONAL_NUMBER = "001012345645"

FOOT = {"vi": "Kiểm tra thư thật", "en": "Check that this e-mail is genuine"}
TAX_CODE_LABEL = {"vi": "Mã số thuế:", "en": "Tax code:"}

# A heading with nothing below it, or an element without a word.
_HOLLOW = re.compile(
    r"</h[12]>\s*(?:<h[12]\b|</td>)|<(p|li|ul|ol|div|strong|h1|h2)\b[^>]*>\s*</\1>|<br>\s*</p>"
)
# What a value that is absent leaves behind: a bare label, doubled or stray punctuation, a gap.
_TRACE = re.compile(r":\s*(?:\n\n|$)|\(\)|,,|\.\.|[^\S\n][.,;:]|[^\S\n]{2}(?<!\n  )\S|\n{3}")

Write = Callable[..., Preview]


# Loading one compiles it; no test here writes to the folder.
load_once = cache(load_template)


@pytest.fixture(scope="session")
def write(templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter) -> Write:
    """Render a notice of exactly these values, without those of its example.

    As in a campaign, a template is compiled once and filled many times.
    """

    @cache
    def blueprint(name: str, language: str) -> Blueprint:
        return make_blueprint(load_once(templates, name), language=language, bulk=False)

    def render(name: str, language: str, data: Mapping[str, Any], **recipient: str) -> Preview:
        template = load_once(templates, name)
        absent: dict[str, Any] = {each.name: None for each in template.fields}
        letter = make_letter(
            template,
            data={**absent, "lines": [], **data},
            **{"to_name": NAME, "tax_code": PERSONAL_NUMBER, **recipient},
        )
        return blueprint(name, language).preview(letter)

    return render


def needed(templates: Path, name: str) -> dict[str, Any]:
    """Return the event of a source that reports nothing more than it must."""
    return {
        each.name: EVENT[each.name] for each in load_once(templates, name).fields if each.required
    }


def contents(preview: Preview, language: str) -> tuple[str, str]:
    """Return the words of the text and of the HTML that stand before the foot, each as one line."""
    parts = preview.text.split("-" * 60)[0], page(preview.html).words.split(FOOT[language])[0]
    return " ".join(parts[0].split()), " ".join(parts[1].split())


def check(preview: Preview) -> None:
    for part in (preview.subject, preview.text, preview.html):
        assert "None" not in part
    assert CODE in preview.subject
    content = preview.text.split("-" * 60)[0].rstrip()
    assert not _TRACE.search(content), _TRACE.search(content)
    assert not _HOLLOW.search(preview.html), _HOLLOW.search(preview.html)
    # The office and the title stand alone; any other line in capitals that ends a paragraph is a
    # heading of nothing.
    for paragraph in content.split("\n\n")[2:]:
        last = paragraph.splitlines()[-1]
        assert ":" in last or not last.isupper(), last


def described(template: Template) -> list[tuple[Any, ...]]:
    return [
        (each.name, each.type, each.max_length, each.scope, dict(each.label))
        for each in (*template.fields, *template.lines)
    ]


def test_one_event_fills_any_of_the_eight(templates: Path) -> None:
    loaded = {name: load_once(templates, name) for name in NAMES}
    for name, template in loaded.items():
        assert template.topic == "dossier-status"
        assert described(template) == described(loaded["dossier-received"])
        assert faults(template, EVENT) == []
        always = {"dossier_code", "procedure", "status_at"}
        assert {each.name for each in template.fields if each.required} == always | (
            {"amount"} if name == "dossier-payment-due" else set()
        )
        assert faults(template, needed(templates, name)) == []


@pytest.mark.parametrize(("name", "language"), CASES)
def test_it_reads_well_with_everything(write: Write, name: str, language: str) -> None:
    preview = write(name, language, EVENT)
    check(preview)
    for content in contents(preview, language):
        for value in (CODE, EVENT["procedure"], EVENT["office"], NAME, "0010******45"):
            assert value in content
        assert PERSONAL_NUMBER not in content


@pytest.mark.parametrize(("name", "language"), CASES)
def test_it_reads_well_with_nothing_but_what_is_required(
    write: Write, templates: Path, name: str, language: str
) -> None:
    for recipient in ({}, {"to_name": "", "tax_code": ""}):
        preview = write(name, language, needed(templates, name), **recipient)
        check(preview)
        for content in contents(preview, language):
            assert CODE in content
            assert EVENT["office"] not in content


@pytest.mark.parametrize(("name", "language"), CASES)
def test_each_optional_value_may_be_absent_alone(
    write: Write, templates: Path, name: str, language: str
) -> None:
    for absent in EVENT.keys() - needed(templates, name).keys():
        check(write(name, language, {key: value for key, value in EVENT.items() if key != absent}))


@pytest.mark.parametrize(("name", "language"), CASES)
def test_an_applicant_without_a_tax_code_sees_no_line_for_it(
    write: Write, name: str, language: str
) -> None:
    for content in contents(write(name, language, EVENT, tax_code=""), language):
        assert TAX_CODE_LABEL[language] not in content
        assert NAME in content


@pytest.mark.parametrize(("name", "language"), CASES)
def test_the_subject_tells_the_code_and_what_happened_only(
    write: Write, templates: Path, name: str, language: str
) -> None:
    for data in (EVENT, needed(templates, name)):
        subject = write(name, language, data).subject
        assert not re.search(r"\d", subject.replace(CODE, ""))
        for value in (NAME, EVENT["procedure"], EVENT["office"], EVENT["reason"]):
            assert value not in subject


@pytest.mark.parametrize(
    ("language", "pieces"),
    [
        (
            "vi",
            [
                "12.345.000 đồng",
                "Bằng chữ: Mười hai triệu ba trăm bốn mươi lăm nghìn đồng",
                "18/11/2026",
                "mã OTP",
            ],
        ),
        (
            "en",
            [
                "VND 12,345,000",
                "In words: Twelve million three hundred forty-five thousand dong",
                "18 November 2026",
                "one-time code",
            ],
        ),
    ],
)
def test_a_payment_is_given_in_figures_and_words_and_asks_for_no_bank_data(
    write: Write, language: str, pieces: list[str]
) -> None:
    preview = write("dossier-payment-due", language, EVENT)
    for content in contents(preview, language):
        for piece in pieces:
            assert piece in content
        assert "http" not in content
    assert "000.000" not in preview.subject


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_missing_paper_is_listed_and_escaped(write: Write, language: str) -> None:
    preview = write("dossier-papers-missing", language, EVENT)
    for paper in PAPERS:
        assert f"\n- {paper}\n" in preview.text
    assert f"<li>{PAPERS[0]}</li>" in preview.html
    assert "<li>Văn bản ủy quyền &lt;bản gốc&gt; &amp; bản dịch</li>" in preview.html
    assert {"vi": "thời hạn giải quyết tạm dừng", "en": "stands still"}[language] in contents(
        preview, language
    )[0]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "name", ["dossier-refused", "dossier-stopped", "dossier-new-date", "dossier-papers-missing"]
)
def test_the_reason_is_given_in_its_own_words(write: Write, name: str, language: str) -> None:
    for content in contents(write(name, language, EVENT), language):
        assert EVENT["reason"] in content
        assert SENDER.phone in content


@pytest.mark.parametrize(
    ("language", "first", "new", "once"),
    [
        (
            "vi",
            "Ngày hẹn trước: 16:30 ngày 09/11/2026",
            "16:30 ngày 16/11/2026",
            "chỉ được hẹn lại một lần",
        ),
        (
            "en",
            "First promised date: 16:30 on 9 November 2026",
            "16:30 on 16 November 2026",
            "once only",
        ),
    ],
)
def test_an_apology_names_both_dates_and_that_there_is_no_third(
    write: Write, language: str, first: str, new: str, once: str
) -> None:
    known = write("dossier-new-date", language, EVENT)
    open_still = write("dossier-new-date", language, {**EVENT, "new_promised_at": None})
    assert known.subject != open_still.subject
    for content in contents(known, language):
        assert first in content
        assert new in content
        assert once in content
    for content in contents(open_still, language):
        assert first in content
        assert once not in content


@pytest.mark.parametrize(("language", "day"), [("vi", "06/11/2026"), ("en", "6 November 2026")])
def test_a_promise_for_a_day_is_shown_without_an_hour(
    write: Write, language: str, day: str
) -> None:
    # Midnight in Vietnam is how sources write a day of which they know no hour.
    preview = write(
        "dossier-received", language, {**EVENT, "promised_at": "2026-11-05T17:00:00+00:00"}
    )
    for content in contents(preview, language):
        assert day in content
        assert "00:00" not in content
