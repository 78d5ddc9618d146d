"""Spreadsheets as tables: XLSX, XLS and ODS.

They are unpacked in a process of its own, which a hostile file may end without harm.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime
from io import FileIO
from pathlib import Path
from typing import Any

import orjson

from notifier.errors import TableError

MAX_MEMORY = 2 * 1024**3
MAX_SECONDS = 180
MAX_UNPACKED_BYTES = 1_500_000_000
MAX_RATIO = 200
_SMALL = 50_000_000
_PROGRAM = Path(__file__).with_name("unpack.py")
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# The way of unpacking goes by the ending; people rename files, so the content says which ending it
# should be.
_ODS_TYPE = b"application/vnd.oasis.opendocument.spreadsheet"

# What the system says to a process that used up its seconds, where it has such limits.
_TOO_LONG = getattr(signal, "SIGXCPU", signal.SIGTERM)

NumberedRow = tuple[int, list[Any]]


def refuse_unsafe(path: Path, file: FileIO, start: bytes) -> None:
    """Raise TableError for a file that is no spreadsheet, is protected, or may be a bomb.

    A bomb would unpack to far more than a list has. `start` are the first bytes of `file`, which
    was opened at `path`.
    """
    if start.startswith(_ZIP):
        _refuse_bomb(path, file)
    elif not start.startswith(_OLE):
        raise TableError(
            f"{path.name} is not a spreadsheet, whatever its ending says.",
            fix="Export the list again.",
        )
    elif path.suffix.lower() != ".xls":
        raise TableError(
            f"{path.name} is protected by a password, or an old .xls file.",
            fix="Save it as .xlsx without a password.",
        )


def _refuse_bomb(path: Path, file: FileIO) -> None:
    """Look at the sizes that a zip names before anything of it is unpacked.

    They may be lies: the process that unpacks has limits, too.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            kind = archive.read("mimetype")[:100] if "mimetype" in archive.namelist() else b""
            manifest = archive.read("META-INF/manifest.xml")[:_SMALL] if kind else b""
    except (zipfile.BadZipFile, OSError, KeyError, RuntimeError, NotImplementedError):
        raise TableError(f"{path.name} is damaged.", fix="Export the list again.") from None
    unpacked = sum(entry.file_size for entry in entries)
    packed = max(1, sum(entry.compress_size for entry in entries))
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > _SMALL and unpacked / packed > MAX_RATIO):
        raise TableError(
            f"{path.name} would unpack to {unpacked // 1_000_000} MB.",
            fix="Split the list, or export it as .csv.",
        )
    if b"encryption-data" in manifest or any(entry.flag_bits & 1 for entry in entries):
        raise TableError(
            f"{path.name} is protected by a password.", fix="Save it without a password."
        )
    if (kind.startswith(_ODS_TYPE)) != (
        path.suffix.lower() == ".ods"
    ) or path.suffix.lower() == ".xls":
        raise TableError(
            f"{path.name} is {'an OpenDocument' if kind else 'an .xlsx'} spreadsheet with another "
            "ending.",
            fix=f"Rename it to {path.stem}{'.ods' if kind else '.xlsx'}.",
        )


class Book:
    """The sheets of one file, in their order.

    Each is begun, and then read on or left; a sheet that was left cannot be read on.
    """

    def __init__(self, path: Path, *, head: int) -> None:
        """Unpack the file at `path`, which `refuse_unsafe` let pass.

        `head` rows of each sheet are read before it is chosen.
        """
        self._path = path
        # The path is one argument of a list and no shell reads it; -I keeps the environment and the
        # working folder out of it.
        self._process = subprocess.Popen(  # noqa: S603
            [
                sys.executable,
                "-I",
                str(_PROGRAM),
                str(path.absolute()),
                str(MAX_MEMORY),
                str(MAX_SECONDS),
                str(head),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # It ends with the last one who could ask for a row, also when a list is left in the middle.
        weakref.finalize(self, _end, self._process)

    def sheets(self) -> Iterator[tuple[str, int, list[NumberedRow]]]:
        """Yield each sheet's name, how many rows it has, and its first that are not blank."""
        while "sheet" in (about := self._receive()):
            yield about["sheet"], about["rows"], _decoded(self._receive()["cells"])
            self._answer("next")

    def rest(self) -> Iterator[NumberedRow]:
        """Yield the other rows of the sheet that `sheets` yielded last."""
        self._answer("rest")
        while "cells" in (message := self._receive()):
            yield from _decoded(message["cells"])

    def _answer(self, word: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        try:
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        except OSError:
            # It ended; `_receive` says why.
            return

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failure(self._process.wait())
        message: dict[str, Any] = orjson.loads(line)
        if "error" in message:
            if message["error"] == "memory":
                raise self._failure(0)
            raise TableError(
                f"{self._path.name} cannot be read as a spreadsheet: {message['error'][:200]}.",
                fix="Save it again as .xlsx.",
            )
        return message

    def _failure(self, code: int) -> TableError:
        if code in {-_TOO_LONG, -signal.SIGKILL}:
            return TableError(
                f"{self._path.name} takes too long to unpack.", fix="Export the list as .csv."
            )
        return TableError(
            f"{self._path.name} takes more memory to unpack than a list may: its cells reach too "
            "far, or it is damaged.",
            fix="Copy the list alone into a new workbook, or export it as .csv.",
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        # A word that was never taken cannot be flushed; nobody waits for it.
        with suppress(OSError):
            if pipe is not None:
                pipe.close()


def _decoded(rows: list[list[Any]]) -> list[NumberedRow]:
    return [
        (row[0], [cell if cell.__class__ is not dict else _moment(cell) for cell in row[1:]])
        for row in rows
    ]


def _moment(cell: dict[str, str]) -> date:
    return (
        date.fromisoformat(cell["day"]) if "day" in cell else datetime.fromisoformat(cell["moment"])
    )
