"""`notifier bounces`: the end of a mail server's pipe."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from notifier.flows import bounces as story
from notifier.inbound.reports import MAX_BYTES
from notifier.services import Services

Recipient = Annotated[
    str, typer.Option("--recipient", help="The envelope recipient, as the mail server has it.")
]


def bounces(recipient: Recipient) -> None:
    """Take in one mail that came back (bounce or complaint) from standard input.

    What is no proven report is ignored.
    """
    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    with Services() as services:
        report = story.take(services, raw, recipient)
    typer.echo(
        f"{report.kind.value} {report.message_id or ''}".strip() if report else "ignored", err=True
    )
