"""A program of its own that reads one spreadsheet and writes its rows as JSON lines.

`notifier.audience.sheets` starts it. A spreadsheet is unpacked here and nowhere else: a few
kilobytes can name a cell at the far corner of a sheet, or repeat one a thousand million times, and
the library that reads it then asks for more memory than there is and ends its process. So this
process has limits of its own, imports nothing of the service, and may die without harm.

Out: {"sheet": name, "rows": total}, then {"cells": [[row number, cell, …], …]} with the first rows.
One line is then read: "rest" for all other rows of this sheet, anything else for the next sheet. A
sheet ends with {"end": true}, the file with {"done": true}, or {"error": sentence} instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date, datetime
from itertools import islice
from typing import Any

import orjson
import python_calamine

# Rows written as one line of JSON, and so held in memory at once by whoever reads it.
_PARCEL_ROWS = 1_000
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_APPEND_NEWLINE


def limit(memory: int, seconds: int) -> None:
    """Bound what this process may take: bytes of address space, and seconds of CPU.

    Where the system has no such limits, do without.
    """
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    for name, wanted in (("RLIMIT_AS", memory), ("RLIMIT_CPU", seconds), ("RLIMIT_CORE", 0)):
        try:
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(kind, (bound, bound))
        except (AttributeError, ValueError, OSError):
            continue


def _plain(value: object) -> object:
    """Mark days and moments: they are no texts that look like them."""
    if isinstance(value, datetime):
        return {"moment": value.isoformat()}
    if isinstance(value, date):
        return {"day": value.isoformat()}
    return str(value)


def _rows(sheet: Any) -> Iterator[list[Any]]:
    """Yield the rows that are not blank, each with its number before its cells.

    Rows are numbered as the spreadsheet program numbers them.
    """
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if any(cell.__class__ is not str or (cell and not cell.isspace()) for cell in cells):
            yield [number, *cells]


def _write(message: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(message, default=_plain, option=_OPTIONS))


def main(path: str, first: int) -> None:
    """Write the sheets of the file at `path`, waiting after the `first` rows of each."""
    book = python_calamine.load_workbook(path)
    for about in book.sheets_metadata:
        if about.typ != python_calamine.SheetTypeEnum.WorkSheet:
            continue
        sheet = book.get_sheet_by_name(about.name)
        _write({"sheet": about.name, "rows": sheet.end[0] + 1 if sheet.end else 0})
        rows = _rows(sheet)
        _write({"cells": list(islice(rows, first))})
        sys.stdout.buffer.flush()
        if sys.stdin.readline().strip() == "rest":
            while chunk := list(islice(rows, _PARCEL_ROWS)):
                _write({"cells": chunk})
            _write({"end": True})
            sys.stdout.buffer.flush()
            return
        del sheet, rows
    _write({"done": True})


if __name__ == "__main__":
    limit(int(sys.argv[2]), int(sys.argv[3]))
    try:
        main(sys.argv[1], int(sys.argv[4]))
    except MemoryError:
        _write({"error": "memory"})
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        _write({"error": str(error) or type(error).__name__})
