"""`notifier dossier …`: what officers ask about dossiers."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from notifier.domain import dossiers
from notifier.domain.calendar import HANOI
from notifier.services import Services

app = typer.Typer(no_args_is_help=True, help="Dossiers and their sources.")
console = Console(highlight=False)


Days = Annotated[int, typer.Option("--days", min=1, max=366, help="How far to look back.")]


@app.command()
def undeliverable(days: Days = 7) -> None:
    """List events whose applicants left no address and must be notified otherwise."""
    with Services() as services, services.engine.connect() as connection:
        found = dossiers.undeliverable(connection, since=services.clock() - timedelta(days=days))
    table = Table("Source", "Dossier", "Status", "Happened", "Reported")
    for each in found:
        status = (
            services.sources[each.source].statuses.get(each.status)
            if each.source in services.sources
            else None
        )
        table.add_row(
            each.source,
            each.code,
            status.name if status else each.status,
            each.occurred_at.astimezone(HANOI).strftime("%d/%m/%Y %H:%M"),
            each.received_at.astimezone(HANOI).strftime("%d/%m/%Y %H:%M"),
        )
    console.print(table)
    console.print(f"{len(found)} in the last {days} days.")


@app.command()
def sources() -> None:
    """Check the sources' files and show what each status means."""
    services = Services()
    for source in services.sources.values():
        table = Table(
            "Status", "Name", "Notice", "Closes", "Waits", title=f"{source.title} ({source.name})"
        )
        for status in source.statuses.values():
            table.add_row(
                status.code,
                status.name,
                status.notice or "",
                "yes" if status.closes else "",
                "yes" if status.waits else "",
            )
        console.print(table)
