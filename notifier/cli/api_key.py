"""`notifier api-key …`: the keys of other systems."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from notifier.domain import keys
from notifier.domain.calendar import HANOI
from notifier.domain.keys import KeyRequestError
from notifier.services import Services

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys of other systems.")
console = Console(highlight=False)


@app.command()
def create(
    name: Annotated[str, typer.Option("--name", help="The system that will use it.")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", help=f"What it may do, repeatable: {', '.join(keys.SCOPES)}."),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source", help="Report events of this source alone, repeatable. Without it: of any."
        ),
    ] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Deliver to the catcher only.")
    ] = False,
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires", help="Until then (Hanoi time).", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"]
        ),
    ] = None,
) -> None:
    """Make a key and show it, this once."""
    until = expires.replace(tzinfo=HANOI) if expires else None
    with Services() as services:
        if sandbox and not services.settings.sandbox_smtp_url:
            raise KeyRequestError(
                "There is no catcher for sandbox keys.",
                fix="Set NOTIFIER_SANDBOX_SMTP_URL, for example to that of: notifier catcher",
            )
        unknown = [each for each in source or () if each not in services.sources]
        if unknown:
            raise KeyRequestError(
                f"There is no source {unknown[0]}.",
                fix=f"Known are: {', '.join(services.sources)}.",
            )
        with services.engine.begin() as connection:
            token = keys.create(
                connection,
                name=name,
                scopes=scope,
                sandbox=sandbox,
                now=services.clock(),
                expires_at=until,
                sources=source or (),
            )
    # Alone on standard output, so that a script can take it.
    typer.echo(token)
    typer.echo("Keep it now: it is stored nowhere and cannot be shown again.", err=True)


@app.command("list")
def list_keys() -> None:
    """Show all keys and when each was used last."""
    with Services() as services, services.engine.connect() as connection:
        found = keys.every(connection)
    table = Table("Name", "Scopes", "Sources", "Sandbox", "State", "Last used", "Webhook")
    now = services.clock()
    for key in found:
        state = "revoked" if key.revoked_at else "valid" if key.valid_at(now) else "expired"
        used = (
            key.last_used_at.astimezone(HANOI).strftime("%d/%m/%Y %H:%M")
            if key.last_used_at
            else "never"
        )
        table.add_row(
            key.name,
            ", ".join(sorted(key.scopes)),
            ", ".join(sorted(key.sources or ())) or "any",
            "yes" if key.sandbox else "",
            state,
            used,
            key.webhook_url or "",
        )
    console.print(table)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The key's name.")]) -> None:
    """Let a key be of no use from this moment on."""
    with Services() as services, services.engine.begin() as connection:
        new = keys.revoke(connection, name, services.clock())
    console.print(f"{name} is revoked." if new else f"{name} was revoked before.")
