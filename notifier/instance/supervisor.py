"""A whole running system on one machine: servers that are not given are started, then workers, beat and web; all stopped in order.

`notifier up`, the demo, the benchmark and the crash tests are each an `Instance`. Its folder keeps everything, so a start after a power cut
finds what the last one left.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import psutil

from notifier.errors import UnavailableError
from notifier.instance.processes import Server, kept_secret, port_is_free, spawn, wait_for_port
from notifier.instance.servers.catcher import Catcher
from notifier.instance.servers.postgres import Postgres
from notifier.instance.servers.valkey import Valkey
from notifier.settings import DEFAULT_PUBLIC_URL, INSTANCE_FILE, Settings

MAX_LOG_BYTES = 20_000_000
_STOP_SECONDS = 8.0
_NOTED = ("database_url", "broker_url", "smtp_url", "sandbox_smtp_url", "public_url", "secret_key")
_MAX_PAUSE = 10.0
_SERVER_PAUSE = 1.0


@dataclass(slots=True)
class Part:
    """A program that the instance keeps running. `stops_first`: it must end before the servers it uses."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0


def parts(workers: int, *, web: bool, port: int) -> list[Part]:
    """Return the programs of an instance; docker-compose.yml runs the same ones."""
    python = [sys.executable, "-m"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    worker = [*python, "celery", "-A", "notifier.worker.app", "worker", *quiet]
    found = [
        Part(
            "worker-notice",
            [*worker, "-Q", "deliver.notice,housekeeping", "-c", "2", "-n", "notice@%h"],
        ),
        Part(
            "worker-campaign",
            [*worker, "-Q", "deliver.campaign", "-c", str(workers), "-n", "campaign@%h"],
        ),
        # Threads, which wait for slow receivers: as many may hang at once before others wait.
        Part(
            "worker-webhooks",
            [*worker, "--pool", "threads", "-Q", "webhooks", "-c", "16", "-n", "webhooks@%h"],
        ),
        Part(
            "beat",
            [
                *python,
                "celery",
                "-A",
                "notifier.worker.app",
                "beat",
                "--loglevel",
                "WARNING",
                "--pidfile",
                "",
            ],
        ),
    ]
    if web:
        found.append(Part("web", [*python, "notifier", "web", "--port", str(port)]))
    return found


class Instance:
    """The running system; `settings` has every address filled in once it is started."""

    def __init__(
        self,
        settings: Settings,
        *,
        port: int = 8000,
        workers: int = 2,
        web: bool = True,
        migrate: Callable[[Settings], None],
        metrics_environment: Mapping[str, str] | None = None,
        keep_mail: bool = True,
        terminal: IO[str] | None = None,
    ) -> None:
        """Prepare; `migrate` brings the database up to date, `terminal` gets the parts' logs beside their files."""
        self.settings = settings
        self.port = port
        self.web = web
        self.workers = workers
        self.catcher: Catcher | None = None
        self.postgres: Postgres | None = None
        self.valkey: Valkey | None = None
        self.parts: list[Part] = []
        self._migrate = migrate
        self._metrics = dict(metrics_environment or {})
        self._keep_mail = keep_mail
        self._terminal = terminal
        self._lock: IO[str] | None = None
        self._stopping = False
        self._servers_rest_until = 0.0
        self._copiers: list[threading.Thread] = []

    @property
    def processes(self) -> dict[str, int]:
        """The process ids of everything that was started, by name."""
        found = {name: server.pid for name, server in self._servers().items()}
        return found | {
            part.name: part.process.pid for part in self.parts if part.process is not None
        }

    def _servers(self) -> dict[str, Server]:
        """Return the servers that are ours, by name."""
        servers: dict[str, Server | None] = {
            "postgres": self.postgres,
            "valkey": self.valkey,
            "catcher": self.catcher,
        }
        return {name: server for name, server in servers.items() if server is not None}

    def start(self) -> Self:
        """Start everything that is not given; raise UnavailableError, with nothing left running."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        var = self.settings.var
        var.mkdir(parents=True, exist_ok=True)
        self._take_lock(var)
        if self.web and not port_is_free(self.port):
            raise UnavailableError(
                f"Port {self.port} is taken by another program.",
                fix="Choose another with --port N.",
            )
        settings = self.settings
        if settings.secret_key is None:
            settings = settings.replace(secret_key=kept_secret(var / "secret"))
        if settings.public_url == DEFAULT_PUBLIC_URL:
            settings = settings.replace(public_url=f"http://127.0.0.1:{self.port}")
        if settings.database_url is None:
            self.postgres = Postgres(var / "postgres").start()
            settings = settings.replace(database_url=self.postgres.url)
        if settings.broker_url is None:
            self.valkey = Valkey(var / "valkey").start()
            settings = settings.replace(broker_url=self.valkey.url)
        if settings.smtp_url is None:
            folder = var / "mail" if self._keep_mail else None
            self.catcher = Catcher(folder=folder, state=var / "catcher").start()
            settings = settings.replace(
                smtp_url=self.catcher.url,
                sandbox_smtp_url=settings.sandbox_smtp_url or self.catcher.url,
            )
        self.settings = settings
        self._migrate(settings)
        self._note()
        (var / "beat-schedule").unlink(missing_ok=True)
        self.parts = parts(self.workers, web=self.web, port=self.port)
        for part in self.parts:
            self._launch(part)
        for part in self.parts:
            if part.name == "web" and part.process is not None:
                wait_for_port(
                    self.port, part.process, what="The web server", log=var / "logs" / "web.log"
                )

    def _take_lock(self, var: Path) -> None:
        self._lock = (var / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise UnavailableError(
                f"Another notifier is running in {var}.",
                fix="Stop it first, or set NOTIFIER_VAR to another folder.",
            ) from None

    def _note(self) -> None:
        """Leave a note by which `notifier campaign …` in another terminal finds this instance."""
        file = self.settings.var / INSTANCE_FILE
        values = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            **{key: getattr(self.settings, key) for key in _NOTED},
        }
        part = file.with_name(file.name + ".part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(values, out)
        part.replace(file)

    def _launch(self, part: Part) -> None:
        environment = {
            **os.environ,
            **self.settings.to_env(),
            **self._metrics,
            "PYTHONUNBUFFERED": "1",
        }
        part.process = spawn(part.command, env=environment, output=subprocess.PIPE)
        part.started_at = time.monotonic()
        part.restart_at = 0.0
        copier = threading.Thread(
            target=self._copy_log, args=(part.name, part.process.stdout), daemon=True
        )
        copier.start()
        self._copiers = [each for each in self._copiers if each.is_alive()] + [copier]

    def _copy_log(self, name: str, lines: IO[bytes]) -> None:
        path = self.settings.var / "logs" / f"{name}.log"
        path.parent.mkdir(exist_ok=True)
        file = path.open("ab")
        for line in iter(lines.readline, b""):
            file.write(line)
            file.flush()
            if file.tell() > MAX_LOG_BYTES:
                file.close()
                path.replace(path.with_suffix(".log.1"))
                file = path.open("ab")
            if self._terminal is not None:
                self._terminal.write(f"{name:<16}| {line.decode(errors='replace')}")
                self._terminal.flush()
        lines.close()
        file.close()

    def tend(self) -> None:
        """Start servers again that have died, and parts, each time after a longer pause.

        Call it now and then, from the thread that started the instance: what a thread starts ends with it.
        """
        if self._stopping:
            return
        self._tend_servers()
        for part in self.parts:
            if part.process is None or part.process.poll() is None:
                continue
            now = time.monotonic()
            if part.restart_at == 0.0:
                part.failures = 0 if now - part.started_at > 60 else part.failures + 1
                part.restart_at = now + min(_MAX_PAUSE, 0.25 * 2**part.failures)
                self._say(
                    f"{part.name} ended with code {part.process.returncode} and is started again."
                )
            elif now >= part.restart_at:
                self._launch(part)

    def _tend_servers(self) -> None:
        for name, server in self._servers().items():
            if not server.ended or time.monotonic() < self._servers_rest_until:
                continue
            self._say(f"{name} ended and is started again.")
            before = server.url
            try:
                server.start()
            except UnavailableError as error:
                self._say(str(error))
                self._servers_rest_until = time.monotonic() + _SERVER_PAUSE
                continue
            if server.url != before:
                self._tell_address(before, server.url)

    def _tell_address(self, before: str, now: str) -> None:
        """Another program has taken the server's port meanwhile: the parts are stopped, and start again with the new address."""
        changed: dict[str, Any] = {
            key: now for key in _NOTED if getattr(self.settings, key) == before
        }
        self.settings = self.settings.replace(**changed)
        self._note()
        for part in self.parts:
            if part.process is not None:
                part.process.terminate()

    def _say(self, words: str) -> None:
        if self._terminal is not None:
            self._terminal.write(words + "\n")

    def restart(self, name: str) -> None:
        """Start one part again at once (for tests)."""
        self._launch(next(part for part in self.parts if part.name == name))

    def run(self, done: threading.Event) -> None:
        """Tend the parts until `done` is set."""
        while not done.wait(0.25):
            self.tend()

    def stop(self) -> None:
        """Stop the parts politely and all at once, then the servers they used. Ends within about ten seconds, whatever hangs."""
        self._stopping = True
        running = [
            part.process
            for part in self.parts
            if part.process is not None and part.process.poll() is None
        ]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                kill_tree(process.pid)
                process.wait(2)
        for copier in self._copiers:
            copier.join(1)
        for server in reversed(self._servers().values()):
            server.stop()
        (self.settings.var / INSTANCE_FILE).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def kill_tree(pid: int) -> None:
    """End a process and all its children by force."""
    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
