"""`notifier demo`: from nothing to an inbox full of debt notices."""

from __future__ import annotations

import csv
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from notifier.cli.campaign import show_status, watch
from notifier.cli.up import Port, Workers, console, make_instance, show, until_stopped
from notifier.domain.campaign_files import load_definition
from notifier.errors import UnavailableError
from notifier.flows.launch import launch
from notifier.invented import HEADINGS, invented_rows
from notifier.services import Services
from notifier.settings import Settings
from notifier.states import MessageState


def write_list(path: Path, businesses: int) -> None:
    """Write a list of invented businesses."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADINGS)
        writer.writerows(invented_rows(businesses))


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the summary instead of staying up.")
    ] = False,
    businesses: Annotated[
        int, typer.Option("--businesses", min=1, help="How many invented businesses.")
    ] = 1000,
    port: Port = 8000,
    workers: Workers = 2,
) -> None:
    """Start everything and send debt notices to invented businesses, into the catcher's inbox."""
    os.umask(0o077)
    began = time.monotonic()
    settings = Settings.from_env()
    instance = make_instance(settings, port=port, workers=workers, logs=False)
    with until_stopped() as done:
        console.print("Starting …")
        with instance:
            show(instance)
            tender = threading.Thread(target=instance.run, args=(done,), daemon=True)
            tender.start()
            services = Services(instance.settings)
            path = settings.var / "demo.csv"
            write_list(path, businesses)
            name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
            definition = load_definition(settings.campaigns / "debt-notice.toml", name=name)
            launch(services, definition, audience=path)
            final = watch(services, name, until=done.is_set)
            show_status(final)
            accepted = final.counts.of(MessageState.ACCEPTED)
            console.print(f"{accepted} mails in {time.monotonic() - began:.1f} s since the start.")
            if instance.catcher is not None:
                console.print(f"Read them at http://127.0.0.1:{port}/inbox")
            services.close()
            if not final.over:
                raise UnavailableError(
                    "The demo was stopped before the campaign finished.", fix="Run it again."
                )
            if not once:
                console.print("Ctrl-C stops it.")
                done.wait()
            done.set()
            tender.join(2)
            console.print("Stopping …")
