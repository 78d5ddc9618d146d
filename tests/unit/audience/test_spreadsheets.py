"""Spreadsheets of every kind, honest and hostile.

XLSX, XLS, ODS, bombs, protected files and files that are something else.
"""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import openpyxl
import psutil
import pytest
import xlsxwriter

from notifier.audience import sheets
from notifier.audience.columns import Columns
from notifier.audience.rows import Member, RowReader, find_columns
from notifier.audience.sources import FileSource
from notifier.audience.tables import HEADER_ROWS
from notifier.errors import TableError
from notifier.rendering.catalogue import load_template
from notifier.testing import ROOT

# The library of the old format knows no types.
xlwt: Any = import_module("xlwt")

DEBT = load_template(ROOT / "templates", "debt-notice")
HEADINGS = [
    "Mã số thuế",
    "Tên NNT",
    "Email",
    "Tổng nợ",
    "Còn phải nộp",
    "Khoản nộp",
    "Số tiền",
    "Hạn nộp",
]
# The tax code as a spreadsheet has it when it was taken for a number: without its zero, a float.
ROW = [
    100109106.0,
    "Công ty Ban Mai",
    "a@example.test",
    1234567.0,
    1234567,
    "Thuế GTGT",
    5000.0,
    date(2026, 10, 31),
]

Rows = Sequence[Sequence[Any]]


def xlsx(path: Path, rows: Rows) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for cells in rows:
        sheet.append(list(cells))
    book.save(path)


def xls(path: Path, rows: Rows) -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Danh sách")
    day = xlwt.easyxf(num_format_str="DD/MM/YYYY")
    for number, cells in enumerate(rows):
        for place, value in enumerate(cells):
            sheet.write(number, place, value, *([day] if isinstance(value, date) else []))
    book.save(str(path))


ODS_TYPE = "application/vnd.oasis.opendocument.spreadsheet"
ODS_NAMES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "table", "text", "manifest")
)


def ods_file(path: Path, table: str, manifest: str = "") -> None:
    """Write an OpenDocument spreadsheet of one table, given as the XML of its rows."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", ODS_TYPE)
        archive.writestr(
            "META-INF/manifest.xml",
            f"<manifest:manifest {ODS_NAMES}>"
            '<manifest:file-entry manifest:full-path="/" '
            f'manifest:media-type="{ODS_TYPE}"/>{manifest}</manifest:manifest>',
        )
        archive.writestr(
            "content.xml",
            f"<office:document-content {ODS_NAMES}>"
            "<office:body><office:spreadsheet>"
            f'<table:table table:name="A">{table}</table:table>'
            "</office:spreadsheet></office:body></office:document-content>",
        )


def ods(path: Path, rows: Rows) -> None:
    def cell(value: Any) -> str:
        if isinstance(value, date):
            return typed("date", f' office:date-value="{value}"', f"{value:%d/%m/%y}")
        if isinstance(value, (int, float)):
            return typed("float", f' office:value="{value}"', str(value))
        return typed("string", "", value)

    def typed(kind: str, attribute: str, shown: str) -> str:
        return (
            f'<table:table-cell office:value-type="{kind}"{attribute}>'
            f"<text:p>{shown}</text:p></table:table-cell>"
        )

    ods_file(
        path,
        "".join(
            f"<table:table-row>{''.join(map(cell, cells))}</table:table-row>" for cells in rows
        ),
    )


WRITERS: dict[str, Callable[[Path, Rows], None]] = {".xlsx": xlsx, ".xls": xls, ".ods": ods}


def read(path: Path) -> tuple[Columns, list[tuple[int, Sequence[Any]]]]:
    with FileSource(path) as source:
        columns, rows, _ = find_columns(DEBT, source.tables())
        return columns, list(rows)


@pytest.mark.parametrize("ending", WRITERS)
def test_each_kind_gives_real_dates_and_repaired_codes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"danh sách{ending}"
    WRITERS[ending](path, [["Danh sách nợ thuế"], HEADINGS, ROW])
    columns, rows = read(path)
    assert columns.header_row == 2
    ((number, cells),) = rows
    member = RowReader(DEBT, columns).read(number, cells)
    assert isinstance(member, Member)
    assert (member.row_no, member.tax_code) == (3, "0100109106")
    assert (member.header["total_debt"], member.header["amount_payable"]) == (1234567, 1234567)
    assert member.line == {"subsection_name": "Thuế GTGT", "amount": 5000, "due_date": "2026-10-31"}


@pytest.mark.parametrize("ending", WRITERS)
def test_a_long_sheet_is_read_whole_and_in_order(tmp_path: Path, ending: str) -> None:
    WRITERS[ending](
        tmp_path / f"list{ending}", [HEADINGS, *([number, *ROW[1:]] for number in range(2_345))]
    )
    _, rows = read(tmp_path / f"list{ending}")
    assert [(number, cells[0]) for number, cells in rows] == [
        (number + 2, float(number)) for number in range(2_345)
    ]


def test_formulas_give_their_values_and_moments_stay_moments(tmp_path: Path) -> None:
    with xlsxwriter.Workbook(str(tmp_path / "list.xlsx")) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, HEADINGS)
        sheet.write_row(1, 0, ROW[:3])
        sheet.write_formula(1, 3, "=1+1", None, 2)
        sheet.write_formula(1, 4, "=NA()", None, "#N/A")
        sheet.write_datetime(
            1, 7, datetime(2026, 10, 31, 8, 30), book.add_format({"num_format": "dd/mm/yyyy hh:mm"})
        )
    _, rows = read(tmp_path / "list.xlsx")
    assert rows[0][1][3:5] == [2.0, ""]
    assert rows[0][1][7] == datetime(2026, 10, 31, 8, 30, tzinfo=UTC).replace(tzinfo=None)


def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path) -> None:
    odd = [
        "0100109106",
        "=1+1",
        "2026-10-31",
        "true",
        "1e5",
        '{"day": "2026-10-31"}',
        " x ",
        "\u1ec7e\u0323\u0302",
    ]
    with xlsxwriter.Workbook(str(tmp_path / "list.xlsx"), {"strings_to_formulas": False}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, HEADINGS)
        for place, value in enumerate(odd):
            sheet.write_string(1, place, value)
    assert read(tmp_path / "list.xlsx")[1] == [(2, odd)]


def test_blank_rows_are_no_rows_but_count_in_the_numbers(tmp_path: Path) -> None:
    xlsx(tmp_path / "list.xlsx", [[None], ["   "], HEADINGS, [None], ROW, ["", " "], ROW])
    columns, rows = read(tmp_path / "list.xlsx")
    assert columns.header_row == 3
    assert [number for number, _ in rows] == [5, 7]


def test_the_first_sheet_that_has_the_columns_is_read_also_behind_charts(tmp_path: Path) -> None:
    with xlsxwriter.Workbook(str(tmp_path / "list.xlsx")) as book:
        cover = book.add_worksheet("Bìa")
        chart = book.add_chart({"type": "line"})
        chart.add_series({"values": "=Bìa!$A$1:$A$2"})
        book.add_chartsheet("Biểu đồ").set_chart(chart)
        for number in range(2 * HEADER_ROWS):
            cover.write_row(number, 0, ["Thuyết minh", number])
        for name in ("Tháng 10", "Tháng 9"):
            sheet = book.add_worksheet(name)
            sheet.write_row(0, 0, HEADINGS)
            sheet.write_row(1, 0, [*ROW[:5], name])
    assert [cells[5] for _, cells in read(tmp_path / "list.xlsx")[1]] == ["Tháng 10"]


def test_when_no_sheet_fits_the_error_is_about_the_one_that_comes_closest(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.create_sheet("Nợ").append(["MST", "Tên NNT", "Tổng nợ", "Còn phải nộp"])
    book.create_sheet("Khác").append(["Ghi chú"])
    book.save(tmp_path / "list.xlsx")
    with pytest.raises(
        TableError, match=r"no column for: Thư điện tử \(E-mail address\).*MST, Tên NNT"
    ):
        read(tmp_path / "list.xlsx")


def test_an_empty_workbook_is_an_empty_list(tmp_path: Path) -> None:
    openpyxl.Workbook().save(tmp_path / "list.xlsx")
    with pytest.raises(TableError, match="empty"):
        read(tmp_path / "list.xlsx")


# --- hostile files --------------------------------------------------------------------------------


def test_a_value_in_the_last_cell_of_a_sheet_is_an_error_and_not_the_end_of_the_process(
    tmp_path: Path,
) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(HEADINGS)
    sheet["XFD1048576"] = "x"
    book.save(tmp_path / "list.xlsx")
    with pytest.raises(TableError, match="memory") as error:
        read(tmp_path / "list.xlsx")
    assert "workbook" in error.value.fix


def test_cells_repeated_a_thousand_million_times_are_an_error(tmp_path: Path) -> None:
    cell = (
        '<table:table-cell table:number-columns-repeated="16384" office:value-type="string">'
        "<text:p>x</text:p></table:table-cell>"
    )
    ods_file(
        tmp_path / "list.ods",
        f'<table:table-row table:number-rows-repeated="1048576">{cell}</table:table-row>',
    )
    with pytest.raises(TableError):
        read(tmp_path / "list.ods")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "list.xlsx", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/worksheets/sheet1.xml", "w") as file,
    ):
        for _ in range(60):
            file.write(b" " * 1_000_000)
    with pytest.raises(TableError, match="would unpack to 60 MB"):
        FileSource(tmp_path / "list.xlsx")


def test_a_zip_bomb_that_lies_about_its_size_is_refused_while_it_is_unpacked(
    tmp_path: Path,
) -> None:
    xlsx(tmp_path / "good.xlsx", [HEADINGS, ROW])
    bomb = tmp_path / "list.xlsx"
    with (
        zipfile.ZipFile(tmp_path / "good.xlsx") as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == "xl/worksheets/sheet1.xml":
                # One text of 30 MB in a cell.
                text = b"x" * 30_000_000
                content = content.replace(
                    b"</row>", b'<c r="Z1" t="inlineStr"><is><t>' + text + b"</t></is></c></row>", 1
                )
            archive.writestr(name, content)
        (size,) = (each.file_size for each in archive.infolist() if each.file_size > 30_000_000)
    bomb.write_bytes(
        bomb.read_bytes().replace(size.to_bytes(4, "little"), (1_000).to_bytes(4, "little"))
    )
    with pytest.raises(TableError, match="cannot be read as a spreadsheet"):
        read(bomb)


@pytest.mark.parametrize("ending", [".xlsx", ".xls", ".ods"])
@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + b"x" * 500, b"MST;Email\n", b"PK\x03\x04" + b"x" * 500, b"\x00" * 600],
)
def test_a_file_that_only_says_it_is_a_spreadsheet_is_refused(
    tmp_path: Path, ending: str, content: bytes
) -> None:
    path = tmp_path / f"list{ending}"
    path.write_bytes(content)
    with pytest.raises(TableError) as error:
        read(path)
    assert path.name in error.value.message
    assert error.value.fix


@pytest.mark.parametrize(
    ("made", "named", "right"),
    [
        (xlsx, "list.xls", "list.xlsx"),
        (xlsx, "list.ods", "list.xlsx"),
        (ods, "list.xlsx", "list.ods"),
    ],
)
def test_a_spreadsheet_with_another_kinds_ending_says_which_one_it_needs(
    tmp_path: Path, made: Callable[[Path, Rows], None], named: str, right: str
) -> None:
    made(tmp_path / named, [HEADINGS, ROW])
    with pytest.raises(TableError) as error:
        read(tmp_path / named)
    assert right in error.value.fix


def test_a_protected_workbook_asks_for_one_without_a_password(tmp_path: Path) -> None:
    # A protected .xlsx is an OLE container, like an old .xls.
    (tmp_path / "list.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)
    ods_file(tmp_path / "list.ods", "", manifest="<manifest:encryption-data/>")
    for name in ("list.xlsx", "list.ods"):
        with pytest.raises(TableError, match="password"):
            read(tmp_path / name)


def test_damaged_workbooks_are_errors_whatever_is_damaged(tmp_path: Path) -> None:
    xlsx(tmp_path / "good.xlsx", [HEADINGS, ROW])
    with zipfile.ZipFile(tmp_path / "good.xlsx") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    chance = random.Random(7)
    refused = 0
    for _ in range(40):
        name = chance.choice(sorted(parts))
        content = bytearray(parts[name])
        for _ in range(4):
            at = chance.randrange(len(content))
            content[at : at + chance.randrange(20)] = chance.choice(
                [b"", b"9" * 12, b"<c", b"ZZZZ1", b"\0"]
            )
        with zipfile.ZipFile(tmp_path / "list.xlsx", "w") as archive:
            for each, kept in parts.items():
                archive.writestr(each, bytes(content) if each == name else kept)
        try:
            read(tmp_path / "list.xlsx")
        except TableError:
            refused += 1
    assert refused > 10


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    xlsx(tmp_path / "list.xlsx", [[*HEADINGS, *range(600)]])
    with pytest.raises(TableError, match="columns"):
        read(tmp_path / "list.xlsx")


def test_the_unpacking_ends_with_whoever_asked_for_it(tmp_path: Path) -> None:
    def children() -> list[int]:
        return [
            each.pid
            for each in psutil.Process().children()
            if any("unpack.py" in word for word in each.cmdline())
        ]

    xlsx(tmp_path / "list.xlsx", [HEADINGS, *[ROW] * 3_000])
    with FileSource(tmp_path / "list.xlsx") as source:
        _, rows, _ = find_columns(DEBT, source.tables())
        next(rows)
        assert len(children()) == 1
        del rows
        assert children() == []


def test_a_path_that_looks_like_an_option_is_only_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xlsx(tmp_path / "-c.xlsx", [HEADINGS, ROW])
    monkeypatch.chdir(tmp_path)
    assert len(read(Path("-c.xlsx"))[1]) == 1


def test_the_unpacking_program_imports_nothing_of_the_service() -> None:
    code = f"import runpy, sys; runpy.run_path({str(sheets._PROGRAM)!r}); "
    code += "sys.exit(any(m.startswith('notifier') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode == 0
