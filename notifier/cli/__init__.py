"""The command line.

An error of a person's making, or of a server that cannot be reached, is one sentence and what to
do, never a traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from notifier import __version__
from notifier.cli import (
    api_key,
    bench,
    bench_events,
    bounces,
    campaign,
    demo,
    dkim,
    dossier,
    draft,
    failures,
    former_names,
    serve,
    up,
    webhook,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Notification and taxpayer communication service of a city tax administration.",
)
app.add_typer(campaign.app, name="campaign")
app.add_typer(draft.app, name="draft")
app.add_typer(bench.app, name="bench")
bench.app.command("events")(bench_events.events)
app.add_typer(api_key.app, name="api-key")
app.add_typer(dossier.app, name="dossier")
app.add_typer(webhook.app, name="webhook")
app.add_typer(dkim.app, name="dkim")
for command in (
    up.up,
    demo.demo,
    serve.web,
    serve.worker,
    serve.beat,
    serve.catcher,
    serve.migrate,
    serve.doctor,
    bounces.bounces,
):
    app.command()(command)
app.command(hidden=True)(former_names.returned)
dossier.app.command(hidden=True)(former_names.untold)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"notifier {__version__}")
        raise typer.Exit


@app.callback()
def program(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def main() -> None:
    """Run the command that the arguments name and exit with its code."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        found = failures.explain(error)
        if found is None:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]Error:[/] {_escaped(str(found))}"
        )
        sys.exit(found.exit_code)


def _escaped(words: str) -> str:
    return words.replace("[", r"\[")
