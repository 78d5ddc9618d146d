"""The mail that the catcher keeps: append-only segment files, bounded.

Another process may read it while it is written. `index.jsonl` has a line a mail: number, time,
envelope, subject, Message-ID, segment, offset, length. Old segments and their lines are dropped
as a whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email import policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import IO

SEGMENT_BYTES = 32 * 1024 * 1024
MAX_SEGMENTS = 16
_INDEX = "index.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One mail of the index.

    `at` is epoch seconds; `segment`, `offset` and `length` say where its bytes are.
    """

    number: int
    at: float
    mail_from: str
    rcpt_to: str
    subject: str
    message_id: str
    segment: int
    offset: int
    length: int


def header(content: bytes, name: bytes) -> str:
    """Return a header of a raw mail, unfolded and decoded; empty when it has none."""
    head = content[: content.find(b"\r\n\r\n") + 2]
    start = (b"\r\n" + head).lower().find(b"\r\n" + name.lower() + b":")
    if start < 0:
        return ""
    end = start + len(name) + 1
    value = bytearray()
    for line in head[end:].split(b"\r\n"):
        if value and not line.startswith((b" ", b"\t")):
            break
        value += line
    raw = value.decode("ascii", "replace").strip()
    try:
        return printable(str(make_header(decode_header(raw))))
    except (ValueError, LookupError, HeaderParseError):
        return raw


def printable(text: str) -> str:
    """Return the text without halves of surrogate pairs.

    Some charsets decode to them, and no file or page can hold one.
    """
    return text.encode("utf-8", "replace").decode()


class MailboxWriter:
    """Appends mails; one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Go on where the folder's index ends."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        last = None
        for last in Mailbox(folder).entries():
            pass
        self._number = last.number if last else 0
        self._segment = last.segment if last else 1
        self._file = self._open()
        self._offset = self._file.tell()
        self._index = self._open_index()
        if self._index.tell():
            # A writer that was killed may have left half a line.
            self._index.write("\n")

    def _open(self) -> IO[bytes]:
        return (self._folder / f"{self._segment:06}.mail").open("ab")

    def _open_index(self) -> IO[str]:
        # So large a buffer is emptied by `flush` alone: no line is read before the mail it names.
        return (self._folder / _INDEX).open("a", encoding="utf-8", buffering=8 * 1024 * 1024)

    def add(self, mail_from: str, rcpt_to: str, content: bytes) -> None:
        """Keep a mail."""
        if self._offset + len(content) > SEGMENT_BYTES and self._offset:
            self._roll()
        self._number += 1
        entry = Entry(
            self._number,
            time.time(),
            mail_from,
            rcpt_to,
            header(content, b"subject")[:300],
            header(content, b"message-id"),
            self._segment,
            self._offset,
            len(content),
        )
        self._file.write(content)
        self._offset += len(content)
        self._index.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Let readers see what was added: the mails first, then the lines that name them."""
        self._file.flush()
        self._index.flush()

    def _roll(self) -> None:
        self.flush()
        self._file.close()
        self._segment += 1
        self._offset = 0
        self._file = self._open()
        oldest = self._segment - MAX_SEGMENTS
        stale = [path for path in self._folder.glob("*.mail") if int(path.stem) <= oldest]
        if stale:
            self._index.close()
            kept = [entry for entry in Mailbox(self._folder).entries() if entry.segment > oldest]
            part = self._folder / (_INDEX + ".part")
            part.write_text(
                "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in kept),
                encoding="utf-8",
            )
            part.replace(self._folder / _INDEX)
            self._index = self._open_index()
            for path in stale:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write everything and close."""
        self.flush()
        self._file.close()
        self._index.close()


class Mailbox:
    """Reads the mails that a catcher keeps in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read from `folder`, which need not exist yet."""
        self._folder = folder

    def entries(self) -> Iterator[Entry]:
        """Yield all mails, oldest first; a last line that is still being written is left out."""
        try:
            with (self._folder / _INDEX).open(encoding="utf-8") as file:
                for line in file:
                    if line.startswith("{") and line.endswith("}\n"):
                        yield Entry(**json.loads(line))
        except FileNotFoundError:
            return

    def page(
        self, *, offset: int = 0, limit: int = 50, search: str = ""
    ) -> tuple[int, list[Entry]]:
        """Return how many mails match `search`, and the newest of them from `offset` on.

        `search` is looked for in recipient and subject.
        """
        word = search.casefold()
        found = [
            each
            for each in self.entries()
            if not word or word in each.rcpt_to.casefold() or word in each.subject.casefold()
        ]
        found.reverse()
        return len(found), found[offset : offset + limit]

    def get(self, number: int) -> Entry | None:
        """Return the mail with that number, or None."""
        return next((each for each in self.entries() if each.number == number), None)

    def raw(self, entry: Entry) -> bytes:
        """Return the bytes of a mail as they came; empty when its segment was dropped meanwhile."""
        try:
            with (self._folder / f"{entry.segment:06}.mail").open("rb") as file:
                file.seek(entry.offset)
                return file.read(entry.length)
        except FileNotFoundError:
            return b""

    def parsed(self, entry: Entry) -> EmailMessage:
        """Return a mail as Python's email package reads it."""
        return BytesParser(EmailMessage, policy=policy.default).parsebytes(self.raw(entry))
