"""Cells as values: tax codes repaired and checked, money, dates.

A cell that cannot be used says why.

Nothing is guessed that could send a notice to somebody else or change an amount. A parser reads a
notation; whether what it has read fits the field is decided where it is for all doors, in
`rendering`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from notifier.audience.addresses import address, addresses
from notifier.audience.cells import CellError, as_text, masked
from notifier.rendering.fields import MAX_MONEY, Field, problem_of

__all__ = (
    "MAX_MONEY",
    "PARSERS",
    "CellError",
    "address",
    "addresses",
    "as_text",
    "check_digit_holds",
    "day",
    "integer",
    "language",
    "masked",
    "moment",
    "money",
    "tax_code",
    "text",
)


# --- tax codes

_CODE = re.compile(r"([0-9]{10})(?:-?([0-9]{3}))?")
_PERSONAL = re.compile(r"[0-9]{12}")
_LOST_ZERO = re.compile(r"([1-9][0-9]{8})(-[0-9]{3})?")
_DECIMAL_ZERO = re.compile(r"([0-9]{9,13})[.,]0")
_SEPARATORS_OF_CODES = re.compile(r"[\s.'’_]+")
_DASHES = re.compile(r"[\u2010-\u2015\u2212]")


def check_digit_holds(digits: str) -> bool:
    """Say whether the tenth digit fits the nine before it (weights 31, 29, …, 3; modulo 11).

    It is the verdict of `stdnum.vn.mst`, which the tests hold it to, in a quarter of that one's
    time: with stdnum the loading of a list would take a tenth longer.
    """
    a, b, c, d, e, f, g, h, i, last = map(int, digits)
    total = 31 * a + 29 * b + 23 * c + 19 * d + 17 * e + 13 * f + 7 * g + 5 * h + 3 * i
    return 10 - total % 11 == last and digits[2:9] != "0000000"


def tax_code(value: Any) -> str:
    """Return a tax code as 10 digits, 10-3 digits or 12 digits; raise CellError.

    Spreadsheets drop the leading zero of the city's codes: it is given back if the check digit then
    holds. A 12-digit personal number has no check digit (domain facts, part A), so twelve digits
    are never rewritten: the notice could reach somebody else. A dependent unit's code without its
    zero is known by its dash.
    """
    found = as_text(value)
    if not found:
        raise CellError(
            "tax-code-missing",
            "Thiếu mã số thuế. Hãy điền vào.",
            "The tax code is missing. Fill it in.",
        )
    if not found.isascii():
        found = _DASHES.sub("-", unicodedata.normalize("NFKC", found))
    if not found.isdecimal():
        # Programs write a number that was taken for an amount as 101234567.0; without its point it
        # would be another code.
        decimal = _DECIMAL_ZERO.fullmatch(found)
        found = decimal[1] if decimal else _SEPARATORS_OF_CODES.sub("", found)
    if (lost := _LOST_ZERO.fullmatch(found)) and check_digit_holds("0" + lost[1]):
        found = "0" + found
    if _PERSONAL.fullmatch(found):
        return found
    match = _CODE.fullmatch(found)
    if match is None or match[2] == "000":
        raise CellError(
            "tax-code-form",
            "Mã số thuế phải có 10 chữ số, 10 và 3 chữ số (ví dụ 0100109106-001) hoặc 12 chữ số. "
            "Hãy sửa lại.",
            "A tax code has 10 digits, 10 and 3 digits (0100109106-001), or 12 digits. Correct it.",
        )
    if not check_digit_holds(match[1]):
        raise CellError(
            "tax-code-check",
            "Chữ số kiểm tra của mã số thuế không đúng. Hãy đối chiếu lại mã; số định danh cá nhân "
            "phải đủ 12 chữ số, kể cả số 0 ở đầu.",
            "The check digit of the tax code is wrong. Compare it with its source; a personal "
            "number has 12 digits, its first zeros included.",
        )
    return f"{match[1]}-{match[2]}" if match[2] else match[1]


# --- text, money, numbers, dates, language


def text(value: Any, field: Field) -> str | None:
    """Return a text, or None for an empty cell; raise CellError when it is too long."""
    found = as_text(value) or None
    _check(found, field)
    return found


def _check(value: Any, field: Field) -> None:
    """Raise CellError when the field does not take what a parser has read."""
    if value is not None and (problem := problem_of(field, value)) is not None:
        raise CellError(problem.code, problem.vi, problem.en)


_USUAL_MONEY = re.compile(r"[1-9][0-9]{0,2}(?:\.[0-9]{3}){0,4}|[0-9]{1,15}")
_UNIT = re.compile(r"\s*(?:đồng|đ|vnđ|vnd|dong|₫)\.?$", re.IGNORECASE)
# Groups of three after one and the same separator; then, after the other one, nothing but zeros.
_MONEY = re.compile(
    r"(?:[1-9][0-9]{0,2}(?:(?P<group>[., ])[0-9]{3})(?:(?P=group)[0-9]{3})*|[0-9]{1,18})"
    r"(?:(?P<point>[.,])(?P<fraction>[0-9]+))?"
)
_MINUS = re.compile(r"[-\u2010-\u2015\u2212]")


def money(value: Any, field: Field) -> int | None:
    """Return whole đồng, or None for an empty cell; raise CellError for what is no plain amount.

    `1.234` is 1234, as Vietnam writes; so is `1,234`. What is owed to the reader is a negative
    amount, which only a field with a negative minimum takes. At most MAX_MONEY.
    """
    if value.__class__ is str and _USUAL_MONEY.fullmatch(value):
        amount = int(value.replace(".", ""))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        # Sums of formulas carry noise behind the 15 digits that spreadsheet programs show:
        # 1234566.9999999998 is shown as 1234567.
        shown = float(f"{value:.15g}") if value.__class__ is float else value
        if not float(shown).is_integer():
            raise _fraction()
        amount = int(shown)
    else:
        found = as_text(value)
        if not found:
            return None
        amount = _money_text(found)
    _check(amount, field)
    return amount


def _fraction() -> CellError:
    return CellError(
        "money-fraction",
        "Số tiền có phần lẻ của đồng. Hãy làm tròn.",
        "The amount has a fraction of a đồng. Round it to whole đồng.",
    )


def _money_text(found: str) -> int:
    bare = _UNIT.sub("", _MINUS.sub("-", found)).strip()
    # A sign before or behind, or brackets, as bookkeepers write what is owed to somebody.
    negative = bare[:1] == "-" or bare[-1:] == "-" or (bare[:1] == "(" and bare[-1:] == ")")
    if bare[:1] == "(" and bare[-1:] == ")":
        bare = bare[1:-1]
    bare = (bare[:-1] if bare[-1:] == "-" else bare.removeprefix("-")).strip()
    match = _MONEY.fullmatch(unicodedata.normalize("NFKC", bare))
    if match is None or (match["point"] and match["point"] == match["group"]):
        raise CellError(
            "money",
            "Không phải số tiền. Hãy viết như 1.234.567.",
            "This is not an amount. Write it as 1.234.567.",
        )
    if match["fraction"] and match["fraction"].strip("0"):
        raise _fraction()
    whole = match[0] if match["point"] is None else match[0][: match.start("point") - match.start()]
    amount = int(re.sub("[^0-9]", "", whole))
    return -amount if negative else amount


_INTEGER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0)?")


def integer(value: Any, field: Field) -> int | None:
    """Return a whole number, or None for an empty cell; raise CellError."""
    found = as_text(value)
    if not found:
        return None
    match = _INTEGER.fullmatch(found)
    if match is None:
        raise CellError(
            "integer",
            "Không phải số nguyên. Hãy viết chỉ bằng chữ số.",
            "This is not a whole number. Write it in digits only.",
        )
    number = int(match[1])
    _check(number, field)
    return number


_TIME = r"(?:[T ]([0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?))?"
_VIETNAMESE_DATE = re.compile(r"([0-9]{1,2})([/.-])([0-9]{1,2})\2([0-9]{4})" + _TIME)
_ISO_DATE = re.compile(r"([0-9]{4})(-)([0-9]{1,2})-([0-9]{1,2})" + _TIME)


def day(value: Any, field: Field) -> str | None:
    """Return a date as YYYY-MM-DD, or None for an empty cell; day before month; raise CellError."""
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        found: str | None = value.isoformat()
    else:
        written = as_text(value)
        found = _day_text(written) if written else None
    _check(found, field)
    return found


@lru_cache(maxsize=4096)
def _day_text(found: str) -> str:
    if match := _VIETNAMESE_DATE.fullmatch(found):
        parts = (int(match[4]), int(match[3]), int(match[1]))
    elif match := _ISO_DATE.fullmatch(found):
        parts = (int(match[1]), int(match[3]), int(match[4]))
    else:
        raise CellError(
            "date",
            "Không phải ngày. Hãy viết như 31/10/2026.",
            "This is not a date. Write it as 31/10/2026.",
        )
    try:
        return date(*parts).isoformat()
    except ValueError:
        raise CellError(
            "date-impossible",
            "Không có ngày này trong lịch. Hãy sửa lại.",
            "There is no such day in the calendar. Correct it.",
        ) from None


_OFFSET = re.compile(r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$")


def moment(value: Any, field: Field) -> str | None:
    """Return a moment with its offset in ISO form, or None for an empty cell; raise CellError.

    It is Hanoi's time when it names none; a date alone is its first minute.
    """
    if isinstance(value, datetime):
        found: str | None = value.isoformat() if value.tzinfo else value.isoformat() + "+07:00"
    elif isinstance(value, date):
        found = value.isoformat() + "T00:00:00+07:00"
    else:
        written = as_text(value)
        found = _moment_text(written) if written else None
    _check(found, field)
    return found


def _moment_text(found: str) -> str:
    offset = _OFFSET.search(found) if ":" in found else None
    bare = found[: offset.start()].rstrip() if offset else found
    match = _VIETNAMESE_DATE.fullmatch(bare) or _ISO_DATE.fullmatch(bare)
    try:
        if match is None:
            raise ValueError(bare)
        hour = (match[5] or "00:00").rjust(5, "0")
        parsed = datetime.fromisoformat(
            f"{_day_text(bare)}T{hour}{offset[0] if offset else '+07:00'}"
        )
    except ValueError:
        raise CellError(
            "moment",
            "Không phải thời điểm. Hãy viết như 2026-10-31T17:00.",
            "This is not a moment. Write it as 2026-10-31T17:00.",
        ) from None
    return parsed.isoformat()


_LANGUAGES = {
    "en": re.compile(r"(?:en|eng|english|anh|tiếng anh|tieng anh)\b"),
    "vi": re.compile(r"(?:vi|vie|vn|việt|viet|vietnamese|tiếng việt|tieng viet)\b"),
}


def language(value: Any) -> str:
    """Return `vi` or `en` for the ways to say so, `vi` for an empty cell.

    Raise CellError for another language.
    """
    found = as_text(value).casefold()
    for code, names in _LANGUAGES.items():
        if names.match(found.replace("_", "-")):
            return code
    if found:
        raise CellError(
            "language",
            "Chỉ có tiếng Việt và tiếng Anh. Hãy ghi vi hoặc en.",
            "Only Vietnamese and English are there. Write vi or en.",
        )
    return "vi"


PARSERS: dict[str, Callable[[Any, Field], Any]] = {
    "text": text,
    "money": money,
    "integer": integer,
    "date": day,
    "datetime": moment,
}
