"""Campaigns for other systems: the officers' own steps, one request each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from notifier.domain.campaign_files import CAMPAIGN_NAME
from notifier.domain.event_results import Fault
from notifier.domain.keys import Key
from notifier.flows import control, drafts
from notifier.flows.report import write_report
from notifier.web.api.bodies import File, FileBody, JsonBody, Operation, Sent
from notifier.web.api.campaign_answers import (
    CampaignAnswer,
    CampaignCheck,
    CampaignLinks,
    CampaignPage,
    CampaignStatus,
    ListAnswer,
)
from notifier.web.api.context import CampaignsKey, Context, Here
from notifier.web.api.models import (
    CampaignEdit,
    CampaignQuery,
    CampaignRequest,
    LaunchRequest,
)
from notifier.web.api.problems import BODY, ProblemError, invalid, pointer, problems
from notifier.web.api.values import prose

MAX_BYTES = 256 * 1024
MAX_LIST_BYTES = 64 * 1024 * 1024
LIST_TYPES = {
    "text/csv": ".csv",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
}

router = APIRouter(prefix="/api/v1/campaigns", tags=["Campaigns"], route_class=Operation)


async def _live_key(key: CampaignsKey) -> Key:
    if key.sandbox:
        raise ProblemError(
            403,
            "forbidden",
            "Sandbox keys cannot prepare campaigns: a campaign writes to real people.",
        )
    return key


class CsvFile(FileResponse):
    """A table."""

    media_type = "text/csv"


LiveKey = Annotated[Key, Depends(_live_key)]
Name = Annotated[
    str, Path(pattern=f"^{CAMPAIGN_NAME.pattern}$", description="The campaign's name.")
]
_NewBody = Annotated[Sent[CampaignRequest], Depends(JsonBody(CampaignRequest, MAX_BYTES))]
_EditBody = Annotated[Sent[CampaignEdit], Depends(JsonBody(CampaignEdit, MAX_BYTES))]
_LaunchBody = Annotated[
    Sent[LaunchRequest], Depends(JsonBody(LaunchRequest, MAX_BYTES, required=False))
]
_ListBody = Annotated[File, Depends(FileBody(MAX_LIST_BYTES, tuple(LIST_TYPES)))]


@router.post(
    "",
    operation_id="createCampaign",
    summary="Prepare a campaign",
    status_code=201,
    response_description="The draft.",
    responses=problems(*BODY, 404, 409),
)
async def create_campaign(key: LiveKey, body: _NewBody, here: Here) -> CampaignAnswer:
    """Keep a campaign's definition as a draft. Needs the scope `campaigns:write`."""
    asked = body.value
    _refuse_broken(asked.definition)
    found = await here.run(
        drafts.create, await here.services(), asked.name, asked.definition, key_id=key.id
    )
    return CampaignAnswer(name=found.name, state=found.state, links=CampaignLinks.of(found.name))


@router.get(
    "",
    operation_id="listCampaigns",
    summary="List the key's campaigns, the newest first",
    response_description="A page of campaigns.",
    responses=problems(422),
)
async def list_campaigns(
    key: LiveKey, asked: Annotated[CampaignQuery, Query()], here: Here
) -> CampaignPage:
    """Return a page of campaigns, drafts too. Needs the scope `campaigns:write`."""
    found = await here.run(
        control.listed,
        await here.services(),
        key_id=key.id,
        state=asked.state,
        before=asked.cursor,
        limit=asked.limit + 1,
    )
    page = found[: asked.limit]
    return CampaignPage(
        campaigns=[
            CampaignAnswer(name=each.name, state=each.state, links=CampaignLinks.of(each.name))
            for each in page
        ],
        next=str(page[-1].id) if len(found) > asked.limit else None,
    )


@router.put(
    "/{name}",
    operation_id="editCampaign",
    summary="Replace a draft's definition",
    response_description="The draft.",
    responses=problems(*BODY, 404, 409),
)
async def edit_campaign(key: LiveKey, name: Name, body: _EditBody, here: Here) -> CampaignAnswer:
    """Let a draft be another campaign; its list stays. Needs the scope `campaigns:write`."""
    _refuse_broken(body.value.definition)
    found = await here.run(
        drafts.edit, await here.services(), name, body.value.definition, key_id=key.id
    )
    return CampaignAnswer(name=found.name, state=found.state, links=CampaignLinks.of(found.name))


@router.put(
    "/{name}/list",
    operation_id="attachList",
    summary="Attach the list of recipients",
    response_description="The draft.",
    responses=problems(*BODY, 404, 409),
)
async def attach_list(key: LiveKey, name: Name, body: _ListBody, here: Here) -> ListAnswer:
    """Keep a draft's list, instead of one before. Needs the scope `campaigns:write`."""
    found = await here.run(
        drafts.attach,
        await here.services(),
        name,
        body.content,
        LIST_TYPES[body.kind],
        key_id=key.id,
    )
    return ListAnswer(
        name=found.name,
        state=found.state,
        bytes=len(body.content),
        links=CampaignLinks.of(found.name),
    )


@router.post(
    "/{name}/check",
    operation_id="checkCampaign",
    summary="Render every mail without sending one",
    response_description="What the campaign would do.",
    responses=problems(404, 409, 422),
)
async def check_campaign(key: LiveKey, name: Name, here: Here) -> CampaignCheck:
    """Render every mail of a draft. Needs the scope `campaigns:write`."""
    found = await here.run(drafts.check, await here.services(), name, key_id=key.id)
    return CampaignCheck.model_validate(found.to_json())


@router.post(
    "/{name}/launch",
    operation_id="launchCampaign",
    summary="Start it, or schedule it",
    status_code=202,
    response_description="Where it stands.",
    responses=problems(*BODY, 404, 409),
)
async def launch_campaign(
    key: LiveKey, name: Name, body: _LaunchBody, here: Here
) -> CampaignStatus:
    """Start a draft, or schedule it. Needs the scope `campaigns:write`."""
    await here.run(drafts.launch, await here.services(), name, key_id=key.id, at=body.value.at)
    return await _status(here, key, name)


@router.get(
    "/{name}",
    operation_id="getCampaign",
    summary="See where it stands",
    response_description="Where it stands.",
    responses=problems(404),
)
async def get_campaign(key: LiveKey, name: Name, here: Here) -> CampaignStatus:
    """Return where a campaign stands, a draft too. Needs the scope `campaigns:write`."""
    return await _status(here, key, name)


@router.post(
    "/{name}/pause",
    operation_id="pauseCampaign",
    summary="Let nothing more start",
    response_description="Where it stands.",
    responses=problems(404, 409),
)
async def pause_campaign(key: LiveKey, name: Name, here: Here) -> CampaignStatus:
    """Let nothing more start; what is on its way is finished. Needs the scope `campaigns:write`."""
    await here.run(control.pause, await here.services(), name, key_id=key.id)
    return await _status(here, key, name)


@router.post(
    "/{name}/resume",
    operation_id="resumeCampaign",
    summary="Let it go on",
    response_description="Where it stands.",
    responses=problems(404, 409),
)
async def resume_campaign(key: LiveKey, name: Name, here: Here) -> CampaignStatus:
    """Let a paused campaign go on. Needs the scope `campaigns:write`."""
    await here.run(control.resume, await here.services(), name, key_id=key.id)
    return await _status(here, key, name)


@router.post(
    "/{name}/cancel",
    operation_id="cancelCampaign",
    summary="Let nothing more leave, for good",
    response_description="Where it stands.",
    responses=problems(404, 409),
)
async def cancel_campaign(key: LiveKey, name: Name, here: Here) -> CampaignStatus:
    """Let nothing more of a campaign leave, for good. Needs the scope `campaigns:write`."""
    await here.run(control.cancel, await here.services(), name, key_id=key.id)
    return await _status(here, key, name)


@router.get(
    "/{name}/report",
    operation_id="reportCampaign",
    summary="One row per message",
    response_description="A table in UTF-8.",
    response_class=CsvFile,
    responses=problems(404),
)
async def report_campaign(key: LiveKey, name: Name, here: Here) -> CsvFile:
    """Return one row per message as CSV. Needs the scope `campaigns:write`."""
    services = await here.services()

    def write() -> FilePath:
        control.status(services, name, key_id=key.id)
        folder = FilePath(tempfile.mkdtemp(prefix="notifier-report-"))
        try:
            write_report(services, name, folder / "report.csv")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    folder = await here.run(write)
    return CsvFile(
        folder / "report.csv",
        background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
    )


@router.delete(
    "/{name}",
    operation_id="deleteCampaign",
    summary="Delete a draft",
    status_code=204,
    response_description="It is no more.",
    responses=problems(404, 409),
)
async def delete_campaign(key: LiveKey, name: Name, here: Here) -> None:
    """Delete a draft and its list. Needs the scope `campaigns:write`."""
    await here.run(drafts.delete, await here.services(), name, key_id=key.id)


async def _status(here: Context, key: Key, name: str) -> CampaignStatus:
    found = await here.run(control.status, await here.services(), name, key_id=key.id)
    return CampaignStatus.model_validate({**found.to_json(), "links": CampaignLinks.of(name)})


def _refuse_broken(definition: dict[str, Any]) -> None:
    """Raise ProblemError for texts that no honest text holds, as for messages; one may be empty."""
    if wrong := list(_broken_texts(definition, ("definition",))):
        raise invalid(wrong)


def _broken_texts(value: object, path: tuple[str | int, ...]) -> Iterator[Fault]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _broken_texts(each, (*path, name))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _broken_texts(each, (*path, at))
    elif isinstance(value, str) and value.strip():
        try:
            prose(value)
        except ValueError as error:
            code, _, words = str(error).partition(": ")
            yield Fault(pointer(path), code, words)
