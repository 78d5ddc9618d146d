"""The rows that were not accepted as they are, for download.

They stand in the original order, with the original cells and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import xlsxwriter
from defusedcsv import csv
from sqlalchemy.orm import Session

from notifier.domain import audiences
from notifier.domain.audiences import Kind, Problem
from notifier.errors import TableError

_MAX_SHEET_ROWS = 1_048_575
_MAX_CELL_CHARS = 32_000
_KINDS: Mapping[Kind, str] = {
    "rejected": "Không nhận / Rejected",
    "warning": "Lưu ý / Warning",
    "merged": "Gộp / Merged",
}
_ADDED = (
    "Dòng / Row",
    "Kết quả / Result",
    "Cột / Column",
    "Giá trị / Value",
    "Việc cần làm",
    "What to do",
)


def write_problems(session: Session, audience_id: int, out: Path) -> int:
    """Write the problems of an audience to `out` (.xlsx or .csv) and return how many.

    Raise TableError for another ending.
    """
    kind = out.suffix.lower()
    if kind not in {".csv", ".xlsx"}:
        raise TableError(
            f"{out.name} is neither a .csv nor an .xlsx file.",
            fix="Let its name end in one of them.",
        )
    headings = [*_ADDED, *audiences.get(session, audience_id).header]
    table = map(_row, audiences.problems(session, audience_id))
    # Written beside its final name and moved there at the end: a report that was stopped half-way
    # is never taken for a whole one.
    part = out.with_name(out.name + ".part")
    try:
        written = (
            _write_csv(part, headings, table)
            if kind == ".csv"
            else _write_xlsx(part, headings, table)
        )
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return written


def _row(found: Problem) -> list[object]:
    """Return a problem in the order of `_ADDED`, and then the row as it came."""
    return [
        found.row_no,
        _KINDS[found.kind],
        found.column,
        found.value,
        found.vi,
        found.en,
        *(cell[:_MAX_CELL_CHARS] for cell in found.cells),
    ]


def _write_csv(out: Path, headings: list[str], table: Iterator[list[object]]) -> int:
    written = 0
    with out.open("w", encoding="utf-8-sig", newline="") as file:
        # Cells that a spreadsheet program would run as formulas are disarmed.
        writer = csv.writer(file)
        writer.writerow(headings)
        for row in table:
            writer.writerow(row)
            written += 1
    return written


def _write_xlsx(out: Path, headings: list[str], table: Iterator[list[object]]) -> int:
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(str(out), options) as book:
        sheet = book.add_worksheet("Rows")
        sheet.freeze_panes(1, 1)
        sheet.set_column(0, 0, 8)
        sheet.set_column(1, len(headings), 24)
        sheet.write_row(0, 0, headings, book.add_format({"bold": True}))
        written = 0
        for row in table:
            if written == _MAX_SHEET_ROWS:
                raise TableError(
                    "There are more rows than a spreadsheet holds.",
                    fix="Write a .csv file instead.",
                )
            written += 1
            sheet.write_row(written, 0, row)
    return written
