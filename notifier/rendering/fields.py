"""The values that a template asks for, and the one rule that says which values fit.

A list, the [data] of a campaign, an example and the API each read their own notation; what they
have read are JSON values, and `problem_of` decides about those for all of them. What fits, renders.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from notifier.rendering.formats import LOCAL_ZONE, MAX_AMOUNT

LANGUAGES = ("vi", "en")
FIELD_TYPES = ("text", "money", "integer", "date", "datetime")
SCOPES = ("recipient", "campaign")
LINE_KEY = "lines"
DEFAULT_MAX_LENGTH = 500

# Beyond every budget, and still a number that JSON's readers agree on.
MAX_MONEY = 10**15
# What a template can write out.
MAX_INTEGER = MAX_AMOUNT - 1
EARLIEST, LATEST = date(1900, 1, 1), date(2200, 1, 1)


@dataclass(frozen=True)
class Field:
    """One value of a mail, and how its column is found in a list.

    A "campaign" field has one value for the whole campaign (its `[data]`); a column of the list may
    still override it per recipient. `max_length` is in characters and applies to text. `minimum` is
    the least number; without it, money is 0 or more and an integer any.
    """

    name: str
    type: str
    label: Mapping[str, str]
    synonyms: tuple[str, ...] = ()
    required: bool = False
    max_length: int = DEFAULT_MAX_LENGTH
    scope: str = "recipient"
    minimum: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a value does not fit.

    A stable code, and a sentence in each language that says what to do.
    """

    code: str
    vi: str
    en: str


_TYPE = {
    "text": Problem("type", "Phải là văn bản.", "It must be a text."),
    "money": Problem(
        "type",
        "Phải là số tiền, tính bằng đồng, không có phần lẻ.",
        "It must be money: a whole number of đồng.",
    ),
    "integer": Problem("type", "Phải là số nguyên.", "It must be an integer: a whole number."),
    "date": Problem(
        "type", "Phải là ngày, viết như 2026-10-31.", "It must be a date, written as 2026-10-31."
    ),
    "datetime": Problem(
        "type",
        "Phải là thời điểm có múi giờ, viết như 2026-10-31T17:00:00+07:00.",
        "It must be a datetime with its offset, written as 2026-10-31T17:00:00+07:00.",
    ),
}
_CHARACTERS = Problem(
    "characters",
    "Có ký tự điều khiển hoặc văn bản bị hỏng. Hãy nhập lại.",
    "It holds control characters or broken text. Type it anew.",
)
_NEGATIVE = Problem(
    "money-negative", "Số tiền âm. Hãy kiểm tra lại.", "The amount is negative. Check it."
)
_TOO_MUCH = Problem(
    "money-range", "Số tiền quá lớn. Hãy kiểm tra lại.", "The amount is too large. Check it."
)
_TOO_LARGE = Problem(
    "integer-range", "Số quá lớn. Hãy kiểm tra lại.", "The number is too large. Check it."
)
_DATE_RANGE = Problem(
    "date-range",
    "Ngày nằm ngoài khoảng từ 1900 đến 2200. Hãy sửa lại.",
    "The date is not between 1900 and 2200. Correct it.",
)


def _text(field: Field, value: Any) -> Problem | None:
    if value.__class__ is not str:
        return _TYPE["text"]
    if len(value) > field.max_length:
        return Problem(
            "too-long",
            f"Dài {len(value)} ký tự, tối đa {field.max_length}. Hãy rút ngắn.",
            f"It has {len(value)} characters, at most {field.max_length} are allowed. Shorten it.",
        )
    return None if value.isprintable() or _printable(value) else _CHARACTERS


def _printable(value: str) -> bool:
    """Say whether no character is a control (but line ends and tabs) or a lone surrogate."""
    return all(unicodedata.category(char) not in {"Cc", "Cs"} or char in "\n\t" for char in value)


def _money(field: Field, value: Any) -> Problem | None:
    # bool is an int to Python, but True is no sum of money.
    if value.__class__ is not int:
        return _TYPE["money"]
    least = 0 if field.minimum is None else field.minimum
    if least <= value <= MAX_MONEY:
        return None
    if abs(value) > MAX_MONEY:
        return _TOO_MUCH
    return _NEGATIVE if value < 0 <= least else _too_small("money-range", least)


def _integer(field: Field, value: Any) -> Problem | None:
    if value.__class__ is not int:
        return _TYPE["integer"]
    if abs(value) > MAX_INTEGER:
        return _TOO_LARGE
    if field.minimum is not None and value < field.minimum:
        return _too_small("integer-range", field.minimum)
    return None


def _too_small(code: str, least: int) -> Problem:
    vietnamese = f"{least:,}".replace(",", ".")
    return Problem(
        code,
        f"Số nhỏ hơn mức tối thiểu {vietnamese}. Hãy kiểm tra lại.",
        f"The number is below the least one, {least:,}. Check it.",
    )


def _date(_: Field, value: Any) -> Problem | None:
    try:
        day = date.fromisoformat(value)
        # The other forms of ISO 8601 (20261031, 2026-W44-6) are for machines that agreed on them.
        if day.isoformat() != value:
            return _TYPE["date"]
    except (TypeError, ValueError):
        return _TYPE["date"]
    return None if EARLIEST <= day <= LATEST else _DATE_RANGE


def _moment(_: Field, value: Any) -> Problem | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return _TYPE["datetime"]
    if moment.tzinfo is None:
        return _TYPE["datetime"]
    return None if EARLIEST <= moment.date() <= LATEST else _DATE_RANGE


_RULES: dict[str, Callable[[Field, Any], Problem | None]] = {
    "text": _text,
    "money": _money,
    "integer": _integer,
    "date": _date,
    "datetime": _moment,
}


def problem_of(field: Field, value: Any) -> Problem | None:
    """Return why a JSON value cannot fill the field, or None when it can.

    Whether a value may be absent is not asked here: `missing` says that.
    """
    return _RULES[field.type](field, value)


def missing(field: Field, value: Any) -> bool:
    """Say whether a required field has no value: null, or a text of nothing but spaces."""
    return field.required and (
        value is None or (field.type == "text" and value.__class__ is str and not value.strip())
    )


def as_json(value: Any) -> Any:
    """Return what TOML reads as a JSON value.

    Days and moments in ISO form, Hanoi's when none is named.
    """
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=LOCAL_ZONE)).isoformat()
    return value.isoformat() if isinstance(value, date) else value


def problems_in(
    fields: tuple[Field, ...], lines: tuple[Field, ...], data: Mapping[str, Any]
) -> Iterator[tuple[str, Problem]]:
    """Yield what keeps `data` from filling a template with these fields, each with its place.

    Places are JSON pointers (RFC 6901). Codes beside those of `problem_of`: unknown, missing.
    """
    yield from _problems_of("", {k: v for k, v in data.items() if k != LINE_KEY}, fields)
    rows = data.get(LINE_KEY, [])
    if not isinstance(rows, list) or (rows and not lines):
        yield (
            f"/{LINE_KEY}",
            Problem(
                "type",
                "Phải là một danh sách, và chỉ khi mẫu thư có các dòng.",
                "It must be a list, and only where the template has lines.",
            ),
        )
        return
    for number, row in enumerate(rows):
        yield from _problems_of(f"/{LINE_KEY}/{number}", row, lines)


def _problems_of(
    place: str, values: Any, fields: tuple[Field, ...]
) -> Iterator[tuple[str, Problem]]:
    if not isinstance(values, dict):
        yield place, Problem("type", "Phải là một đối tượng JSON.", "It must be an object.")
        return
    known = {each.name for each in fields}
    for name in values:
        if name not in known:
            escaped = name.replace("~", "~0").replace("/", "~1")
            yield (
                f"{place}/{escaped}",
                Problem(
                    "unknown", "Mẫu thư không có trường này.", "The template has no such field."
                ),
            )
    for each in fields:
        value = values.get(each.name)
        if missing(each, value):
            yield (
                f"{place}/{each.name}",
                Problem(
                    "missing", "Mẫu thư cần giá trị này.", f"The template needs this {each.type}."
                ),
            )
        elif value is not None and (problem := problem_of(each, value)) is not None:
            yield f"{place}/{each.name}", problem


STANDARD_FIELDS: tuple[Field, ...] = (
    Field(
        name="tax_code",
        type="text",
        label={"vi": "Mã số thuế", "en": "Tax code"},
        synonyms=(
            "mã số thuế",
            "mst",
            "ma_so_thue",
            "mã số doanh nghiệp",
            "mã số thuế (mst)",
            "mã số nnt",
            "mã nnt",
            "mã số định danh",
            "tax code",
            "tax id",
            "tax identification number",
            "tin",
            "tax number",
        ),
        required=True,
        max_length=14,
    ),
    Field(
        name="name",
        type="text",
        label={"vi": "Tên người nộp thuế", "en": "Taxpayer's name"},
        synonyms=(
            "tên người nộp thuế",
            "tên nnt",
            "ten_nnt",
            "người nộp thuế",
            "tên doanh nghiệp",
            "doanh nghiệp",
            "tên công ty",
            "công ty",
            "tên đơn vị",
            "tên tổ chức",
            "tên hộ kinh doanh",
            "họ và tên",
            "họ tên",
            "tên",
            "name",
            "taxpayer",
            "taxpayer name",
            "company",
            "company name",
            "business name",
            "full name",
        ),
        required=True,
        max_length=400,
    ),
    Field(
        name="email",
        type="text",
        label={"vi": "Thư điện tử", "en": "E-mail address"},
        synonyms=(
            "email",
            "e-mail",
            "thư điện tử",
            "địa chỉ email",
            "địa chỉ e-mail",
            "địa chỉ thư điện tử",
            "hộp thư",
            "hộp thư điện tử",
            "email nhận thông báo",
            "email đăng ký",
            "mail",
            "email address",
            "e-mail address",
            "mail address",
        ),
        required=True,
        max_length=254,
    ),
    Field(
        name="language",
        type="text",
        label={"vi": "Ngôn ngữ", "en": "Language"},
        synonyms=(
            "ngôn ngữ",
            "ngôn ngữ nhận thư",
            "tiếng",
            "language",
            "lang",
            "preferred language",
        ),
        max_length=10,
    ),
)
"""The columns that every list may have, whatever its template; the names are reserved."""
