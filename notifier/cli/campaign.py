"""`notifier campaign …`: everything an officer does with a campaign from the command line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from notifier.domain.calendar import HANOI
from notifier.domain.campaign_files import load_definition
from notifier.errors import CampaignError
from notifier.flows import control as story
from notifier.flows import launch as launches
from notifier.flows import proofs as proof
from notifier.flows import report
from notifier.flows.lists import first_problems, write_rejected
from notifier.services import Services
from notifier.states import CampaignState, MessageState

app = typer.Typer(no_args_is_help=True, help="Prepare, launch and watch campaigns.")
console = Console()
errors = Console(stderr=True)

File = Annotated[
    Path,
    typer.Argument(
        help="The campaign's file, such as campaigns/debt-notice.toml.", show_default=False
    ),
]
Name = Annotated[str, typer.Argument(help="The campaign's name, or its file.", show_default=False)]
ListFile = Annotated[
    Path | None,
    typer.Option(
        "--audience", help="The list: CSV, XLSX, XLS or ODS. Default: the one the file names."
    ),
]
OtherName = Annotated[
    str | None, typer.Option("--name", help="Launch under this name instead of the file's.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _services() -> Services:
    return Services()


def _name(value: str) -> str:
    """Accept a campaign's file where its name is asked for."""
    return Path(value).stem.lower() if value.endswith(".toml") else value


@contextmanager
def _bar(*, quiet: bool = False) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=quiet, disable=quiet) as progress:
        yield progress


def _reader(progress: Progress, title: str) -> Callable[[int, int | None], None]:
    task = progress.add_task(title, total=None)

    def advance(done: int, total: int | None) -> None:
        progress.update(task, completed=done, total=total)

    return advance


def print_json(value: dict[str, Any]) -> None:
    """Print JSON for programs."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def thousands(value: int) -> str:
    """Return a number as Vietnam writes it: 1.234.567."""
    return f"{value:,}".replace(",", ".")


@app.command()
def check(
    file: File,
    audience: ListFile = None,
    rejected: Annotated[
        Path | None,
        typer.Option("--rejected", help="Write rejected rows and warnings to this .csv or .xlsx."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read the list and render every mail without sending one; report what would happen."""
    services = _services()
    definition = load_definition(file)
    with _bar(quiet=as_json) as progress:
        reading = _reader(progress, "Reading the list")
        rendering = _reader(progress, "Rendering")
        result = proof.check(
            services, definition, audience=audience, progress=reading, rendered=rendering
        )
    if rejected is not None:
        write_rejected(services, result.audience.id, rejected)
    if as_json:
        print_json(result.to_json())
        return
    show_check(services, definition.title, result)
    if rejected is not None:
        console.print(f"Rejected rows and warnings: {rejected}")


def show_check(services: Services, title: str, result: proof.Check) -> None:
    """Print what a campaign would do."""
    listed = result.audience
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_row("Rows read", thousands(listed.rows_read))
    table.add_row("  accepted", thousands(listed.accepted))
    table.add_row("  merged into another row's mail", thousands(listed.merged))
    table.add_row("  rejected", thousands(listed.rejected))
    table.add_row("Mails", thousands(result.messages))
    for reason, number in sorted(result.suppressed.items()):
        table.add_row(f"  not sent: {reason}", thousands(number))
    if result.unrenderable_total:
        table.add_row("  cannot be rendered", thousands(result.unrenderable_total))
    for key, value in listed.totals.items():
        table.add_row(f"Sum of {key}", f"{thousands(int(value))} đồng")
    table.add_row(
        "Largest mail", f"{result.largest_bytes / 1024:.1f} kB (row {result.largest_row})"
    )
    table.add_row("Estimated duration", f"{result.seconds:.0f} s once it starts")
    if result.opens_at:
        table.add_row("Window opens", _moment(datetime.fromisoformat(result.opens_at)))
    console.print(table)
    if listed.unused_columns:
        console.print(f"Columns not used: {', '.join(listed.unused_columns)}")
    for row, problem in result.unrenderable:
        console.print(f"Row {row}: {problem}")
    for line in first_problems(services, listed.id):
        console.print(line)


@app.command()
def preview(
    file: File,
    audience: ListFile = None,
    row: Annotated[
        int | None,
        typer.Option("--row", help="The row of the list, as the spreadsheet program counts."),
    ] = None,
    tax_code: Annotated[
        str | None, typer.Option("--tax-code", help="The taxpayer whose mail to show.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.")] = Path("preview"),
) -> None:
    """Write one recipient's mail as HTML, text and .eml."""
    definition = load_definition(file)
    found = proof.preview(_services(), definition, audience=audience, row=row, tax_code=tax_code)
    out.mkdir(parents=True, exist_ok=True)
    for ending, content in (
        (".html", found.html.encode()),
        (".txt", found.text.encode()),
        (".eml", found.raw),
    ):
        path = out / f"{definition.name}{ending}"
        path.write_bytes(content)
        console.print(str(path))
    console.print(f"Subject: {found.subject}", markup=False)


@app.command()
def test(
    file: File,
    to: Annotated[str, typer.Option("--to", help="The address that gets the mail.")],
    language: Annotated[str | None, typer.Option("--language", help="vi or en.")] = None,
) -> None:
    """Send one mail, made of the template's example, to an address of yours."""
    message_id = proof.send_test(_services(), load_definition(file), to=to, language=language)
    console.print(f"Queued as {message_id}; it leaves within a second while workers run.")


@app.command()
def launch(
    file: File,
    audience: ListFile = None,
    name: OtherName = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at", help="Start then (Hanoi time).", formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay and show progress until it is finished.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Freeze the campaign, plan every message and start it."""
    services = _services()
    definition = load_definition(file, name=name)
    with _bar(quiet=as_json) as progress:
        moment = at.replace(tzinfo=HANOI) if at else None
        launched = launches.launch(
            services,
            definition,
            audience=audience,
            at=moment,
            progress=_reader(progress, "Reading the list"),
        )
    if wait and at is None:
        watch(services, launched.name, quiet=as_json)
    if as_json:
        print_json(story.status(services, launched.name).to_json())
    elif wait and at is None:
        show_status(story.status(services, launched.name))
    else:
        when = f"starts {_moment(launched.launch_at)}" if launched.launch_at else "is under way"
        console.print(
            f"{launched.name} {when}: {thousands(launched.total)} mails. "
            f"See: notifier campaign status {launched.name}"
        )


def watch(
    services: Services,
    name: str,
    *,
    quiet: bool = False,
    every: float = 0.5,
    until: Callable[[], bool] = lambda: False,
) -> story.Status:
    """Show a bar until the campaign is over or `until` says so; return its last status.

    Ctrl-C stops the watching, not the campaign.
    """
    with _bar(quiet=quiet) as progress:
        task = progress.add_task("Sending", total=None)
        while True:
            now = story.status(services, name)
            progress.update(
                task, completed=now.done, total=now.campaign.total, description=_describe(now)
            )
            if now.over or until():
                return now
            time.sleep(every)


def _describe(now: story.Status) -> str:
    return (
        "Sending"
        if now.campaign.state is CampaignState.RUNNING
        else now.campaign.state.value.capitalize()
    )


@app.command()
def status(name: Name, as_json: Json = False) -> None:
    """Show where a campaign stands."""
    now = story.status(_services(), _name(name))
    if as_json:
        print_json(now.to_json())
    else:
        show_status(now)


def _moment(value: datetime | None) -> str:
    return value.astimezone(HANOI).strftime("%d/%m/%Y %H:%M:%S") if value else "–"


def show_status(now: story.Status) -> None:
    """Print a campaign's state and counts."""
    values = now.to_json()
    table = Table(
        title=f"{values['title']} ({values['name']})", show_header=False, title_justify="left"
    )
    table.add_row("State", values["state"])
    table.add_row("Mails", thousands(values["total"]))
    for key in (
        "accepted",
        "queued",
        "deferred",
        "refused",
        "expired",
        "cancelled",
        "held",
        "given_up",
    ):
        if values[key] or key in {"accepted", "queued"}:
            table.add_row(f"  {key.replace('_', ' ')}", thousands(values[key]))
    for reason, number in sorted(values["skipped"].items()):
        table.add_row(f"  skipped: {reason}", thousands(number))
    if values["in_doubt"]:
        table.add_row("Were in doubt", thousands(values["in_doubt"]))
    if values["dead_letter"]:
        table.add_row("Set aside (see docs/operating.md)", thousands(values["dead_letter"]))
    table.add_row("Started", _moment(now.campaign.started_at))
    table.add_row("Finished", _moment(now.campaign.finished_at))
    if now.campaign.started_at and now.campaign.finished_at:
        seconds = (now.campaign.finished_at - now.campaign.started_at).total_seconds()
        table.add_row("Duration", f"{seconds:.1f} s")
    console.print(table)


@app.command()
def pause(name: Name) -> None:
    """Let nothing more start; what is on the wire is finished."""
    services = _services()
    paused = story.pause(services, _name(name))
    deadline = time.monotonic() + 5
    while (
        now := story.status(services, paused.name)
    ).counts.in_flight_batches and time.monotonic() < deadline:
        time.sleep(0.05)
    console.print(
        f"{paused.name} is paused: {thousands(now.done)} of {thousands(paused.total)} "
        "mails are done."
    )


@app.command()
def resume(name: Name) -> None:
    """Let a paused campaign go on."""
    console.print(f"{story.resume(_services(), _name(name)).name} goes on.")


@app.command()
def cancel(name: Name) -> None:
    """Let nothing more leave, for good."""
    services = _services()
    cancelled = story.cancel(services, _name(name))
    deadline = time.monotonic() + 5
    while (
        now := story.status(services, cancelled.name)
    ).campaign.state is CampaignState.CANCELLING and time.monotonic() < deadline:
        time.sleep(0.1)
        story.end_cancel(services, cancelled.id)
    console.print(
        f"{cancelled.name} is {now.campaign.state.value}: "
        f"{thousands(now.counts.of(MessageState.ACCEPTED))} of "
        f"{thousands(cancelled.total)} mails had been accepted."
    )


@app.command("in-doubt")
def in_doubt(
    name: Name,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send the held mails again, with the same Message-ID.")
    ] = False,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="Leave them as they are, for good.")
    ] = False,
) -> None:
    """Decide the mails that are held because nobody knows whether the server took them."""
    services = _services()
    name = _name(name)
    if resend and give_up:
        raise CampaignError("--resend and --give-up exclude each other.", fix="Give one of them.")
    if not resend and not give_up:
        held = story.status(services, name).counts.of(MessageState.IN_DOUBT)
        console.print(
            f"{thousands(held)} mails of {name} are held in doubt. "
            "Decide with --resend or --give-up."
        )
        return
    number = story.decide_in_doubt(services, name, resend=resend)
    console.print(f"{thousands(number)} mails {'are sent again' if resend else 'were given up'}.")


@app.command("retry")
def retry(name: Name) -> None:
    """Give batches that were set aside, because workers died over them, back to the workers."""
    number = story.retry_dead_letters(_services(), _name(name))
    console.print(f"{number} batches were given back.")


@app.command("report")
def write(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="A file that ends in .csv or .xlsx.")],
) -> None:
    """Write one row per mail: outcome, reply, time, attempts."""
    services = _services()
    with _bar() as progress:
        number = report.write_report(
            services, _name(name), out, progress=_reader(progress, "Writing")
        )
    console.print(f"{out}: {thousands(number)} rows")


@app.command("list")
def list_all() -> None:
    """Show the campaigns, the newest first."""
    table = Table("Name", "State", "Mails", "Launched")
    for each in story.listed(_services()):
        table.add_row(each.name, each.state.value, thousands(each.total), _moment(each.launched_at))
    console.print(table)
