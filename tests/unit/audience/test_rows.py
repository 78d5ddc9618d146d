"""A row becomes a member of the audience or one problem, whatever its cells hold.

And the headings are found among the first rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.audience.columns import match
from notifier.audience.load import _NULL, _staged
from notifier.audience.rows import Member, Rejection, RowReader, find_columns
from notifier.audience.tables import HEADER_ROWS, Cells, Table
from notifier.domain.audiences import Problem
from notifier.errors import TableError
from notifier.invented import tax_code
from notifier.rendering.catalogue import load_template
from notifier.testing import ROOT

DEBT = load_template(ROOT / "templates", "debt-notice")
POLICY = load_template(ROOT / "templates", "tax-policy")
GUIDANCE = load_template(ROOT / "templates", "settlement-guidance")
HEADINGS = [
    "MST",
    "Tên NNT",
    "Email",
    "Tổng nợ",
    "Còn phải nộp",
    "Số liệu tính đến ngày",
    "Ngôn ngữ",
    "Khoản nộp",
    "Số tiền",
    "Hạn nộp",
]
GOOD: list[Any] = [
    tax_code(1),
    "Công ty A",
    "a@example.test",
    "1.000",
    2000.0,
    "",
    "en",
    "Thuế GTGT",
    500,
    date(2026, 10, 20),
]
READER = RowReader(DEBT, match(DEBT, 1, HEADINGS))


def problem_of(found: Member | Rejection) -> Problem:
    assert isinstance(found, Rejection)
    return found.problem


ANY_CELL = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="\t\n\r\\\x00\x1f\u2028'\"{}[],;0123456789.-/@ađ", max_size=20),
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.timedeltas(),
)


def changed(place: int, cell: object) -> list[Any]:
    return [*GOOD[:place], cell, *GOOD[place + 1 :]]


def test_a_good_row_has_its_values_by_the_names_of_the_fields() -> None:
    member = READER.read(7, GOOD)
    assert isinstance(member, Member)
    assert (member.row_no, member.tax_code, member.emails, member.lacking, member.warnings) == (
        7,
        GOOD[0],
        ["a@example.test"],
        None,
        [],
    )
    assert member.header == {
        "name": "Công ty A",
        "email": "a@example.test",
        "language": "en",
        "total_debt": 1000,
        "amount_payable": 2000,
    }
    assert member.line == {"subsection_name": "Thuế GTGT", "amount": 500, "due_date": "2026-10-20"}


def test_a_row_may_say_for_itself_what_the_campaign_says_for_all() -> None:
    member = READER.read(2, changed(5, "30/09/2026"))
    assert isinstance(member, Member)
    assert member.header["as_of"] == "2026-09-30"


def test_a_row_without_any_cell_of_a_line_has_none() -> None:
    member = READER.read(2, GOOD[:7])
    assert isinstance(member, Member)
    assert member.line is None


@pytest.mark.parametrize(
    ("place", "cell", "code"),
    [
        (0, "0100109107", "tax-code-check"),
        (0, "", "tax-code-missing"),
        (1, "x" * 401, "too-long"),
        (2, "a@gmail.con", "address-typo"),
        (3, "-5", "money-negative"),
        (4, 0.5, "money-fraction"),
        (5, "31/02/2026", "date-impossible"),
        (6, "fr", "language"),
        (8, "", "missing"),
        (9, "20/10/26", "date"),
    ],
)
def test_the_first_bad_cell_rejects_the_row_and_names_its_column(
    place: int, cell: object, code: str
) -> None:
    problem = problem_of(READER.read(9, changed(place, cell)))
    assert (problem.row_no, problem.kind, problem.column, problem.code) == (
        9,
        "rejected",
        HEADINGS[place],
        code,
    )
    assert len(problem.cells) == len(HEADINGS)
    assert len(problem.value) <= 200


def test_a_bad_address_beside_a_good_one_is_a_warning_that_keeps_the_row() -> None:
    member = READER.read(3, changed(2, "a@example.test; b@gmail.con; x"))
    assert isinstance(member, Member)
    assert member.emails == ["a@example.test"]
    assert [(each.row_no, each.kind, each.value, each.code) for each in member.warnings] == [
        (3, "warning", "b@gmail.con", "address-typo"),
        (3, "warning", "x", "address"),
    ]


def test_personal_numbers_are_masked_beside_the_sentence_and_kept_among_the_cells() -> None:
    problem = problem_of(READER.read(3, changed(0, "CCCD 001099012345")))
    assert problem.value == "CCCD 0010******45"
    assert problem.cells[0] == "CCCD 001099012345"


def test_only_where_several_rows_make_a_mail_may_a_row_leave_blank_what_the_mail_needs() -> None:
    member = READER.read(3, [GOOD[0], "", "", "", "", "", "", "Thuế TNDN", "7", "20/10/2026"])
    assert isinstance(member, Member)
    assert member.lacking == "name"
    reader = RowReader(POLICY, match(POLICY, 1, HEADINGS))
    problem = problem_of(reader.read(3, [GOOD[0], "", "a@example.test"]))
    assert (problem.code, problem.column) == ("missing", "Tên NNT")


@settings(max_examples=400)
@given(st.lists(ANY_CELL, max_size=14), st.sampled_from([DEBT, POLICY, GUIDANCE]))
def test_whatever_the_cells_a_row_is_a_member_or_a_problem(
    cells: list[object], template: Any
) -> None:
    found = RowReader(template, match(template, 1, HEADINGS)).read(2, cells)
    if isinstance(found, Rejection):
        problem = found.problem
        assert problem.code
        assert problem.vi[-1] in ".?)"
        assert problem.en[-1] in ".?)"
        orjson.dumps([cell.encode("utf-8", "replace").decode() for cell in problem.cells])


@settings(max_examples=400)
@given(st.integers(0, 9), ANY_CELL)
def test_one_odd_cell_in_a_good_row_never_breaks_the_line_of_the_copy(
    place: int, cell: object
) -> None:
    found = READER.read(2, changed(place, cell))
    if isinstance(found, Member):
        line = _staged(found)
        assert line.endswith("\n")
        assert line.count("\n") == 1
        assert line.count("\t") == 9
        assert "\x00" not in line
        assert "\r" not in line
        fields = line[:-1].split("\t")
        assert fields[2] == _NULL or fields[2].isidentifier()
        assert (
            orjson.loads(fields[8].replace("\\\\", "\\")).keys() >= {"total_debt"}
            or fields[2] != _NULL
        )


# --- headings among the first rows ----------------------------------------------------------------


def table(rows: Sequence[Cells], name: str = "A") -> Table:
    numbered = list(enumerate(rows, 1))
    return Table(
        name=name,
        head=numbered[:HEADER_ROWS],
        rest=iter(numbered[HEADER_ROWS:]),
        total=len(rows),
    )


@given(st.integers(0, HEADER_ROWS - 1), st.integers(0, 30))
def test_headings_are_found_in_any_of_the_first_rows_and_every_row_below_is_read(
    above: int, below: int
) -> None:
    columns, rows, left = find_columns(
        DEBT, [table([*[["Danh sách nợ", "Email"]] * above, HEADINGS, *[GOOD] * below])]
    )
    assert columns.header_row == above + 1
    assert [number for number, _ in rows] == list(range(above + 2, above + 2 + below))
    assert left == below


def test_headings_further_down_are_not_looked_for() -> None:
    with pytest.raises(TableError):
        find_columns(DEBT, [table([*[["Danh sách nợ"]] * HEADER_ROWS, HEADINGS, GOOD])])


def test_doubled_headings_below_a_title_are_named_and_not_passed_over() -> None:
    with pytest.raises(TableError, match=r'"MST" \(A\) and "Mã số thuế" \(K\)'):
        find_columns(DEBT, [table([["Danh sách", "Email"], [*HEADINGS, "Mã số thuế"], GOOD])])


def test_a_list_of_headings_alone_is_a_list_without_rows() -> None:
    _, rows, left = find_columns(DEBT, [table([HEADINGS])])
    assert (list(rows), left) == ([], 0)


def test_no_table_at_all_is_an_empty_list() -> None:
    for tables in ([], [table([])]):
        with pytest.raises(TableError, match="empty"):
            find_columns(DEBT, tables)


def test_odd_kinds_of_cells_are_reported_as_text() -> None:
    moment = datetime(2026, 10, 31, 8, 30, tzinfo=UTC).replace(tzinfo=None)
    cells = [None, True, time(8), timedelta(1), 1.5, moment, date(2026, 1, 2), 7.0]
    problem = problem_of(READER.read(2, cells))
    assert problem.cells == [
        "",
        "True",
        "08:00:00",
        "1 day, 0:00:00",
        "1.5",
        "2026-10-31 08:30:00",
        "02/01/2026",
        "7",
        "",
        "",
    ]
