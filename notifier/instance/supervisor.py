"""A whole running system on one machine.

Servers that are not given are started, then workers, beat and web; all are stopped in order.
`notifier up`, the demo, the benchmark and the crash tests are each an `Instance`. Its folder
keeps everything, so a start after a power cut finds what the last one left.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import psutil
from sqlalchemy.exc import OperationalError

from notifier.errors import UnavailableError
from notifier.instance.logs import Copiers, Screen
from notifier.instance.processes import (
    Server,
    kept_secret,
    port_answers,
    port_is_free,
    spawn,
    tail,
)
from notifier.instance.servers.catcher import Catcher
from notifier.instance.servers.postgres import Postgres
from notifier.instance.servers.valkey import Valkey
from notifier.settings import DEFAULT_PUBLIC_URL, INSTANCE_FILE, Settings

_STOP_SECONDS = 8.0
# At the start each server and the web server are tried so often; later without an end.
_START_TRIES = 4
_WEB_SECONDS = 60.0
_RAN_WELL_SECONDS = 60.0
_NOTED = ("database_url", "broker_url", "smtp_url", "sandbox_smtp_url", "public_url", "secret_key")
_MAX_PAUSE = 10.0
_SERVER_PAUSE = 1.0


@dataclass(slots=True)
class Part:
    """A program that the instance keeps running. Times are of the monotonic clock, in seconds."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None


def parts(workers: int, *, web: bool, port: int) -> list[Part]:
    """Return the programs of an instance; docker-compose.yml runs the same ones."""
    python = [sys.executable, "-m"]
    # Without a banner of thirty lines for each.
    celery = [*python, "celery", "--quiet", "-A", "notifier.worker.app"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    worker = [*celery, "worker", *quiet]
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
        Part("beat", [*celery, "beat", "--loglevel", "WARNING", "--pidfile", ""]),
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
        """Prepare.

        `migrate` brings the database up to date; `terminal` gets the parts' logs beside their
        files.
        """
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
        self._screen = Screen(terminal)
        self._copiers = Copiers(settings.var / "logs", self._screen)
        self._lock: IO[str] | None = None
        self._stopping = False
        self._servers_rest_until = 0.0
        # Servers whose start failed: they are tried again.
        self._down: set[str] = set()

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
        make_private(var)
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
            self.postgres = Postgres(var / "postgres")
            settings = settings.replace(database_url=self._begin("postgres", self.postgres))
        if settings.broker_url is None:
            self.valkey = Valkey(var / "valkey")
            settings = settings.replace(broker_url=self._begin("valkey", self.valkey))
        if settings.smtp_url is None:
            folder = var / "mail" if self._keep_mail else None
            self.catcher = Catcher(folder=folder, state=var / "catcher")
            url = self._begin("catcher", self.catcher)
            settings = settings.replace(
                smtp_url=url, sandbox_smtp_url=settings.sandbox_smtp_url or url
            )
        self.settings = settings
        self._bring_up_to_date()
        self._note()
        self.parts = parts(self.workers, web=self.web, port=self.port)
        for part in self.parts:
            self._launch(part)
        if self.web:
            self._wait_for_web()

    def _begin(self, name: str, server: Server) -> str:
        """Start a server, again when it dies of its start; return its address."""
        tries = 0
        while True:
            try:
                return server.start().url
            except UnavailableError as error:
                server.stop()
                tries += 1
                if tries == _START_TRIES:
                    raise
                self._say(f"{name} is started again: {error}")
                time.sleep(_SERVER_PAUSE)

    def _bring_up_to_date(self) -> None:
        """Migrate the database; again when the server died meanwhile."""
        tries = 0
        while True:
            try:
                self._migrate(self.settings)
            except OperationalError as error:
                tries += 1
                if self.postgres is None or tries == _START_TRIES:
                    words = str(error.orig).strip().split("\n", 1)[0]
                    raise UnavailableError(
                        f"The database cannot be reached: {words}.",
                        fix="Check that PostgreSQL runs.",
                    ) from None
                # The connection may end before the process does.
                time.sleep(_SERVER_PAUSE)
                self._tend_servers()
            else:
                return

    def _wait_for_web(self) -> None:
        """Wait until the web server answers; what dies meanwhile is started again."""
        web = next(part for part in self.parts if part.name == "web")
        log = self._copiers.path(web.name)
        deadline = time.monotonic() + _WEB_SECONDS
        while not (web.running and port_answers(self.port)):
            if web.failures >= _START_TRIES or time.monotonic() > deadline:
                raise UnavailableError(
                    f"The web server did not start. Its last words: {tail(log)}", fix=f"See {log}."
                )
            time.sleep(0.02)
            self.tend()

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
        if part.process.stdout is not None:
            self._copiers.start(part.name, part.process.stdout)

    def tend(self) -> None:
        """Start servers again that have died, and parts, each time after a longer pause.

        Call it now and then, from the thread that started the instance: what a thread starts ends
        with it.
        """
        if self._stopping:
            return
        self._tend_servers()
        for part in self.parts:
            if part.process is not None and not part.running:
                self._tend_part(part, part.process.returncode)

    def _tend_part(self, part: Part, code: int) -> None:
        """Start a part that has ended again, once its pause is over."""
        now = time.monotonic()
        if part.restart_at == 0.0:
            part.failures = 0 if now - part.started_at > _RAN_WELL_SECONDS else part.failures + 1
            part.restart_at = now + _pause(part)
            self._say(f"{part.name} ended with code {code} and is started again.")
        elif now >= part.restart_at:
            try:
                self._launch(part)
            except OSError as error:
                # No more processes, files or memory just now.
                part.failures += 1
                part.restart_at = now + _pause(part)
                self._say(f"{part.name} cannot be started: {error.strerror}.")

    def _tend_servers(self) -> None:
        for name, server in self._servers().items():
            ended = server.ended or name in self._down
            if not ended or time.monotonic() < self._servers_rest_until:
                continue
            self._say(f"{name} ended and is started again.")
            before = server.url
            try:
                server.start()
            except OSError as error:  # UnavailableError is one; so is a disk that is full
                self._say(str(error))
                server.stop()
                self._down.add(name)
                self._servers_rest_until = time.monotonic() + _SERVER_PAUSE
                continue
            self._down.discard(name)
            if server.url != before:
                self._change_address(before, server.url)

    def _change_address(self, before: str, now: str) -> None:
        """Pass on a new address, when another program has taken the server's port meanwhile.

        The parts are stopped, and start again with it.
        """
        changed: dict[str, Any] = {
            key: now for key in _NOTED if getattr(self.settings, key) == before
        }
        self.settings = self.settings.replace(**changed)
        self._note()
        for part in self.parts:
            if part.process is not None:
                part.process.terminate()

    def _say(self, words: str) -> None:
        self._screen.show(words)

    def restart(self, name: str) -> None:
        """Start one part again at once (for tests)."""
        self._launch(next(part for part in self.parts if part.name == name))

    def run(self, done: threading.Event) -> None:
        """Tend the parts until `done` is set."""
        while not done.wait(0.25):
            self.tend()

    def stop(self) -> None:
        """Stop the parts politely and all at once, then the servers they used.

        Ends within about ten seconds, whatever hangs.
        """
        self._stopping = True
        running = [part.process for part in self.parts if part.process is not None and part.running]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                kill_tree(process.pid)
                process.wait(2)
        self._copiers.close()
        for server in reversed(self._servers().values()):
            server.stop()
        if self._lock is not None:
            # Without the lock the note is another instance's.
            with suppress(OSError):
                (self.settings.var / INSTANCE_FILE).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        self._screen.close()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def _pause(part: Part) -> float:
    """Return how long a part rests before it is started again, in seconds."""
    return min(_MAX_PAUSE, 0.25 * 2.0**part.failures)


def make_private(folder: Path) -> None:
    """Make the state's folder, or close one that a former start left open, to everybody else."""
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        mode = folder.stat().st_mode
        # Not a folder that others use as well, such as /tmp.
        ours = (folder / "lock").exists() or not any(folder.iterdir())
        if ours and not mode & (stat.S_ISVTX | stat.S_IWOTH):
            folder.chmod(0o700)


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
