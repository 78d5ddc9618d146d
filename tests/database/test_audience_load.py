"""Lists in a real PostgreSQL: grouped into mails, accounted for, kept in the register.

Nothing is left of a load that failed.
"""

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
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from notifier.audience.load import ProgressCallback
from notifier.audience.load import load as load_source
from notifier.audience.rejects import write_problems
from notifier.audience.sources import FileSource
from notifier.db import make_engine
from notifier.domain import audiences
from notifier.domain.audiences import Audience
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
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made


def load(
    session: Session,
    path: Path,
    template: Template,
    *,
    now: datetime,
    progress: ProgressCallback | None = None,
) -> Audience:
    with FileSource(path) as source:
        return load_source(session, source, template, now=now, progress=progress)


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


def recipients(session: Session, audience: Audience) -> list[Any]:
    return list(
        session.execute(
            text(
                """SELECT row_no, tax_code, name, language, address_ids, data FROM recipient
                    WHERE audience_id = :id ORDER BY row_no"""
            ),
            {"id": audience.id},
        )
    )


def problems(session: Session, audience: Audience) -> list[Any]:
    return list(
        session.execute(
            text("""SELECT row_no, kind, code, column_name, value, problem_vi, problem_en, cells
                      FROM audience_reject WHERE audience_id = :id ORDER BY row_no"""),
            {"id": audience.id},
        )
    )


def fates(audience: Audience) -> tuple[int, int, int, int]:
    return audience.rows_read, audience.accepted, audience.rejected, audience.merged


def test_several_rows_of_a_tax_code_are_one_mail_also_when_they_stand_apart(
    session: Session, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv",
        [row(ONE, item="a"), row(TWO, item="b"), more(ONE, "c"), row(ONE, item="d", amount="7")],
    )
    audience = load(session, path, DEBT, now=NOW)
    assert fates(audience) == (4, 2, 0, 2)
    first, second = recipients(session, audience)
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
    assert problems(session, audience) == []


def test_the_first_complete_row_begins_the_mail_also_when_it_comes_later(
    session: Session, tmp_path: Path
) -> None:
    audience = load(
        session,
        write(tmp_path / "list.csv", [more(ONE, "a"), row(ONE, item="b")]),
        DEBT,
        now=NOW,
    )
    assert fates(audience) == (2, 1, 0, 1)
    (found,) = recipients(session, audience)
    assert found.row_no == 3
    assert [line["subsection_name"] for line in found.data["lines"]] == ["a", "b"]


def test_a_row_that_says_something_else_of_its_mail_holds_the_mail_back_naming_row_and_column(
    session: Session, tmp_path: Path
) -> None:
    other = row(ONE, debt="2.000", item="b")
    path = write(
        tmp_path / "list.csv", [row(ONE, item="a"), other, other, row(ONE, item="b"), row(TWO)]
    )
    audience = load(session, path, DEBT, now=NOW)
    # Which of the rows is right, nobody knows: no mail at all is better than a wrong one.
    assert fates(audience) == (5, 1, 4, 0)
    assert [each.tax_code for each in recipients(session, audience)] == [TWO]
    second, third, fourth, fifth = problems(session, audience)
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
    session: Session, tmp_path: Path
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
    audience = load(session, path, DEBT, now=NOW)
    assert fates(audience) == (5, 1, 4, 0)
    assert [each.tax_code for each in recipients(session, audience)] == [TWO]
    told = problems(session, audience)
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
    mended = load(session, path, DEBT, now=NOW)
    assert fates(mended) == (5, 2, 0, 3)
    assert [line["subsection_name"] for line in recipients(session, mended)[0].data["lines"]] == [
        "a",
        "b",
        "c",
    ]


def test_a_mail_whose_rows_all_lack_a_cell_is_rejected_whole(
    session: Session, tmp_path: Path
) -> None:
    audience = load(
        session,
        write(tmp_path / "list.csv", [more(ONE, "a"), more(ONE, "b"), row(TWO)]),
        DEBT,
        now=NOW,
    )
    assert fates(audience) == (3, 1, 2, 0)
    assert [(each.row_no, each.code, each.column_name) for each in problems(session, audience)] == [
        (2, "missing", "Tên NNT"),
        (3, "missing", "Tên NNT"),
    ]


def test_exact_duplicates_count_once(session: Session, tmp_path: Path) -> None:
    audience = load(
        session, write(tmp_path / "list.csv", [row(ONE), row(TWO), row(ONE)]), DEBT, now=NOW
    )
    assert fates(audience) == (3, 2, 0, 1)
    assert len(recipients(session, audience)[0].data["lines"]) == 1
    assert [(each.row_no, each.kind, each.code) for each in problems(session, audience)] == [
        (4, "merged", "repeated")
    ]


def test_without_lines_a_tax_code_twice_is_merged_only_when_it_says_the_same(
    session: Session, tmp_path: Path
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
    audience = load(session, path, POLICY, now=NOW)
    assert fates(audience) == (4, 1, 2, 1)
    assert [(each.row_no, each.code, each.column_name) for each in problems(session, audience)] == [
        (3, "repeated", "Mã số thuế"),
        (4, "differs", "Tên"),
        (5, "missing", "Tên"),
    ]
    assert recipients(session, audience)[0].data == {"lines": []}


def test_a_list_without_any_annex_column_makes_mails_without_lines(
    session: Session, tmp_path: Path
) -> None:
    path = write(tmp_path / "list.csv", [row(ONE)[:6]], HEADINGS[:6])
    audience = load(session, path, DEBT, now=NOW)
    assert recipients(session, audience)[0].data["lines"] == []


def test_addresses_are_shared_whatever_their_case_and_kept_in_the_order_of_the_cell(
    session: Session, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "list.csv",
        [
            row(ONE, email="b@example.test; A@example.test, nonsense"),
            row(TWO, email="a@EXAMPLE.test"),
        ],
    )
    audience = load(session, path, DEBT, now=NOW)
    rows = session.execute(text("SELECT id, email FROM address"))
    names = {each.id: each.email for each in rows}
    first, second = recipients(session, audience)
    assert [names[number] for number in first.address_ids] == ["b@example.test", "A@example.test"]
    assert second.address_ids == [first.address_ids[1]]
    (warning,) = problems(session, audience)
    assert (warning.row_no, warning.kind, warning.value) == (2, "warning", "nonsense")
    assert fates(audience) == (2, 2, 0, 0)


def test_the_register_follows_the_newest_list_and_keeps_the_history_of_addresses(
    session: Session, tmp_path: Path
) -> None:
    load(
        session,
        write(tmp_path / "old.csv", [row(ONE, email="old@example.test"), row(TWO)]),
        DEBT,
        now=NOW,
    )
    later = NOW + timedelta(days=30)
    load(
        session,
        write(
            tmp_path / "new.csv",
            [row(ONE, name="Công ty Mới", email="new@example.test", language="en")],
        ),
        DEBT,
        now=later,
    )
    taxpayers = list(
        session.execute(text("SELECT tax_code, name, language FROM taxpayer ORDER BY tax_code"))
    )
    assert [tuple(each) for each in taxpayers] == sorted(
        [(ONE, "Công ty Mới", "en"), (TWO, "Công ty Ban Mai", "vi")]
    )
    history = session.execute(
        text("""SELECT a.email, h.first_seen_at, h.last_seen_at FROM taxpayer_address h
                  JOIN address a ON a.id = h.address_id
                  JOIN taxpayer t ON t.id = h.taxpayer_id
                 WHERE t.tax_code = :code ORDER BY h.last_seen_at"""),
        {"code": ONE},
    )
    assert [tuple(each) for each in history] == [
        ("old@example.test", NOW, NOW),
        ("new@example.test", later, later),
    ]


def test_rejected_rows_leave_nothing_in_the_register(session: Session, tmp_path: Path) -> None:
    path = write(
        tmp_path / "list.csv",
        [
            row(ONE, email="a@gmail.con"),
            row(TWO),
            row(THREE),
            row(THREE, email="other@example.test", item="b"),
        ],
    )
    audience = load(session, path, DEBT, now=NOW)
    assert fates(audience) == (4, 1, 3, 0)
    assert list(session.scalars(text("SELECT email FROM address"))) == ["a@example.test"]
    assert list(session.scalars(text("SELECT tax_code FROM taxpayer"))) == [TWO]


def test_control_totals_are_exact_beyond_what_a_float_can_hold(
    session: Session, tmp_path: Path
) -> None:
    codes = [tax_code(number) for number in range(20)]
    path = write(
        tmp_path / "list.csv",
        [row(code, debt=f"{900_000_000_000_001 + at}") for at, code in enumerate(codes)],
    )
    audience = load(session, path, DEBT, now=NOW)
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
    with pytest.raises(TableError), Session(engine) as session, session.begin():
        load(session, path, DEBT, now=NOW)
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

    with pytest.raises(KeyboardInterrupt), Session(engine) as session, session.begin():
        load(session, path, DEBT, now=NOW, progress=stop)
    assert left_over(engine) == 0


def left_over(engine: Engine) -> int:
    tables = ("audience", "audience_reject", "recipient", "address", "taxpayer", "taxpayer_address")
    with Session(engine) as session:
        return sum(session.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in tables)


def columns_of(audience: Audience) -> dict[str, Any]:
    return {each.name: getattr(audience, each.name) for each in Audience.__table__.columns}


def test_the_same_file_is_known_again_for_the_same_template_only(
    session: Session, tmp_path: Path
) -> None:
    path = write(tmp_path / "list.csv", [row(ONE)])

    def known(template: Template) -> Audience | None:
        # As another session sees it, whose objects come from the database.
        with Session(session.connection()) as other, FileSource(path) as source:
            return audiences.known(other, source.sha256, template)

    assert known(DEBT) is None
    audience = load(session, path, DEBT, now=NOW)
    found = known(DEBT)
    assert found is not None
    assert columns_of(found) == columns_of(audience)
    assert known(POLICY) is None
    path.write_bytes(path.read_bytes() + b"\n")
    assert known(DEBT) is None


def test_two_lists_with_the_same_people_in_another_order_load_at_once(
    engine: Engine, tmp_path: Path
) -> None:
    rows = [row(tax_code(number), email=f"u{number}@example.test") for number in range(3_000)]
    paths = [write(tmp_path / "up.csv", rows), write(tmp_path / "down.csv", rows[::-1])]
    loaded: list[Audience] = []

    def run(path: Path) -> None:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            loaded.append(load(session, path, DEBT, now=NOW))

    threads = [threading.Thread(target=run, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [audience.accepted for audience in loaded] == [3_000, 3_000]
    with Session(engine) as session:
        assert session.scalar(text("SELECT count(*) FROM taxpayer_address")) == 3_000


def test_progress_tells_the_rows_and_in_a_spreadsheet_how_many_there_are(
    session: Session, tmp_path: Path
) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for each in (["Danh sách nợ thuế tháng 10"], [], HEADINGS, row(ONE), row(TWO)):
        sheet.append(list(each))
    book.save(tmp_path / "list.xlsx")
    seen: list[tuple[int, int | None]] = []
    audience = load(
        session,
        tmp_path / "list.xlsx",
        DEBT,
        now=NOW,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [each.row_no for each in recipients(session, audience)] == [4, 5]
    assert seen == [(2, 2)]


@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
def test_the_report_holds_every_problem_in_the_order_of_the_file_and_runs_no_formula(
    session: Session, tmp_path: Path, ending: str
) -> None:
    evil = row(TWO, name='=HYPERLINK("https://evil.test")', debt="-5")
    path = write(
        tmp_path / "list.csv", [row(ONE), row("001099012345", email="x@gmail.con"), row(ONE), evil]
    )
    audience = load(session, path, DEBT, now=NOW)
    out = tmp_path / f"problems{ending}"
    assert write_problems(session, audience.id, out) == 3
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


def test_two_bad_addresses_of_one_cell_are_two_warnings(session: Session, tmp_path: Path) -> None:
    email = "a@example.test; b@gmail.con; nonsense"
    audience = load(session, write(tmp_path / "list.csv", [row(ONE, email=email)]), DEBT, now=NOW)
    found = list(audiences.problems(session, audience.id))
    assert sorted(each.value for each in found) == ["b@gmail.con", "nonsense"]
    assert found == audiences.first_problems(session, audience.id, limit=2)
    assert {(each.row_no, each.kind, each.column) for each in found} == {(2, "warning", "Email")}


def test_what_json_writes_for_a_byte_that_text_cannot_hold_is_a_cell_like_others(
    session: Session, tmp_path: Path
) -> None:
    audience = load(
        session,
        write(tmp_path / "list.csv", [row(ONE, name=r"Công ty \u0000", debt="-1")]),
        DEBT,
        now=NOW,
    )
    (found,) = problems(session, audience)
    assert found.cells[1] == r"Công ty \u0000"


def test_a_report_of_another_kind_is_refused(session: Session, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="neither"):
        write_problems(session, 1, tmp_path / "problems.pdf")


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
        with Session(engine) as session:
            audience = load(session, path, template, now=NOW)
            read = sum(any(each) for each in table)
            assert (
                audience.rows_read
                == read
                == audience.accepted + audience.rejected + audience.merged
            )
            mails = recipients(session, audience)
            assert len(mails) == audience.accepted == len({mail.tax_code for mail in mails})
            told = problems(session, audience)
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
    """A mail says what its first row says.

    Its lines are those of its rows that were not rejected or merged as repeats.
    """
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
