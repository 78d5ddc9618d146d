"""What there is to write about, with what, and to whom not: topics, templates, suppressions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from notifier.domain import addresses
from notifier.domain import suppressions as suppression
from notifier.domain.event_results import Fault
from notifier.rendering.catalogue import Field
from notifier.services import Services
from notifier.web.api import answers
from notifier.web.api.bodies import JsonBody, Operation, Sent
from notifier.web.api.context import AnyKey, Here, SuppressionsKey
from notifier.web.api.models import SuppressionQuery, SuppressionRequest
from notifier.web.api.problems import BODY, ProblemError, invalid, problems

MAX_BYTES = 16 * 1024
_INTERNAL = "service"
_PAGE = 100

router = APIRouter(prefix="/api/v1", route_class=Operation)
_SuppressionBody = Annotated[
    Sent[SuppressionRequest], Depends(JsonBody(SuppressionRequest, MAX_BYTES))
]


@router.get(
    "/topics",
    operation_id="listTopics",
    summary="List what the service writes about",
    tags=["Topics and templates"],
    response_description="All topics.",
)
async def list_topics(_: AnyKey, here: Here) -> answers.Topics:
    """Return all topics."""
    services = await here.services()
    return answers.Topics(
        topics=[
            answers.Topic(
                code=each.code,
                name=answers.Texts(**each.info.name),
                statutory=each.statutory,
                legal_ground=answers.Texts(**each.info.legal_ground),
            )
            for each in services.topics.values()
            if each.code != _INTERNAL
        ]
    )


@router.get(
    "/templates",
    operation_id="listTemplates",
    summary="List the templates with their fields",
    tags=["Topics and templates"],
    response_description="All templates.",
)
async def list_templates(_: AnyKey, here: Here) -> answers.Templates:
    """Return all templates with their fields."""
    services = await here.services()
    return answers.Templates(
        templates=[
            answers.Template(
                name=each.name,
                version=each.version,
                topic=each.topic,
                title=answers.Texts(**each.title),
                languages=list(each.languages),
                fields=[_field(field) for field in each.fields],
                lines=[_field(field) for field in each.lines],
            )
            for each in services.catalogue.values()
            if each.topic != _INTERNAL
        ]
    )


def _field(each: Field) -> answers.TemplateField:
    return answers.TemplateField.model_validate(
        {
            "name": each.name,
            "type": each.type,
            "required": each.required,
            "max_length": each.max_length,
            "label": answers.Texts(**each.label),
        }
    )


@router.get(
    "/suppressions",
    operation_id="listSuppressions",
    summary="List addresses that are not written to",
    tags=["Suppressions"],
    response_description="A page of suppressions.",
    responses=problems(422),
)
async def list_suppressions(
    _: SuppressionsKey, asked: Annotated[SuppressionQuery, Query()], here: Here
) -> answers.SuppressionPage:
    """Return a page of what stands, the newest first. Needs the scope `suppressions:write`."""
    services = await here.services()

    def read() -> list[suppression.Standing]:
        before = 2**62 if asked.cursor is None else asked.cursor
        with services.session() as session:
            return suppression.page(session, before=before, limit=_PAGE + 1)

    rows = await here.run(read)
    return answers.SuppressionPage(
        suppressions=[
            answers.Suppression(
                email=each.email,
                topic=each.topic,
                reason=each.reason,
                since=each.since.replace(microsecond=0),
            )
            for each in rows[:_PAGE]
        ],
        next=str(rows[_PAGE - 1].id) if len(rows) > _PAGE else None,
    )


@router.post(
    "/suppressions",
    operation_id="suppress",
    summary="Stop writing to an address",
    tags=["Suppressions"],
    status_code=201,
    response_description="From now on.",
    responses={
        200: {"model": answers.Suppressed, "description": "It was so before."},
        **problems(*BODY),
    },
)
async def suppress(
    key: SuppressionsKey, body: _SuppressionBody, here: Here, response: Response
) -> answers.Suppressed:
    """Stop writing to an address about a topic. Needs the scope `suppressions:write`."""
    services = await here.services()
    asked = _known(services, body.value)

    def write() -> answers.Suppressed:
        with services.session() as session:
            number = addresses.ids(session, [asked.email])[asked.email]
            new = suppression.suppress(
                session,
                number,
                asked.topic,
                reason="manual",
                source=f"key {key.id}: {asked.reason}",
                now=services.clock(),
            )
            standing = suppression.active(session, number)
        return answers.Suppressed(suppressed=standing, new=new)

    found = await here.run(write)
    response.status_code = 201 if found.new else 200
    return found


@router.post(
    "/suppressions/lift",
    operation_id="liftSuppression",
    summary="Write to an address again",
    tags=["Suppressions"],
    response_description="What still stands.",
    responses=problems(*BODY, 409),
)
async def lift_suppression(
    key: SuppressionsKey, body: _SuppressionBody, here: Here
) -> answers.Lifted:
    """Write to an address about a topic again. Needs the scope `suppressions:write`.

    What its owner asked for stays, for only the owner can take it back.
    """
    services = await here.services()
    asked = _known(services, body.value)

    def write() -> answers.Lifted:
        with services.session() as session:
            number = addresses.ids(session, [asked.email])[asked.email]
            reason = suppression.active(session, number).get(asked.topic)
            if reason == "unsubscribed":
                raise ProblemError(
                    409,
                    "state",
                    "The owner of the address opted out; only they can take that back, "
                    "by the link in a mail.",
                )
            lifted = suppression.lift(
                session,
                number,
                asked.topic,
                by=f"key {key.id}: {asked.reason}",
                now=services.clock(),
            )
            standing = suppression.active(session, number)
        return answers.Lifted(suppressed=standing, lifted=lifted)

    return await here.run(write)


def _known(services: Services, asked: SuppressionRequest) -> SuppressionRequest:
    """Return what is asked for when its topic is known; raise ProblemError."""
    if asked.topic not in {*services.topics, suppression.EVERY_TOPIC}:
        words = "There is no such topic. See GET /api/v1/topics."
        raise invalid([Fault("/topic", "unknown-topic", words)])
    return asked
