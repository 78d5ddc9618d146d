"""Files as tables: CSV in the encodings that spreadsheet programs write, and XLSX, XLS, ODS.

Read in a stream, never trusted. Every limit guards against a file that is something else than it
says: a zip bomb, a picture with another name, a line without an end.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import IO, Any

from notifier.audience.sheets import Book, NumberedRow, refuse_unsafe
from notifier.errors import TableError

MAX_CELL_CHARS = 100_000
MAX_LINE_CHARS = 1_000_000
MAX_COLUMNS = 500
HEADER_ROWS = 20
_START_BYTES = 16
_SAMPLE_BYTES = 256 * 1024
_MAX_DAMAGED = 40
_SHEETS = {".xlsx", ".xlsm", ".xls", ".ods"}
_TEXTS = {".csv", ".txt", ".tsv"}
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DELIMITERS = ",;\t|"
_SEP_LINE = re.compile(r'"?sep=([,;\t|])"?\s*[\r\n]', re.IGNORECASE)
_TONES = re.compile("[\u0300\u0301\u0303\u0309\u0323]")

Cells = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file: its first rows, and the rest in a stream. Blank rows are left out.

    A row is its number as the spreadsheet program counts, and its cells. `total` is the number of
    rows, where it is known.
    """

    name: str
    head: list[tuple[int, Cells]]
    rest: Iterator[tuple[int, Cells]]
    total: int | None


def open_list(path: Path) -> FileIO:
    """Open the file of a list; raise TableError when it is none, or not a safe one."""
    if path.is_dir():
        raise TableError(f"{path.name} is a folder.", fix="Name the list's file.")
    if path.exists() and not path.is_file():
        # A pipe or a device would be waited for without end.
        raise TableError(f"{path.name} is not a file.", fix="Name the list's file.")
    with ExitStack() as refusal:
        try:
            # Unbuffered: readers that follow each other share its position.
            file = refusal.enter_context(path.open("rb", buffering=0))
            start = file.read(_START_BYTES)
        except FileNotFoundError:
            raise TableError(f"There is no file {path}.", fix="Check the name.") from None
        except OSError as error:
            raise TableError(
                f"{path.name} cannot be opened: {error.strerror}.", fix="Check the file."
            ) from None
        if not start:
            raise TableError(f"{path.name} is empty.", fix="Export the list again.")
        kind = path.suffix.lower()
        if kind in _SHEETS:
            refuse_unsafe(path, file, start)
        elif kind not in _TEXTS:
            raise TableError(
                f"{path.name} is not a kind of list that can be read.",
                fix="Use .csv, .xlsx, .xls or .ods.",
            )
        elif start.startswith((_ZIP, _OLE)):
            raise TableError(
                f"{path.name} is a spreadsheet, not text.",
                fix="Give it the ending .xlsx, .xls or .ods.",
            )
        refusal.pop_all()
        return file


def read_tables(path: Path, file: FileIO) -> Iterator[Table]:
    """Yield the tables of the `file` that `open_list` opened at `path`, sheets in their order.

    A sheet's rows can be read until the next sheet is asked for, those of a text until the file is
    read anew. Raise TableError for what cannot be read.
    """
    if path.suffix.lower() in _SHEETS:
        yield from _sheets(path)
    else:
        yield _text(path.name, file)


# --- spreadsheets --------------------------------------------------------------------------------


def _sheets(path: Path) -> Iterator[Table]:
    book = Book(path, head=HEADER_ROWS)
    for name, total, head in book.sheets():
        yield Table(
            name=name,
            head=list(_bounded(name, head)),
            rest=_bounded(name, book.rest()),
            total=total,
        )


def _bounded(name: str, rows: Iterable[NumberedRow]) -> Iterator[tuple[int, Cells]]:
    for number, cells in rows:
        if len(cells) > MAX_COLUMNS:
            raise TableError(
                f"The sheet {name} has more than {MAX_COLUMNS} columns.",
                fix="Remove those not needed.",
            )
        yield number, cells


# --- text ----------------------------------------------------------------------------------------


def encoding_of(sample: bytes, *, cut: bool = False) -> str:
    """Return the codec of a text: by its byte order mark, else what it can be.

    That is UTF-8, UTF-16 or Windows. A `cut` sample may end within a letter.
    """
    if sample.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    start = sample[:2000]
    if start.count(0) > len(start) // 4:
        return "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=not cut)
    except UnicodeDecodeError:
        # Where Vietnamese Windows has a tone, the letter before it carries it; a tone that is left
        # over was a letter of Western Windows.
        found = unicodedata.normalize("NFC", sample.decode("cp1258", "replace"))
        return "cp1252" if _TONES.search(found) else "cp1258"
    return "utf-8"


def _samples(file: FileIO) -> tuple[bytes, bytes]:
    """Return the beginning of a file, and its first part that says anything about its letters."""
    file.seek(0)
    first = part = file.read(_SAMPLE_BYTES)
    while part.isascii() and (more := file.read(_SAMPLE_BYTES)):
        part = more
    return first, part


class _BoundedLines:
    """Lines of a text; one without an end within reason is refused.

    csv would read it into memory whole.
    """

    def __init__(self, file: IO[str], shown: str, *, compose: bool) -> None:
        self._file = file
        self._shown = shown
        self._compose = compose
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_LINE_CHARS + 1):
            self.number += 1
            if len(line) > MAX_LINE_CHARS:
                raise TableError(
                    f"{self._shown}: line {self.number} is longer than {MAX_LINE_CHARS} "
                    "characters.",
                    fix="Is it a list?",
                )
            if "\0" in line:
                raise TableError(
                    f"{self._shown}: line {self.number} has bytes that no text has.",
                    fix="Export it again as CSV.",
                )
            yield unicodedata.normalize("NFC", line) if self._compose else line


def delimiter_of(sample: str) -> str:
    """Return what separates the fields.

    What a first line `sep=;` says, else what splits most of the first rows into equally many.
    """
    if said := _SEP_LINE.match(sample):
        return said[1]

    def quality(candidate: str) -> tuple[int, int]:
        counts: list[int] = []
        with suppress(csv.Error):
            for cells in islice(
                csv.reader(io.StringIO(sample, newline=""), delimiter=candidate), HEADER_ROWS
            ):
                # What it does not split is a title above the headings, and no vote against it.
                if len(cells) > 1 and any(cells):
                    counts.append(len(cells))
        usual = max(counts, key=lambda count: (counts.count(count), count), default=0)
        return counts.count(usual), usual

    return max(_DELIMITERS, key=quality)


def _text(name: str, file: FileIO) -> Table:
    csv.field_size_limit(MAX_CELL_CHARS)
    first, sample = _samples(file)
    # Marks stand at the beginning; otherwise the first part with anything but plain Latin letters
    # decides.
    encoding = encoding_of(
        first if b"\0" in first[:2000] or not first.isascii() else sample,
        cut=len(sample) == _SAMPLE_BYTES,
    )
    text = first.decode(encoding, "replace").removeprefix("\ufeff")
    # Damage here and there is named by its line.
    if text[:4096].count("\ufffd") > _MAX_DAMAGED or b"\0\0\0\0" in first[:4096]:
        raise TableError(f"{name} is not a text.", fix="Export the list as CSV UTF-8.")
    # Spreadsheet programs do not show a line that names the separator.
    first_number = 0 if _SEP_LINE.match(text) else 1
    rows = _rows(name, file, encoding, delimiter_of(text), first_number)
    return Table(name=name, head=list(islice(rows, HEADER_ROWS)), rest=rows, total=None)


def _rows(
    name: str, file: FileIO, encoding: str, delimiter: str, number: int
) -> Iterator[tuple[int, Cells]]:
    """Yield the rows of a text that are not blank; `number` is that of its first line."""
    # A descriptor of its own can be closed with the text; the position is the file's.
    with os.fdopen(os.dup(file.fileno()), encoding=encoding, newline="") as whole:
        whole.seek(0)
        lines = _BoundedLines(whole, name, compose=encoding == "cp1258")
        # Strict: where a quotation mark is not closed, the lines behind it would vanish into one
        # cell.
        reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
        begun = lines.number + 1
        try:
            for cells in reader:
                if len(cells) > MAX_COLUMNS:
                    raise TableError(
                        f"{name}: line {begun} has more than {MAX_COLUMNS} fields.",
                        fix="Is it a list?",
                    )
                if number and any(cells) and not "".join(cells).isspace():
                    yield number, cells
                number += 1
                begun = lines.number + 1
        except UnicodeDecodeError:
            raise TableError(
                f"{name}: the text near line {lines.number} is not {encoding}.",
                fix="Export it as CSV UTF-8.",
            ) from None
        except csv.Error:
            raise TableError(
                f"{name}: in the row that begins in line {begun} a quotation mark is in a wrong "
                f"place or never closed, or a cell is longer than {MAX_CELL_CHARS} characters.",
                fix="Correct that row.",
            ) from None
