"""Files as tables: CSV in the encodings that spreadsheet programs write, and XLSX, XLS, ODS. Read in a stream, never trusted.

Every limit guards against a file that is something else than it says: a zip bomb, a picture with another name, a line without an end.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from charset_normalizer import from_bytes

from notifier.audience.sheets import Book, NumberedRow, refuse_unsafe
from notifier.errors import TableError

MAX_CELL_CHARS = 100_000
MAX_LINE_CHARS = 1_000_000
MAX_COLUMNS = 500
HEADER_ROWS = 20
_SAMPLE_BYTES = 256 * 1024
_SHEETS = {".xlsx", ".xlsm", ".xls", ".ods"}
_TEXTS = {".csv", ".txt", ".tsv"}
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DELIMITERS = ",;\t|"

Cells = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file: its first rows, and the rest in a stream. Blank rows are left out.

    A row is its number as the spreadsheet program counts, and its cells. `total` is the number of rows, where it is known.
    """

    name: str
    head: list[tuple[int, Cells]]
    rest: Iterator[tuple[int, Cells]]
    total: int | None


def open_tables(path: Path) -> Iterator[Table]:
    """Return the tables of a file, sheets in their order; raise TableError when it is none, or not a safe one.

    A sheet's rows can be read until the next sheet is asked for.
    """
    if path.is_dir():
        raise TableError(f"{path.name} is a folder.", fix="Name the list's file.")
    if path.exists() and not path.is_file():
        # A pipe or a device would be waited for without end.
        raise TableError(f"{path.name} is not a file.", fix="Name the list's file.")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise TableError(f"There is no file {path}.", fix="Check the name.") from None
    except OSError as error:
        raise TableError(f"{path.name} cannot be opened: {error.strerror}.", fix="Check the file.") from None
    if not start:
        raise TableError(f"{path.name} is empty.", fix="Export the list again.")
    kind = path.suffix.lower()
    if kind in _SHEETS:
        refuse_unsafe(path, start)
        return _sheets(path)
    if kind in _TEXTS:
        if start.startswith((_ZIP, _OLE)):
            raise TableError(f"{path.name} is a spreadsheet, not text.", fix="Give it the ending .xlsx, .xls or .ods.")
        return iter([_text(path)])
    raise TableError(f"{path.name} is not a kind of list that can be read.", fix="Use .csv, .xlsx, .xls or .ods.")


# --- spreadsheets ------------------------------------------------------------------------------------------------------------------


def _sheets(path: Path) -> Iterator[Table]:
    book = Book(path, head=HEADER_ROWS)
    for name, total, head in book.sheets():
        yield Table(name, list(_bounded(name, head)), _bounded(name, book.rest()), total)


def _bounded(name: str, rows: Iterable[NumberedRow]) -> Iterator[tuple[int, Cells]]:
    for number, cells in rows:
        if len(cells) > MAX_COLUMNS:
            raise TableError(f"The sheet {name} has more than {MAX_COLUMNS} columns.", fix="Remove those not needed.")
        yield number, cells


# --- text --------------------------------------------------------------------------------------------------------------------------


def encoding_of(sample: bytes) -> str:
    """Return the codec of a text by its byte order mark, else by what it can be: UTF-8, UTF-16, Vietnamese Windows."""
    if sample.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    zeros = sample[:2000].count(0)
    if zeros > len(sample[:2000]) // 4:
        return "utf-16-le" if sample[1:2] == b"\0" else "utf-16-be"
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        # A sample that is cut off may end within a character.
        if error.start < len(sample) - 4 or len(sample) < _SAMPLE_BYTES:
            best = from_bytes(sample, cp_isolation=["cp1258", "cp1252"]).best()
            return best.encoding if best is not None and best.encoding == "cp1252" and not _vietnamese(sample) else "cp1258"
    return "utf-8"


def _vietnamese(sample: bytes) -> bool:
    # In Windows-1258 these bytes are the combining tone marks and đ, ơ, ư: hardly a Vietnamese line is without them.
    return any(byte in sample for byte in (0xCC, 0xD2, 0xDE, 0xEC, 0xF2, 0xF0, 0xF5, 0xFD))


class _BoundedLines:
    """Lines of a text, each refused when it has no end within reason: csv would read it into memory whole."""

    def __init__(self, file: IO[str], shown: str) -> None:
        self._file = file
        self._shown = shown
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_LINE_CHARS + 1):
            self.number += 1
            if len(line) > MAX_LINE_CHARS:
                raise TableError(f"{self._shown}: line {self.number} is longer than {MAX_LINE_CHARS} characters.", fix="Is it a list?")
            if "\0" in line:
                raise TableError(f"{self._shown}: line {self.number} has bytes that no text has.", fix="Export it again as CSV.")
            yield line


def delimiter_of(sample: str) -> str:
    """Return what separates the fields: the candidate that splits most of the first lines into the same number of fields."""
    lines = [line for line in sample.splitlines()[:HEADER_ROWS] if line.strip()]

    def quality(candidate: str) -> tuple[int, int]:
        counts = [len(next(csv.reader([line[:MAX_CELL_CHARS]], delimiter=candidate), [])) for line in lines]
        usual = max(set(counts), key=counts.count, default=1)
        return (counts.count(usual) if usual > 1 else 0, usual)

    return max(_DELIMITERS, key=quality) if lines else ","


def _text(path: Path) -> Table:
    csv.field_size_limit(MAX_CELL_CHARS)
    with path.open("rb") as file:
        sample = file.read(_SAMPLE_BYTES)
    encoding = encoding_of(sample)
    text = sample.decode(encoding, "replace")
    if text[:4096].count("�") > 40 or b"\0\0\0\0" in sample[:4096]:  # noqa: PLR2004
        raise TableError(f"{path.name} is not a text.", fix="Export the list as CSV UTF-8.")
    delimiter = delimiter_of(text)

    def rows() -> Iterator[tuple[int, Cells]]:
        with path.open(encoding=encoding, newline="") as file:
            lines = _BoundedLines(file, path.name)
            reader = csv.reader(iter(lines), delimiter=delimiter)
            number = 1
            try:
                for cells in reader:
                    if len(cells) > MAX_COLUMNS:
                        raise TableError(f"{path.name}: line {number} has more than {MAX_COLUMNS} fields.", fix="Is it a list?")
                    if any(cells) and not "".join(cells).isspace():
                        yield number, cells
                    number += 1
            except UnicodeDecodeError:
                raise TableError(
                    f"{path.name}: the text near line {lines.number} is not {encoding}.", fix="Export it as CSV UTF-8."
                ) from None
            except csv.Error as error:
                raise TableError(f"{path.name}: line {lines.number} cannot be read: {error}.", fix="Correct that line.") from None

    rest = rows()
    return Table(path.name, list(islice(rest, HEADER_ROWS)), rest, None)
