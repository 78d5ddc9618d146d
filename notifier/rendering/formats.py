"""Money, numbers, dates and codes as a Vietnamese or English reader expects to see them.

Every function takes the language as "vi" or "en". Money is whole đồng; instants are shown in
Asia/Ho_Chi_Minh. A value of the wrong type raises RenderError; the message names the filter and
never repeats the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import lru_cache, partial
from zoneinfo import ZoneInfo

from notifier.errors import RenderError

LOCAL_ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
NBSP = "\u00a0"

# Far above the state budget: a larger sum is a mistake in the list, and its words would fill the
# screen.
MAX_AMOUNT = 10**18

PERSONAL_CODE_DIGITS = 12
ISO_DATE_CHARS = 10
_LAST_MONTH_WITH_ZERO = 2

_DIGITS_VI = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín")
_SMALL_EN = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS_EN = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES_EN = ("", " thousand", " million", " billion", " trillion", " quadrillion", " quintillion")
_MONTHS_EN = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def _group_vi(value: int, *, full: bool) -> str:
    """Read 0 to 999.

    `full` says the hundreds aloud even when they are 0, as inside a longer number.
    """
    hundreds, rest = divmod(value, 100)
    tens, unit = divmod(rest, 10)
    words = []
    if hundreds or full:
        words.append(f"{_DIGITS_VI[hundreds]} trăm")
    if tens == 0:
        if unit and words:
            words.append("linh")
    elif tens == 1:
        words.append("mười")
    else:
        words.append(f"{_DIGITS_VI[tens]} mươi")
    if unit:
        after_tens = tens > 1
        if unit == 1 and after_tens:
            words.append("mốt")
        elif unit == 4 and after_tens:  # noqa: PLR2004 - 4 is read "tư" here, "bốn" elsewhere
            words.append("tư")
        elif unit == 5 and tens:  # noqa: PLR2004 - 5 is read "lăm" here, "năm" elsewhere
            words.append("lăm")
        else:
            words.append(_DIGITS_VI[unit])
    return " ".join(words)


# A fill reads two or more amounts; with the thousand groups read in advance each costs a few
# look-ups.
_FIRST_GROUP = (_DIGITS_VI[0], *(_group_vi(value, full=False) for value in range(1, 1000)))
_LATER_GROUP = ("", *(" " + _group_vi(value, full=True) for value in range(1, 1000)))
_FIRST_THOUSANDS = ("", *(words + " nghìn" for words in _FIRST_GROUP[1:]))
_LATER_THOUSANDS = ("", *(words + " nghìn" for words in _LATER_GROUP[1:]))
_FIRST_MILLIONS = ("", *(words + " triệu" for words in _FIRST_GROUP[1:]))
_LATER_MILLIONS = ("", *(words + " triệu" for words in _LATER_GROUP[1:]))


def _below_billion_vi(value: int, *, later: bool) -> str:
    """Read 1 to 999,999,999 without a leading space.

    `later` when a higher group was read before it.
    """
    thousands, units = divmod(value, 1000)
    millions, thousands = divmod(thousands, 1000)
    if millions:
        words = (_LATER_MILLIONS if later else _FIRST_MILLIONS)[millions]
        return words + _LATER_THOUSANDS[thousands] + _LATER_GROUP[units]
    if thousands:
        return (_LATER_THOUSANDS if later else _FIRST_THOUSANDS)[thousands] + _LATER_GROUP[units]
    return _LATER_GROUP[units] if later else _FIRST_GROUP[units]


def _cardinal_vi(value: int) -> str:
    """Read a whole number of 0 or more.

    "tỷ" repeats for 10^18 and above ("một triệu tỷ" is 10^15).
    """
    billions, rest = divmod(value, 1_000_000_000)
    if not billions:
        return _below_billion_vi(rest, later=False)
    return _cardinal_vi(billions) + " tỷ" + (_below_billion_vi(rest, later=True) if rest else "")


def _group_en(value: int) -> str:
    hundreds, rest = divmod(value, 100)
    words = [f"{_SMALL_EN[hundreds]} hundred"] if hundreds else []
    if rest >= 20:  # noqa: PLR2004 - English numbers are regular from twenty on
        tens, unit = divmod(rest, 10)
        words.append(_TENS_EN[tens] + (f"-{_SMALL_EN[unit]}" if unit else ""))
    elif rest:
        words.append(_SMALL_EN[rest])
    return " ".join(words)


def _cardinal_en(value: int) -> str:
    """Read a whole number from 0 to MAX_AMOUNT."""
    if value == 0:
        return _SMALL_EN[0]
    groups = []
    for scale in _SCALES_EN:
        value, group = divmod(value, 1000)
        if group:
            groups.append(_group_en(group) + scale)
    return " ".join(reversed(groups))


def _whole(value: object, name: str) -> int:
    # bool is an int to Python, but True is no sum of money.
    if type(value) is not int:
        raise RenderError(f"The filter {name} expects a whole number.")
    if not -MAX_AMOUNT <= value <= MAX_AMOUNT:
        raise RenderError(f"The filter {name} expects a number between -10^18 and 10^18.")
    return value


def number(value: object, language: str = "vi") -> str:
    """Return a whole number with its thousands separated: 1.234.567 (vi) or 1,234,567 (en)."""
    grouped = f"{_whole(value, 'number'):,}"
    return grouped if language == "en" else grouped.replace(",", ".")


def money(value: object, language: str = "vi") -> str:
    """Return `1.234.567 đồng` (vi) or `VND 1,234,567` (en), with a no-break space."""
    grouped = f"{_whole(value, 'money'):,}"
    return f"VND{NBSP}{grouped}" if language == "en" else f"{grouped.replace(',', '.')}{NBSP}đồng"


def money_words(value: object, language: str = "vi") -> str:
    """Return đồng in words as on a notice: first letter upper case, the unit at the end."""
    value = _whole(value, "words")
    if language == "en":
        words = ("minus " if value < 0 else "") + _cardinal_en(abs(value)) + " dong"
    else:
        words = ("âm " if value < 0 else "") + _cardinal_vi(abs(value)) + " đồng"
    return words[0].upper() + words[1:]


def _day(value: object, name: str) -> date:
    if isinstance(value, datetime):
        return value.astimezone(LOCAL_ZONE).date() if value.tzinfo else value.date()
    if isinstance(value, date):
        return value
    if isinstance(value, str):
        try:
            return (
                date.fromisoformat(value)
                if len(value) <= ISO_DATE_CHARS
                else _instant(value, name).date()
            )
        except ValueError:
            pass
    raise RenderError(f"The filter {name} expects a date written as 2026-10-31.")


def _instant(value: object, name: str) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(LOCAL_ZONE)
    raise RenderError(
        f"The filter {name} expects a time with its offset, written as 2026-10-31T09:05:00+07:00."
    )


def _official_month(day: date) -> str:
    # Official papers write a zero before days below 10 and before months 1 and 2 only (Decree
    # 30/2020, annex I).
    month = f"{day.month:02}" if day.month <= _LAST_MONTH_WITH_ZERO else str(day.month)
    return f"tháng {month} năm {day.year}"


def date_short(value: object, language: str = "vi") -> str:
    """Return `05/02/2026` (vi) or `5 Feb 2026` (en).

    In English the slashed form would be read the other way round.
    """
    day = _day(value, "date")
    return (
        f"{day.day} {_MONTHS_EN[day.month - 1][:3]} {day.year}"
        if language == "en"
        else f"{day:%d/%m/%Y}"
    )


def date_long(value: object, language: str = "vi") -> str:
    """Return `ngày 05 tháng 02 năm 2026` (vi) or `5 February 2026` (en)."""
    day = _day(value, "date_long")
    if language == "en":
        return f"{day.day} {_MONTHS_EN[day.month - 1]} {day.year}"
    return f"ngày {day.day:02} {_official_month(day)}"


def month(value: object, language: str = "vi") -> str:
    """Return the month of a date: `tháng 10 năm 2026` (vi) or `October 2026` (en)."""
    day = _day(value, "month")
    return f"{_MONTHS_EN[day.month - 1]} {day.year}" if language == "en" else _official_month(day)


def date_time(value: object, language: str = "vi") -> str:
    """Return an instant in Vietnam's time.

    `14:05 ngày 05/02/2026` (vi) or `14:05 on 5 February 2026` (en).
    """
    instant = _instant(value, "date_time")
    day = date_long(instant.date(), "en") if language == "en" else date_short(instant.date())
    return f"{instant:%H:%M} {'on' if language == 'en' else 'ngày'} {day}"


def masked(value: object, language: str = "vi") -> str:  # noqa: ARG001 - as every filter
    """Return a tax code as it may be shown.

    A 12-digit personal number becomes `0010******45`, others stay.
    """
    if not isinstance(value, str):
        raise RenderError("The filter masked expects a tax code written as text.")
    if len(value) == PERSONAL_CODE_DIGITS and value.isascii() and value.isdigit():
        return f"{value[:4]}******{value[-2:]}"
    return value


def filters(language: str) -> Mapping[str, Callable[[object], str]]:
    """Return the filters of this page bound to one language, by the names that templates use."""
    named: dict[str, Callable[..., str]] = {
        "money": money,
        "words": money_words,
        "number": number,
        "date": date_short,
        "date_long": date_long,
        "date_time": date_time,
        "month": month,
        "masked": masked,
    }
    # A mail shows the same values in its text and its HTML part, and a campaign the same dates in
    # every mail.
    return {
        name: lru_cache(4096, typed=True)(partial(function, language=language))
        for name, function in named.items()
    }
