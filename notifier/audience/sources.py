"""Where a list comes from: a file today; whatever has a name, a digest and rows can be one.

`load` asks a source for nothing else, so that a register, or the recipients of an earlier campaign,
is a class here and no change anywhere else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Protocol, Self

from notifier.audience.tables import Cells, Table, open_list, read_tables
from notifier.errors import TableError


class ListSource(Protocol):
    """What a list is loaded from."""

    @property
    def name(self) -> str:
        """What people call it, such as the file's name."""

    @property
    def sha256(self) -> bytes:
        """The digest of all it says: a list with the same digest is not loaded again."""

    def tables(self) -> Iterator[Table]:
        """Begin to read, and yield the tables; the first that has the wanted columns is the list.

        It may be called again once the tables before were read, and yields the same; raise
        TableError when it cannot. A cell is a text, number, date or None, and no row is held
        longer than it is looked at.
        """


class FileSource:
    """A list in a .csv, .xlsx, .xls or .ods file, opened and hashed once.

    Use it in a `with` statement, which closes the file. What is read is what was hashed: rows of a
    file that is changed meanwhile are refused.
    """

    def __init__(self, path: Path) -> None:
        """Open and hash the file; raise TableError when it is no list, or not a safe one."""
        self._path = path
        self._file = open_list(path)
        self._known = _stamp(os.fstat(self._file.fileno()))
        self._file.seek(0)
        self._sha256 = hashlib.file_digest(self._file, "sha256").digest()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self._path.name

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of the file's bytes."""
        return self._sha256

    def tables(self) -> Iterator[Table]:
        """Yield the tables, a spreadsheet's in the order of its sheets; see `ListSource.tables`."""
        self._refuse_changed()
        for table in read_tables(self._path, self._file):
            yield replace(table, rest=chain(table.rest, self._end()))

    def _end(self) -> Iterator[tuple[int, Cells]]:
        """Yield no row, but look behind the last one whether they all were those of the digest."""
        self._refuse_changed()
        yield from ()

    def _refuse_changed(self) -> None:
        """Raise TableError when the file is not as it was hashed.

        Any program may write into it, and the process that unpacks spreadsheets opens it by name.
        """
        try:
            same = _stamp(self._path.stat()) == self._known
        except OSError:
            same = False
        if not same:
            raise TableError(
                f"{self.name} was changed while it was read.", fix="Load it again when it is ready."
            )


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    """Return what tells one state of a file from another, and one file from another."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
