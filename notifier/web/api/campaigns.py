"""Campaigns for other systems: the officers' own steps, one request each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, ValidationError
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

from notifier.domain.keys import Key
from notifier.errors import CampaignError, NotFoundError, TableError, TemplateError, TransitionError
from notifier.flows import control as campaign
from notifier.flows import drafts as draft
from notifier.flows.report import write_report
from notifier.schema import Campaign
from notifier.services import Services
from notifier.web.api.gate import Gate
from notifier.web.api.models import Model, prose
from notifier.web.api.problems import Fault, ProblemError, invalid, of_validation, pointer

MAX_BYTES = 256 * 1024
MAX_LIST_BYTES = 64 * 1024 * 1024
SCOPE = "campaigns:write"
LIST_TYPES = {
    "text/csv": ".csv",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
}
Answer = tuple[int, Any]


class CampaignRequest(Model):
    """A campaign as its file describes it (campaigns/README.md), without its list."""

    name: str
    definition: dict[str, Any]


class LaunchRequest(Model):
    """When to start; at once without a moment."""

    at: AwareDatetime | None = None


class Campaigns:
    """Answers requests about campaigns. A key sees those that it created."""

    def __init__(self, services: Services, gate: Gate) -> None:
        """Work through `services`."""
        self._services = services
        self._gate = gate

    def _key(self, request: Request) -> Key:
        key = self._gate.enter(request, SCOPE)
        if key.sandbox:
            raise ProblemError(
                403,
                "forbidden",
                "Sandbox keys cannot prepare campaigns: a campaign writes to real people.",
            )
        if "\0" in request.path_params.get("name", ""):
            # The database cannot even be asked for it.
            raise ProblemError(404, "not-found", "There is no such campaign.")
        return key

    def create(self, request: Request, raw: bytes) -> Answer:
        """Keep a campaign's definition."""
        key = self._key(request)
        try:
            asked = CampaignRequest.model_validate_json(raw)
        except ValidationError as error:
            raise of_validation(error) from None
        wrong = list(_broken_texts(asked.definition, ("definition",)))
        if wrong:
            raise invalid(wrong)
        _speak(lambda: draft.create(self._services, asked.name, asked.definition, key_id=key.id))
        return 201, {"name": asked.name, "state": "draft", "links": _links(asked.name)}

    def attach(self, request: Request, raw: bytes, name: str) -> Answer:
        """Keep a campaign's list."""
        key = self._key(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        ending = LIST_TYPES.get(kind)
        if ending is None:
            raise ProblemError(
                415, "media-type", f"Send the list as one of: {', '.join(LIST_TYPES)}."
            )
        if not raw:
            raise ProblemError(400, "invalid", "The list is empty.")
        _speak(lambda: draft.attach(self._services, name, raw, ending, key_id=key.id))
        return 200, {"name": name, "state": "draft", "bytes": len(raw), "links": _links(name)}

    def check(self, request: Request, _: bytes, name: str) -> Answer:
        """Render every mail without sending one."""
        key = self._key(request)
        return 200, _speak(lambda: draft.check(self._services, name, key_id=key.id))

    def launch(self, request: Request, raw: bytes, name: str) -> Answer:
        """Start a campaign, or schedule it."""
        key = self._key(request)
        try:
            at: datetime | None = LaunchRequest.model_validate_json(raw).at if raw.strip() else None
        except ValidationError as error:
            raise of_validation(error) from None
        launched = _speak(lambda: draft.launch(self._services, name, key_id=key.id, at=at))
        return 202, self._status(launched.name)

    def status(self, request: Request, _: bytes, name: str) -> Answer:
        """Return where a campaign stands."""
        self._own(request, name)
        return 200, self._status(name)

    def pause(self, request: Request, _: bytes, name: str) -> Answer:
        """Let nothing more start."""
        return self._step(request, name, campaign.pause)

    def resume(self, request: Request, _: bytes, name: str) -> Answer:
        """Let it go on."""
        return self._step(request, name, campaign.resume)

    def cancel(self, request: Request, _: bytes, name: str) -> Answer:
        """Let nothing more leave, for good."""
        return self._step(request, name, campaign.cancel)

    def report(self, request: Request, _: bytes, name: str) -> Response:
        """Return one row per message as CSV."""
        self._own(request, name)
        with tempfile.TemporaryDirectory(prefix="notifier-report-") as folder:
            path = Path(folder) / "report.csv"
            write_report(self._services, name, path)
            return Response(path.read_bytes(), media_type="text/csv; charset=utf-8")

    def _step(
        self, request: Request, name: str, step: Callable[[Services, str], Campaign]
    ) -> Answer:
        self._own(request, name)
        _speak(lambda: step(self._services, name))
        return 200, self._status(name)

    def _own(self, request: Request, name: str) -> None:
        key = self._key(request)
        with self._services.session() as session:
            found = session.scalar(
                text("SELECT 1 FROM campaign WHERE name = :name AND key_id = :key"),
                {"name": name, "key": key.id},
            )
        if found is None:
            raise ProblemError(404, "not-found", "This key has launched no such campaign.")

    def _status(self, name: str) -> dict[str, Any]:
        return {**campaign.status(self._services, name).to_json(), "links": _links(name)}


def _broken_texts(value: object, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """Return the texts of a definition that no honest text holds, as for messages; one may be empty here."""
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


def _links(name: str) -> dict[str, str]:
    here = f"/api/v1/campaigns/{name}"
    return {
        "self": here,
        **{
            step: f"{here}/{step}"
            for step in ("list", "check", "launch", "pause", "resume", "cancel", "report")
        },
    }


def _speak(work: Callable[[], Any]) -> Any:
    """Do the work; turn what a person may see into problem details."""
    try:
        return work()
    except NotFoundError as error:
        raise ProblemError(404, "not-found", str(error)) from None
    except TransitionError as error:
        raise ProblemError(409, "state", str(error)) from None
    except (CampaignError, TableError, TemplateError) as error:
        raise invalid([Fault("", error.code, str(error))]) from None
