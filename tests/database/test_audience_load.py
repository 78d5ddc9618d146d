"""Lists in a real PostgreSQL: grouped into mails, accounted for, kept in the register, and nothing left of a load that failed."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from notifier.audience.load import Audience, known_audience, load
from notifier.audience.rejects import write_problems
from notifier.db import make_engine
from notifier.errors import TableError
from notifier.invented import tax_code
from notifier.rendering.catalogue import Template, load_template
from notifier.testing import ROOT

NOW = datetime(2026, 11, 2, 1, 0, tzinfo=UTC)
DEBT = load_template(ROOT / "templates", "debt-notice")
POLICY = load_template(ROOT / "templates", "tax-policy")
HEADINGS = (
    "MST",
    "Tên NNT",
    "Email",
    "Tổng nợ",
    "Còn phải nộp",
    "Địa chỉ",
    "Khoản nộp",
    "Số tiền",
    "Hạn nộp",
    "Ngôn ngữ",
)
ONE, TWO, THREE = (tax_code(number) for number in (1, 2, 3))
REST = ("20/10/2026", "")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as made:
        yield made


def write(path: Path, rows: Sequence[Sequence[object]], headings: Sequence[str] = HEADINGS) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(headings)
        writer.writerows(rows)
    return path


def row(
    code: str,
    *,
    name: str = "Công ty Ban Mai",
    email: str = "a@example.test",
    debt: str = "1.000",
    item: str = "Thuế GTGT",
    amount: str = "1.000",
    due: str = "20/10/2026",
    address: str = "",
    language: str = "",
) -> list[str]:
    return [code, name, email, debt, debt, address, item, amount, due, language]


def more(code: str, item: str, amount: str = "500") -> list[str]:
    """A later row of a mail, which says only its line."""
    return [code, "", "", "", "", "", item, amount, "20/10/2026", ""]


def recipients(connection: Connection, audience: Audience) -> list[Any]:
    return list(
        connection.execute(
            text(
                "SELECT row_no, tax_code, name, language, address_ids, data FROM recipient WHERE audience_id = :id ORDER BY row_no"
            ),
            {"id": audience.id},
        )
    )


def problems(connection: Connection, audience: Audience) -> list[Any]:
    return list(
        connection.execute(
            text("""SELECT row_no, kind, code, column_name, value, problem_vi, problem_en, cells FROM audience_reject
                     WHERE audience_id = :id ORDER BY row_no"""),
            {"id": audience.id},
        )
    )


def fates(audience: Audience) -> tuple[int, int, int, int]:
    return audience.rows_read, audience.accepted, audience.rejected, audience.merged


def test_several_rows_of_a_tax_code_are_one_mail_also_when_they_stand_apart(
    connection: Connection, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv",
        [row(ONE, item="a"), row(TWO, item="b"), more(ONE, "c"), row(ONE, item="d", amount="7")],
    )
    audience = load(connection, path, DEBT, now=NOW)
    assert fates(audience) == (4, 2, 0, 2)
    first, second = recipients(connection, audience)
    assert (first.row_no, first.tax_code, first.name, first.language) == (
        2,
        ONE,
        "Công ty Ban Mai",
        "vi",
    )
    assert [
        (line["subsection_name"], line["amount"], line["due_date"]) for line in first.data["lines"]
    ] == [
        ("a", 1000, "2026-10-20"),
        ("c", 500, "2026-10-20"),
        ("d", 7, "2026-10-20"),
    ]
    assert first.data["total_debt"] == 1000
    assert not {"name", "email", "language"} & first.data.keys()
    assert [line["subsection_name"] for line in second.data["lines"]] == ["b"]
    assert problems(connection, audience) == []


def test_the_first_complete_row_begins_the_mail_also_when_it_comes_later(
    connection: Connection, tmp_path: Path
) -> None:
    audience = load(
        connection,
        write(tmp_path / "list.csv", [more(ONE, "a"), row(ONE, item="b")]),
        DEBT,
        now=NOW,
    )
    assert fates(audience) == (2, 1, 0, 1)
    (found,) = recipients(connection, audience)
    assert found.row_no == 3
    assert [line["subsection_name"] for line in found.data["lines"]] == ["a", "b"]


def test_a_row_that_says_something_else_of_its_mail_holds_the_mail_back_naming_row_and_column(
    connection: Connection, tmp_path: Path
) -> None:
    other = row(ONE, debt="2.000", item="b")
    path = write(
        tmp_path / "list.csv", [row(ONE, item="a"), other, other, row(ONE, item="b"), row(TWO)]
    )
    audience = load(connection, path, DEBT, now=NOW)
    # Which of the rows is right, nobody knows: no mail at all is better than a wrong one.
    assert fates(audience) == (5, 1, 4, 0)
    assert [each.tax_code for each in recipients(connection, audience)] == [TWO]
    second, third, fourth, fifth = problems(connection, audience)
    assert (third.row_no, third.kind, third.code, third.value) == (
        3,
        "rejected",
        "differs",
        "2.000",
    )
    assert third.column_name in {"Tổng nợ", "Còn phải nộp"}
    assert "row 2" in third.problem_en
    assert "Tổng nợ" in third.problem_en
    assert "dòng 2" in third.problem_vi
    assert third.cells == other
    assert (fourth.row_no, fourth.code) == (4, "differs")
    assert [(each.row_no, each.kind, each.code) for each in (second, fifth)] == [
        (2, "rejected", "incomplete"),
        (5, "rejected", "incomplete"),
    ]
    assert "Row 3" in second.problem_en
    assert "Dòng 3" in fifth.problem_vi


def test_a_mail_is_held_back_when_one_of_its_lines_is_rejected(
    connection: Connection, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv",
        [
            row(ONE, item="a"),
            row(TWO),
            row(ONE, item="b", debt="khoảng 5 triệu"),
            row(ONE, item="c"),
            row(ONE, item="a"),
        ],
    )
    audience = load(connection, path, DEBT, now=NOW)
    assert fates(audience) == (5, 1, 4, 0)
    assert [each.tax_code for each in recipients(connection, audience)] == [TWO]
    told = problems(connection, audience)
    assert [(each.row_no, each.code == "incomplete") for each in told] == [
        (2, True),
        (4, False),
        (5, True),
        (6, True),
    ]
    assert all(
        "Row 4 of the same tax code" in each.problem_en
        for each in told
        if each.code == "incomplete"
    )
    # Mended, the whole mail goes.
    path = write(
        tmp_path / "mended.csv",
        [row(ONE, item="a"), row(TWO), row(ONE, item="b"), row(ONE, item="c"), row(ONE, item="a")],
    )
    mended = load(connection, path, DEBT, now=NOW)
    assert fates(mended) == (5, 2, 0, 3)
    assert [
        line["subsection_name"] for line in recipients(connection, mended)[0].data["lines"]
    ] == ["a", "b", "c"]


def test_a_mail_whose_rows_all_lack_a_cell_is_rejected_whole(
    connection: Connection, tmp_path: Path
) -> None:
    audience = load(
        connection,
        write(tmp_path / "list.csv", [more(ONE, "a"), more(ONE, "b"), row(TWO)]),
        DEBT,
        now=NOW,
    )
    assert fates(audience) == (3, 1, 2, 0)
    assert [
        (each.row_no, each.code, each.column_name) for each in problems(connection, audience)
    ] == [
        (2, "missing", "Tên NNT"),
        (3, "missing", "Tên NNT"),
    ]


def test_exact_duplicates_count_once(connection: Connection, tmp_path: Path) -> None:
    audience = load(
        connection, write(tmp_path / "list.csv", [row(ONE), row(TWO), row(ONE)]), DEBT, now=NOW
    )
    assert fates(audience) == (3, 2, 0, 1)
    assert len(recipients(connection, audience)[0].data["lines"]) == 1
    assert [(each.row_no, each.kind, each.code) for each in problems(connection, audience)] == [
        (4, "merged", "repeated")
    ]


def test_without_lines_a_tax_code_twice_is_merged_only_when_it_says_the_same(
    connection: Connection, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv",
        [
            (ONE, "A", "a@example.test"),
            (ONE, "A", "A@EXAMPLE.TEST"),
            (ONE, "B", "a@example.test"),
            (TWO, "", "b@example.test"),
        ],
        ("Mã số thuế", "Tên", "Email"),
    )
    audience = load(connection, path, POLICY, now=NOW)
    assert fates(audience) == (4, 1, 2, 1)
    assert [
        (each.row_no, each.code, each.column_name) for each in problems(connection, audience)
    ] == [
        (3, "repeated", "Mã số thuế"),
        (4, "differs", "Tên"),
        (5, "missing", "Tên"),
    ]
    assert recipients(connection, audience)[0].data == {"lines": []}


def test_a_list_without_any_annex_column_makes_mails_without_lines(
    connection: Connection, tmp_path: Path
) -> None:
    path = write(tmp_path / "list.csv", [row(ONE)[:6]], HEADINGS[:6])
    audience = load(connection, path, DEBT, now=NOW)
    assert recipients(connection, audience)[0].data["lines"] == []


def test_addresses_are_shared_whatever_their_case_and_kept_in_the_order_of_the_cell(
    connection: Connection, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv",
        [
            row(ONE, email="b@example.test; A@example.test, nonsense"),
            row(TWO, email="a@EXAMPLE.test"),
        ],
    )
    audience = load(connection, path, DEBT, now=NOW)
    names = {
        number: email for number, email in connection.execute(text("SELECT id, email FROM address"))
    }  # noqa: C416 - rows, not pairs
    first, second = recipients(connection, audience)
    assert [names[number] for number in first.address_ids] == ["b@example.test", "A@example.test"]
    assert second.address_ids == [first.address_ids[1]]
    (warning,) = problems(connection, audience)
    assert (warning.row_no, warning.kind, warning.value) == (2, "warning", "nonsense")
    assert fates(audience) == (2, 2, 0, 0)


def test_the_register_follows_the_newest_list_and_keeps_the_history_of_addresses(
    connection: Connection, tmp_path: Path
) -> None:
    load(
        connection,
        write(tmp_path / "old.csv", [row(ONE, email="old@example.test"), row(TWO)]),
        DEBT,
        now=NOW,
    )
    later = NOW + timedelta(days=30)
    load(
        connection,
        write(
            tmp_path / "new.csv",
            [row(ONE, name="Công ty Mới", email="new@example.test", language="en")],
        ),
        DEBT,
        now=later,
    )
    taxpayers = list(
        connection.execute(text("SELECT tax_code, name, language FROM taxpayer ORDER BY tax_code"))
    )
    assert [tuple(each) for each in taxpayers] == sorted(
        [(ONE, "Công ty Mới", "en"), (TWO, "Công ty Ban Mai", "vi")]
    )
    history = connection.execute(
        text("""SELECT a.email, h.first_seen_at, h.last_seen_at FROM taxpayer_address h JOIN address a ON a.id = h.address_id
                  JOIN taxpayer t ON t.id = h.taxpayer_id WHERE t.tax_code = :code ORDER BY h.last_seen_at"""),
        {"code": ONE},
    )
    assert [tuple(each) for each in history] == [
        ("old@example.test", NOW, NOW),
        ("new@example.test", later, later),
    ]


def test_rejected_rows_leave_nothing_in_the_register(
    connection: Connection, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv",
        [
            row(ONE, email="a@gmail.con"),
            row(TWO),
            row(THREE),
            row(THREE, email="other@example.test", item="b"),
        ],
    )
    audience = load(connection, path, DEBT, now=NOW)
    assert fates(audience) == (4, 1, 3, 0)
    assert list(connection.scalars(text("SELECT email FROM address"))) == ["a@example.test"]
    assert list(connection.scalars(text("SELECT tax_code FROM taxpayer"))) == [TWO]


def test_control_totals_are_exact_beyond_what_a_float_can_hold(
    connection: Connection, tmp_path: Path
) -> None:
    codes = [tax_code(number) for number in range(20)]
    path = write(
        tmp_path / "list.csv",
        [row(code, debt=f"{900_000_000_000_001 + at}") for at, code in enumerate(codes)],
    )
    audience = load(connection, path, DEBT, now=NOW)
    assert audience.totals == {
        "total_debt": 20 * 900_000_000_000_001 + 190,
        "amount_payable": 20 * 900_000_000_000_001 + 190,
    }
    assert next(iter(audience.totals)) == DEBT.control_total


@pytest.mark.parametrize(
    "content", [b"MST;Email\n1;2\n", b"MST;MST;Email;T\xc3\xaan\n", b"\x00\x01\x02", b""]
)
def test_a_list_that_cannot_be_used_leaves_nothing(
    engine: Engine, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(TableError), engine.begin() as connection:
        load(connection, path, DEBT, now=NOW)
    assert left_over(engine) == 0


def test_a_load_that_is_stopped_in_the_middle_leaves_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv", [row(tax_code(number), item="x" * 300) for number in range(12_000)]
    )

    def stop(done: int, total: int | None) -> None:
        assert total is None
        if done >= 10_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), engine.begin() as connection:
        load(connection, path, DEBT, now=NOW, progress=stop)
    assert left_over(engine) == 0


def left_over(engine: Engine) -> int:
    tables = ("audience", "audience_reject", "recipient", "address", "taxpayer", "taxpayer_address")
    with engine.connect() as connection:
        return sum(
            connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in tables
        )


def test_the_same_file_is_known_again_for_the_same_template_only(
    connection: Connection, tmp_path: Path
) -> None:
    path = write(tmp_path / "list.csv", [row(ONE)])
    assert known_audience(connection, path, DEBT) is None
    audience = load(connection, path, DEBT, now=NOW)
    assert known_audience(connection, path, DEBT) == audience
    assert known_audience(connection, path, POLICY) is None
    path.write_bytes(path.read_bytes() + b"\n")
    assert known_audience(connection, path, DEBT) is None


def test_two_lists_with_the_same_people_in_another_order_load_at_once(
    engine: Engine, tmp_path: Path
) -> None:
    rows = [row(tax_code(number), email=f"u{number}@example.test") for number in range(3_000)]
    paths = [write(tmp_path / "up.csv", rows), write(tmp_path / "down.csv", rows[::-1])]
    loaded: list[Audience] = []

    def run(path: Path) -> None:
        with engine.begin() as connection:
            loaded.append(load(connection, path, DEBT, now=NOW))

    threads = [threading.Thread(target=run, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [audience.accepted for audience in loaded] == [3_000, 3_000]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM taxpayer_address")) == 3_000


def test_progress_tells_the_rows_and_in_a_spreadsheet_how_many_there_are(
    connection: Connection, tmp_path: Path
) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for each in (["Danh sách nợ thuế tháng 10"], [], HEADINGS, row(ONE), row(TWO)):
        sheet.append(list(each))
    book.save(tmp_path / "list.xlsx")
    seen: list[tuple[int, int | None]] = []
    audience = load(
        connection,
        tmp_path / "list.xlsx",
        DEBT,
        now=NOW,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [each.row_no for each in recipients(connection, audience)] == [4, 5]
    assert seen == [(2, 2)]


@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
def test_the_report_holds_every_problem_in_the_order_of_the_file_and_runs_no_formula(
    connection: Connection, tmp_path: Path, ending: str
) -> None:
    evil = row(TWO, name='=HYPERLINK("https://evil.test")', debt="-5")
    path = write(
        tmp_path / "list.csv", [row(ONE), row("001099012345", email="x@gmail.con"), row(ONE), evil]
    )
    audience = load(connection, path, DEBT, now=NOW)
    out = tmp_path / f"problems{ending}"
    assert write_problems(connection, audience.id, out) == 3
    if ending == ".csv":
        assert out.read_bytes().startswith(b"\xef\xbb\xbf")
        with out.open(encoding="utf-8-sig", newline="") as file:
            table: list[list[Any]] = list(csv.reader(file))
        assert not table[3][7].startswith("=")
    else:
        sheet = openpyxl.load_workbook(out).active
        assert sheet is not None
        table = [list(each) for each in sheet.iter_rows(values_only=True)]
        assert sheet.cell(4, 8).data_type == "s"
    assert [str(each[0]) for each in table[1:]] == ["3", "4", "5"]
    assert table[0][6:] == list(HEADINGS)
    assert "HYPERLINK" in table[3][7]
    assert "gmail.com" in table[1][5]
    assert not list(tmp_path.glob("*.part"))


def test_a_report_of_another_kind_is_refused(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="neither"):
        write_problems(connection, 1, tmp_path / "problems.pdf")


CELLS = st.tuples(
    st.sampled_from([ONE, TWO, THREE, "123", ""]),
    st.sampled_from(["A", "B", ""]),
    st.sampled_from(
        ["a@example.test", "b@example.test", "a@example.test b@example.test", "nonsense", ""]
    ),
    st.sampled_from(["1.000", "2.000", "x", ""]),
    st.sampled_from(["GTGT", "TNDN", ""]),
    st.sampled_from(["500", "-1", ""]),
    st.sampled_from(["vi", "en", ""]),
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(CELLS, max_size=12))
def test_whatever_the_rows_each_is_accepted_rejected_or_merged(
    engine: Engine, tmp_path: Path, rows: list[tuple[str, ...]]
) -> None:
    for template in (DEBT, POLICY):
        table = [
            [
                code,
                name,
                email,
                debt,
                debt,
                "",
                item,
                amount,
                "20/10/2026" if item else "",
                language,
            ]
            for code, name, email, debt, item, amount, language in rows
        ]
        path = write(tmp_path / "list.csv", table)
        with engine.connect() as connection:
            audience = load(connection, path, template, now=NOW)
            read = sum(any(each) for each in table)
            assert (
                audience.rows_read
                == read
                == audience.accepted + audience.rejected + audience.merged
            )
            mails = recipients(connection, audience)
            assert len(mails) == audience.accepted == len({mail.tax_code for mail in mails})
            told = problems(connection, audience)
            assert (
                len({each.row_no for each in told if each.kind == "rejected"}) == audience.rejected
            )
            assert {mail.row_no for mail in mails}.isdisjoint(
                each.row_no for each in told if each.kind != "warning"
            )
            for mail in mails:
                check_mail(
                    template, table, mail, {each.row_no for each in told if each.kind != "warning"}
                )


def check_mail(template: Template, table: list[list[str]], mail: Any, out: set[int]) -> None:
    """A mail says what its first row says, and its lines are those of its rows that were not rejected or merged as repeats."""
    cells = table[mail.row_no - 2]
    assert (mail.tax_code, mail.name) == (cells[0], cells[1])
    assert mail.language == (cells[9] or "vi")
    assert len(mail.address_ids) == len([part for part in cells[2].split() if "@" in part])
    lines = [
        each[6]
        for number, each in enumerate(table, 2)
        if each[0] == mail.tax_code and number not in out and each[6]
    ]
    assert [line["subsection_name"] for line in mail.data["lines"]] == (
        lines if template.lines else []
    )
