"""`notifier bench`: a whole campaign on servers of its own, measured.

bench/README.md says what each figure means.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, Self

import psutil
import typer
from rich.console import Console
from sqlalchemy import text

from notifier.cli.up import make_instance
from notifier.domain import campaigns
from notifier.domain.campaign_files import load_definition
from notifier.errors import UnavailableError
from notifier.flows import control as story
from notifier.flows.launch import launch
from notifier.flows.lists import load_list
from notifier.instance.processes import LOOPBACK, Server, kept_port, spawn, wait_for_port
from notifier.instance.servers.catcher import Catcher
from notifier.instance.supervisor import Instance
from notifier.invented import HEADINGS, invented_rows
from notifier.services import Services
from notifier.settings import DEFAULT_PUBLIC_URL, Settings
from notifier.states import MessageState

app = typer.Typer(
    invoke_without_command=True,
    help="Measure the service on this machine, with servers of its own.",
)
NAME = "bench"
_PROGRESS_SECONDS = 2.0
LINES = 3
BASELINE_SECONDS = 8.0
_STEP = 100_000
_BASELINES = Path(__file__).resolve().parents[2] / "bench" / "baselines.py"
_COUNTER = re.compile(r"mesg=(\d+)")
_err = Console(stderr=True, highlight=False)


class SinkKind(StrEnum):
    """Which server takes the mail."""

    OURS = "ours"
    SMTP_SINK = "smtp-sink"


class Sink(Server):
    """A server that takes mail and counts it."""

    def counts(self) -> tuple[int, int | None]:
        """Return how many messages it took, and how many different ones (None: it cannot tell)."""
        raise NotImplementedError


class OurSink(Catcher, Sink):
    """The mail catcher without a folder: it counts every Message-ID."""

    def counts(self) -> tuple[int, int | None]:
        """Return how many messages it took, and how many different ones."""
        answer = self.ask()
        return answer["received"], answer["distinct"]


class SmtpSink(Sink):
    """Debian's smtp-sink, of the Postfix project. It counts messages, and looks into none."""

    def __init__(self, folder: Path) -> None:
        """Write its counter into `folder`."""
        super().__init__()
        self._folder = folder
        self._log = folder / "smtp-sink.log"

    def start(self) -> Self:
        """Start it; raise UnavailableError when it is not installed."""
        program = shutil.which(
            "smtp-sink", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/postfix/sbin"
        )
        if program is None:
            raise UnavailableError(
                "smtp-sink is not installed.",
                fix="Install Debian's package postfix, or use --sink ours.",
            )
        port = kept_port(self._folder / "smtp-sink.port")
        unprivileged = ["-u", "nobody"] if os.geteuid() == 0 else []
        with self._log.open("wb") as out:
            self._process = spawn(
                [program, *unprivileged, "-c", f"{LOOPBACK}:{port}", "1000"], output=out
            )
        self.url = f"smtp://{LOOPBACK}:{port}"
        wait_for_port(port, self._process, what="smtp-sink", log=self._log)
        return self

    def counts(self) -> tuple[int, int | None]:
        """Return how many messages it took: the last counter it wrote."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 4096))
            found = _COUNTER.findall(file.read().decode("ascii", "replace"))
        return (int(found[-1]) if found else 0), None


def cpu_seconds(roots: list[int]) -> float:
    """Return the CPU time of processes and all that came of them, in seconds.

    Ended ones are included once they were waited for.
    """
    total = 0.0
    for root in roots:
        try:
            process = psutil.Process(root)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for member in family:
            try:
                times = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass
class Watch:
    """What is read from the processes while the campaign runs."""

    instance: Instance
    sink: Sink
    began: dict[str, float] = field(default_factory=dict)
    rss: int = 0
    rss_by_step: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start counting."""
        self.began = self.cpu()

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds so far."""
        pids = self.instance.processes
        servers = {"postgres", "valkey", "catcher"}
        return {
            "workers": cpu_seconds([pid for name, pid in pids.items() if name not in servers]),
            "database": cpu_seconds([pids["postgres"]]),
            "sink": cpu_seconds([self.sink.pid]),
        }

    def cpu_per_1000(self, messages: int) -> dict[str, float]:
        """Return CPU seconds per thousand messages since the start."""
        return {
            name: round((now - self.began[name]) / messages * 1000, 4)
            for name, now in self.cpu().items()
        }

    def sample(self, done: int) -> None:
        """Note the memory of the largest sending process after `done` messages."""
        largest = 0
        try:
            for child in psutil.Process(self.instance.processes["worker-campaign"]).children():
                largest = max(largest, child.memory_info().rss)
        except psutil.NoSuchProcess:
            return
        self.rss = max(self.rss, largest)
        step = done // _STEP
        while len(self.rss_by_step) <= step:
            self.rss_by_step.append(0.0)
        self.rss_by_step[step] = max(self.rss_by_step[step], round(largest / 1e6, 1))


def write_list(path: Path, businesses: int) -> None:
    """Write the list: `LINES` rows for each of the invented businesses."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADINGS)
        writer.writerows(invented_rows(businesses, lines=LINES))


@contextmanager
def running(folder: Path, sink: Sink, workers: int, *, port: int = 0) -> Iterator[Instance]:
    """Run an instance with servers of its own, with web when a `port` is given.

    Of the environment's settings it has those that name no server.
    """
    settings = Settings.from_env().replace(
        var=folder,
        database_url=None,
        broker_url=None,
        smtp_url=sink.url,
        secret_key=None,
        routes_file=None,
        public_url=DEFAULT_PUBLIC_URL,
        api_per_minute=900_000_000,
    )
    instance = make_instance(settings, port=port, workers=workers, web=port > 0, logs=False)
    done = threading.Event()
    with instance:
        tender = threading.Thread(target=instance.run, args=(done,), daemon=True)
        tender.start()
        try:
            yield instance
        finally:
            done.set()
            tender.join(2)


def send_campaign(
    instance: Instance, services: Services, sink: Sink, messages: int
) -> dict[str, Any]:
    """Load the list, launch the campaign, wait for its end, and return the figures."""
    path = instance.settings.var / "bench.csv"
    write_list(path, messages)
    definition = replace(
        load_definition(services.settings.campaigns / "debt-notice.toml", name=NAME),
        window=None,
        not_after=None,
    )
    began = time.perf_counter()
    load_list(services, path, services.catalogue[definition.template])
    list_seconds = time.perf_counter() - began
    _err.print(f"List of {messages:,} businesses read in {list_seconds:.1f} s.")
    watch = Watch(instance, sink)
    began = time.perf_counter()
    launch(services, definition, audience=path)
    plan_seconds = time.perf_counter() - began
    shown = 0.0
    while True:
        with services.session() as session:
            done, over = session.execute(
                text("""SELECT coalesce(sum(b.size) FILTER (WHERE b.state = 'done'), 0),
                              c.finished_at IS NOT NULL
                          FROM campaign c JOIN batch b ON b.campaign_id = c.id
                         WHERE c.name = :name GROUP BY c.id"""),
                {"name": NAME},
            ).one()
        watch.sample(int(done))
        if over:
            break
        if time.monotonic() - shown > _PROGRESS_SECONDS:
            shown = time.monotonic()
            _err.print(f"{done:>9,} sent, {watch.rss / 1e6:.0f} MB")
        time.sleep(0.25)
    cpu = watch.cpu_per_1000(messages)
    status = story.status(services, NAME)
    started, finished = status.campaign.started_at, status.campaign.finished_at
    if started is None or finished is None:
        raise UnavailableError(
            "The campaign was never started.", fix="See the logs of the workers."
        )
    seconds = (finished - started).total_seconds()
    received, distinct = sink.counts()
    return {
        "messages": messages,
        "messages_per_second": round(messages / seconds),
        "seconds": round(seconds, 2),
        "cpu_seconds_per_1000": cpu,
        "worker_rss_mb": round(watch.rss / 1e6, 1),
        "worker_rss_mb_by_100k": watch.rss_by_step,
        "accepted": status.counts.of(MessageState.ACCEPTED),
        "lost": max(0, messages - (received if distinct is None else distinct)),
        "duplicated": max(0, received - messages) if distinct is None else received - distinct,
        "proof": "Message-IDs at the sink"
        if distinct is not None
        else "number of messages at the sink",
        "prepare_seconds": round(list_seconds + plan_seconds, 2),
    }


def baseline(
    kind: str, settings: Settings, campaign_id: int, workers: int, connections: int
) -> int:
    """Run one baseline in as many processes as there are workers; return messages a second."""
    command = [
        sys.executable,
        str(_BASELINES),
        kind,
        "--campaign",
        str(campaign_id),
        "--connections",
        str(connections),
        "--seconds",
        str(BASELINE_SECONDS),
    ]
    environment = {**os.environ, **settings.to_env(), "PYTHONPATH": str(_BASELINES.parents[1])}
    children = [
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(workers)
    ]
    try:
        for child in children:
            if _line(child.stdout) != "ready":
                raise UnavailableError(
                    f"The baseline {kind} did not start.", fix="See its words above."
                )
        for child in children:
            if child.stdin is not None:
                child.stdin.write("go\n")
                child.stdin.flush()
        found = [json.loads(_line(child.stdout)) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    sent = sum(int(each["messages"]) for each in found)
    return round(sent / max(float(each["seconds"]) for each in found))


def _line(stream: IO[str] | None) -> str:
    return stream.readline().strip() if stream is not None else ""


@app.callback()
def bench(
    context: typer.Context,
    messages: Annotated[
        int, typer.Option("--messages", min=1, help="How many businesses get a mail.")
    ] = 114_072,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
    baselines: Annotated[
        bool, typer.Option(help="Measure simple code and the bare wire as well.")
    ] = True,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes that send.")
    ] = 2,
    sink: Annotated[
        SinkKind, typer.Option("--sink", help="Which server takes the mail.")
    ] = SinkKind.OURS,
) -> None:
    """Measure a whole campaign on this machine.

    It has servers of its own, which are thrown away afterwards.
    """
    if context.invoked_subcommand is not None:
        return
    with tempfile.TemporaryDirectory(prefix="notifier-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # PostgreSQL may run as another user, who must be able to come in.
        folder.chmod(0o711)
        server: Sink = (OurSink() if sink is SinkKind.OURS else SmtpSink(folder)).start()
        try:
            with running(folder / "var", server, workers) as instance:
                services = Services(instance.settings)
                figures: dict[str, Any] = {
                    "sink": sink.value,
                    "workers": workers,
                    "cpus": os.cpu_count(),
                }
                figures |= send_campaign(instance, services, server, messages)
                if baselines:
                    figures |= compare(
                        instance.settings, services, figures["messages_per_second"], workers
                    )
                services.close()
        finally:
            server.stop()
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        typer.echo(f"{key:<30} {value:,}" if isinstance(value, int) else f"{key:<30} {value}")


def compare(settings: Settings, services: Services, rate: int, workers: int) -> dict[str, Any]:
    """Run the baselines against the same sink and return their figures."""
    if not _BASELINES.exists():
        raise UnavailableError(
            "The baselines are not installed.",
            fix="Run from a checkout of the project, or with --no-baselines.",
        )
    with services.session() as session:
        campaign_id = campaigns.get(session, NAME).id
    found: dict[str, Any] = {}
    for kind in ("naive", "limit"):
        _err.print(f"Baseline {kind}, {BASELINE_SECONDS:.0f} s …")
        found[f"{kind}_messages_per_second"] = baseline(
            kind, settings, campaign_id, workers, settings.connections
        )
    found["times_naive"] = round(rate / found["naive_messages_per_second"], 2)
    found["share_of_limit"] = round(rate / found["limit_messages_per_second"], 3)
    return found
