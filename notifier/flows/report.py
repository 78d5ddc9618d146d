"""The account of a campaign: one row per message, as CSV or as a spreadsheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xlsxwriter
from defusedcsv import csv

from notifier.domain import campaigns, message_lookups
from notifier.domain.calendar import HANOI
from notifier.domain.message_lookups import Account
from notifier.errors import CampaignError
from notifier.services import Services

HEADINGS = (
    "Dòng / Row",
    "Mã số thuế / Tax code",
    "Tên / Name",
    "Thư điện tử / E-mail",
    "Kết quả / Outcome",
    "Trả lời / Reply",
    "Máy chủ nhận / Receiving host",
    "Thời gian (Hà Nội) / Time (Hanoi)",
    "Số lần gửi / Attempts",
    "Nghi ngờ / Doubts",
    "Mã thư / Message id",
    "SHA-256",
)
_MAX_SHEET_ROWS = 1_048_575


def write_report(
    services: Services, name: str, out: Path, *, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write one row per message of the campaign to `out` (.csv or .xlsx); return how many.

    They stand in the order of its list. Streams, so that memory stays flat. Raise CampaignError for
    another kind of file, or more rows than a sheet holds.
    """
    kind = out.suffix.lower()
    if kind not in {".csv", ".xlsx"}:
        raise CampaignError(
            f"{out.name} is neither a .csv nor an .xlsx file.",
            fix="Name the report so that it ends in one of them.",
        )
    with services.session() as session:
        campaign = campaigns.get(session, name)
        if kind == ".xlsx" and campaign.total > _MAX_SHEET_ROWS:
            raise CampaignError(
                "The campaign has more messages than a spreadsheet has rows.",
                fix="Write a .csv report instead.",
            )
        rows = message_lookups.accounts(session.connection(), campaign.id)
        written = 0
        # Written beside its final name and moved there at the end: a report that was stopped
        # half-way is never taken for a whole one.
        part = out.with_name(out.name + ".part")
        with _csv_writer(part) if kind == ".csv" else _xlsx_writer(part) as write:
            write(HEADINGS)
            for each in rows:
                write(_cells(each))
                written += 1
                if progress and written % 2_000 == 0:
                    progress(written, campaign.total)
        part.replace(out)
    return written


def _cells(each: Account) -> list[Any]:
    at = each.settled_at
    return [
        each.row_no,
        each.tax_code,
        each.name,
        each.email,
        each.state.value,
        each.detail,
        each.host,
        at.astimezone(HANOI).strftime("%d/%m/%Y %H:%M:%S") if at else "",
        each.attempts,
        each.doubts,
        str(each.id),
        each.sha256.hex() if each.sha256 else None,
    ]


@contextmanager
def _csv_writer(path: Path) -> Iterator[Callable[[Sequence[Any]], object]]:
    # The byte order mark tells spreadsheet programs that this is UTF-8; defusedcsv disarms cells
    # that would run as formulas.
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        yield csv.writer(file).writerow


@contextmanager
def _xlsx_writer(path: Path) -> Iterator[Callable[[Sequence[Any]], object]]:
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(str(path), options) as book:
        sheet = book.add_worksheet("Report")
        sheet.freeze_panes(1, 0)
        sheet.set_column(1, 5, 28)
        number = 0

        def write(values: Sequence[Any]) -> None:
            nonlocal number
            sheet.write_row(number, 0, values)
            number += 1

        yield write
