"""Cells as values: tax codes repaired and checked, addresses, money, dates. A cell that cannot be used says why, in both languages.

Nothing is guessed that could send a notice to somebody else or change an amount.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

from email_validator import EmailNotValidError, validate_email

from notifier.rendering.catalogue import Field


class CellError(Exception):
    """A cell cannot be used; `vi` and `en` say what to do."""

    def __init__(self, code: str, vi: str, en: str) -> None:
        """Keep a stable `code` and a sentence in each language."""
        super().__init__(en)
        self.code = code
        self.vi = vi
        self.en = en


# --- text --------------------------------------------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f​‎‏‪-‮⁠-⁤﻿\ud800-\udfff]")


def as_text(value: Any) -> str:
    """Return a cell as one line of NFC text; a whole number without its decimal point."""
    if isinstance(value, str):
        if value.isprintable():
            # The usual case by the short way: no control characters, no odd spaces.
            value = value.strip()
            if not value.isascii() and not unicodedata.is_normalized("NFC", value):
                value = unicodedata.normalize("NFC", value)
            return " ".join(value.split()) if "  " in value else value
        return " ".join(unicodedata.normalize("NFC", _CONTROL.sub(" ", value)).split())
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (datetime, date)):
        return f"{value:%d/%m/%Y}"
    return str(value).strip()


def text(value: Any, field: Field) -> str | None:
    """Return a text, or None for an empty cell; raise CellError when it is too long."""
    found = as_text(value)
    if len(found) > field.max_length:
        raise CellError(
            "too-long",
            f"Dài {len(found)} ký tự, tối đa {field.max_length}. Hãy rút ngắn.",
            f"It has {len(found)} characters, at most {field.max_length} are allowed. Shorten it.",
        )
    return found or None


# --- tax codes ---------------------------------------------------------------------------------------------------------------------

_CODE = re.compile(r"(\d{10})(?:-?(\d{3}))?")
_PERSONAL = re.compile(r"\d{12}")
_SPACES = re.compile(r"[\s.'_ ]+")
_DASHES = re.compile(r"[‐-―−]")
_NINE_DIGITS = 9


def check_digit_holds(digits: str) -> bool:
    """Say whether the tenth digit fits the nine before it (weights 31, 29, …, 3; modulo 11)."""
    a, b, c, d, e, f, g, h, i, last = map(int, digits)
    total = 31 * a + 29 * b + 23 * c + 19 * d + 17 * e + 13 * f + 7 * g + 5 * h + 3 * i
    return 10 - total % 11 == last and digits[2:9] != "0000000"


def tax_code(value: Any) -> str:
    """Return a tax code as 10 digits, 10-3 digits or 12 digits; raise CellError.

    Spreadsheets drop the leading zero of the city's codes: nine digits get it back if the check digit then holds. A 12-digit personal
    number has no check digit (domain facts, part A).
    """
    found = as_text(value)
    if not found:
        raise CellError("tax-code-missing", "Thiếu mã số thuế. Hãy điền vào.", "The tax code is missing. Fill it in.")
    if not found.isascii():
        found = _DASHES.sub("-", unicodedata.normalize("NFKC", found))
    if not found.isdigit():
        found = _SPACES.sub("", found)
    if len(found) == _NINE_DIGITS and found.isdigit():
        found = "0" + found
    if _PERSONAL.fullmatch(found):
        return found
    match = _CODE.fullmatch(found)
    if match is None or match[2] == "000":
        raise CellError(
            "tax-code-form",
            "Mã số thuế phải có 10 chữ số, 10 và 3 chữ số (ví dụ 0100109106-001) hoặc 12 chữ số.",
            "A tax code has 10 digits, 10 and 3 digits (0100109106-001), or 12 digits.",
        )
    if not check_digit_holds(match[1]):
        raise CellError(
            "tax-code-check",
            "Chữ số kiểm tra của mã số thuế không đúng. Hãy đối chiếu lại mã.",
            "The check digit of the tax code is wrong. Compare the code with its source.",
        )
    return f"{match[1]}-{match[2]}" if match[2] else match[1]


def masked(value: str) -> str:
    """Return a value with every 12-digit run, which may be a personal number, shown as `0010******45`."""
    return _TWELVE.sub(lambda found: f"{found[0][:4]}******{found[0][-2:]}", value)


_TWELVE = re.compile(r"(?<!\d)\d{12}(?!\d)")

# --- addresses ---------------------------------------------------------------------------------------------------------------------

_SEPARATORS = re.compile(r"[\s;,/|]+")
_USUAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_+-]|\.(?=[A-Za-z0-9_+-])){0,63}@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24})")
_TYPOS = {
    "gmail.con": "gmail.com", "gmail.co": "gmail.com", "gmail.cm": "gmail.com", "gmail.om": "gmail.com", "gmail.vn": "gmail.com",
    "gmail.com.vn": "gmail.com", "gmai.com": "gmail.com", "gmial.com": "gmail.com", "gamil.com": "gmail.com", "gmaill.com": "gmail.com",
    "gmal.com": "gmail.com", "gmail.comm": "gmail.com", "gnail.com": "gmail.com", "gmil.com": "gmail.com", "email.con": "email.com",
    "yaho.com": "yahoo.com", "yahoo.con": "yahoo.com", "yahooo.com": "yahoo.com", "yhoo.com": "yahoo.com", "yahoo.co": "yahoo.com",
    "yahoo.comvn": "yahoo.com.vn", "yahoo.con.vn": "yahoo.com.vn", "hotmial.com": "hotmail.com", "hotmail.con": "hotmail.com",
    "hotmai.com": "hotmail.com", "hotmal.com": "hotmail.com", "outlok.com": "outlook.com", "outlook.con": "outlook.com",
    "iclou.com": "icloud.com", "icloud.con": "icloud.com",
}  # fmt: skip
_MOST_ADDRESSES = 10
_MOST_ADDRESS_CHARS = 254


def address(value: str) -> str:
    """Return one address, its domain in small letters and ASCII; raise CellError, with a hint for a well-known slip."""
    match = _USUAL.fullmatch(value)
    if match is None or len(value) > _MOST_ADDRESS_CHARS:
        try:
            checked = validate_email(value, check_deliverability=False, allow_smtputf8=False, test_environment=True)
        except EmailNotValidError as error:
            raise CellError("address", "Địa chỉ thư điện tử không hợp lệ. Hãy sửa lại.", f"The address is not valid: {error}") from None
        value = checked.ascii_email or checked.normalized
    name, _, domain = value.rpartition("@")
    domain = domain.lower()
    if better := _TYPOS.get(domain):
        raise CellError(
            "address-typo",
            f"Có phải ý bạn là {name}@{better}? Hãy sửa lại địa chỉ.",
            f"Did you mean {name}@{better}? Correct the address.",
        )
    return f"{name}@{domain}"


def addresses(value: Any) -> tuple[list[str], list[tuple[str, CellError]]]:
    """Return a cell's good addresses, each once, and the bad ones with their errors; raise CellError when there is none at all."""
    found = as_text(value)
    if not found:
        raise CellError("address-missing", "Thiếu địa chỉ thư điện tử. Hãy điền vào.", "The e-mail address is missing. Fill it in.")
    if _USUAL.fullmatch(found) and found.rpartition("@")[2].islower() and found.rpartition("@")[2] not in _TYPOS:
        return [found], []
    good: dict[str, str] = {}
    bad: list[tuple[str, CellError]] = []
    for part in _SEPARATORS.split(found):
        if not part:
            continue
        try:
            each = address(part)
        except CellError as error:
            bad.append((part, error))
        else:
            good.setdefault(each.lower(), each)
    if len(good) > _MOST_ADDRESSES:
        raise CellError("addresses", f"Quá {_MOST_ADDRESSES} địa chỉ trong một ô.", f"More than {_MOST_ADDRESSES} addresses in one cell.")
    return list(good.values()), bad


# --- money, numbers, dates, language -----------------------------------------------------------------------------------------------

_UNIT = re.compile(r"\s*(?:đồng|đ|vnđ|vnd|dong|₫)\.?$", re.IGNORECASE)
_GROUPED = re.compile(r"\d{1,3}(?:([.,\s])\d{3})(?:\1\d{3})*(?:[.,]0{1,2})?")
_PLAIN_NUMBER = re.compile(r"\d{1,18}(?:[.,]0{1,2})?")
MAX_MONEY = 10**15


def money(value: Any, field: Field) -> int | None:
    """Return whole đồng, or None for an empty cell; raise CellError for anything else than a plain amount of 0 or more."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        amount: int | None = int(value) if float(value).is_integer() else None
        if amount is None:
            raise CellError("money-fraction", "Số tiền có phần lẻ của đồng. Hãy làm tròn.", "The amount has a fraction of a đồng. Round it.")
    else:
        found = as_text(value)
        if not found:
            return None
        amount = _money_text(found)
    if not 0 <= amount <= MAX_MONEY:
        raise CellError("money-range", "Số tiền âm hoặc quá lớn. Hãy kiểm tra lại.", "The amount is negative or too large. Check it.")
    return amount


@lru_cache(maxsize=4096)
def _money_text(found: str) -> int:
    bare = _UNIT.sub("", found)
    negative = bare.startswith("-") or (bare.startswith("(") and bare.endswith(")"))
    bare = bare.strip("-() ")
    match = _GROUPED.fullmatch(bare)
    if match is not None:
        whole = bare
        # What follows the last separator, where it differs from the grouping one, is a fraction of zeros.
        tail = re.search(r"[.,]0{1,2}$", bare)
        if tail is not None and (tail[0][0] != match[1] or len(tail[0]) < 4):  # noqa: PLR2004
            whole = bare[: tail.start()]
        amount = int(re.sub(r"\D", "", whole))
    elif _PLAIN_NUMBER.fullmatch(bare):
        amount = int(re.split(r"[.,]", bare)[0])
    else:
        raise CellError(
            "money",
            "Không phải số tiền. Hãy viết như 1.234.567.",
            "This is not an amount. Write it as 1.234.567.",
        )
    return -amount if negative else amount


def integer(value: Any, field: Field) -> int | None:
    """Return a whole number, or None for an empty cell; raise CellError."""
    found = as_text(value)
    if not found:
        return None
    try:
        return int(found)
    except ValueError:
        raise CellError("integer", "Không phải số nguyên.", "This is not a whole number.") from None


_VIETNAMESE_DATE = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})(?: 0{1,2}:00(?::00)?)?")
_ISO_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ]00:00(?::00)?)?")
_EARLIEST, _LATEST = date(1900, 1, 1), date(2200, 1, 1)


def day(value: Any, field: Field) -> str | None:
    """Return a date as YYYY-MM-DD, or None for an empty cell; day before month, as Vietnam writes; raise CellError."""
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        return _sane_day(value)
    found = as_text(value)
    return _day_text(found) if found else None


def _sane_day(value: date) -> str:
    if not _EARLIEST <= value <= _LATEST:
        raise CellError("date-range", "Ngày nằm ngoài khoảng 1900–2200.", "The date is not between 1900 and 2200.")
    return value.isoformat()


@lru_cache(maxsize=4096)
def _day_text(found: str) -> str:
    if match := _VIETNAMESE_DATE.fullmatch(found):
        parts = (int(match[3]), int(match[2]), int(match[1]))
    elif match := _ISO_DATE.fullmatch(found):
        parts = (int(match[1]), int(match[2]), int(match[3]))
    else:
        raise CellError("date", "Không phải ngày. Hãy viết như 31/10/2026.", "This is not a date. Write it as 31/10/2026.")
    try:
        return _sane_day(date(*parts))
    except ValueError:
        raise CellError("date-impossible", "Không có ngày này trong lịch.", "There is no such day in the calendar.") from None


def moment(value: Any, field: Field) -> str | None:
    """Return a moment with its offset in ISO form, or None for an empty cell; Hanoi's time when it names none; raise CellError."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value).isoformat() + ("" if value.tzinfo else "+07:00")
    if isinstance(value, timedelta):
        raise CellError("moment", "Không phải thời điểm.", "This is not a moment.")
    found = as_text(value)
    if not found:
        return None
    try:
        parsed = datetime.fromisoformat(found)
    except ValueError:
        raise CellError(
            "moment", "Không phải thời điểm. Hãy viết như 2026-10-31T17:00.", "This is not a moment. Write it as 2026-10-31T17:00."
        ) from None
    return parsed.isoformat() if parsed.tzinfo else parsed.isoformat() + "+07:00"


_ENGLISH = {"en", "eng", "english", "anh", "tiếng anh", "tieng anh"}


def language(value: Any) -> str:
    """Return `en` for the ways to say English, else `vi`."""
    return "en" if as_text(value).casefold() in _ENGLISH else "vi"


PARSERS: dict[str, Callable[[Any, Field], Any]] = {
    "text": text,
    "money": money,
    "integer": integer,
    "date": day,
    "datetime": moment,
}
