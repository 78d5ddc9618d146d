"""From fork to farewell of a worker process: what it holds, and how it stops politely.

A polite stop must not cut a message in two: whoever gets SIGTERM sets a flag that the sender asks
before each message. What is on the wire is finished and recorded, the rest of the batch is given
back, and nothing is in doubt.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import signal
import threading
from types import FrameType
from typing import Any

import structlog
import uvloop
from celery import Celery, bootsteps, signals
from sqlalchemy.exc import SQLAlchemyError

from notifier import observability
from notifier.db import plain_url
from notifier.flows import control
from notifier.instance.processes import dies_with_parent
from notifier.sending.budgets import Throttle
from notifier.sending.jobs import Jobs
from notifier.sending.ledger import Ledger
from notifier.sending.sender import Sender
from notifier.services import Services
from notifier.settings import Settings
from notifier.smtp.connection import SmtpChannel
from notifier.webhooks import delivery as webhooks

log = structlog.get_logger(__name__)

# Threads of one pool make what they share once.
_MAKING = threading.Lock()
# One byte that parent and children share across fork: the parent alone hears of a polite stop, the
# children must.
_STOP = mmap.mmap(-1, 1)


class Process:
    """What one worker process holds."""

    app: Celery | None = None
    services: Services | None = None
    sender: Sender | None = None
    asked_to_stop = False


_process = Process()


def stopping() -> bool:
    """Say whether this worker was asked to stop."""
    return _process.asked_to_stop or _STOP[0] != 0


def services() -> Services:
    """Return this process's services, made on first use where no process is forked for tasks."""
    with _MAKING:
        if _process.services is None:
            _process.services = Services(app=_process.app)
        return _process.services


def finish(campaign_id: int) -> None:
    """Finish a campaign if its last batch is done.

    The sweep does so when the database is unavailable.
    """
    try:
        control.finish(services(), campaign_id)
    except SQLAlchemyError as error:
        log.warning("database_unavailable", campaign=campaign_id, error=type(error).__name__)


def deliver(batch_id: int) -> None:
    """Deliver a batch with this process's sender, made on first use."""
    if _process.sender is None:
        _process.sender = make_sender(services())
    # Only while a batch is under way: the pool sets a handler of its own after a fork, by which an
    # idle child ends at once.
    before = signal.signal(signal.SIGTERM, _on_terminate)
    try:
        campaign_id = _process.sender.deliver(batch_id)
        if campaign_id is not None:
            finish(campaign_id)
    finally:
        signal.signal(signal.SIGTERM, before)
        if _process.asked_to_stop:
            signal.raise_signal(signal.SIGTERM)


def tell(key_id: int) -> bool:
    """Tell the receiver of a key what is due; return whether more is.

    May run in several threads at once.
    """
    structlog.contextvars.bind_contextvars(part="worker")
    parts = services()
    return webhooks.deliver(
        parts.engine,
        key_id,
        service_secret=parts.settings.require_secret(),
        private=parts.settings.webhooks_private,
        clock=parts.clock,
        stopping=stopping,
    )


def make_sender(parts: Services) -> Sender:
    """Return a sender with an event loop, a database connection and a throttle of its own."""
    settings = parts.settings
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return Sender(
        ledger=Ledger(plain_url(settings.require_database()), lease_seconds=settings.lease_seconds),
        jobs=Jobs(settings.mail_domain, parts.signer, parts.dkim),
        routes=parts.routes,
        throttle=Throttle(settings.require_broker()),
        channel_of=lambda route: SmtpChannel(
            route.server, hostname=settings.hostname, timeout=settings.smtp_timeout_seconds
        ),
        connections=settings.connections,
        lease_seconds=settings.lease_seconds,
        retry_minutes=settings.retry_minutes,
        stopping=stopping,
        loop=loop,
    )


def _on_terminate(_signal: int, _frame: FrameType | None) -> None:
    _process.asked_to_stop = True


class StopsOnce(bootsteps.StartStopStep):
    """The first SIGTERM is passed on to Celery, further ones change nothing.

    Celery's handler takes a lock that is not re-entrant, so that a second SIGTERM in the midst of
    the first hangs it for ever. The death of a parent brings as many as the parent had threads.
    """

    def start(self, parent: object) -> None:  # noqa: ARG002 - Celery's form
        """Go in between; Celery has set its own handler by now."""
        first = signal.getsignal(signal.SIGTERM)
        asked = False

        def ask(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if not asked and callable(first):
                asked = True
                first(number, frame)

        signal.signal(signal.SIGTERM, ask)

    def stop(self, parent: object) -> None:
        """Stay in between: the stop is under way."""

    def terminate(self, parent: object) -> None:
        """Stay in between here, too."""


def connect(celery: Celery, settings: Settings) -> None:
    """Hook the life of worker processes to Celery's signals.

    In a pool of threads only those of the one process come.
    """
    _process.app = celery

    def child_started(**_: Any) -> None:
        # What is inherited lives as long as the process, and a mail leaves no cycles: the collector
        # need not walk over all that so often.
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        # A parent that is killed cannot stop its children: they hear of its death and stop
        # politely.
        dies_with_parent(signal.SIGTERM, parent=os.getppid())()
        _process.services = Services(settings, app=celery)

    def child_ends(**_: Any) -> None:
        if _process.sender is not None:
            _process.sender.close()
        if _process.services is not None:
            _process.services.close()
        observability.process_ended(os.getpid())

    def parent_ended(**_: Any) -> None:
        if _process.services is not None:
            _process.services.close()

    def parent_stops(**_: Any) -> None:
        _STOP[0] = 1

    def parent_ready(**_: Any) -> None:
        _STOP[0] = 0
        try:
            observability.serve_metrics(settings.metrics_port)
        except OSError as error:
            # A second worker on the same machine: both count into the same folder, so the first
            # answers for both.
            log.warning(
                "metrics_port_taken", port=settings.metrics_port, error=type(error).__name__
            )

    def logging(**_: Any) -> None:
        observability.configure_logging(settings, "worker")

    celery.steps["worker"].add(StopsOnce)
    signals.worker_process_init.connect(child_started, weak=False)
    signals.worker_process_shutdown.connect(child_ends, weak=False)
    signals.worker_shutting_down.connect(parent_stops, weak=False)
    signals.worker_shutdown.connect(parent_ended, weak=False)
    signals.worker_init.connect(parent_ready, weak=False)
    signals.setup_logging.connect(logging, weak=False)
