"""The API's application: its routes, and every failure as problem details."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import orjson
import psycopg
import redis
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match

from notifier import __version__
from notifier.domain.event_results import Fault
from notifier.domain.idempotency import IdempotencyError
from notifier.errors import (
    CampaignError,
    NotFoundError,
    NotifierError,
    RenderError,
    TableError,
    TemplateError,
    TransitionError,
)
from notifier.services import Services
from notifier.web.api import campaigns, events, messages, openapi, reference
from notifier.web.api.context import Context
from notifier.web.api.gate import Frame
from notifier.web.api.problems import (
    ALWAYS,
    ProblemError,
    code_and_words,
    invalid,
    respond,
)

log = structlog.get_logger(__name__)
_METHODS = ("GET", "POST", "PUT", "DELETE")
_UNAVAILABLE = (
    DBAPIError,
    PoolTimeoutError,
    psycopg.Error,
    redis.RedisError,
    TimeoutError,
    ConnectionError,
)
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'"
}


def make_api(services: Services) -> FastAPI:
    """Return the API over `services`; its routes lie under /api."""
    app = FastAPI(
        title="Notifier API",
        version=__version__,
        description="Report dossier events, send messages, run campaigns. "
        "Every error is RFC 9457 problem details.",
        servers=[{"url": services.settings.public_url}],
        responses=ALWAYS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A path with a slash too many is none of ours: no redirect, which would lose the body.
        redirect_slashes=False,
        middleware=[Middleware(Frame)],
    )
    app.state.context = Context(services)
    for module in (events, messages, reference, campaigns):
        app.include_router(module.router)
    for kind, handle in _HANDLERS.items():
        app.exception_handler(kind)(handle)
    document = openapi.document(app)
    described, page = orjson.dumps(document), openapi.page(document).encode()

    @app.get("/api/openapi.json", include_in_schema=False)
    async def show_document() -> Response:
        return Response(described, media_type="application/json", headers=_PAGE_HEADERS)

    @app.get("/api/docs", include_in_schema=False)
    async def show_page() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    return app


Refused = TypeVar("Refused", bound=Exception)
Handler = Callable[[Request, Exception], Awaitable[Response]]


def _answer(make: Callable[[Refused], ProblemError]) -> Handler:
    """Return a handler that answers with the problem that `make` makes of an error."""

    async def handle(_: Request, error: Exception) -> Response:
        return respond(make(cast("Refused", error)))

    return handle


async def _unavailable(request: Request, error: Exception) -> Response:
    # What the database calls bad data got past every check: the caller's fault, and ours to mend.
    # All else is an absence.
    kind = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(kind, psycopg.DataError):
        log.error("api_bad_data", path=_route(request), error=type(kind).__name__)
        return respond(ProblemError(422, "invalid", "A value cannot be stored."))
    log.warning("api_unavailable", path=_route(request), error=type(error).__name__)
    return respond(
        ProblemError(
            503,
            "unavailable",
            "A part of the service is unavailable; nothing of this request is stored unless it was "
            "before. Try again.",
            headers={"Retry-After": "5"},
        )
    )


async def _misconfigured(request: Request, error: Exception) -> Response:
    log.error("api_failed", path=_route(request), error=type(error).__name__)
    words = "The service is set up wrongly; its operators see why in the log."
    return respond(ProblemError(500, "internal", words))


def _route(request: Request) -> str:
    return str(getattr(request.scope.get("route"), "path", ""))


async def _misread(_: Request, error: Exception) -> Response:
    """Answer what does not fit the parameters; bodies are read by a dependency of ours."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    found = error.errors()
    places = {each["loc"][0] for each in found}
    if "path" in places:
        # No such thing was ever called so.
        return respond(ProblemError(404, "not-found", "There is no such thing for this key."))
    if "header" in places:
        words = "The header Idempotency-Key must be 1 to 200 printable ASCII characters."
        return respond(ProblemError(400, "invalid", words))
    faults = []
    for each in found:
        code, words = code_and_words(each)
        if code == "unknown":
            words = "There is no such filter."
        faults.append(Fault(f"?{each['loc'][-1]}", code, words))
    return respond(invalid(faults))


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer for a path or method that is not there."""
    if isinstance(error, HTTPException) and error.status_code == 405:  # noqa: PLR2004
        allowed = ", ".join(
            method
            for method in _METHODS
            if any(
                route.matches({**request.scope, "method": method})[0] is Match.FULL
                for route in request.app.routes
            )
        )
        words = f"Allowed here: {allowed}."
        return respond(ProblemError(405, "method", words, headers={"Allow": allowed}))
    return respond(
        ProblemError(404, "not-found", "There is nothing at this address. See /api/docs.")
    )


def _of_campaign(error: NotifierError) -> ProblemError:
    return invalid([Fault("", error.code, str(error))])


def _state(error: TransitionError) -> ProblemError:
    return ProblemError(409, "state", str(error))


def _same(error: ProblemError) -> ProblemError:
    return error


_HANDLERS: dict[type[Exception], Handler] = {
    ProblemError: _answer(_same),
    RequestValidationError: _misread,
    HTTPException: _refuse,
    NotFoundError: _answer(lambda error: ProblemError(404, "not-found", str(error))),
    TransitionError: _answer(_state),
    IdempotencyError: _answer(lambda error: ProblemError(409, "idempotency", str(error))),
    RenderError: _answer(lambda error: ProblemError(422, "unrenderable", str(error))),
    CampaignError: _answer(_of_campaign),
    TableError: _answer(_of_campaign),
    TemplateError: _answer(_of_campaign),
    NotifierError: _misconfigured,
    **dict.fromkeys(_UNAVAILABLE, _unavailable),
}
