"""The API's application: the operations as routes, every failure as problem details."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import orjson
import psycopg
import redis
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from notifier.errors import NotifierError
from notifier.services import Services
from notifier.web.api import openapi
from notifier.web.api.gate import Gate, RequestIds, read_body, read_bytes
from notifier.web.api.operations import Operation, operations, run
from notifier.web.api.problems import ProblemError, respond

log = structlog.get_logger(__name__)
_THREADS = 48
_UNAVAILABLE = (
    DBAPIError,
    PoolTimeoutError,
    psycopg.Error,
    redis.RedisError,
    TimeoutError,
    ConnectionError,
)
_SMALL = 4096


def make_api(services: Services) -> Starlette:
    """Return the API over `services`, to be mounted at /api."""
    listed = operations(services, Gate(services))
    # Threads of its own: callers who wait for a commit must not take those of the public pages.
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="api")
    routes: list[Route] = []
    for path in dict.fromkeys(each.path for each in listed):
        methods = {each.method: each for each in listed if each.path == path}
        routes.append(
            Route(path, _endpoint(methods, pool), methods=list(methods), include_in_schema=False)
        )
    document = orjson.dumps(openapi.document(listed, services.settings.public_url))
    page = openapi.page(listed)
    routes += [
        Route("/openapi.json", _constant(document, "application/json"), methods=["GET"]),
        Route("/docs", _constant(page, "text/html; charset=utf-8"), methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequestIds)],
        exception_handlers={HTTPException: _refuse},
    )
    # A path with a slash too many is none of ours: no redirect, which would lose the body.
    app.router.redirect_slashes = False
    return app


def _endpoint(
    methods: dict[str, Operation], pool: ThreadPoolExecutor
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        operation = methods.get(request.method) or methods["GET"]
        try:
            if operation.body is not None and (
                operation.body_required or request.headers.get("content-type")
            ):
                raw = await read_body(request, operation.most_bytes)
            else:
                raw = await read_bytes(request, operation.most_bytes or _SMALL)
            result = await asyncio.get_running_loop().run_in_executor(
                pool, copy_context().run, _work, operation, request, raw
            )
        except ProblemError as problem:
            return respond(problem)
        except _UNAVAILABLE as error:
            log.warning("api_unavailable", error=type(error).__name__)
            return respond(_unavailable())
        except Exception as error:  # noqa: BLE001 - its words may hold personal data, so it must not reach the server's own log
            log.error("api_failed", operation=operation.name, error=type(error).__name__)  # noqa: TRY400
            return respond(
                ProblemError(
                    500, "internal", "This is our fault and was noted with the request's id."
                )
            )
        if isinstance(result, Response):
            return result
        status, body = result
        return Response(orjson.dumps(body), status, media_type="application/json")

    return endpoint


def _work(operation: Operation, request: Request, raw: bytes) -> tuple[int, object] | Response:
    try:
        return run(operation, request, raw)
    except DBAPIError as error:
        # What the database calls bad data got past every check: the caller's fault, and ours to mend. All else is an absence.
        if isinstance(error.orig, psycopg.DataError):
            log.error("api_bad_data", operation=operation.name, error=type(error.orig).__name__)  # noqa: TRY400 - a traceback holds data
            raise ProblemError(422, "invalid", "A value cannot be stored.") from None
        raise
    except NotifierError as error:
        raise ProblemError(
            500, "internal", "The service is set up wrongly; its operators see why in the log."
        ) from error


def _unavailable() -> ProblemError:
    return ProblemError(
        503,
        "unavailable",
        "A part of the service is away; nothing of this request is stored unless it was before. Try again.",
        headers={"Retry-After": "5"},
    )


def _constant(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    }

    async def endpoint(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return endpoint


async def _refuse(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:  # noqa: PLR2004
        taken = [
            route
            for route in request.app.routes
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        ]
        allowed = sorted({method for route in taken for method in route.methods or ()})
        return respond(
            ProblemError(
                405,
                "method",
                f"Allowed here: {', '.join(allowed)}.",
                headers={"Allow": ", ".join(allowed)},
            )
        )
    return respond(
        ProblemError(404, "not-found", "There is nothing at this address. See /api/docs.")
    )
