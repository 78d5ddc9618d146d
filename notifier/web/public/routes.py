"""Public pages, no login: stop a topic, choose topics, check that a notice is genuine.

They follow RFC 8058 and RFC 2369.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import redis
import structlog
from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from notifier.domain import message_lookups
from notifier.errors import LinkError, NotFoundError, SettingsError
from notifier.flows import unsubscribe as subscription
from notifier.services import Services
from notifier.web.pages import PRIVATE, page

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 4096
_CHECKS_PER_MINUTE = 20
_ONE_CLICK = b"One-Click"

Work = Callable[[Request, dict[str, list[str]], bytes], Response]


async def _body(request: Request) -> bytes | None:
    """Return the request's body, or None when it is larger than any form of ours."""
    collected = b""
    async for chunk in request.stream():
        collected += chunk
        if len(collected) > MAX_BODY_BYTES:
            return None
    return collected


def _form(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode("utf-8"), max_num_fields=50)
    except (UnicodeDecodeError, ValueError):
        return {}


async def _with_form(request: Request, work: Work, body: bytes | None) -> Response:
    """Do the work with the form in a thread.

    Answer 503 when the database is unavailable, so that the request is tried again.
    """
    if body is None:
        return Response("Too large.\n", status_code=413, media_type="text/plain", headers=PRIVATE)
    try:
        return await run_in_threadpool(work, request, _form(body), body)
    except SQLAlchemyError as error:
        _log_unavailable(error)
        return _unavailable(request)


def _log_unavailable(error: SQLAlchemyError) -> None:
    # Not the traceback, which would hold the statement's parameters.
    log.error("database_unavailable", error=type(error).__name__)


def _unavailable(request: Request) -> Response:
    answer = page(request, "unavailable.html", status=503)
    answer.headers["Retry-After"] = "60"
    return answer


def _is_one_click(body: bytes) -> bool:
    # Urlencoded or multipart, as RFC 8058 section 3.2 allows; key and value are fixed words.
    return _ONE_CLICK in body and b"List-Unsubscribe" in body


def make_router(services: Services) -> APIRouter:
    """Return the public pages over `services`."""
    router = APIRouter()

    clicks = subscription.OneClicks(services)

    def stop(request: Request, form: dict[str, list[str]], _body: bytes) -> Response:
        token = request.path_params["token"]
        if "stop" not in form:
            return page(request, "message.html", status=400, code="form")
        try:
            result = subscription.stop(services, token)
        except LinkError:
            return page(request, "message.html", status=404, code="link")
        return page(request, "saved.html", token=token, result=result)

    def save(request: Request, form: dict[str, list[str]], _body: bytes) -> Response:
        token = request.path_params["token"]
        try:
            result = subscription.save(services, token, set(form.get("topic", [])))
        except LinkError:
            return page(request, "message.html", status=404, code="link")
        return page(request, "saved.html", token=token, result=result)

    def check(request: Request, form: dict[str, list[str]], _body: bytes) -> Response:
        if _too_often(services, request):
            answer = page(request, "message.html", status=429, code="often")
            answer.headers["Retry-After"] = "60"
            return answer
        code = (form.get("code") or [""])[0]
        return page(request, "check.html", asked=True, code=code[:80], found=_find(services, code))

    @router.post("/u/{token}", include_in_schema=False)
    async def post_stop(request: Request) -> Response:
        body = await _body(request)
        if body is None or not _is_one_click(body):
            return await _with_form(request, stop, body)
        try:
            await asyncio.wrap_future(clicks.stop(request.path_params["token"]))
        except LinkError:
            # A mail program can do nothing about it, and a scanner must learn nothing from it.
            log.info("one_click_with_a_bad_token")
        except SQLAlchemyError as error:
            _log_unavailable(error)
            return Response(
                "Try again later.\n",
                status_code=503,
                media_type="text/plain",
                headers=PRIVATE | {"Retry-After": "60"},
            )
        return Response("OK\n", media_type="text/plain", headers=PRIVATE)

    @router.post("/u/{token}/chu-de", include_in_schema=False)
    async def post_save(request: Request) -> Response:
        return await _with_form(request, save, await _body(request))

    @router.post("/kiem-tra", include_in_schema=False)
    async def post_check(request: Request) -> Response:
        return await _with_form(request, check, await _body(request))

    @router.api_route("/u/{token}", methods=["GET", "HEAD"], include_in_schema=False)
    def get_choices(request: Request, token: str) -> Response:
        try:
            found = subscription.choices(services, token)
        except LinkError:
            return page(request, "message.html", status=404, code="link")
        except SQLAlchemyError:
            return _unavailable(request)
        return page(request, "choices.html", token=token, choices=found)

    @router.api_route("/kiem-tra", methods=["GET", "HEAD"], include_in_schema=False)
    def get_check(request: Request) -> Response:
        return page(request, "check.html", asked=False, code="", found=None)

    return router


def _too_often(services: Services, request: Request) -> bool:
    """Count the checks of a client in a minute; a broker that is unavailable stops nobody."""
    client = request.client.host if request.client else "?"
    try:
        with redis.Redis.from_url(
            services.settings.require_broker(), socket_timeout=1, socket_connect_timeout=1
        ) as broker:
            # A key for each minute, which expires whether or not it is asked for again.
            key = f"notifier:check:{client}:{int(time.time()) // 60}"
            with broker.pipeline() as steps:
                number = int(steps.incr(key).expire(key, 120).execute()[0])
    except (redis.RedisError, OSError, SettingsError):
        return False
    return number > _CHECKS_PER_MINUTE


def _find(services: Services, code: str) -> dict[str, Any] | None:
    """Return when, about what and to which masked address this service sent the message.

    And nothing more; None when it did not.
    """
    bare = code.strip().strip("<>").partition("@")[0]
    try:
        message_id = uuid.UUID(bare)
    except ValueError:
        return None
    with services.session() as session:
        try:
            found = message_lookups.proof(session.connection(), message_id)
        except NotFoundError:
            return None
    name, _, domain = found.email.partition("@")
    return {
        "at": found.settled_at,
        "topic": services.topics.get(found.topic),
        "to": f"{name[:1]}•••@{domain}",
        "certain": found.certain,
    }
