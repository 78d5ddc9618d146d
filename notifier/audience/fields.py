"""Cells as values: tax codes repaired and checked, addresses, money, dates. A cell that cannot be used says why, in both languages.

Nothing is guessed that could send a notice to somebody else or change an amount.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import date, datetime
from functools import lru_cache
from itertools import islice
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

# Characters that have no width or turn the direction of a line: they come along when a cell is copied, and hide what a text says.
_INVISIBLE = re.compile(
    "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ud800-\udfff]"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def as_text(value: Any) -> str:
    """Return a cell as one line of NFC text; a whole number without its decimal point."""
    if value.__class__ is str:
        if value.isprintable():
            # The usual case by the short way: nothing invisible, no control characters, no odd spaces.
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

_CODE = re.compile(r"([0-9]{10})(?:-?([0-9]{3}))?")
_PERSONAL = re.compile(r"[0-9]{12}")
_LOST_ZERO = re.compile(r"([1-9][0-9]{8})(-[0-9]{3})?")
_DECIMAL_ZERO = re.compile(r"([0-9]{9,13})[.,]0")
_SEPARATORS_OF_CODES = re.compile(r"[\s.'’_]+")
_DASHES = re.compile(r"[\u2010-\u2015\u2212]")


def check_digit_holds(digits: str) -> bool:
    """Say whether the tenth digit fits the nine before it (weights 31, 29, …, 3; modulo 11)."""
    a, b, c, d, e, f, g, h, i, last = map(int, digits)
    total = 31 * a + 29 * b + 23 * c + 19 * d + 17 * e + 13 * f + 7 * g + 5 * h + 3 * i
    return 10 - total % 11 == last and digits[2:9] != "0000000"


def tax_code(value: Any) -> str:
    """Return a tax code as 10 digits, 10-3 digits or 12 digits; raise CellError.

    Spreadsheets drop the leading zero of the city's codes: it is given back if the check digit then holds. A 12-digit personal number has
    no check digit (domain facts, part A), so twelve digits are never rewritten: the notice could reach somebody else. A dependent unit's
    code without its zero is known by its dash.
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
        # Programs write a number that was taken for an amount as 101234567.0; without its point it would be another code.
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
            "Mã số thuế phải có 10 chữ số, 10 và 3 chữ số (ví dụ 0100109106-001) hoặc 12 chữ số. Hãy sửa lại.",
            "A tax code has 10 digits, 10 and 3 digits (0100109106-001), or 12 digits. Correct it.",
        )
    if not check_digit_holds(match[1]):
        raise CellError(
            "tax-code-check",
            "Chữ số kiểm tra của mã số thuế không đúng. Hãy đối chiếu lại mã; số định danh cá nhân phải đủ 12 chữ số, kể cả số 0 ở đầu.",
            "The check digit of the tax code is wrong. Compare it with its source; a personal number has 12 digits, its first zeros included.",
        )
    return f"{match[1]}-{match[2]}" if match[2] else match[1]


def masked(value: str) -> str:
    """Return a value with every run of 12 digits, which may be a personal number, shown as `0010******45`; however it is spaced."""
    return _TWELVE.sub(lambda found: _hidden(found[0]), value)


def _hidden(found: str) -> str:
    digits = [char for char in found if char.isdecimal()]
    return f"{''.join(digits[:4])}******{''.join(digits[-2:])}"


_TWELVE = re.compile(r"(?<!\d)\d(?:[ .\-\u00a0]?\d){11}(?!\d)")

# --- addresses ---------------------------------------------------------------------------------------------------------------------

_SEPARATORS = re.compile(r"[\s;,/|]+")
_USUAL = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9_+-]|\.(?=[A-Za-z0-9_+-])){0,63}@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24})"
)
_TYPOS = {
    "gmail.con": "gmail.com",
    "gmail.co": "gmail.com",
    "gmail.cm": "gmail.com",
    "gmail.om": "gmail.com",
    "gmail.vn": "gmail.com",
    "gmail.com.vn": "gmail.com",
    "gmai.com": "gmail.com",
    "gmial.com": "gmail.com",
    "gamil.com": "gmail.com",
    "gmaill.com": "gmail.com",
    "gmal.com": "gmail.com",
    "gmail.comm": "gmail.com",
    "gnail.com": "gmail.com",
    "gmil.com": "gmail.com",
    "email.con": "email.com",
    "yaho.com": "yahoo.com",
    "yahoo.con": "yahoo.com",
    "yahooo.com": "yahoo.com",
    "yhoo.com": "yahoo.com",
    "yahoo.co": "yahoo.com",
    "yahoo.comvn": "yahoo.com.vn",
    "yahoo.con.vn": "yahoo.com.vn",
    "hotmial.com": "hotmail.com",
    "hotmail.con": "hotmail.com",
    "hotmai.com": "hotmail.com",
    "hotmal.com": "hotmail.com",
    "outlok.com": "outlook.com",
    "outlook.con": "outlook.com",
    "iclou.com": "icloud.com",
    "icloud.con": "icloud.com",
}
_MAX_ADDRESSES = 10
_MAX_PARTS = 40
_MAX_ADDRESS_CHARS = 254
_BRACKETED = re.compile(r"<([^<>]*)>|([^<>\s;,/|]+)")
_QUOTES = "'\"“”‘’()"
# Ends that no domain has, and what was meant; a slip of the finger in a domain that is in no list.
_WRONG_ENDS = {".con": ".com", ".cmo": ".com", ".ocm": ".com", ".comm": ".com", ".vnn": ".vn"}


def address(value: str) -> str:
    """Return one address, its domain in small letters and ASCII; raise CellError, with a hint for a well-known slip."""
    match = _USUAL.fullmatch(value)
    if match is None or len(value) > _MAX_ADDRESS_CHARS:
        try:
            checked = validate_email(
                value,
                check_deliverability=False,
                allow_smtputf8=False,
                test_environment=True,
                strict=True,
            )
        except EmailNotValidError as error:
            raise CellError(
                "address",
                "Địa chỉ thư điện tử không hợp lệ. Hãy sửa lại.",
                f"The address is not valid: {error} Correct it.",
            ) from None
        value = checked.ascii_email or checked.normalized
    name, _, domain = value.rpartition("@")
    domain = domain.lower()
    end = domain[domain.rfind(".") :]
    better = _TYPOS.get(domain) or (
        domain.removesuffix(end) + _WRONG_ENDS[end] if end in _WRONG_ENDS else None
    )
    if better:
        raise CellError(
            "address-typo",
            f"Có phải ý bạn là {name}@{better}? Hãy sửa lại địa chỉ.",
            f"Did you mean {name}@{better}? Correct the address.",
        )
    return f"{name}@{domain}"


def _is_plain(value: str) -> bool:
    """Say whether a cell is one address as most are: nothing to correct, nothing to suspect."""
    if not _USUAL.fullmatch(value) or len(value) > _MAX_ADDRESS_CHARS:
        return False
    domain = value[value.rfind("@") + 1 :]
    return (
        domain.islower() and domain not in _TYPOS and domain[domain.rfind(".") :] not in _WRONG_ENDS
    )


def _parts(found: str) -> Iterator[str]:
    """Yield what may be an address. In "Công ty A <a@example.test>" it stands between the brackets, and the words before them are a name."""
    bracketed = "<" in found
    for match in _BRACKETED.finditer(found):
        inside, outside = match.groups()
        for part in _SEPARATORS.split(inside) if outside is None else [outside]:
            bare = part.lstrip(_QUOTES).removeprefix("mailto:").rstrip(_QUOTES + ".")
            if any(map(str.isalnum, bare)) and (outside is None or not bracketed or "@" in bare):
                yield bare


def addresses(value: Any) -> tuple[list[str], list[tuple[str, CellError]]]:
    """Return a cell's good addresses, each once, and the bad ones with their errors; raise CellError when there is none at all."""
    found = as_text(value)
    if not found:
        raise CellError(
            "address-missing",
            "Thiếu địa chỉ thư điện tử. Hãy điền vào.",
            "The e-mail address is missing. Fill it in.",
        )
    if _is_plain(found):
        return [found], []
    parts = list(islice(_parts(found), _MAX_PARTS + 1))
    if len(parts) > _MAX_PARTS:
        raise CellError(
            "addresses",
            "Ô này không phải danh sách địa chỉ. Hãy sửa lại.",
            "This cell is no list of addresses. Correct it.",
        )
    good: dict[str, str] = {}
    bad: list[tuple[str, CellError]] = []
    for part in parts:
        try:
            each = address(part)
        except CellError as error:
            bad.append((part, error))
        else:
            good.setdefault(each.lower(), each)
    if len(good) > _MAX_ADDRESSES:
        raise CellError(
            "addresses",
            f"Quá {_MAX_ADDRESSES} địa chỉ trong một ô. Hãy bớt đi.",
            f"More than {_MAX_ADDRESSES} addresses in one cell. Remove some.",
        )
    if not parts:
        raise CellError(
            "address",
            "Địa chỉ thư điện tử không hợp lệ. Hãy sửa lại.",
            "The address is not valid. Correct it.",
        )
    return list(good.values()), bad


# --- money, numbers, dates, language -----------------------------------------------------------------------------------------------

_USUAL_MONEY = re.compile(r"[1-9][0-9]{0,2}(?:\.[0-9]{3}){0,4}|[0-9]{1,15}")
_UNIT = re.compile(r"\s*(?:đồng|đ|vnđ|vnd|dong|₫)\.?$", re.IGNORECASE)
# Groups of three after one and the same separator; then, after the other one, nothing but zeros.
_MONEY = re.compile(
    r"(?:[1-9][0-9]{0,2}(?:(?P<group>[., ])[0-9]{3})(?:(?P=group)[0-9]{3})*|[0-9]{1,18})(?:(?P<point>[.,])(?P<fraction>[0-9]+))?"
)
_MINUS = re.compile(r"[-\u2010-\u2015\u2212]")
MAX_MONEY = 10**15


def money(value: Any, _: Field) -> int | None:
    """Return whole đồng, or None for an empty cell; raise CellError for anything else than a plain amount of 0 or more.

    `1.234` is 1234, as Vietnam writes; so is `1,234`. At most MAX_MONEY.
    """
    if value.__class__ is str and _USUAL_MONEY.fullmatch(value):
        amount = int(value.replace(".", ""))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        # Sums of formulas carry noise behind the 15 digits that spreadsheet programs show: 1234566.9999999998 is shown as 1234567.
        shown = float(f"{value:.15g}") if value.__class__ is float else value
        if not float(shown).is_integer():
            raise _fraction()
        amount = int(shown)
    else:
        found = as_text(value)
        if not found:
            return None
        amount = _money_text(found)
    if amount < 0:
        raise CellError(
            "money-negative", "Số tiền âm. Hãy kiểm tra lại.", "The amount is negative. Check it."
        )
    if amount > MAX_MONEY:
        raise CellError(
            "money-range",
            "Số tiền quá lớn. Hãy kiểm tra lại.",
            "The amount is too large. Check it.",
        )
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


def integer(value: Any, _: Field) -> int | None:
    """Return a whole number of at most 18 digits, or None for an empty cell; raise CellError."""
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
    return int(match[1])


_TIME = r"(?:[T ]([0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?))?"
_VIETNAMESE_DATE = re.compile(r"([0-9]{1,2})([/.-])([0-9]{1,2})\2([0-9]{4})" + _TIME)
_ISO_DATE = re.compile(r"([0-9]{4})(-)([0-9]{1,2})-([0-9]{1,2})" + _TIME)
_EARLIEST, _LATEST = date(1900, 1, 1), date(2200, 1, 1)


def day(value: Any, _: Field) -> str | None:
    """Return a date as YYYY-MM-DD, or None for an empty cell; day before month, as Vietnam writes; raise CellError."""
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        return _sane_day(value)
    found = as_text(value)
    return _day_text(found) if found else None


def _sane_day(value: date) -> str:
    if not _EARLIEST <= value <= _LATEST:
        raise CellError(
            "date-range",
            "Ngày nằm ngoài khoảng từ 1900 đến 2200. Hãy sửa lại.",
            "The date is not between 1900 and 2200. Correct it.",
        )
    return value.isoformat()


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
        return _sane_day(date(*parts))
    except ValueError:
        raise CellError(
            "date-impossible",
            "Không có ngày này trong lịch. Hãy sửa lại.",
            "There is no such day in the calendar. Correct it.",
        ) from None


_OFFSET = re.compile(r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$")


def moment(value: Any, _: Field) -> str | None:
    """Return a moment with its offset in ISO form, or None for an empty cell; Hanoi's time when it names none; raise CellError.

    A date alone is its first minute.
    """
    if isinstance(value, datetime):
        _sane_day(value.date())
        return value.isoformat() if value.tzinfo else value.isoformat() + "+07:00"
    if isinstance(value, date):
        return _sane_day(value) + "T00:00:00+07:00"
    found = as_text(value)
    if not found:
        return None
    offset = _OFFSET.search(found) if ":" in found else None
    bare = found[: offset.start()].rstrip() if offset else found
    match = _VIETNAMESE_DATE.fullmatch(bare) or _ISO_DATE.fullmatch(bare)
    try:
        if match is None:
            raise ValueError(bare)
        parsed = datetime.fromisoformat(
            f"{_day_text(bare)}T{(match[5] or '00:00').rjust(5, '0')}{offset[0] if offset else '+07:00'}"
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
    """Return `vi` or `en` for the ways to say so, `vi` for an empty cell; raise CellError for another language."""
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
