"""Columns are found by name, label and synonym, however a heading is written.

What is missing or doubled is named.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.audience.columns import check, letters, match, plain
from notifier.errors import TableError
from notifier.rendering.catalogue import STANDARD_FIELDS, Field, Template, load_all
from notifier.testing import ROOT

TEMPLATES = load_all(ROOT / "templates")
DEBT = TEMPLATES["debt-notice"]
POLICY = TEMPLATES["tax-policy"]
KNOWN = [
    (field, line, heading)
    for fields, line in (((*STANDARD_FIELDS, *DEBT.fields), False), (DEBT.lines, True))
    for field in fields
    for heading in (field.name, *field.label.values(), *field.synonyms)
]
BASE = ["MST", "Tên NNT", "Email", "Tổng nợ", "Còn phải nộp"]


def found(*headings: object) -> list[tuple[int, str, bool]]:
    return [(each.index, each.field.name, each.line) for each in match(DEBT, 1, headings).used]


def without_accents(text: str) -> str:
    bare = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D"))
    return "".join(char for char in bare if not unicodedata.combining(char))


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_no_two_fields_of_a_template_share_a_heading(template: Template) -> None:
    owners: dict[str, set[tuple[str, bool]]] = {}
    for fields, line in (((*STANDARD_FIELDS, *template.fields), False), (template.lines, True)):
        for field in fields:
            for heading in (field.name, *field.label.values(), *field.synonyms):
                owners.setdefault(plain(heading), set()).add((field.name, line))
    assert {heading: names for heading, names in owners.items() if len(names) > 1} == {}


@given(
    st.sampled_from(KNOWN),
    st.sampled_from(
        [
            str,
            str.upper,
            str.title,
            without_accents,
            lambda text: unicodedata.normalize("NFD", text),
        ]
    ),
    st.sampled_from(
        [
            "{}",
            "  {} ",
            "{}:",
            "{} *",
            "* {}",
            "{} (bắt buộc)",
            "{} [VNĐ]",
            "\ufeff{}",
            "{}\n",
            "“{}”",
        ]
    ),
    st.sampled_from([" ", "_", "-", "\n", "\u00a0", "  ", "."]),
)
def test_a_heading_is_known_however_it_is_written(
    known: tuple[Field, bool, str], case: Callable[[str], str], frame: str, space: str
) -> None:
    field, line, heading = known
    written = frame.format(case(heading).replace(" ", space))
    assert found(written) == [(0, field.name, line)]


def test_a_letter_with_a_stroke_is_the_letter_without_it() -> None:
    assert plain("Địa chỉ thư điện tử") == plain("DIA CHI THU DIEN TU") == "diachithudientu"
    assert plain("hoà") == plain("hòa") == plain(unicodedata.normalize("NFD", "hoà"))


@given(st.text(max_size=60))
def test_any_heading_at_all_can_be_looked_up(heading: str) -> None:
    columns = match(DEBT, 3, [heading])
    assert columns.header_row == 3
    assert len(columns.used) + len(columns.unused) == bool(heading.strip())


@given(st.permutations([*BASE, "Ghi chú", "Khoản nộp", "Số tiền", "Hạn nộp"]))
def test_the_order_of_the_columns_means_nothing(headings: list[str]) -> None:
    columns = match(DEBT, 1, headings)
    check(DEBT, columns)
    assert {headings[each.index] for each in columns.used} == set(headings) - {"Ghi chú"}
    assert columns.unused == ("Ghi chú",)


def test_columns_nobody_asked_for_are_named_as_they_stand_in_the_file() -> None:
    columns = match(DEBT, 1, ["MST", None, "", "Ghi chú  nội bộ", 2026.0, "***"])
    assert columns.unused == ("Ghi chú nội bộ", "2026.0", "***")


@pytest.mark.parametrize(
    ("headings", "names"),
    [
        (["MST", "Mã số thuế"], ['"MST" (A)', '"Mã số thuế" (B)', "Tax code"]),
        (["Email", "x", "E-MAIL "], ['"Email" (A)', '"E-MAIL" (C)', "E-mail address"]),
        (["Hạn nộp", "Hạn nộp"], ['"Hạn nộp" (A)', '"Hạn nộp" (B)', "Due date"]),
        (["Tổng nợ (đồng)", "Tổng nợ (USD)"], ['"Tổng nợ (đồng)" (A)', '"Tổng nợ (USD)" (B)']),
    ],
)
def test_a_doubled_column_is_named_with_both_places(headings: list[str], names: list[str]) -> None:
    with pytest.raises(TableError) as error:
        match(DEBT, 1, headings)
    assert all(name in error.value.message for name in names)
    assert error.value.fix


def test_a_remark_in_brackets_yields_to_the_heading_without_one() -> None:
    assert found("Tổng nợ (USD)", "Tổng nợ") == [(1, "total_debt", False)]
    assert match(DEBT, 1, ["Tổng nợ (USD)", "Tổng nợ"]).unused == ("Tổng nợ (USD)",)
    assert found("Mã số thuế (MST)", "Hạn nộp (dd/mm/yyyy)") == [
        (0, "tax_code", False),
        (1, "due_date", True),
    ]


@pytest.mark.parametrize("lacking", range(len(BASE)))
def test_a_required_column_that_lacks_is_named_in_both_languages_with_what_was_found(
    lacking: int,
) -> None:
    headings = [*BASE[:lacking], *BASE[lacking + 1 :], "Ghi chú"]
    ((_, name, _),) = found(BASE[lacking])
    field = next(each for each in (*STANDARD_FIELDS, *DEBT.fields) if each.name == name)
    with pytest.raises(TableError) as error:
        check(DEBT, match(DEBT, 4, headings))
    assert field.label["vi"] in error.value.message
    assert field.label["en"] in error.value.message
    assert error.value.fix
    assert "row 4" in error.value.fix
    assert all(heading in error.value.fix for heading in headings)


def test_lines_are_needed_whole_or_not_at_all() -> None:
    check(DEBT, match(DEBT, 1, BASE))
    with pytest.raises(TableError, match="Hạn nộp"):
        check(DEBT, match(DEBT, 1, [*BASE, "Khoản nộp", "Số tiền"]))


def test_what_is_the_same_for_a_whole_campaign_needs_no_column_and_may_have_one() -> None:
    check(POLICY, match(POLICY, 1, ["MST", "Tên", "Email"]))
    assert (0, "as_of", False) in found("Số liệu tính đến ngày")


def test_letters_are_those_of_a_spreadsheet() -> None:
    assert [letters(index) for index in (0, 25, 26, 51, 52, 701, 702)] == [
        "A",
        "Z",
        "AA",
        "AZ",
        "BA",
        "ZZ",
        "AAA",
    ]
    names = [letters(index) for index in range(2_000)]
    shuffled = random.Random(1).sample(names, len(names))
    assert sorted(shuffled, key=lambda name: (len(name), name)) == names
