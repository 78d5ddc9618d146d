"""What requests and answers hold; the OpenAPI description is made of these."""

from __future__ import annotations

import unicodedata
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from notifier.audience import fields
from notifier.domain.sources import CODE

MAX_BATCH = 1_000
MAX_PAPERS = 50
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
    """Check a text that may have come in several lines, which become one; raise ValueError `code: sentence`."""
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


def _code(value: str) -> str:
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
Language = Literal["vi", "en"]
Money = Annotated[int, Field(ge=1, lt=fields.MAX_MONEY, description="Whole đồng.")]
Email = Annotated[
    str, Field(max_length=254, examples=["ketoan@congty.example.test"]), AfterValidator(_email)
]
Name = Annotated[str, Field(max_length=200), AfterValidator(line)]
TaxCode = Annotated[str, Field(max_length=20, examples=["0100109106"]), AfterValidator(_tax_code)]


class Model(BaseModel):
    """Refuses by name what it does not know, and turns nothing into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Applicant(Model):
    """Who filed the dossier. Without an address the event is recorded, and listed for officers."""

    name: Annotated[Name, Field(description="Who is addressed: a firm or a person.")]
    email: Annotated[Email | None, Field(description="Where to write to.")] = None
    tax_code: Annotated[TaxCode | None, Field(description="10, 12 or 13 digits.")] = None
    language: Annotated[Language, Field(description="Of the mail; vi unless it is given.")] = "vi"


class DossierEvent(Model):
    """A dossier has a new status."""

    source: Annotated[
        str,
        Field(max_length=40, description="The system that reports, as the service knows it."),
        AfterValidator(line),
    ]
    code: Annotated[
        str, Field(max_length=60, description="The dossier's code."), AfterValidator(_code)
    ]
    status: Annotated[Status, Field(description="The source's own code, or the portal's 1 to 10.")]
    occurred_at: Annotated[AwareDatetime, Field(description="When it changed, with an offset.")]
    procedure: Annotated[
        str,
        Field(max_length=300, description="The administrative procedure's name."),
        AfterValidator(line),
    ]
    applicant: Applicant
    promised_at: Annotated[
        AwareDatetime | None, Field(description="When the applicant was promised the result.")
    ] = None
    reason: Annotated[
        Annotated[str, Field(max_length=1000), AfterValidator(prose)] | None,
        Field(description="Why, as the applicant shall read it."),
    ] = None
    amount: Annotated[Money | None, Field(description="What is to be paid, in whole đồng.")] = None
    due_on: Annotated[date | None, Field(description="Until when to pay, or to add papers.")] = None
    papers: Annotated[
        list[Annotated[str, Field(max_length=300), AfterValidator(line)]],
        Field(max_length=MAX_PAPERS, description="What is missing."),
    ] = []
    result_place: Annotated[
        Annotated[str, Field(max_length=300), AfterValidator(line)] | None,
        Field(description="Where to get the result."),
    ] = None
    office: Annotated[
        Annotated[str, Field(max_length=200), AfterValidator(line)] | None,
        Field(description="The office in charge."),
    ] = None


class EventBatch(Model):
    """Up to 1,000 events, each answered by itself."""

    events: Annotated[
        list[Any], Field(min_length=1, max_length=MAX_BATCH, description="Events as above.")
    ]


class Recipient(Model):
    """Who gets a message."""

    name: Annotated[Name, Field(description="Who is addressed: a firm or a person.")]
    email: Annotated[Email, Field(description="Where to write to.")]
    tax_code: Annotated[TaxCode | None, Field(description="10, 12 or 13 digits.")] = None


class MessageRequest(Model):
    """A mail made of a template and values."""

    template: Annotated[
        str,
        Field(max_length=100, description="Its name, as GET /api/v1/templates lists it."),
        AfterValidator(line),
    ]
    recipient: Recipient
    language: Annotated[Language, Field(description="Of the mail; vi unless it is given.")] = "vi"
    data: Annotated[
        dict[str, Any],
        Field(description="The template's fields, as GET /api/v1/templates lists them."),
    ] = {}
    send_at: (
        Annotated[AwareDatetime, Field(description="Not before; at most 366 days ahead.")] | None
    ) = None
    expires_at: (
        Annotated[
            AwareDatetime,
            Field(description="Not after. Default: three days after it was asked for."),
        ]
        | None
    ) = None


class SuppressionRequest(Model):
    """An address that must not be written to."""

    email: Annotated[Email, Field(description="The address.")]
    topic: Annotated[
        str,
        Field(max_length=100, description="A topic's code, or * for every topic."),
        AfterValidator(line),
    ]
    reason: Annotated[
        str, Field(max_length=200, description="Why, for the log."), AfterValidator(line)
    ]
