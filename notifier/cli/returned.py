"""`notifier returned`: the end of a mail server's pipe."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from notifier.delivery.bounces import MOST_BYTES
from notifier.flows import returned as story
from notifier.services import Services


def returned(recipient: Annotated[str, typer.Option("--recipient", help="The envelope recipient, as the mail server has it.")]) -> None:
    """Take in one mail that came back (bounce or complaint) from standard input. What is no proven report is ignored."""
    raw = sys.stdin.buffer.read(MOST_BYTES + 1)
    with Services() as services:
        report = story.take(services, raw, recipient)
    typer.echo(f"{report.kind.value} {report.message_id or ''}".strip() if report else "ignored", err=True)
