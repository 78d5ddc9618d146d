"""The web application: put together here, nothing else."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Scope

from notifier.instance.servers.mailbox import Mailbox
from notifier.observability import configure_logging
from notifier.services import Services
from notifier.web import health, inbox
from notifier.web.api.app import make_api
from notifier.web.pages import PRIVATE, STYLE, page
from notifier.web.public import routes as public

_METHODS = ("GET", "HEAD", "POST")

log = structlog.get_logger(__name__)


class _Below(Mount):
    """A mount whose application sees whole paths, so that its document shows them."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        """Mount `app`."""
        super().__init__(path, app)
        # A path with a line break, too, is the application's to refuse.
        self.path_regex = re.compile(self.path_regex.pattern, re.DOTALL)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as a mount does, and leave the path as it is."""
        match, child = super().matches(scope)
        child.pop("root_path", None)
        child.pop("path_params", None)
        return match, child


def _catches(services: Services) -> bool:
    """Say whether mail goes to a catcher of ours.

    It runs on this machine, or beside us in the same compose file.
    """
    host = urlsplit(services.settings.smtp_url or "").hostname or ""
    return host in {"127.0.0.1", "::1", "localhost", "catcher"}


def _allowed(request: Request) -> str:
    """Return the methods that any route takes at this address.

    The framework names those of the first route alone (RFC 9110, 10.2.1).
    """
    routes = request.app.routes
    return ", ".join(
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    )


def create_app(services: Services | None = None) -> FastAPI:
    """Return the application over `services`.

    Without them it uses the environment's settings (as `notifier web` runs it).
    """
    if services is None:
        services = Services()
        configure_logging(services.settings, "web")
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(public.make_router(services))
    app.include_router(health.make_router(services))
    if services.settings.broker_url:
        app.router.routes.append(_Below("/api", make_api(services)))
    mail = services.settings.var / "mail"
    # The inbox shows addresses and live links to anybody: never beside a server that delivers real
    # mail.
    has_inbox = mail.is_dir() and _catches(services)
    if has_inbox:
        app.include_router(inbox.make_router(Mailbox(mail)))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def home(request: Request) -> Response:
        return page(request, "home.html", has_inbox=has_inbox)

    @app.get("/style.css", include_in_schema=False)
    def style() -> Response:
        return Response(
            STYLE, media_type="text/css; charset=utf-8", headers={"Cache-Control": "max-age=3600"}
        )

    @app.exception_handler(HTTPException)
    def refuse(request: Request, error: HTTPException) -> Response:
        code = {404: "page", 405: "method"}.get(error.status_code, "page")
        answer = page(request, "message.html", status=error.status_code, code=code)
        answer.headers.update(error.headers or {})
        if "Allow" in answer.headers:
            answer.headers["Allow"] = _allowed(request)
        return answer

    @app.exception_handler(RequestValidationError)
    def misread(request: Request, _error: RequestValidationError) -> Response:
        return page(request, "message.html", status=404, code="page")

    @app.exception_handler(Exception)
    def fail(request: Request, error: Exception) -> Response:
        # The kind of error is enough to find it; its words may hold personal data.
        log.error(
            "request_failed",
            error=type(error).__name__,
            path=request.scope["route"].path if "route" in request.scope else "",
        )
        return Response(
            "Lỗi hệ thống. / Something went wrong.\n",
            status_code=500,
            media_type="text/plain",
            headers=PRIVATE,
        )

    return app
