"""A part's log goes on being read whatever happens to the file: no part ever hangs in a write."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from notifier.instance.logs import Copiers, LogFile, Screen

# Beyond what a pipe holds, a writer that nobody reads would hang.
MANY = 4000
LINE = "x" * 99


def talking(words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE)


def copy(copiers: Copiers, words: str) -> int:
    """Copy what a program says, and return its exit code; it must not hang."""
    process = talking(words)
    assert process.stdout is not None
    copiers.start("beat", process.stdout)
    code = process.wait(60)
    copiers.close(patience=60)
    return code


def notes(path: Path) -> list[int]:
    return [
        json.loads(line)["lines"]
        for line in path.read_text().splitlines()
        if "log_lines_dropped" in line
    ]


def test_a_full_disk_drops_lines_and_says_how_many(tmp_path: Path) -> None:
    log = tmp_path / "beat.log"
    log.symlink_to("/dev/full")
    shown = io.StringIO()
    screen = Screen(shown)
    copiers = Copiers(tmp_path, screen)
    assert copy(copiers, f"for n in range({MANY}): print('{LINE}')") == 0
    log.unlink()
    assert copy(copiers, "print('back')") == 0
    screen.close(patience=60)
    note, line = log.read_text().splitlines()
    told = json.loads(note)
    assert (told["lines"], told["part"], told["level"]) == (MANY, "beat", "warning")
    assert told["error"] == "No space left on device"
    assert line == "back"
    assert shown.getvalue().count("cannot be written: No space left on device.") == 1


def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.write_text("a file where the folder should be")
    copiers = Copiers(folder, Screen(None))
    assert copy(copiers, f"for n in range({MANY}): print(n)") == 0
    folder.unlink()
    assert copy(copiers, "print('back')") == 0
    assert notes(folder / "beat.log") == [MANY]
    assert (folder / "beat.log").read_text().endswith("\nback\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system, and not in every container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_and_is_emptied(small_disk: Path) -> None:
    copiers = Copiers(small_disk, Screen(None))
    assert copy(copiers, f"for n in range({MANY}): print('%099d' % n)") == 0
    log = small_disk / "beat.log"
    before = log.read_text()
    # What was written before the disk was full is whole, but for the line that met its end.
    kept = [line for line in before.splitlines() if len(line) == 99]
    assert [int(line) for line in kept] == list(range(len(kept)))
    assert 100 < len(kept) < MANY
    os.truncate(log, 1000 * 10 + 50)
    assert copy(copiers, "print('back')") == 0
    after = log.read_text()
    assert notes(log) == [MANY - len(kept)]
    assert after.endswith("}\nback\n")


def test_the_log_is_rotated_and_both_files_are_bounded(tmp_path: Path) -> None:
    copiers = Copiers(tmp_path, Screen(None), max_bytes=10_000)
    assert copy(copiers, f"for n in range({MANY}): print('%099d' % n)") == 0
    parts = [tmp_path / "beat.log.1", tmp_path / "beat.log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beat.log", "beat.log.1"]
    assert all(path.stat().st_size <= 10_000 for path in parts)
    last = [int(line) for path in parts for line in path.read_text().splitlines()]
    assert last == list(range(MANY - len(last), MANY))
    assert len(last) > 99


def test_any_bytes_are_copied_as_they_are(tmp_path: Path) -> None:
    copiers = Copiers(tmp_path, Screen(io.StringIO()))
    first = "b'Ti\\xe1\\xba\\xbfng \\xff%s {x}\\r\\n'"
    words = f"import os; os.write(1, {first} + b'y' * 20000 + b'\\nend')"
    assert copy(copiers, words) == 0
    lines = (tmp_path / "beat.log").read_bytes().split(b"\n")
    assert lines[0] == b"Ti\xe1\xba\xbfng \xff%s {x}\r"
    # A line without an end would be held in memory whole.
    assert [len(line) for line in lines[1:4]] == [8192, 8192, 20000 - 2 * 8192]
    assert lines[4:] == [b"end", b""]


def test_half_a_line_of_one_that_was_killed_is_ended(tmp_path: Path) -> None:
    (tmp_path / "beat.log").write_text("half")
    assert copy(Copiers(tmp_path, Screen(None)), "print('whole')") == 0
    assert (tmp_path / "beat.log").read_text() == "half\nwhole\n"


def test_parts_that_are_started_again_share_their_file(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "beat.log", max_bytes=5_000)
    crowd = [
        threading.Thread(target=lambda: [file.add(LINE) for _ in range(200)]) for _ in range(4)
    ]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    file.close()
    for path in (tmp_path / "beat.log", tmp_path / "beat.log.1"):
        assert set(path.read_text().splitlines()) == {LINE}


class Stopped(io.StringIO):
    """A terminal on which somebody pressed Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        self.goes_on.wait(30)
        return super().write(text)


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:  # noqa: ARG002 - the form of write
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_stopped_holds_nobody_up(tmp_path: Path) -> None:
    terminal = Stopped()
    screen = Screen(terminal)
    assert copy(Copiers(tmp_path, screen), f"for n in range({MANY}): print(n)") == 0
    screen.close(patience=0.1)
    assert len((tmp_path / "beat.log").read_text().splitlines()) == MANY
    assert terminal.getvalue() == ""
    terminal.goes_on.set()


@pytest.mark.parametrize("terminal", [Gone(), None])
def test_a_terminal_that_is_gone_changes_nothing(tmp_path: Path, terminal: IO[str] | None) -> None:
    screen = Screen(terminal)
    assert copy(Copiers(tmp_path, screen), f"for n in range({MANY}): print(n)") == 0
    screen.close(patience=60)
    assert len((tmp_path / "beat.log").read_text().splitlines()) == MANY
