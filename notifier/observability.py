"""Logs and metrics: what an operator sees.

Events have static names, and ids as fields, never personal data.

Metrics are counted in shared files (prometheus-client's multiprocess mode), so that a Celery
parent answers for its children and the web process for everybody on its machine.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from notifier.settings import Settings

# prometheus_client decides at import where its counters live, so the folder must be named before;
# `use_metrics_folder` does so for programs that start others, and children inherit the variable.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def use_metrics_folder(folder: Path) -> dict[str, str]:
    """Return the environment that lets a child process count into `folder`.

    The folder is made when it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {_FOLDER_VARIABLE: str(folder)}


from prometheus_client import (  # noqa: E402
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead  # noqa: E402

MESSAGES = Counter(
    "notifier_messages", "Messages by outcome, route and lane.", ["outcome", "route", "lane"]
)
SEND_SECONDS = Histogram(
    "notifier_send_seconds",
    "From handing a message to a connection to the server's reply, one sample a group.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
RECOVERIES = Counter("notifier_lease_recoveries", "Batches taken back from workers that died.")
IN_DOUBT = Counter("notifier_in_doubt", "Messages whose fate became unknown.")
WEBHOOKS = Counter("notifier_webhooks", "Requests to webhooks by outcome.", ["outcome"])


def count_outcomes(route: str, lane: str, counts: Mapping[str, int]) -> None:
    """Count `counts` messages by outcome."""
    for outcome, number in counts.items():
        MESSAGES.labels(outcome, route, lane).inc(number)


def observe_send(seconds: float) -> None:
    """Note how long one message took."""
    SEND_SECONDS.observe(seconds)


def recovered(batches: int) -> None:
    """Count batches taken back from dead workers."""
    RECOVERIES.inc(batches)


def count_webhooks(counts: Mapping[str, int]) -> None:
    """Count requests to webhooks by outcome."""
    for outcome, number in counts.items():
        if number:
            WEBHOOKS.labels(outcome).inc(number)


def in_doubt(messages: int) -> None:
    """Count messages whose fate became unknown."""
    IN_DOUBT.inc(messages)


def registry() -> CollectorRegistry | None:
    """Return the registry over all processes that share the metrics folder.

    None when this process counts for itself.
    """
    if not os.environ.get(_FOLDER_VARIABLE):
        return None
    collected = CollectorRegistry()
    MultiProcessCollector(collected)  # type: ignore[no-untyped-call]
    return collected


def render_metrics() -> bytes:
    """Return the metrics in Prometheus' text format."""
    found = registry()
    return generate_latest(found) if found is not None else generate_latest()


def serve_metrics(port: int) -> None:
    """Answer /metrics on `port` of every interface, from a thread; 0 serves nothing."""
    if port:
        found = registry()
        start_http_server(port, registry=found) if found is not None else start_http_server(port)


def process_ended(pid: int) -> None:
    """Forget the gauges of a process that ended; its counters stay."""
    if os.environ.get(_FOLDER_VARIABLE):
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def get_logger(name: str) -> Any:
    """Return a structured logger."""
    return structlog.get_logger(name)


def configure_logging(settings: Settings, part: str) -> None:
    """Write logs to standard error: for eyes on a terminal, as JSON otherwise.

    `part` names the process in every line. Libraries' own logs go the same way, from WARNING on.
    """
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    level = logging.getLevelNamesMapping().get(settings.log_level, logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(part=part)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
