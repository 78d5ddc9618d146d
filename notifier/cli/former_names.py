"""Commands under the names that they had before; they go with version 0.3.

Each says its new name on standard error, and runs.
"""

from __future__ import annotations

import typer

from notifier.cli.bounces import MoreRecipients, Recipients, bounces
from notifier.cli.dossier import Days, undeliverable


def hint(former: str, name: str) -> None:
    """Say that `notifier FORMER` has a new name."""
    typer.echo(f"`notifier {former}` is now called `notifier {name}`.", err=True)


def returned(recipient: Recipients = None, more: MoreRecipients = None) -> None:
    """Take in one mail that came back: now `notifier bounces`."""
    hint("returned", "bounces")
    bounces(recipient, more)


def untold(days: Days = 7) -> None:
    """List events whose applicants left no address: now `notifier dossier undeliverable`."""
    hint("dossier untold", "dossier undeliverable")
    undeliverable(days)
