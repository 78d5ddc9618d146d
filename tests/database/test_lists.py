"""The story of a list as the command line and the pages show it.

Loaded once, reused, and what could not be used written to a file.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openpyxl
import pytest
import xlsxwriter
from sqlalchemy import text

from notifier.audience.tables import Cells, Table
from notifier.domain import audiences
from notifier.errors import NotFoundError, TableError
from notifier.flows.lists import first_problems, load_list, write_rejected
from notifier.invented import HEADINGS, invented_rows
from notifier.services import Services

TABLES = ("audience", "audience_reject", "recipient", "address", "taxpayer", "taxpayer_address")


def counts(services: Services) -> dict[str, int]:
    with services.session() as session:
        return {
            table: session.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in TABLES
        }


def invented(
    path: Path, businesses: int, *, lines: int | None = None, spoil: bool = False
) -> list[list[str]]:
    """Write an invented list.

    With `spoil`, every tenth row has a wrong address, a wrong amount or is there twice.
    """
    rows = list(invented_rows(businesses, lines=lines))
    if spoil:
        for number, row in enumerate(rows[::10]):
            if number % 3 == 0:
                row[2] = f"ketoan{number}@gmail.con"
            elif number % 3 == 1:
                row[10] = "khoảng 5 triệu"
            else:
                rows.append(list(row))
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([HEADINGS, *rows])
    else:
        with xlsxwriter.Workbook(str(path)) as book:
            sheet = book.add_worksheet()
            for number, cells in enumerate([list(HEADINGS), *rows]):
                sheet.write_row(number, 0, cells)
    return rows


@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
def test_a_list_is_loaded_once_and_known_again_whatever_its_name(
    services: Services, tmp_path: Path, ending: str
) -> None:
    template = services.catalogue["debt-notice"]
    path = tmp_path / f"danh sách{ending}"
    rows = invented(path, 500)
    audience = load_list(services, path, template)
    assert (audience.rows_read, audience.accepted, audience.merged, audience.rejected) == (
        len(rows),
        500,
        len(rows) - 500,
        0,
    )
    totals = {row[0]: int(row[5].replace(".", "")) for row in rows}
    assert audience.totals["total_debt"] == sum(totals.values())
    assert counts(services) == dict(zip(TABLES, (1, 0, 500, 500, 500, 500), strict=True))
    copy = tmp_path / f"copy{ending}"
    copy.write_bytes(path.read_bytes())
    again = load_list(services, copy, template)
    assert again.id == audience.id
    assert (again.rows_read, again.accepted, again.merged, again.rejected, again.totals) == (
        audience.rows_read,
        audience.accepted,
        audience.merged,
        audience.rejected,
        audience.totals,
    )
    assert counts(services)["audience"] == 1


def test_the_same_people_in_a_text_and_in_a_spreadsheet_become_the_same_recipients(
    services: Services, tmp_path: Path
) -> None:
    template = services.catalogue["debt-notice"]
    found = []
    for ending in (".csv", ".xlsx"):
        invented(tmp_path / f"list{ending}", 120, spoil=True)
        audience = load_list(services, tmp_path / f"list{ending}", template)
        with services.session() as session:
            rows = session.execute(
                text(
                    """SELECT row_no, tax_code, name, language, address_ids, data FROM recipient
                        WHERE audience_id = :id ORDER BY row_no"""
                ),
                {"id": audience.id},
            )
            told = session.execute(
                text(
                    """SELECT row_no, kind, code, column_name, value, cells FROM audience_reject
                        WHERE audience_id = :id ORDER BY 1, 3"""
                ),
                {"id": audience.id},
            )
            found.append(
                ([tuple(row) for row in rows], [tuple(row) for row in told], audience.totals)
            )
    assert found[0] == found[1]
    assert found[0][1]


def test_every_row_that_was_not_used_is_in_the_report_with_what_to_do(
    services: Services, tmp_path: Path
) -> None:
    rows = invented(tmp_path / "list.csv", 200, lines=1, spoil=True)
    audience = load_list(services, tmp_path / "list.csv", services.catalogue["debt-notice"])
    assert (
        audience.accepted + audience.rejected + audience.merged == audience.rows_read == len(rows)
    )
    # With one row a mail, every spoiled row is rejected, and of those that are there twice the
    # second is merged.
    assert (audience.rejected, audience.merged) == (14, 6)
    assert write_rejected(services, audience.id, tmp_path / "out.xlsx") == 20
    assert write_rejected(services, audience.id, tmp_path / "out.csv") == 20
    sheet = openpyxl.load_workbook(tmp_path / "out.xlsx").active
    assert sheet is not None
    written = [
        ["" if cell is None else str(cell) for cell in row]
        for row in sheet.iter_rows(values_only=True)
    ]
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == written
    numbers = [int(row[0]) for row in written[1:]]
    assert numbers == sorted(numbers)
    for number, row in zip(numbers, written[1:], strict=True):
        assert row[6:] == rows[number - 2]
        assert row[4]
        assert row[5]


def test_the_first_problems_are_told_in_the_order_of_the_file(
    services: Services, tmp_path: Path
) -> None:
    invented(tmp_path / "list.csv", 200, lines=1, spoil=True)
    audience = load_list(services, tmp_path / "list.csv", services.catalogue["debt-notice"])
    told = first_problems(services, audience.id, limit=3)
    assert [line.split(",")[0] for line in told] == ["Row 2", "Row 12", "Row 32"]
    assert "ketoan0@gmail.com" in told[0]
    assert "khoảng 5 triệu" in told[1]
    assert first_problems(services, audience.id, limit=0) == []


def test_a_list_that_is_none_leaves_nothing_and_can_be_loaded_when_it_is_mended(
    services: Services, tmp_path: Path
) -> None:
    template = services.catalogue["debt-notice"]
    path = tmp_path / "list.csv"
    rows = invented(path, 50)
    good = path.read_bytes()
    path.write_bytes(good + b"\xff\xfe broken \xc3\x28\n" + b"\xc3\x28" * 40)
    with pytest.raises(TableError):
        load_list(services, path, template)
    assert set(counts(services).values()) == {0}
    path.write_bytes(good)
    assert load_list(services, path, template).rows_read == len(rows)


def test_a_folder_and_a_missing_file_are_refused_before_the_database_is_asked(
    services: Services, tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(TableError) as error:
            load_list(services, path, services.catalogue["debt-notice"])
        assert error.value.fix


def test_the_list_of_a_draft_is_kept_until_it_is_dropped(services: Services) -> None:
    content = bytes(range(256)) * 1_000
    with services.session() as session:
        number = audiences.attach_file(session, "danh sách.xlsx", content, services.clock())
        other = audiences.attach_file(session, "list.csv", b"", services.clock())
    with services.session() as session:
        assert audiences.read_file(session, number) == ("danh sách.xlsx", content)
        digest = session.scalar(text("SELECT sha256 FROM list_file WHERE id = :id"), {"id": number})
        assert digest == hashlib.sha256(content).digest()
        audiences.drop_file(session, number)
        audiences.drop_file(session, number)
    with services.session() as session:
        with pytest.raises(NotFoundError) as error:
            audiences.read_file(session, number)
        assert error.value.fix
        assert audiences.read_file(session, other) == ("list.csv", b"")


@dataclass(frozen=True)
class Register:
    """A list that is in no file."""

    rows: list[list[str]]
    name: str = "register of 2026-11-01"

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(repr(self.rows).encode()).digest()

    def tables(self) -> Iterator[Table]:
        cells: list[Cells] = [list(HEADINGS), *self.rows]
        numbered = list(enumerate(cells, 1))
        yield Table(
            name="businesses", head=numbered[:5], rest=iter(numbered[5:]), total=len(numbered)
        )


def test_whatever_has_a_name_a_digest_and_rows_is_a_list(services: Services) -> None:
    template = services.catalogue["debt-notice"]
    rows = list(invented_rows(50, lines=1))
    rows.append(list(rows[0]))
    seen: list[tuple[int, int | None]] = []
    audience = load_list(
        services, Register(rows), template, progress=lambda done, total: seen.append((done, total))
    )
    assert (audience.rows_read, audience.accepted, audience.merged) == (51, 50, 1)
    assert audience.file_name == "register of 2026-11-01"
    assert seen == [(51, 51)]
    assert load_list(services, Register(rows), template).id == audience.id
    assert load_list(services, Register(rows[:-1]), template).id != audience.id
