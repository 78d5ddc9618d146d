"""`notifier up`: one command to a running system."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from notifier import migrations
from notifier.db import make_engine
from notifier.domain import calendar
from notifier.instance.supervisor import Instance, make_private
from notifier.observability import use_metrics_folder
from notifier.settings import Settings

console = Console(stderr=True, highlight=False)

Port = Annotated[
    int, typer.Option("--port", min=1, max=65535, help="The web server's port on 127.0.0.1.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, max=64, help="Processes that send campaigns.")
]
NoWeb = Annotated[bool, typer.Option("--no-web", help="Do not start the web server.")]


def prepare_database(settings: Settings) -> None:
    """Bring the schema, the partitions and the calendar up to date."""
    engine = make_engine(settings.require_database(), pool_size=1)
    try:
        migrations.migrate(engine)
        now = datetime.now(UTC)
        with engine.begin() as connection:
            calendar.seed(connection, range(now.year, now.year + 2))
    finally:
        engine.dispose()


def make_instance(
    settings: Settings,
    *,
    port: int,
    workers: int,
    web: bool = True,
    logs: bool = True,
    keep_mail: bool = True,
) -> Instance:
    """Return an instance that is ready to be started."""
    make_private(settings.var)
    return Instance(
        settings,
        port=port,
        workers=workers,
        web=web,
        migrate=prepare_database,
        metrics_environment=use_metrics_folder(settings.var / "metrics"),
        terminal=sys.stderr if logs else None,
        keep_mail=keep_mail,
    )


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set.

    A second Ctrl-C changes nothing: the stop is under way.
    """
    done = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        done.set()

    before = {sign: signal.signal(sign, ask) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield done
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def show(instance: Instance) -> None:
    """Print where everything is."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    if instance.web:
        table.add_row("Web", f"http://127.0.0.1:{instance.port}")
        if instance.catcher is not None:
            table.add_row("Inbox", f"http://127.0.0.1:{instance.port}/inbox")
    if instance.catcher is not None:
        table.add_row("Mail catcher", instance.catcher.url)
    table.add_row("Workers", f"{instance.workers} for campaigns, 2 for notices")
    table.add_row("State", str(instance.settings.var))
    console.print(table)


def up(port: Port = 8000, workers: Workers = 2, no_web: NoWeb = False) -> None:
    """Start everything: database, broker, mail catcher, workers, web.

    Parts whose address is in the environment are used, not started.
    """
    # What it writes holds names and addresses: nobody else of the machine reads them.
    os.umask(0o077)
    instance = make_instance(Settings.from_env(), port=port, workers=workers, web=not no_web)
    with until_stopped() as done:
        console.print("Starting …")
        with instance:
            show(instance)
            console.print("Ready. Ctrl-C stops it.")
            instance.run(done)
            console.print("Stopping …")
    console.print("Stopped.")
