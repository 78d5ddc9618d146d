"""Celery's entry: `celery -A notifier.worker.app worker -Q deliver.campaign`, and `… beat`."""

from __future__ import annotations

import warnings

from celery import Celery

from notifier.queues import make_app
from notifier.settings import Settings
from notifier.worker import lifecycle, schedule

settings = Settings.from_env()
# Root is warned by a page a process; what Celery fears there is pickle, which is not accepted.
warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")


def build() -> Celery:
    """Return the application with its tasks, schedule and signal handlers."""
    celery = make_app(settings.require_broker())
    celery.conf.include = ["notifier.worker.tasks"]
    celery.conf.beat_schedule = schedule.entries(settings.sweep_seconds)
    # The schedule is kept in memory: a file of it would be pickle, which runs what it is told to.
    celery.conf.beat_scheduler = "celery.beat:Scheduler"
    celery.conf.worker_proc_alive_timeout = 30
    lifecycle.connect(celery, settings)
    return celery


app = build()
