"""For operators: which parts are well, and figures for Prometheus."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import psycopg
import redis
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.exc import SQLAlchemyError

from notifier import observability
from notifier.db import plain_url
from notifier.domain import batches, campaigns, messages, tallies
from notifier.errors import NotifierError
from notifier.services import Services
from notifier.states import CampaignState, Lane

_KEEP_SECONDS = 2.0
_TIMEOUT = 2.0


def _started(check: Callable[[], str]) -> Future[str]:
    """Run a check in a thread of its own.

    It keeps no process from ending, however long it hangs.
    """
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(check())
        except Exception as error:  # noqa: BLE001 - whoever asks gets it
            future.set_exception(error)

    threading.Thread(target=run, name="health", daemon=True).start()
    return future


class Health:
    """The state of the parts, looked at most every two seconds, however often it is asked for.

    It shares nothing with the work whose health it tells: neither connections nor threads, which
    are all taken when a part hangs.
    """

    def __init__(self, services: Services) -> None:
        """Look through `services`."""
        self._services = services
        self._checks = {"database": self._database, "broker": self._broker, "smtp": self._smtp}
        self._running: dict[str, Future[str]] = {}
        self._look: asyncio.Task[dict[str, str]] | None = None
        self._at = 0.0

    async def parts(self) -> dict[str, str]:
        """Return `ok` or a short word of trouble for each part, within some two seconds."""
        if self._look is None or (
            self._look.done() and time.monotonic() - self._at > _KEEP_SECONDS
        ):
            self._look = asyncio.create_task(self._look_at_all())
        # Whoever asks waits for the same look; one who hangs up does not end it for the others.
        return await asyncio.shield(self._look)

    async def _look_at_all(self) -> dict[str, str]:
        for name, check in self._checks.items():
            # A check that still hangs has its thread; another one would only hang, too.
            if name not in self._running or self._running[name].done():
                self._running[name] = _started(check)
        await asyncio.wait(
            [asyncio.wrap_future(each) for each in self._running.values()], timeout=_TIMEOUT
        )
        self._at = time.monotonic()
        return {
            name: each.result() if each.done() else "unreachable"
            for name, each in self._running.items()
        }

    def _database(self) -> str:
        try:
            with psycopg.connect(
                plain_url(self._services.settings.require_database()),
                application_name="notifier-health",
                connect_timeout=int(_TIMEOUT),
                options=f"-c statement_timeout={int(_TIMEOUT)}s",
                # A machine that is gone sends no word of it; the check must end before the database
                # is back somewhere else.
                tcp_user_timeout=int(_TIMEOUT * 1000),
                keepalives_idle=2,
                keepalives_interval=1,
                keepalives_count=3,
            ) as connection:
                connection.execute("SELECT 1")
        except (psycopg.Error, SQLAlchemyError, NotifierError):
            return "unreachable"
        return "ok"

    def _broker(self) -> str:
        try:
            with redis.Redis.from_url(
                self._services.settings.require_broker(),
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
            ) as broker:
                broker.ping()
        except NotifierError:
            return "not set"
        except (redis.RedisError, OSError, ValueError):
            return "unreachable"
        return "ok"

    def _smtp(self) -> str:
        try:
            server = self._services.routes.default.server
            with socket.create_connection((server.host, server.port), timeout=_TIMEOUT):
                return "ok"
        except NotifierError:
            return "not set"
        except OSError:
            return "unreachable"


class _Database(Collector):
    """Gauges that are read from the database when they are asked for."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the oldest waiting mail's age by lane, and open campaigns' messages by state."""
        age = GaugeMetricFamily(
            "notifier_queue_age_seconds",
            "Age of the oldest mail that could leave now.",
            labels=["lane"],
        )
        states = GaugeMetricFamily(
            "notifier_open_messages",
            "Messages of campaigns that are not over, by state.",
            labels=["state"],
        )
        with self._services.session() as session:
            connection = session.connection()
            waits = (batches.longest_wait(connection), messages.longest_wait(connection))
            numbers = [
                number
                for state in CampaignState
                if not state.is_final
                for number in campaigns.numbers(session, state)
            ]
            for state, number in tallies.open_counts(connection, numbers).items():
                states.add_metric([state.value], number)
        for lane in Lane:
            age.add_metric([lane.value], max(0.0, *(each.get(lane, 0.0) for each in waits)))
        yield age
        yield states


def make_router(services: Services) -> APIRouter:
    """Return /healthz and /metrics over `services`."""
    router = APIRouter()
    health = Health(services)
    gauges = CollectorRegistry(auto_describe=False)
    gauges.register(_Database(services))

    @router.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        parts = await health.parts()
        well = all(state == "ok" for state in parts.values())
        return JSONResponse(
            {"status": "ok" if well else "unwell", "parts": parts}, status_code=200 if well else 503
        )

    @router.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        try:
            own = generate_latest(gauges)
        except SQLAlchemyError:
            own = b""
        return Response(
            observability.render_metrics() + own,
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    return router
