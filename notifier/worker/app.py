"""Celery's entry: `celery -A notifier.worker.app worker -Q deliver.campaign` and `celery -A notifier.worker.app beat`."""

from __future__ import annotations

from celery import Celery

from notifier.queues import make_app
from notifier.settings import Settings
from notifier.worker import lifecycle, schedule

settings = Settings.from_env()


def build() -> Celery:
    """Return the application with its tasks, schedule and signal handlers."""
    celery = make_app(settings.require_broker())
    celery.conf.include = ["notifier.worker.tasks"]
    celery.conf.beat_schedule = schedule.entries(settings.sweep_seconds)
    celery.conf.beat_schedule_filename = str(settings.var / "beat-schedule")
    celery.conf.worker_proc_alive_timeout = 30
    lifecycle.connect(celery, settings)
    return celery


app = build()
