"""A cell of a list as a text, and the error of one that cannot be used."""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime
from typing import Any


class CellError(Exception):
    """A cell cannot be used; `vi` and `en` say what to do."""

    def __init__(self, code: str, vi: str, en: str) -> None:
        """Keep a stable `code` and a sentence in each language."""
        super().__init__(en)
        self.code = code
        self.vi = vi
        self.en = en


# Characters that have no width or turn the direction of a line: they come along when a cell is
# copied, and hide what a text says.
_INVISIBLE = re.compile(
    "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ud800-\udfff]"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def as_text(value: Any) -> str:
    """Return a cell as one line of NFC text; a whole number without its decimal point."""
    if value.__class__ is str:
        if value.isprintable():
            # The usual case by the short way: nothing invisible, no control characters, no odd
            # spaces.
            value = value.strip()
            if not value.isascii() and not unicodedata.is_normalized("NFC", value):
                value = unicodedata.normalize("NFC", value)
            return " ".join(value.split()) if "  " in value else str(value)
        return " ".join(
            unicodedata.normalize("NFC", _CONTROL.sub(" ", _INVISIBLE.sub("", value))).split()
        )
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (datetime, date)):
        return f"{value:%d/%m/%Y}"
    return str(value).strip()


def masked(value: str) -> str:
    """Return a value with every run of 12 digits shown as `0010******45`, however it is spaced.

    It may be a personal number.
    """
    return _TWELVE.sub(lambda found: _hidden(found[0]), value)


def _hidden(found: str) -> str:
    digits = [char for char in found if char.isdecimal()]
    return f"{''.join(digits[:4])}******{''.join(digits[-2:])}"


_TWELVE = re.compile(r"(?<!\d)\d(?:[ .\-\u00a0]?\d){11}(?!\d)")
