"""`notifier webhook …`: which systems are notified of what, and what they did not take."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from notifier.cli.former_names import hint
from notifier.domain import keys, webhooks
from notifier.domain.calendar import HANOI
from notifier.domain.webhooks import WebhookError
from notifier.services import Services
from notifier.webhooks import targets

app = typer.Typer(no_args_is_help=True, help="Notify other systems of what became of their mail.")
console = Console(highlight=False)
_SHOWN = 20

KeyName = Annotated[
    str,
    typer.Argument(metavar="KEY-NAME", help="The name of the system's key.", show_default=False),
]


def _moment(value: datetime) -> str:
    return value.astimezone(HANOI).strftime("%d/%m/%Y %H:%M:%S")


@app.command("set")
def set_url(
    name: KeyName,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are posted, https://…")],
) -> None:
    """Post events of this key's messages to a URL from now on."""
    with Services() as services:
        private = services.settings.webhooks_private
        checked = targets.read_url(url, private=private)
        try:
            targets.resolve(checked, private=private)
        except targets.TargetError as error:
            raise WebhookError(
                f"The webhook cannot be reached: {error}.",
                fix="Name a host that this machine finds, at a public address.",
            ) from None
        with services.engine.begin() as connection:
            keys.set_webhook(connection, name, url)
    console.print(
        f"Events of {name} are posted there from now on. "
        f"Give its operator the output of: notifier webhook secret {name}"
    )


@app.command()
def secret(name: KeyName) -> None:
    """Show the secret by which the system checks that a call is ours.

    It changes only with NOTIFIER_SECRET_KEY.
    """
    with Services() as services:
        service_secret = services.settings.require_secret()
        with services.engine.connect() as connection:
            key = keys.named(connection, name)
    # Alone on standard output, so that a script can take it.
    typer.echo(keys.webhook_secret(service_secret, key.id))


@app.command("list")
def list_webhooks(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[KEY-NAME]", help="Show this key, and what it did not take."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show how many events wait, are delivered and are dead letters.

    With a key's name also which ones it did not take.
    """
    troubles: list[webhooks.Trouble] = []
    with Services() as services, services.engine.connect() as connection:
        key = keys.named(connection, name) if name is not None else None
        found = webhooks.overview(connection, name)
        if key is not None:
            troubles = webhooks.troubles(connection, key.id, limit=_SHOWN)
    if as_json:
        value: dict[str, Any] = {"webhooks": [asdict(each) for each in found]}
        if key is not None:
            value["not_taken"] = [asdict(each) for each in troubles]
        typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))
        return
    table = Table("Key", "URL", "Waiting", "Delivered", "Dead letters", "Last problem")
    for each in found:
        counts = (str(number) for number in (each.waiting, each.delivered, each.dead_letter))
        table.add_row(each.key, each.url or "switched off", *counts, each.problem or "")
    console.print(table)
    if troubles:
        _show(troubles)


def _show(troubles: list[webhooks.Trouble]) -> None:
    table = Table(
        "Event",
        "Kind",
        "Message",
        "Happened",
        "Tries",
        "Next try",
        "Problem",
        title=f"Not taken (the newest {_SHOWN} at most)",
    )
    for each in troubles:
        again = "dead letter" if each.dead_lettered_at else _moment(each.due_at)
        message = str(each.message_id or "")
        table.add_row(
            str(each.id),
            each.kind,
            message,
            _moment(each.at),
            str(each.attempts),
            again,
            each.problem or "",
        )
    console.print(table)


@app.command()
def replay(
    name: KeyName,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            help="Every event from then on (Hanoi time), delivered or not.",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
        ),
    ] = None,
    dead_letter: Annotated[
        bool, typer.Option("--dead-letter", help="Only the dead letters. This is the default.")
    ] = False,
    set_aside: Annotated[bool, typer.Option("--set-aside", hidden=True)] = False,
) -> None:
    """Post events again, under the same ids, for another three days."""
    if set_aside:
        hint("webhook replay --set-aside", "webhook replay --dead-letter")
    if since is not None and (dead_letter or set_aside):
        raise WebhookError("--since and --dead-letter exclude each other.", fix="Give one of them.")
    moment = since.replace(tzinfo=HANOI) if since else None
    with Services() as services:
        with services.engine.begin() as connection:
            key = keys.named(connection, name)
            if key.webhook_url is None:
                raise WebhookError(
                    f"{name} has no webhook.", fix=f"Set one first: notifier webhook set {name} URL"
                )
            number = webhooks.replay(connection, key.id, now=services.clock(), since=moment)
        if number:
            services.queues.enqueue_webhooks([key.id])
    console.print(
        f"{number} events are posted again." if number else "There is nothing to post again."
    )


@app.command()
def remove(name: KeyName) -> None:
    """Notify this system of nothing any more; what waits becomes a dead letter."""
    with Services() as services, services.engine.begin() as connection:
        key = keys.named(connection, name)
        was_on = webhooks.switch_off(connection, key.id, now=services.clock())
    console.print(
        f"{name} is notified of nothing any more." if was_on else f"{name} had no webhook."
    )
