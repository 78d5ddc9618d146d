"""What every request of the API passes: its id, its key, its limits."""

from __future__ import annotations

import re
import uuid

import structlog
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notifier.domain import keys
from notifier.domain.keys import Key
from notifier.services import Services
from notifier.web.api.problems import ProblemError, respond

log = structlog.get_logger(__name__)
REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,200}")
# Guessing 256 bits is hopeless; this keeps those who try from costing us anything.
_WRONG_KEYS = RateLimitItemPerMinute(60)
# A person who gets more in an hour is not being informed.
_PER_RECIPIENT = RateLimitItemPerHour(100)


class Frame:
    """Gives each request an id, and each failure that nobody expected an answer.

    The id is the caller's own when it has one; it is in the answer, in every line of the logs and
    in the tasks that the request causes.
    """

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
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message["headers"],
                    (REQUEST_ID.encode(), number.encode()),
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        # A HEAD is a GET whose body the server leaves out (RFC 9110, section 9.3.2).
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "method": method, REQUEST_ID: number}
        with structlog.contextvars.bound_contextvars(request=number):
            try:
                await self._app(scope, receive, answer)
            except Exception as error:  # noqa: BLE001 - whatever it is, it has an answer
                # Its words may hold personal data, so it must not reach the server's own log.
                log.error("api_failed", path=_path(scope), error=type(error).__name__)  # noqa: TRY400
                if started:
                    raise ConnectionAbortedError from None
                internal = ProblemError(
                    500, "internal", "This is our fault and was noted with the request's id."
                )
                await respond(internal)(scope, receive, answer)


def _path(scope: Scope) -> str:
    """Return the path of the route, without what stood in its place."""
    return str(getattr(scope.get("route"), "path", ""))


class Gate:
    """Keys and limits, which are counted in Valkey, so that all web processes share them."""

    def __init__(self, services: Services) -> None:
        """Work through `services`."""
        self._services = services
        self._engine = services.engine.execution_options(isolation_level="AUTOCOMMIT")
        options = {"socket_timeout": 2, "socket_connect_timeout": 2}
        self._limiter = SlidingWindowCounterRateLimiter(
            storage_from_string(services.settings.require_broker(), **options)
        )
        self._per_key = RateLimitItemPerMinute(services.settings.api_per_minute)

    def enter(self, token: str, client: str) -> Key:
        """Return the key that is good now; raise ProblemError 401, or 429 for who guesses."""
        key = None
        now = self._services.clock()
        if _TOKEN.fullmatch(token):
            # One statement needs no transaction around it, which would be two more round trips of
            # every request.
            with self._engine.connect() as connection:
                key = keys.find(connection, token)
                if key is not None and key.valid_at(now):
                    keys.used(connection, key, now)
        if key is None or not key.valid_at(now):
            self._count(_WRONG_KEYS, 1, "wrong-key", client)
            raise ProblemError(
                401,
                "unauthorized",
                "Send a valid key as: Authorization: Bearer …",
                headers={"WWW-Authenticate": 'Bearer realm="notifier"'},
            )
        return key

    def admit(self, token: str, client: str, scopes: list[str]) -> Key:
        """Return the key of a request that needs `scopes`, counting one unit.

        Raise ProblemError 401, 403 or 429.
        """
        key = self.enter(token, client)
        for scope in scopes:
            if scope not in key.scopes:
                raise ProblemError(403, "forbidden", f"The key lacks the scope {scope}.")
        self.charge(key, 1)
        return key

    def charge(self, key: Key, cost: int) -> None:
        """Count `cost` units of a key; raise ProblemError 429."""
        if cost > 0:
            self._count(self._per_key, cost, "key", str(key.id))

    def recipient(self, email: str) -> None:
        """Count a mail to an address; raise ProblemError 429 after too many within the hour."""
        self._count(_PER_RECIPIENT, 1, "recipient", email.lower())

    def _count(self, limit: RateLimitItem, cost: int, *what: str) -> None:
        if self._limiter.hit(limit, *what, cost=cost):
            return
        window = self._limiter.get_window_stats(limit, *what)
        wait = max(1, round(window.reset_time - self._services.clock().timestamp()))
        raise ProblemError(
            429,
            "rate-limit",
            f"At most {limit.amount} are allowed in {limit.get_expiry()} seconds. "
            f"Try again in {wait} seconds.",
            headers={
                "Retry-After": str(wait),
                "RateLimit-Limit": str(limit.amount),
                "RateLimit-Remaining": str(max(0, window.remaining)),
                "RateLimit-Reset": str(wait),
            },
        )
