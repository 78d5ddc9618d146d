"""`notifier draft …`: campaigns that are being prepared and are not launched yet."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from notifier.cli.campaign import File, Json, print_json, show_check, show_status, thousands
from notifier.domain.calendar import HANOI
from notifier.domain.campaign_files import load_definition
from notifier.errors import CampaignError
from notifier.flows import control, drafts
from notifier.services import Services
from notifier.states import CampaignState

app = typer.Typer(no_args_is_help=True, help="Keep, change and launch campaigns in preparation.")
console = Console()

Name = Annotated[str, typer.Argument(help="The draft's name.", show_default=False)]
OtherName = Annotated[
    str | None, typer.Option("--name", help="Keep it under this name instead of the file's.")
]
ListFile = Annotated[
    Path | None,
    typer.Option("--audience", help="The list to attach. Default: the one the file names."),
]


@app.command()
def create(file: File, audience: ListFile = None, name: OtherName = None) -> None:
    """Keep a campaign's file, and its list if there is one, as a draft."""
    services = Services()
    definition = load_definition(file, name=name)
    drafts.create(services, definition.name, definition)
    chosen = audience or definition.audience
    if chosen is not None:
        _attach(services, definition.name, chosen)
    console.print(f"{definition.name} is a draft. See: notifier draft show {definition.name}")


@app.command()
def edit(name: Name, file: File) -> None:
    """Replace a draft's definition by a campaign's file; the list stays."""
    drafts.edit(Services(), name, load_definition(file, name=name))
    console.print(f"{name} is changed.")


@app.command()
def attach(
    name: Name, audience: Annotated[Path, typer.Argument(help="The list: CSV, XLSX, XLS or ODS.")]
) -> None:
    """Attach a list to a draft, instead of the one before."""
    _attach(Services(), name, audience)
    console.print(f"{name} has the list {audience.name}.")


def _attach(services: Services, name: str, audience: Path) -> None:
    ending = audience.suffix.lower()
    if ending not in drafts.ENDINGS:
        raise CampaignError(
            f"{audience.name} is no list.", fix=f"It must end in {', '.join(drafts.ENDINGS)}."
        )
    try:
        content = audience.read_bytes()
    except OSError as error:
        raise CampaignError(
            f"{audience} cannot be read: {error.strerror}.", fix="Name the list's file."
        ) from None
    drafts.attach(services, name, content, ending)


@app.command("list")
def list_all() -> None:
    """Show the drafts, the newest first."""
    table = Table("Name", "Title", "List", "Created")
    for each in control.listed(Services(), state=CampaignState.DRAFT):
        created = each.created_at.astimezone(HANOI).strftime("%d/%m/%Y %H:%M")
        table.add_row(each.name, each.title, "yes" if each.list_file_id else "–", created)
    console.print(table)


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show a draft."""
    now = control.status(Services(), name)
    if as_json:
        print_json(now.to_json())
    else:
        show_status(now)


@app.command()
def check(name: Name, as_json: Json = False) -> None:
    """Read a draft's list and render every mail without sending one."""
    services = Services()
    result = drafts.check(services, name)
    if as_json:
        print_json(result.to_json())
    else:
        show_check(services, name, result)


@app.command()
def launch(
    name: Name,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at", help="Start then (Hanoi time).", formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        ),
    ] = None,
) -> None:
    """Freeze a draft, plan every message and start it."""
    launched = drafts.launch(Services(), name, at=at.replace(tzinfo=HANOI) if at else None)
    console.print(
        f"{name} is {launched.state.value}: {thousands(launched.total)} mails. "
        f"See: notifier campaign status {name}"
    )


@app.command()
def delete(name: Name) -> None:
    """Delete a draft with its list, for good."""
    drafts.delete(Services(), name)
    console.print(f"{name} is deleted.")
