"""The parts of the system as commands, for docker-compose and for operators."""

from __future__ import annotations

import os
import smtplib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import text

from notifier import migrations
from notifier.cli.failures import explain
from notifier.cli.up import prepare_database
from notifier.db import make_engine
from notifier.errors import NotifierError, SettingsError
from notifier.instance.supervisor import parts
from notifier.queues import LANES, QUEUES, WEBHOOKS
from notifier.services import Services
from notifier.settings import Settings, unknown_variables

console = Console(highlight=False)
_UNWELL = 3
_DKIM_OFF = (
    "off: mail is signed only where the mail server does it; "
    "to sign here: notifier dkim create SELECTOR"
)


def web(
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    processes: Annotated[int, typer.Option("--processes", min=1, max=64)] = 1,
) -> None:
    """Serve the web pages."""
    import uvicorn  # noqa: PLC0415 - only this command needs it

    settings = Settings.from_env()
    uvicorn.run(
        "notifier.web.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=processes if processes > 1 else None,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=5,
        # Anybody may send X-Forwarded-For: only what a proxy of ours says about its client counts.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        log_level=settings.log_level.lower(),
    )


def worker(
    lane: Annotated[
        str, typer.Option("--lane", help="campaign, notice (with housekeeping) or webhooks.")
    ],
    processes: Annotated[int, typer.Option("--processes", min=1, max=64)] = 2,
) -> None:
    """Send mail of one lane, or notify other systems by webhooks."""
    known = (*LANES, WEBHOOKS)
    if lane not in known:
        raise SettingsError(f"There is no lane {lane}.", fix=f"Lanes are: {', '.join(known)}.")
    settings = Settings.from_env()
    settings.require_database()
    settings.require_secret()
    if lane != WEBHOOKS:
        settings.require_smtp()
    _become(f"worker-{lane}", processes)


def beat() -> None:
    """Call the periodic sweep; run exactly one."""
    _become("beat")


def _become(name: str, processes: int = 1) -> None:
    """Let this process be a part of the system, so that what stops us stops that."""
    Settings.from_env().require_broker()
    chosen = next(part for part in parts(processes, web=False, port=0) if part.name == name)
    os.execv(chosen.command[0], chosen.command)  # noqa: S606 - the command is ours


def catcher(
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 2525,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to keep mail. Default: the state folder.")
    ] = None,
) -> None:
    """Run the mail catcher: an SMTP server that keeps mail instead of delivering it."""
    kept = folder or Settings.from_env().var / "mail"
    command = [
        sys.executable,
        "-m",
        "notifier.instance.servers.catcher",
        "--port",
        str(port),
        "--host",
        host,
        "--folder",
        str(kept),
    ]
    # In our place and not below us: whoever stops this process means that one.
    os.execv(command[0], command)  # noqa: S606 - the command is ours


def migrate() -> None:
    """Bring the database to this program's schema. Safe to run twice, also at once."""
    prepare_database(Settings.from_env())
    console.print("The database is up to date.")


def _reachable(settings: Settings) -> None:
    engine = make_engine(settings.require_database(), pool_size=1)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    finally:
        engine.dispose()


def _check_schema(settings: Settings) -> None:
    engine = make_engine(settings.require_database(), pool_size=1)
    try:
        if migrations.pending(engine):
            raise NotifierError("The database has an older schema.", fix="Run: notifier migrate")
    finally:
        engine.dispose()


def _check_broker(services: Services) -> None:
    if any(services.queues.depth(queue) is None for queue in QUEUES):
        raise NotifierError(
            "The broker cannot be reached.", fix="Check NOTIFIER_BROKER_URL and that Valkey runs."
        )


def _check_smtp(settings: Settings) -> None:
    server = settings.require_smtp()
    kind = smtplib.SMTP_SSL if server.implicit_tls else smtplib.SMTP
    try:
        with kind(server.host, server.port, timeout=5) as client:
            client.ehlo(settings.hostname)
    except OSError as error:
        raise NotifierError(
            f"The SMTP server {server.host}:{server.port} cannot be reached: {error}.",
            fix="Check NOTIFIER_SMTP_URL.",
        ) from None


def _check_dkim(services: Services) -> None:
    if services.dkim is not None and (refusal := services.dkim.refusal(services.sender.address)):
        raise SettingsError(
            refusal, fix="Correct NOTIFIER_DKIM_DOMAIN, or the address in templates/sender.toml."
        )


def _check_templates(services: Services) -> None:
    services.catalogue.require_all()


def doctor() -> None:
    """Check everything this service needs; say in a line each what is wrong and what to do.

    Exit code 3 when anything is.
    """
    settings = Settings.from_env()
    services = Services(settings)
    checks: dict[str, Callable[[], object]] = {
        "database": lambda: _reachable(settings),
        "schema": lambda: _check_schema(settings),
        "broker": lambda: _check_broker(services),
        "smtp": lambda: _check_smtp(settings),
        "routes": lambda: services.routes,
        "secret": settings.require_secret,
        "templates": lambda: _check_templates(services),
        "topics": lambda: services.topics,
        "sources": lambda: services.sources,
        "sender": lambda: services.sender,
        "dkim": lambda: _check_dkim(services),
    }
    well = True
    for name, check in checks.items():
        try:
            check()
        except Exception as error:
            found = explain(error)
            if found is None:
                raise
            well = False
            console.print(f"{name:<10} {found}", markup=False, soft_wrap=True)
        else:
            off = name == "dkim" and services.dkim is None
            console.print(f"{name:<10} {_DKIM_OFF if off else 'ok'}", soft_wrap=True)
    services.close()
    for name, meant in unknown_variables().items():
        advice = f"Is {meant} meant?" if meant else "Unset it."
        words = f"warning: {name} is set, and nothing reads it. {advice}"
        console.print(f"{'settings':<10} {words}", markup=False, soft_wrap=True)
    if not well:
        raise typer.Exit(_UNWELL)
