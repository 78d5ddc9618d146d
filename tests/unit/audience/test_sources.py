"""A list in a file is opened and hashed once, and what is read is what was hashed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import openpyxl
import pytest

from notifier.audience.rows import find_columns
from notifier.audience.sources import FileSource
from notifier.errors import TableError
from notifier.rendering.catalogue import load_template
from notifier.testing import ROOT

POLICY = load_template(ROOT / "templates", "tax-policy")
HEADINGS = ("Mã số thuế", "Tên", "Email")
ROW = ("0100109106", "Công ty Ban Mai", "a@example.test")
ROWS = 200


def write(path: Path, rows: int = ROWS) -> Path:
    if path.suffix == ".csv":
        lines = [",".join(HEADINGS), *[",".join(ROW)] * rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        book = openpyxl.Workbook()
        sheet = book.active
        assert sheet is not None
        for cells in (HEADINGS, *[ROW] * rows):
            sheet.append(cells)
        book.save(path)
    return path


def numbers(source: FileSource) -> list[int]:
    _, rows, _ = find_columns(POLICY, source.tables())
    return [number for number, _ in rows]


@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
def test_a_file_has_its_name_and_digest_and_gives_the_same_rows_again(
    tmp_path: Path, ending: str
) -> None:
    path = write(tmp_path / f"danh sách{ending}")
    with FileSource(path) as source:
        assert source.name == path.name
        assert source.sha256 == hashlib.sha256(path.read_bytes()).digest()
        for _ in range(3):
            assert numbers(source) == list(range(2, ROWS + 2))


def test_a_reading_that_was_left_half_way_does_not_disturb_the_next(tmp_path: Path) -> None:
    with FileSource(write(tmp_path / "list.csv", rows=50_000)) as source:
        _, rows, _ = find_columns(POLICY, source.tables())
        next(rows)
        assert len(numbers(source)) == 50_000


@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_file_that_is_changed_after_it_was_hashed_is_refused(
    tmp_path: Path, ending: str, *, begun: bool
) -> None:
    path = write(tmp_path / f"list{ending}")
    with FileSource(path) as source:
        tables = source.tables()
        columns = find_columns(POLICY, tables) if begun else None
        other = write(tmp_path / f"other{ending}", rows=ROWS - 1)
        other.replace(path)
        with pytest.raises(TableError, match="was changed while it was read"):
            list(columns[1] if columns else numbers(source))


def test_a_file_that_is_deleted_or_written_into_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv")
    with FileSource(path) as source:
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        with pytest.raises(TableError) as error:
            numbers(source)
        assert error.value.fix
        path.unlink()
        with pytest.raises(TableError):
            numbers(source)


def test_the_file_is_closed_with_the_source_also_when_it_is_refused(tmp_path: Path) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    write(tmp_path / "list.csv")
    (tmp_path / "list.xlsx").write_bytes(b"no spreadsheet")
    before = opened()
    with FileSource(tmp_path / "list.csv") as source:
        numbers(source)
        assert opened() == before + 1
    with pytest.raises(TableError):
        FileSource(tmp_path / "list.xlsx")
    assert opened() == before
