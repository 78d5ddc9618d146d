"""`notifier dkim …`: the key that mail is signed with, and the DNS record that receivers read."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from notifier.errors import SettingsError
from notifier.rendering.dkim import DkimSigner, new_key, read_key
from notifier.services import Services
from notifier.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Sign mail, so that receivers know it is ours.")
console = Console(stderr=True, highlight=False, soft_wrap=True)


def _show(signer: DkimSigner) -> None:
    # Alone on standard output, so that a script can take it.
    typer.echo(f"{signer.record_name}. IN TXT ( {signer.record} )")


@app.command()
def create(
    selector: Annotated[
        str,
        typer.Argument(
            metavar="SELECTOR",
            help="A new name for the key, such as notices-2026.",
            show_default=False,
        ),
    ],
) -> None:
    """Make a key and print its DNS record. Nothing is signed with it until the settings name it."""
    settings = Settings.from_env()
    pem = new_key()
    signer = DkimSigner(
        read_key(pem, "the new key"),
        domain=settings.dkim_domain or settings.mail_domain,
        selector=selector,
    )
    file = settings.var / "dkim" / f"{selector}.pem"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SettingsError(
            f"There is a key {selector} in {file} already.",
            fix="Choose another selector: a key never changes its name.",
        ) from None
    with os.fdopen(descriptor, "wb") as out:
        out.write(pem)
        out.flush()
        os.fsync(out.fileno())
    console.print(f"The key is in {file}. Publish this record first, then set", markup=False)
    console.print(
        f"  NOTIFIER_DKIM_KEY_FILE={file}\n  NOTIFIER_DKIM_SELECTOR={selector}", markup=False
    )
    console.print(
        "and start web and workers again. Keep the record of the key before for a week.",
        markup=False,
    )
    _show(signer)


@app.command()
def record() -> None:
    """Print the DNS record of the key that mail is signed with now."""
    with Services() as services:
        signer = services.dkim
    if signer is None:
        raise SettingsError(
            "Mail is not signed here.", fix="Make a key with: notifier dkim create SELECTOR"
        )
    _show(signer)
