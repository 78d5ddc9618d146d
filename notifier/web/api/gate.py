"""What every request of the API passes: its id, its key, its limits, and the size of its body."""

from __future__ import annotations

import re
import uuid

import structlog
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notifier.domain import keys
from notifier.domain.keys import Key
from notifier.services import Services
from notifier.web.api.problems import ProblemError

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BEARER = re.compile(r"Bearer ([A-Za-z0-9_-]{20,200})", re.IGNORECASE)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")
# Guessing 256 bits is hopeless; this keeps those who try from costing us anything.
_WRONG_KEYS = RateLimitItemPerMinute(60)
# A person who gets more in an hour is not being informed.
_PER_RECIPIENT = RateLimitItemPerHour(100)


class RequestIds:
    """Gives each request an id: the caller's own when it has one, in the answer, in every line of the logs and in the wakes it causes."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(REQUEST_ID.encode(), b"").decode("latin-1")
        number = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (REQUEST_ID.encode(), number.encode()),
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        scope[REQUEST_ID] = number
        with structlog.contextvars.bound_contextvars(request=number):
            await self._app(scope, receive, answer)


class Gate:
    """Keys and limits. Limits are counted in Valkey, so that all web processes keep them together."""

    def __init__(self, services: Services) -> None:
        """Work through `services`."""
        self._services = services
        self._engine = services.engine.execution_options(isolation_level="AUTOCOMMIT")
        options = {"socket_timeout": 2, "socket_connect_timeout": 2}
        self._limiter = SlidingWindowCounterRateLimiter(
            storage_from_string(services.settings.require_broker(), **options)
        )
        self._per_key = RateLimitItemPerMinute(services.settings.api_per_minute)

    def enter(self, request: Request, scope: str | None) -> Key:
        """Return the key of a request that may do what `scope` allows, counting one unit; raise ProblemError 401, 403 or 429."""
        match = _BEARER.fullmatch(request.headers.get("authorization", ""))
        key = None
        now = self._services.clock()
        if match is not None:
            # One statement needs no transaction around it, which would be two more round trips of every request.
            with self._engine.connect() as connection:
                key = keys.find(connection, match[1])
                if key is not None and key.valid_at(now):
                    keys.used(connection, key, now)
        if key is None or not key.valid_at(now):
            self._count(_WRONG_KEYS, 1, "wrong-key", request.client.host if request.client else "")
            raise ProblemError(
                401,
                "unauthorized",
                "Send a valid key as: Authorization: Bearer …",
                headers={"WWW-Authenticate": 'Bearer realm="notifier"'},
            )
        if scope is not None and scope not in key.scopes:
            raise ProblemError(403, "forbidden", f"The key lacks the scope {scope}.")
        self._count(self._per_key, 1, "key", str(key.id))
        return key

    def charge(self, key: Key, cost: int) -> None:
        """Count `cost` more units of a request that has entered; raise ProblemError 429."""
        if cost > 0:
            self._count(self._per_key, cost, "key", str(key.id))

    def recipient(self, email: str) -> None:
        """Count a mail to an address; raise ProblemError 429 when it has had too many within the hour."""
        self._count(_PER_RECIPIENT, 1, "recipient", email.lower())

    def _count(self, limit: RateLimitItem, cost: int, *what: str) -> None:
        if self._limiter.hit(limit, *what, cost=cost):
            return
        window = self._limiter.get_window_stats(limit, *what)
        wait = max(1, round(window.reset_time - self._services.clock().timestamp()))
        raise ProblemError(
            429,
            "rate-limit",
            f"At most {limit.amount} are allowed in {limit.get_expiry()} seconds. Try again in {wait} seconds.",
            headers={
                "Retry-After": str(wait),
                "RateLimit-Limit": str(limit.amount),
                "RateLimit-Remaining": str(max(0, window.remaining)),
                "RateLimit-Reset": str(wait),
            },
        )


def request_id(request: Request) -> str:
    """Return the id that `RequestIds` gave the request."""
    return str(request.scope.get(REQUEST_ID, ""))


def idempotency_key(request: Request) -> str | None:
    """Return the request's Idempotency-Key, if it has one; raise ProblemError 400 when it is no key."""
    value = request.headers.get("idempotency-key")
    if value is not None and not _IDEMPOTENCY_KEY.fullmatch(value):
        raise ProblemError(
            400,
            "invalid",
            "The header Idempotency-Key must be 1 to 200 printable ASCII characters.",
        )
    return value


async def read_body(request: Request, most: int) -> bytes:
    """Return the JSON body of at most `most` bytes; raise ProblemError 411, 413 or 415. A longer one is not read to its end."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ProblemError(
            415,
            "media-type",
            "Send the body as application/json.",
            headers={"Accept": "application/json"},
        )
    return await read_bytes(request, most)


async def read_bytes(request: Request, most: int) -> bytes:
    """Return the body of at most `most` bytes; raise ProblemError 413."""
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise ProblemError(
                    413,
                    "too-large",
                    f"The body may have at most {most:,} bytes.",
                    headers={"Connection": "close"},
                )
            parts.append(part)
    except ClientDisconnect:
        raise ProblemError(400, "bad-json", "The body ended too soon.") from None
    return b"".join(parts)
