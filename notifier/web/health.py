"""For operators: which parts are well, and figures for Prometheus."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from notifier import observability
from notifier.errors import NotifierError
from notifier.queues import HOUSEKEEPING, LANES
from notifier.services import Services

_KEEP_SECONDS = 2.0
_TIMEOUT = 2.0

_AGE = text("""
SELECT lane, max(extract(epoch FROM clock_timestamp() - due_at)) FROM (
    SELECT b.lane, b.due_at FROM batch b JOIN campaign c ON c.id = b.campaign_id
     WHERE b.state = 'ready' AND b.due_at <= clock_timestamp() AND c.state = 'running'
    UNION ALL
    SELECT c.lane, m.due_at FROM message m JOIN campaign c ON c.id = m.campaign_id
     WHERE m.batch_id IS NULL AND m.state IN ('queued', 'deferred') AND m.due_at <= clock_timestamp() AND c.state = 'running') waiting
GROUP BY lane
""")

_OPEN = text("""
SELECT m.state::text, count(*) FROM message m JOIN campaign c ON c.id = m.campaign_id
 WHERE c.kind = 'campaign' AND c.state IN ('running', 'paused', 'scheduled', 'cancelling') GROUP BY 1
""")


class Health:
    """The state of the parts, looked at most every two seconds, however often it is asked for."""

    def __init__(self, services: Services) -> None:
        """Look through `services`."""
        self._services = services
        self._lock = threading.Lock()
        self._at = 0.0
        self._parts: dict[str, str] = {}

    def parts(self) -> dict[str, str]:
        """Return `ok` or a short word of trouble for each part."""
        with self._lock:
            if time.monotonic() - self._at > _KEEP_SECONDS:
                self._parts = {"database": self._database(), "broker": self._broker(), "smtp": self._smtp()}
                self._at = time.monotonic()
            return self._parts

    def _database(self) -> str:
        try:
            with self._services.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, NotifierError):
            return "unreachable"
        return "ok"

    def _broker(self) -> str:
        try:
            return "ok" if self._services.queues.depth(HOUSEKEEPING) is not None else "unreachable"
        except NotifierError:
            return "not set"

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
        """Yield the age of the oldest waiting mail by lane, and the open campaigns' messages by state."""
        age = GaugeMetricFamily("notifier_queue_age_seconds", "Age of the oldest mail that could leave now.", labels=["lane"])
        states = GaugeMetricFamily("notifier_open_messages", "Messages of campaigns that are not over, by state.", labels=["state"])
        with self._services.session() as session:
            ages = {lane: float(seconds) for lane, seconds in session.execute(_AGE)}
            for state, number in session.execute(_OPEN):
                states.add_metric([state], number)
        for lane in LANES:
            age.add_metric([lane], max(0.0, ages.get(lane, 0.0)))
        yield age
        yield states


def make_router(services: Services) -> APIRouter:
    """Return /healthz and /metrics over `services`."""
    router = APIRouter()
    health = Health(services)
    gauges = CollectorRegistry(auto_describe=False)
    gauges.register(_Database(services))

    @router.get("/healthz", include_in_schema=False)
    def healthz() -> JSONResponse:
        parts = health.parts()
        well = all(state == "ok" for state in parts.values())
        return JSONResponse({"status": "ok" if well else "unwell", "parts": parts}, status_code=200 if well else 503)

    @router.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        try:
            own = generate_latest(gauges)
        except SQLAlchemyError:
            own = b""
        return Response(observability.render_metrics() + own, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
