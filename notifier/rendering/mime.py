"""The transfer encodings of a mail, fast enough to run for every recipient.

Python's email package is the judge of these functions in the tests; it is not used here because it
costs 1.5 ms a mail, and because it loses spaces in long Vietnamese subjects (CPython gh-144156).
"""

from __future__ import annotations

import re
import unicodedata
from binascii import b2a_base64, b2a_qp
from functools import lru_cache
from struct import Struct

from notifier.errors import RenderError

LINE_CHARS = 76
MAX_NAME_CHARS = 120
MAX_SUBJECT_CHARS = 250
MAX_ADDRESS_CHARS = 254

_ENCODED_WORD_BYTES = 45
# Line breaks and control characters would end a header; direction marks would let a name pose as
# another one.
_UNSAFE_IN_HEADER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_PLAIN_SUBJECT = re.compile(r"[!-~]+(?: [!-~]+)*")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*")
_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
)
_DOT, _SPACE = ord("."), ord(" ")
# 10xxxxxx: a byte that continues a character of UTF-8.
_CONTINUES = 0x80


def sane(text: str) -> str:
    """Return the text with lone surrogates, which no encoding can carry, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def body_text(text: str) -> str:
    """Return a body as a reader gets it: encodable, with LF line ends."""
    return sane(text).replace("\r\n", "\n").replace("\r", "\n")


def header_text(text: str, limit: int) -> str:
    """Return the text as one header line may hold it.

    NFC, no control characters, no outer spaces, at most `limit` characters.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", sane(text))
    # Spaces at the ends and in the middle of a fold would be lost on the way, so there are none.
    text = " ".join(_UNSAFE_IN_HEADER.sub(" ", text).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def encoded_words(text: str, *, column: int) -> bytes:
    """Return RFC 2047 'B' words, folded so that no line is longer than 76.

    `column` is what the header's name has taken.
    """
    data = text.encode()
    # Four characters carry three bytes, and 12 frame a word.
    room = (LINE_CHARS - column - 12) // 4 * 3
    words = []
    at = 0
    while True:
        end = at + room
        # A word must hold whole characters (RFC 2047, section 5): step back to the start of one.
        while end < len(data) and data[end] & 0xC0 == _CONTINUES:
            end -= 1
        words.append(b"=?utf-8?B?" + b2a_base64(data[at:end], newline=False) + b"?=")
        if end >= len(data):
            return b"\r\n ".join(words)
        at = end
        room = _ENCODED_WORD_BYTES


@lru_cache(maxsize=512)
def subject(text: str) -> bytes:
    """Return the Subject header with its line end; the text is made header-safe first."""
    text = header_text(text, MAX_SUBJECT_CHARS)
    return b"Subject: " + unstructured(text, column=9) + b"\r\n"


def unstructured(text: str, *, column: int) -> bytes:
    """Return header text as it is when it is short plain ASCII, else as encoded words."""
    if column + len(text) <= LINE_CHARS and "=?" not in text and _PLAIN_SUBJECT.fullmatch(text):
        return text.encode("ascii")
    return encoded_words(text, column=column)


def mailbox(header: str, name: str, address: str) -> bytes:
    """Return `header: name <address>` with its line end.

    Raise RenderError for an address that is not plain ASCII mail syntax.
    """
    if len(address) > MAX_ADDRESS_CHARS or not _ADDRESS.fullmatch(address):
        raise RenderError(
            "An e-mail address cannot be written in a header.",
            fix="Check the address; its domain must be in ASCII (punycode).",
        )
    return (
        header.encode()
        + b": "
        + display_name(name, len(header) + 2)
        + b"<"
        + address.encode("ascii")
        + b">\r\n"
    )


def display_name(name: str, column: int) -> bytes:
    """Return the name as it stands before `<address>`, with the space or fold between them.

    Nothing for an empty name.
    """
    name = header_text(name, MAX_NAME_CHARS)
    if not name:
        return b""
    if len(name) <= LINE_CHARS - column and _PLAIN_NAME.fullmatch(name):
        return name.encode("ascii") + b"\r\n "
    return encoded_words(name, column=column) + b"\r\n "


def base64_body(text: str) -> bytes:
    """Return the text in base64 lines of 76.

    It is UTF-8 with CRLF line ends, the canonical form of text (RFC 2045 section 6.8).
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = sane(text).encode()
    # Replacing in bytes is three times faster than in a string with Vietnamese letters.
    encoded = b2a_base64(data.replace(b"\n", b"\r\n"), newline=False)
    full = len(encoded) // LINE_CHARS
    # struct cuts the lines four times faster than a comprehension of slices.
    lines = _line_cutter(full).unpack_from(encoded)
    return b"\r\n".join((*lines, encoded[full * LINE_CHARS :]))


@lru_cache(maxsize=512)
def _line_cutter(lines: int) -> Struct:
    return Struct(f"{LINE_CHARS}s" * lines)


def quoted_printable(text: str) -> bytes:
    """Return one piece of a quoted-printable body; pieces may be joined in any order.

    Each piece starts at column 0 and ends with a line break or a soft one, so no line is ever
    longer than 76. A line never starts with "." (SMTP would have to double it, RFC 5321 section
    4.5.2) and never ends in a space.
    """
    lines = body_text(text).split("\n")
    *ended, last = lines
    encoded = [_quoted_line(line.encode(), ended=True) for line in ended]
    # A space may stand before a soft break, which is no end of a line.
    return b"\r\n".join(
        [*encoded, _quoted_line(last.encode(), ended=False) + b"=\r\n" if last else b""]
    )


_PRINTABLE = frozenset(map(chr, range(ord("!"), ord("~") + 1))) - {"="}
_QUOTED = tuple(chr(byte) if chr(byte) in _PRINTABLE else f"={byte:02X}" for byte in range(256))


def _quoted_line(data: bytes, *, ended: bool) -> bytes:
    """Encode one line without its end, with soft breaks; `ended` when a hard line end follows."""
    shapes = [_QUOTED[byte] if byte != _SPACE else " " for byte in data]
    if ended and shapes and shapes[-1] == " ":
        shapes[-1] = "=20"
    rows = []
    row = ""
    for shape in shapes:
        if not row and shape == ".":
            row = "=2E"
        elif len(row) + len(shape) < LINE_CHARS:
            row += shape
        else:
            rows.append(row)
            row = "=2E" if shape == "." else shape
    return "=\r\n".join([*rows, row]).encode("ascii")


def quick_quoted_printable(text: str) -> bytes:
    """Return what `quoted_printable` does, by a shorter way for the values that most mails hold."""
    try:
        # The line end makes b2a_qp write soft breaks as CRLF; it gives way to a soft break below.
        encoded = b2a_qp(text.encode() + b"\r\n")
    except UnicodeEncodeError:
        return quoted_printable(text)
    last_line = encoded.rfind(b"\n", 0, -2)
    # b2a_qp is C, but it knows nothing of dots at the start of a line, leaves no room for the last
    # soft break and mixes line ends. Where any of that matters, the careful way is taken.
    if (
        len(encoded) - last_line > LINE_CHARS + 2
        or encoded[0] == _DOT
        or (last_line > 0 and b"\n." in encoded)
        or "\n" in text
        or "\r" in text
    ):
        return quoted_printable(text)
    return encoded[:-2] + b"=\r\n"
