"""Texts as tables: encodings and separators as programs write them, and files that are no text."""

from __future__ import annotations

import csv
import io
import os
import tracemalloc
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifier.audience.columns import Columns
from notifier.audience.rows import Member, Rejection, RowReader, find_columns
from notifier.audience.sources import FileSource
from notifier.audience.tables import (
    MAX_CELL_CHARS,
    MAX_LINE_CHARS,
    delimiter_of,
    encoding_of,
)
from notifier.errors import TableError
from notifier.rendering.catalogue import load_template
from notifier.testing import ROOT

DEBT = load_template(ROOT / "templates", "debt-notice")
HEADINGS = ["Mã số thuế", "Tên người nộp thuế", "Email", "Tổng nợ", "Còn phải nộp", "Địa chỉ"]
ROW = [
    "0100109106",
    "Công ty Đường Nguyễn Ướt",
    "a@example.test",
    "1.234.567",
    "1.000",
    "Số 1, ngõ 2, phố Vĩ Dạ",
]


def written(rows: Sequence[Sequence[str]], delimiter: str = ",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


def read(path: Path) -> tuple[Columns, list[tuple[int, Sequence[Any]]]]:
    with FileSource(path) as source:
        columns, rows, total = find_columns(DEBT, source.tables())
        assert total is None
        return columns, list(rows)


def windows_1258(text: str) -> bytes:
    """Encode as Vietnamese Windows does.

    A vowel with its shape is one byte, the tone behind it another.
    """
    out = bytearray()
    for char in text:
        try:
            out += char.encode("cp1258")
        except UnicodeEncodeError:
            parts = unicodedata.normalize("NFD", char)
            tones = [part for part in parts if part in "\u0300\u0301\u0303\u0309\u0323"]
            rest = unicodedata.normalize(
                "NFC", "".join(part for part in parts if part not in tones)
            )
            out += rest.encode("cp1258") + "".join(tones).encode("cp1258")
    return bytes(out)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1258"]
)
def test_every_encoding_and_separator_gives_the_same_composed_texts(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    text = written([HEADINGS, *[ROW] * 30], delimiter)
    (tmp_path / "list.csv").write_bytes(
        windows_1258(text) if encoding == "cp1258" else text.encode(encoding)
    )
    columns, rows = read(tmp_path / "list.csv")
    assert len(rows) == 30
    for number, cells in rows:
        member = RowReader(DEBT, columns).read(number, cells)
        assert isinstance(member, Member)
        assert (member.header["name"], member.header["address"], member.header["total_debt"]) == (
            ROW[1],
            ROW[5],
            1234567,
        )


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_short_text_of_vietnamese_windows_is_known_by_its_last_letters_too(
    tmp_path: Path, cut: int
) -> None:
    rows = [
        ["mst", "ten", "email", "tong no", "con phai nop"],
        ["0100109106", "A", "a@example.test", "1", "1"],
    ]
    text = written(rows).strip()[:-1] + "ộ" + "1" * cut
    (tmp_path / "list.csv").write_bytes(windows_1258(text))
    assert unicodedata.normalize("NFC", read(tmp_path / "list.csv")[1][0][1][4]) == "ộ" + "1" * cut


def test_a_letter_on_the_edge_of_the_sample_spoils_nothing(tmp_path: Path) -> None:
    for shift in range(3):
        rows = [HEADINGS, ["0100109106", "x" * shift + "ộ" * 90, "a@example.test", "1", "1", ""]]
        text = written([*rows, *[rows[1]] * 1_500])
        assert len(text.encode()) > 300_000
        (tmp_path / "list.csv").write_bytes(text.encode())
        assert read(tmp_path / "list.csv")[1][-1][1][1] == "x" * shift + "ộ" * 90


def test_quoted_cells_may_hold_line_ends_and_separators_and_rows_count_as_a_spreadsheet_does(
    tmp_path: Path,
) -> None:
    rows = [
        ["Danh sách, kỳ 10"],
        [],
        ["Mã số\nthuế", *HEADINGS[1:]],
        ["0100109106", 'A "B"\nC; D', *ROW[2:]],
        [],
        ROW,
    ]
    (tmp_path / "list.csv").write_text(written(rows), encoding="utf-8", newline="")
    columns, found = read(tmp_path / "list.csv")
    assert columns.header_row == 3
    assert [(number, cells[1]) for number, cells in found] == [(4, 'A "B"\nC; D'), (6, ROW[1])]


def test_rows_of_nothing_but_separators_and_spaces_are_blank(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        written([HEADINGS]) + ",,,\n  , ,\n\n\u00a0\n" + written([ROW]), encoding="utf-8"
    )
    assert [number for number, _ in read(tmp_path / "list.csv")[1]] == [6]


def test_a_row_may_be_shorter_or_longer_than_the_headings(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        written([HEADINGS, ROW[:5], [*ROW, "", "x"]]), encoding="utf-8"
    )
    columns, rows = read(tmp_path / "list.csv")
    members = [RowReader(DEBT, columns).read(*row) for row in rows]
    assert [isinstance(member, Member) for member in members] == [True, True]


@pytest.mark.parametrize(
    ("sample", "delimiter"),
    [
        ("a;b;c\n1;x, y, z, t, u;2\n1;x, y, z, t, u;2\n", ";"),
        ("mst,ten,email\n1,A; B; C,2\n1,A; B; C; D,2\n", ","),
        ('mst;ten;no\n1;"a;b;c";1,5\n1;b;1,5\n', ";"),
        ("Danh sách nợ, tháng 10, năm 2026\nmst\tten\temail\n1\t2\t3\n", "\t"),
        ("mst;ten;email\n", ";"),
        ("Danh sách nợ\n\nTháng 10\nHà Nội\nmst;ten;email\n1;2;3\n", ";"),
        ('mst;"ten\nnguoi";email\n1;"x, y\n, z, t";2\n1;"x, y\n, z, t";2\n', ";"),
        ("sep=|\nmst,a|ten,a|email\n", "|"),
        ("", ","),
    ],
)
def test_the_separator_is_the_one_that_splits_the_lines_alike(sample: str, delimiter: str) -> None:
    assert delimiter_of(sample) == delimiter


def test_a_first_line_that_names_the_separator_is_not_counted_as_spreadsheets_do_not_show_it(
    tmp_path: Path,
) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "list.csv").write_bytes(
            ("sep=;\r\n" + written([HEADINGS, ROW], ";")).encode(encoding)
        )
        columns, rows = read(tmp_path / "list.csv")
        assert columns.header_row == 1
        assert [(number, cells[5]) for number, cells in rows] == [(2, ROW[5])]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1258"])
def test_letters_that_come_late_in_the_list_tell_its_encoding(
    tmp_path: Path, encoding: str
) -> None:
    plain = [
        ["mst", "ten", "email", "tong no", "con phai nop", "dia chi"],
        *[["0100109106", "Cong ty", "a@example.test", "1", "1", "x" * 90]] * 4_000,
    ]
    text = written([*plain, ROW])
    (tmp_path / "list.csv").write_bytes(
        windows_1258(text) if encoding == "cp1258" else text.encode()
    )
    rows = read(tmp_path / "list.csv")[1]
    assert rows[-1][1] == ROW


@pytest.mark.parametrize("byte_order", ["le", "be"])
def test_the_byte_order_is_known_without_a_mark_whatever_the_first_letter(byte_order: str) -> None:
    assert (
        encoding_of("Đơn vị;mst;email\n".encode(f"utf-16-{byte_order}")) == f"utf-16-{byte_order}"
    )


def test_western_windows_is_told_from_vietnamese_windows() -> None:
    assert encoding_of("Société Générale, Zoë, Añejo".encode("cp1252")) in {"cp1252", "cp1258"}
    assert encoding_of("Bò Kho òòò Þór Ìsland".encode("cp1252")) == "cp1252"
    assert encoding_of(windows_1258("Công ty Đường Ướt Ngõ Mỹ Ở")) == "cp1258"


def test_a_quotation_mark_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        written([HEADINGS, *[ROW] * 30])
        + '0100109106,A,a@example.test,1,1,"Số 1\n'
        + written([ROW] * 5),
        encoding="utf-8",
    )
    with pytest.raises(TableError, match="begins in line 32 a quotation mark"):
        read(tmp_path / "list.csv")


def test_quotation_marks_within_a_cell_are_letters(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        written([HEADINGS]) + 'x,Công ty "Ban Mai",a,1,1,y\n', encoding="utf-8"
    )
    assert read(tmp_path / "list.csv")[1][0][1][1] == 'Công ty "Ban Mai"'


# --- files that are something else ----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 5_000,
        b"MST,Ten,Email\n1,\x002,3\n",
        b"\x89PNG\r\n\x1a\n\x00\x00" + bytes(range(256)) * 9,
        b"PK\x03\x04" + b"x" * 90,
        b"%PDF-1.7\n\xff",
        b"x" * (MAX_CELL_CHARS + 5),
        b"x" * (MAX_LINE_CHARS + 5),
        b"a;" * 600 + b"\n",
        b'MST;Ten\n"' + b"x\n" * MAX_CELL_CHARS,
        b"\xff\xfe\x00",
        "MST;Tên\n".encode() + b"\xf0\x28\x8c\x28" * 30,
    ],
    ids=range(12),
)
def test_what_is_no_list_is_refused_in_one_sentence_with_a_way_out(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(TableError) as caught:
        read(tmp_path / "list.csv")
    assert caught.value.fix


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "list.pdf").write_bytes(b"%PDF")
    for name in ("folder.csv", "pipe.csv", "list.pdf", "absent.csv"):
        with pytest.raises(TableError) as caught:
            FileSource(tmp_path / name)
        assert name in caught.value.message


def test_a_damaged_place_far_in_the_list_is_named(tmp_path: Path) -> None:
    text = written([HEADINGS, *[ROW] * 5_000]).encode()
    (tmp_path / "list.csv").write_bytes(text + b"0100109106,\xff\xff,a@example.test\n")
    with pytest.raises(TableError, match="line"):
        read(tmp_path / "list.csv")


def test_a_line_without_an_end_is_given_up_early(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with path.open("wb") as file:
        file.write(written([HEADINGS, *[ROW] * 5_000]).encode() + b"x" * 10)
        # A hole in the file: a gigabyte that takes no room.
        file.truncate(1_000_000_000)
    tracemalloc.start()
    with pytest.raises(TableError, match="line 5002 is longer"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=400)
    | st.text(max_size=200).map(str.encode)
    | st.text(max_size=200).map(lambda text: text.encode("utf-16", "replace"))
)
def test_whatever_the_bytes_it_is_rows_or_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(written([HEADINGS, ROW]).encode() + content)
    try:
        columns, rows = read(tmp_path / "list.csv")
    except TableError:
        return
    for row in rows:
        assert isinstance(RowReader(DEBT, columns).read(*row), (Member, Rejection))


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "cell", "code"),
    [
        (0, "0100109107", "tax-code-check"),
        (1, " ", None),
        (2, "x@gmail.con", "address-typo"),
        (3, "-1", "money-negative"),
        (3, "1,5", "money-fraction"),
        (5, "x" * 401, "too-long"),
    ],
)
def test_a_rejected_row_names_its_place_and_value_and_keeps_its_cells(
    tmp_path: Path, place: int, cell: str, code: str | None
) -> None:
    row = [*ROW[:place], cell, *ROW[place + 1 :]]
    (tmp_path / "list.csv").write_text(written([["Tiêu đề"], HEADINGS, row]), encoding="utf-8")
    columns, rows = read(tmp_path / "list.csv")
    found = RowReader(DEBT, columns).read(*rows[0])
    if code is None:
        # Another row of the same mail may say it.
        assert isinstance(found, Member)
        assert found.lacking == "name"
        return
    assert isinstance(found, Rejection)
    problem = found.problem
    assert (problem.row_no, problem.kind, problem.column, problem.value, problem.code) == (
        3,
        "rejected",
        HEADINGS[place],
        cell[:200],
        code,
    )
    assert problem.cells == row


def test_a_personal_number_is_masked_where_it_stands_beside_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        written(
            [
                HEADINGS,
                ["0010 9901 2345x", *ROW[1:]],
                ["001099012345", "A", "001099012345", "1", "1", ""],
            ]
        )
    )
    columns, rows = read(tmp_path / "list.csv")
    first, second = (RowReader(DEBT, columns).read(*row) for row in rows)
    assert isinstance(first, Rejection)
    assert isinstance(second, Rejection)
    shown = (first.problem.value, second.problem.value)
    assert shown == ("0010******45x", "0010******45")
    assert "001099012345" not in second.problem.vi + second.problem.en
