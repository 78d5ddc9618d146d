"""What requests hold; the OpenAPI document is made of these, and of `answers`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from notifier.domain.campaign_files import CAMPAIGN_NAME
from notifier.flows.message_requests import Filter
from notifier.states import CampaignState, MessageState
from notifier.web.api.values import (
    OMITTABLE,
    Cursor,
    Day,
    Email,
    Language,
    Moment,
    MomentInQuery,
    Money,
    Name,
    Status,
    TaxCode,
    Word,
    dossier_code,
    line,
    prose,
)

MAX_BATCH = 1_000
MAX_PAPERS = 50


class Model(BaseModel):
    """Refuses by name what it does not know, and turns nothing into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Applicant(Model):
    """Who filed the dossier. Without an address the event is recorded, and listed for officers."""

    name: Annotated[Name, Field(description="Who is addressed: a firm or a person.")]
    email: Annotated[Email | None, Field(description="Where to write to.")] = None
    tax_code: Annotated[TaxCode | None, Field(description="10, 12 or 13 digits.")] = None
    language: Annotated[Language, Field(description="Of the mail; vi unless it is given.")] = "vi"


EVENT: dict[str, Any] = {
    "source": "portal",
    "code": "000.A0.01.H26-261102-0042",
    "status": 2,
    "occurred_at": "2026-11-02T09:15:00+07:00",
    "procedure": "Đăng ký thuế lần đầu",
    "applicant": {
        "name": "Công ty TNHH Ban Mai",
        "tax_code": "0100109106",
        "email": "ketoan@banmai.example.test",
        "language": "vi",
    },
    "promised_at": "2026-11-09T17:00:00+07:00",
    "office": "Thuế cơ sở 1 thành phố Hà Nội",
}


class DossierEvent(Model):
    """A dossier has a new status."""

    model_config = ConfigDict(json_schema_extra={"examples": [EVENT]})

    source: Annotated[
        str,
        Field(max_length=40, description="The system that reports, as the service knows it."),
        AfterValidator(line),
    ]
    code: Annotated[
        str, Field(max_length=60, description="The dossier's code."), AfterValidator(dossier_code)
    ]
    status: Annotated[Status, Field(description="The source's own code, or the portal's 1 to 10.")]
    occurred_at: Annotated[Moment, Field(description="When it changed, with an offset.")]
    procedure: Annotated[
        str,
        Field(max_length=300, description="The administrative procedure's name."),
        AfterValidator(line),
    ]
    applicant: Applicant
    promised_at: Annotated[
        Moment | None, Field(description="When the applicant was promised the result.")
    ] = None
    reason: Annotated[
        Annotated[str, Field(max_length=1000), AfterValidator(prose)] | None,
        Field(description="Why, as the applicant shall read it."),
    ] = None
    amount: Annotated[Money | None, Field(description="What is to be paid, in whole đồng.")] = None
    due_on: Annotated[Day | None, Field(description="Until when to pay, or to add papers.")] = None
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


def _or_error(value: object, check: ValidatorFunctionWrapHandler) -> DossierEvent | ValidationError:
    """Return the event or what is wrong with it, so that a bad one spoils none of the others."""
    try:
        found: DossierEvent = check(value)
    except ValidationError as error:
        return error
    return found


class EventBatch(Model):
    """Up to 1,000 events, each answered by itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": [EVENT]}]})

    events: Annotated[
        list[Annotated[DossierEvent, WrapValidator(_or_error)]],
        Field(min_length=1, max_length=MAX_BATCH, description="Each is checked by itself."),
    ]

    @property
    def checked(self) -> list[DossierEvent | ValidationError]:
        """The events, and in the place of each bad one what is wrong with it."""
        return list(self.events)


class Recipient(Model):
    """Who gets a message."""

    name: Annotated[Name, Field(description="Who is addressed: a firm or a person.")]
    email: Annotated[Email, Field(description="Where to write to.")]
    tax_code: Annotated[TaxCode | None, Field(description="10, 12 or 13 digits.")] = None


MESSAGE_REQUEST: dict[str, Any] = {
    "template": "settlement-guidance",
    "recipient": {
        "name": "Công ty TNHH Ban Mai",
        "email": "ketoan@banmai.example.test",
        "tax_code": "0100109106",
    },
    "language": "vi",
    "data": {"tax_year": 2026, "tax_kind": "thuế thu nhập doanh nghiệp", "deadline": "2027-03-31"},
}


class MessageRequest(Model):
    """A mail made of a template and values."""

    model_config = ConfigDict(json_schema_extra={"examples": [MESSAGE_REQUEST]})

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
    send_at: Annotated[Moment | None, Field(description="Not before; at most 366 days ahead.")] = (
        None
    )
    expires_at: Annotated[
        Moment | None, Field(description="Not after. Default: three days after it was asked for.")
    ] = None


PAGE, MAX_PAGE = 50, 200


class _Messages(BaseModel):
    """Which messages are listed, and which page of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Annotated[MessageState | None, OMITTABLE, Field(description="Those in this state.")] = (
        None
    )
    template: Annotated[
        Word | None, OMITTABLE, Field(description="Those made of this template.")
    ] = None
    topic: Annotated[Word | None, OMITTABLE, Field(description="Those about this topic.")] = None
    since: Annotated[
        MomentInQuery | None, OMITTABLE, Field(description="Those asked for then or later.")
    ] = None
    until: Annotated[
        MomentInQuery | None, OMITTABLE, Field(description="Those asked for before then.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="How many at once.")] = PAGE
    cursor: Annotated[Cursor | None, OMITTABLE, Field(description="`next` of the page before.")] = (
        None
    )

    def filter(self) -> Filter:
        """Return what holds for them."""
        return Filter(
            state=self.state,
            template=self.template,
            topic=self.topic,
            since=self.since,
            until=self.until,
        )


class MessageQuery(_Messages):
    """Which messages are listed, in an address."""


class MessageSearch(_Messages):
    """Which messages are listed, in a body: an e-mail address must not stand in a URL."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"examples": [{"recipient": "ketoan@banmai.example.test"}]}
    )

    recipient: Annotated[
        Email | None,
        OMITTABLE,
        Field(description="Those to this address, in upper or lower case."),
    ] = None

    def filter(self) -> Filter:
        """Return what holds for them."""
        return replace(super().filter(), recipient=self.recipient)


class SuppressionQuery(BaseModel):
    """Which page of suppressions is listed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cursor: Annotated[
        int | None, OMITTABLE, Field(ge=0, lt=2**62, description="`next` of the page before.")
    ] = None


SUPPRESSION: dict[str, Any] = {
    "email": "ketoan@banmai.example.test",
    "topic": "tax-policy",
    "reason": "Yêu cầu qua điện thoại ngày 02/11/2026",
}


class SuppressionRequest(Model):
    """An address that must not be written to."""

    model_config = ConfigDict(json_schema_extra={"examples": [SUPPRESSION]})

    email: Annotated[Email, Field(description="The address.")]
    topic: Annotated[
        str,
        Field(max_length=100, description="A topic's code, or * for every topic."),
        AfterValidator(line),
    ]
    reason: Annotated[
        str, Field(max_length=200, description="Why, for the log."), AfterValidator(line)
    ]


Definition = Annotated[
    dict[str, Any],
    Field(description="The keys of a campaign file (campaigns/README.md), without its list."),
]
CAMPAIGN: dict[str, Any] = {
    "title": "Chính sách thuế mới",
    "topic": "tax-policy",
    "template": "tax-policy",
    "pace_per_minute": 60000,
}


class CampaignRequest(Model):
    """A campaign as its file describes it, without its list."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "tax-policy-2026-12", "definition": CAMPAIGN}]}
    )

    name: Annotated[
        str,
        Field(max_length=100, description="What it is called from now on."),
        WithJsonSchema({"type": "string", "pattern": f"^{CAMPAIGN_NAME.pattern}$"}),
    ]
    definition: Definition


class CampaignEdit(Model):
    """What a draft is from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"definition": CAMPAIGN}]})

    definition: Definition


class LaunchRequest(Model):
    """When to start; at once without a moment."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    at: Annotated[Moment | None, Field(description="Not before; at once when it is left out.")] = (
        None
    )


class CampaignQuery(BaseModel):
    """Which campaigns are listed, and which page of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Annotated[CampaignState | None, OMITTABLE, Field(description="Those in this state.")] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="How many at once.")] = PAGE
    cursor: Annotated[
        int | None, OMITTABLE, Field(ge=0, lt=2**62, description="`next` of the page before.")
    ] = None
