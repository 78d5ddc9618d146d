"""Values of requests: what they may be, and the form that they are kept in."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
import uuid
from datetime import date, datetime
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from notifier.audience import fields
from notifier.domain.sources import CODE

_TEMPLATE_MARKS = ("{{", "{%", "{#")


def _checked(value: str, *, lines: bool) -> str:
    """Return a text as NFC without spaces around it; refuse what no honest text holds."""
    value = unicodedata.normalize("NFC", value).strip()
    for char in "" if value.isprintable() else value:
        if lines and char in "\n\r\t":
            continue
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            raise ValueError("characters: It holds control or invisible characters.")
    if not value:
        raise ValueError("empty: It is empty.")
    if any(mark in value for mark in _TEMPLATE_MARKS):
        raise ValueError("template-syntax: Marks of templates are not allowed in values.")
    return " ".join(value.split()) if lines else value


def line(value: str) -> str:
    """Check a text of one line; raise ValueError `code: sentence`."""
    return _checked(value, lines=False)


def prose(value: str) -> str:
    """Check a text that may have come in several lines, which become one.

    Raise ValueError `code: sentence`.
    """
    return _checked(value, lines=True)


def _email(value: str) -> str:
    line(value)
    try:
        good, bad = fields.addresses(value)
    except fields.CellError as error:
        raise ValueError(f"{error.code}: {error.en}") from None
    if bad or len(good) != 1:
        raise ValueError("address: " + (bad[0][1].en if bad else "It must be one address."))
    return good[0]


def _tax_code(value: str) -> str:
    try:
        return fields.tax_code(line(value))
    except fields.CellError as error:
        raise ValueError(f"{error.code}: {error.en}") from None


def dossier_code(value: str) -> str:
    """Check a dossier's code; raise ValueError `code: sentence`."""
    value = line(value).upper()
    if not CODE.fullmatch(value):
        raise ValueError(
            "dossier-code: It must be a dossier code such as 000.A0.01.H26-261102-0042."
        )
    return value


def _status(value: object) -> str:
    # The portal's systems send their statuses as numbers or as texts.
    if type(value) is int and 0 <= value <= 10**9:
        return str(value)
    if isinstance(value, str) and len(value) <= 40:  # noqa: PLR2004 - as the schema says
        return line(value)
    raise ValueError(
        "type: It must be the status's code, a text of at most 40 characters or a number."
    )


Status = Annotated[
    str,
    PlainValidator(_status),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 40},
                {"type": "integer", "minimum": 0, "maximum": 10**9},
            ]
        }
    ),
]


def _moment(value: object) -> object:
    # A number is no moment, although pydantic would read it as seconds.
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[Tt ]", value):
        return value
    raise ValueError("type: It must be a moment such as 2026-11-24T09:30:00+07:00.")


def _day(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return value
    raise ValueError("type: It must be a day such as 2026-11-24.")


def _moment_in_a_query(value: object) -> object:
    # An unescaped "+" of an offset arrives as a space.
    return re.sub(r" (?=\d\d:?\d\d$)", "+", value) if isinstance(value, str) else value


def _in_the_era(value: datetime) -> datetime:
    if not 1970 < value.year < 9000:  # noqa: PLR2004 - what an id can say
        raise ValueError("type: It must be a moment such as 2026-11-24T09:30:00+07:00.")
    return value


def _cursor(value: object) -> uuid.UUID:
    try:
        raw = str(value).encode("ascii")
        return uuid.UUID(
            bytes=base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
        )
    except (ValueError, UnicodeEncodeError, binascii.Error):
        raise ValueError("value: It is no cursor of an earlier page.") from None


def cursor(last: uuid.UUID) -> str:
    """Return the cursor of the page behind `last`."""
    return base64.urlsafe_b64encode(last.bytes).rstrip(b"=").decode()


class _Omittable:
    """Marks `X | None = None` as a field that may be left out, and is no null when it is there.

    It has one type then, for those who generate clients and for the errors that name it.
    """

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of what is given when it is given."""
        (given,) = (each for each in get_args(source) if each is not type(None))
        return handler.generate_schema(given)


OMITTABLE = _Omittable()

# Texts are read as moments and days also where pydantic is given Python values.
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_moment)]
Day = Annotated[date, Field(strict=False), BeforeValidator(_day)]
Language = Literal["vi", "en"]
Money = Annotated[int, Field(ge=1, lt=fields.MAX_MONEY, description="Whole đồng.")]
Email = Annotated[
    str, Field(max_length=254, examples=["ketoan@congty.example.test"]), AfterValidator(_email)
]
Name = Annotated[str, Field(max_length=200), AfterValidator(line)]
TaxCode = Annotated[str, Field(max_length=20, examples=["0100109106"]), AfterValidator(_tax_code)]
Word = Annotated[str, Field(max_length=100), AfterValidator(line)]
MomentInQuery = Annotated[
    AwareDatetime,
    Field(strict=False),
    BeforeValidator(_moment),
    BeforeValidator(_moment_in_a_query),
    AfterValidator(_in_the_era),
]
Cursor = Annotated[
    uuid.UUID,
    PlainValidator(_cursor),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"}),
]
