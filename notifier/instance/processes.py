"""Starting programs that never outlive us, and loopback ports for them."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from notifier.errors import UnavailableError

_PR_SET_PDEATHSIG = 1
LOOPBACK = "127.0.0.1"


def dies_with_parent(death_signal: int, *, parent: int | None = None) -> Callable[[], None]:
    """Return what a child of `parent` (default: of us) runs to get `death_signal` when that dies.

    Even by kill -9, on Linux; elsewhere it does nothing.
    """
    parent = parent or os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
            # The parent may have died between fork and prctl.
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    user: str | None = None,
    death_signal: int = signal.SIGTERM,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own.

    So Ctrl-C reaches us alone, and we decide the order of stopping. The files that it makes can be
    read by its own user only.
    """
    return subprocess.Popen(  # noqa: S603 - the command is ours
        [str(part) for part in command],
        env=dict(env) if env is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
        user=user,
        group="nogroup" if user == "nobody" and _group_exists("nogroup") else user,
        extra_groups=[] if user else None,
        cwd=cwd,
        umask=0o077,
        # preexec_fn is safe here: the prepared function only makes system calls.
        preexec_fn=dies_with_parent(death_signal),  # noqa: PLW1509
    )


def _group_exists(name: str) -> bool:
    import grp  # noqa: PLC0415 - exists on Unix only, and is needed only as root

    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def stop(
    process: subprocess.Popen[bytes], *, sign: int = signal.SIGTERM, patience: float = 8.0
) -> None:
    """Ask a process to end and wait; after `patience` seconds end it by force."""
    if process.poll() is not None:
        return
    process.send_signal(sign)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


class Server:
    """A server of ours, as a process of its own that ends with the thread that started it.

    `url` is its address while it runs.
    """

    url = ""
    stop_sign: int = signal.SIGTERM
    stop_seconds = 8.0

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id (0: it does not run)."""
        return self._process.pid if self._process else 0

    @property
    def ended(self) -> bool:
        """Say whether it was started and has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> Self:
        """Start it and wait until it answers; raise UnavailableError."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self._process is not None:
            stop(self._process, sign=self.stop_sign, patience=self.stop_seconds)
            self._process = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    """Say whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def port_answers(port: int) -> bool:
    """Say whether something takes connections on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def kept_port(file: Path) -> int:
    """Return the loopback port noted in `file` if it is free, else a free one, which is noted."""
    try:
        port = int(file.read_text())
        if port_is_free(port):
            return port
    except (OSError, ValueError):
        pass
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = int(probe.getsockname()[1])
    file.write_text(str(port))
    return port


def kept_secret(file: Path) -> str:
    """Return the secret in `file`; made (256 bits, readable by us alone) when it is missing."""
    try:
        found = file.read_text().strip()
        if found:
            return found
    except OSError:
        pass
    value = secrets.token_hex(32)
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(value)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)
    return value


def wait_for_port(
    port: int,
    process: subprocess.Popen[bytes],
    *,
    what: str,
    log: Path | None = None,
    seconds: float = 30.0,
) -> None:
    """Wait until something answers on `port`.

    Raise UnavailableError when the process ends or takes too long.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if port_answers(port):
            return
        time.sleep(0.02)
    hint = f" Its last words: {tail(log)}" if log is not None else ""
    raise UnavailableError(
        f"{what} did not start.{hint}", fix=f"See {log}." if log else "Try again."
    )


def tail(log: Path, *, chars: int = 300) -> str:
    """Return the end of a log file."""
    try:
        return log.read_text(errors="replace")[-chars:].strip().replace("\n", " | ")
    except OSError:
        return ""
