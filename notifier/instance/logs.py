"""What the parts say: copied from their pipes into files that are rotated, and to the screen.

A part writes into a pipe, and hangs in that write when nobody reads it: beat would enqueue nothing
any more, and look alive. So a copier goes on reading whatever happens to the file or the screen.
Lines that cannot be written are dropped and counted, and the number is said once writing works
again.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

MAX_LOG_BYTES = 20_000_000
# What one line may have; a longer one is cut into several.
MAX_LINE_BYTES = 8192
_MAX_WAITING_LINES = 2000
# Bytes that are no text come out as they went in.
_BYTES = "surrogateescape"


class LogFile(RotatingFileHandler):
    """One part's log: rotated once it is full, kept in two files. Safe to share between threads."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        """Open `path` with the first line that is added."""
        super().__init__(
            path, maxBytes=max_bytes, backupCount=1, delay=True, encoding="utf-8", errors=_BYTES
        )
        self._part = path.stem
        self._failure: BaseException | None = None
        self._dropped = 0
        self._adding = threading.Lock()

    def add(self, line: str) -> bool:
        """Write a line; drop and count it, and say False, when that is not possible."""
        with self._adding:
            if self._dropped and self._write(self._missing()):
                self._dropped = 0
            if self._dropped or not self._write(line):
                self._dropped += 1
            return not self._dropped

    @property
    def failure(self) -> str:
        """Why the last line could not be written; empty when it was."""
        error = self._failure
        return (getattr(error, "strerror", None) or type(error).__name__) if error else ""

    def _missing(self) -> str:
        return json.dumps(
            {
                "lines": self._dropped,
                "error": self.failure,
                "part": self._part,
                "event": "log_lines_dropped",
                "level": "warning",
                "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            }
        )

    def _write(self, line: str) -> bool:
        self._failure = None
        self.emit(logging.makeLogRecord({"msg": line}))
        return self._failure is None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Remember what went wrong, and close the file: the next line tries to open it anew."""
        del record
        self._failure = sys.exception()
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.close()

    def _open(self) -> TextIOWrapper:
        """Open the file; end a line of which only a part was written, by us or a predecessor."""
        path = Path(self.baseFilename)
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = super()._open()
        if stream.tell():
            with path.open("rb") as file:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    stream.write("\n")
        return stream


class Screen:
    """Shows lines on a terminal, from a thread of its own.

    A terminal that is stopped (Ctrl-S) takes nothing: that must hold up neither the parts nor us.
    """

    def __init__(self, terminal: IO[str] | None) -> None:
        """Show on `terminal`, or nowhere."""
        self._terminal = terminal
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING_LINES)
        self._thread: threading.Thread | None = None
        if terminal is not None:
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()

    def show(self, line: str) -> None:
        """Show a line some time soon; drop it when too many wait."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._lines.put_nowait(line)

    def _show(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._terminal is not None:
                # A terminal that is gone for good: there is nobody to say it to.
                with suppress(OSError, ValueError):
                    self._terminal.write(line + "\n")
                    self._terminal.flush()

    def close(self, *, patience: float = 1.0) -> None:
        """Show what waits, for `patience` seconds at most, and end."""
        if self._thread is None:
            return
        try:
            self._lines.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(patience)


class Copiers:
    """Copies what parts say, each from a pipe and by a thread of its own, while they run."""

    def __init__(self, folder: Path, screen: Screen, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        """Write `<part>.log` files into `folder`."""
        self._folder = folder
        self._screen = screen
        self._max_bytes = max_bytes
        self._files: dict[str, LogFile] = {}
        self._threads: list[threading.Thread] = []

    def path(self, name: str) -> Path:
        """Return where a part's log is."""
        return self._folder / f"{name}.log"

    def start(self, name: str, lines: IO[bytes]) -> None:
        """Copy `lines` until their end into the log of the part `name`."""
        if name not in self._files:
            self._files[name] = LogFile(self.path(name), max_bytes=self._max_bytes)
        thread = threading.Thread(
            target=self._copy, args=(name, lines, self._files[name]), daemon=True
        )
        thread.start()
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]

    def _copy(self, name: str, lines: IO[bytes], file: LogFile) -> None:
        well = True
        with lines:
            while raw := lines.readline(MAX_LINE_BYTES):
                line = raw.removesuffix(b"\n").decode(errors=_BYTES)
                was_well, well = well, file.add(line)
                shown = line.encode(errors=_BYTES).decode(errors="replace")
                self._screen.show(f"{name:<16}| {shown}")
                if was_well and not well:
                    self._screen.show(
                        f"{file.baseFilename} cannot be written: {file.failure}. "
                        "Lines are dropped until it can."
                    )

    def close(self, *, patience: float = 1.0) -> None:
        """Wait for the end of what is copied, `patience` seconds in all; close the files."""
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for file in self._files.values():
            file.close()
