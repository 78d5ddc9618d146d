"""`notifier bounces`: the end of a mail server's pipe."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, BinaryIO, NoReturn

import typer

from notifier.flows import bounces as story
from notifier.inbound.reports import MAX_BYTES
from notifier.services import Services

# sysexits.h: the mail server keeps the report and tries again. It takes every other failure for
# final, sends a bounce of the bounce to nobody, and the report is lost.
_TRY_AGAIN = os.EX_TEMPFAIL
_CHUNK = 64 * 1024

Recipients = Annotated[
    list[str] | None,
    typer.Option("--recipient", help="The envelope recipient, as the mail server has it."),
]
MoreRecipients = Annotated[
    list[str] | None, typer.Argument(metavar="[RECIPIENT]...", help="More of them.")
]


def bounces(recipient: Recipients = None, more: MoreRecipients = None) -> None:
    """Take in one mail that came back (bounce or complaint) from standard input.

    What is no proven report is ignored. Any failure ends with code 75, which asks the mail server
    to try again later, so that no report is lost.
    """
    recipients = [*(recipient or ()), *(more or ())]
    if not recipients:
        _give_back("No recipient was named. Name it with --recipient.")
    # A mail server takes even a polite stop of its pipe for a final failure.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TRY_AGAIN))
    try:
        raw = _read(sys.stdin.buffer)
        with Services() as services:
            for each in recipients:
                report = story.take(services, raw, each)
                typer.echo(
                    f"{report.state.value} {report.message_id or ''}".strip()
                    if report
                    else "ignored",
                    err=True,
                )
    except Exception as error:  # noqa: BLE001 - whatever fails, the report must not be lost
        _give_back(f"{type(error).__name__}: {error}")
    finally:
        signal.signal(signal.SIGTERM, before)


def _read(mail: BinaryIO) -> bytes:
    """Return the beginning of a mail, and read the rest, which a mail server insists on writing."""
    raw = mail.read(MAX_BYTES)
    while mail.read(_CHUNK):
        pass
    return raw


def _give_back(problem: str) -> NoReturn:
    # One line: it stands in the mail server's log and, if it gives up, in a mail to its postmaster.
    typer.echo(" ".join(problem.split())[:500], err=True)
    raise typer.Exit(_TRY_AGAIN)
