"""`notifier up` as a command: it starts, stops, is killed, and says what is in its way."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from notifier.instance.processes import LOOPBACK, kept_port
from notifier.instance.servers.catcher import Catcher
from notifier.instance.supervisor import make_private
from notifier.testing import ROOT

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def var() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="notifier up ", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder / "var"


@pytest.fixture
def port(var: Path) -> int:
    return kept_port(var.parent / "port")


@pytest.fixture
def start(var: Path) -> Iterator[Start]:
    """Start `notifier up` with arguments; whatever is left at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    family: set[psutil.Process] = set()

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NOTIFIER_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "notifier", "up", *arguments],
            cwd=ROOT,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**kept, "NOTIFIER_VAR": str(var), "PYTHONUNBUFFERED": "1", **environment},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            family.update(psutil.Process(process.pid).children(recursive=True))
            process.kill()
        process.communicate()
    for each in family:
        if each.is_running():
            each.kill()


def healthy(port: int) -> dict[str, str] | None:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/healthz", timeout=3) as answer:
            parts: dict[str, str] = json.load(answer)["parts"]
            return parts
    except (OSError, urllib.error.URLError):
        return None


def until(what: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def words(process: psutil.Process) -> list[str]:
    """Return a process's command line; nothing when it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def left(processes: list[psutil.Process]) -> list[str]:
    """Name the processes that still run."""
    return [" ".join(words(each)) for each in processes if words(each)]


def wait_gone(processes: list[psutil.Process], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while left(processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(processes) == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_comes_up_and_stops_without_leaving_anything(
    start: Start, port: int, sign: signal.Signals
) -> None:
    process = start("--port", str(port))
    until(lambda: healthy(port))
    assert healthy(port) == {"database": "ok", "broker": "ok", "smtp": "ok"}
    children = family(process)
    began = time.monotonic()
    process.send_signal(sign)
    assert process.wait(15) == 0
    assert time.monotonic() - began < 10
    wait_gone(children, 3)


def test_killed_it_leaves_no_orphans_and_starts_again_with_its_data(
    start: Start, port: int, var: Path
) -> None:
    first = start("--port", str(port))
    until(lambda: healthy(port))
    secret = (var / "secret").read_text()
    children = family(first)
    first.kill()
    first.wait()
    wait_gone(children)
    second = start("--port", str(port))
    until(lambda: healthy(port))
    # A power cut: everything ends at once, and nobody can tidy up.
    children = family(second)
    second.kill()
    for each in children:
        if each.is_running():
            each.kill()
    second.wait()
    wait_gone(children)
    start("--port", str(port))
    until(lambda: healthy(port))
    assert (var / "secret").read_text() == secret


def test_a_taken_port_and_a_second_start_are_one_sentence(
    start: Start, port: int, var: Path
) -> None:
    first = start("--port", str(port))
    until(lambda: healthy(port))
    note = (var / "instance.json").read_text()
    second = start("--port", str(kept_port(var.parent / "other")))
    _, said = second.communicate(timeout=20)
    assert second.returncode == 3
    assert "Another notifier is running in" in said
    assert "Traceback" not in said
    assert healthy(port)
    # By it the commands in other terminals still find the first one.
    assert (var / "instance.json").read_text() == note
    elsewhere = start("--port", str(port), NOTIFIER_VAR=str(var.parent / "elsewhere"))
    _, said = elsewhere.communicate(timeout=20)
    assert elsewhere.returncode == 3
    assert f"Port {port} is taken" in said
    assert "Traceback" not in said
    assert first.poll() is None


def test_parts_that_die_are_started_again(start: Start, port: int) -> None:
    process = start("--port", str(port))
    until(lambda: healthy(port))
    web = next(each for each in family(process) if "web" in words(each))
    web.kill()
    until(lambda: healthy(port) is None, 5)
    until(lambda: healthy(port), 20)


@pytest.mark.parametrize("name", ["postgres", "valkey-server", "notifier.instance.servers.catcher"])
def test_servers_that_die_are_started_again(start: Start, port: int, name: str) -> None:
    process = start("--port", str(port))
    until(lambda: healthy(port))

    def find() -> list[psutil.Process]:
        return [
            each
            for each in psutil.Process(process.pid).children()
            if name in " ".join(words(each)[:3])
        ]

    (server,) = find()
    server.kill()
    until(lambda: find() not in ([], [server]), 20)
    until(lambda: healthy(port) == {"database": "ok", "broker": "ok", "smtp": "ok"}, 20)
    assert process.poll() is None


def test_a_worker_that_is_asked_many_times_to_stop_does(start: Start, port: int) -> None:
    process = start("--port", str(port))
    until(lambda: healthy(port))
    workers = [each for each in psutil.Process(process.pid).children() if "worker" in words(each)]
    assert len(workers) == 3
    for _ in range(300):
        for each in workers:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
    wait_gone(workers, 20)


def test_parts_that_are_given_are_used_and_not_started(
    start: Start, port: int, database_url: str, broker_url: str, catcher: Catcher
) -> None:
    given = {
        "NOTIFIER_DATABASE_URL": database_url,
        "NOTIFIER_BROKER_URL": broker_url,
        "NOTIFIER_SMTP_URL": catcher.url,
    }
    process = start("--port", str(port), "--workers", "1", **given)
    until(lambda: healthy(port))
    names = " ".join(" ".join(words(each)) for each in family(process))
    assert "postgres" not in names
    assert "valkey-server" not in names
    assert "notifier.instance.servers.catcher" not in names


def test_without_web_nothing_listens(start: Start, port: int, var: Path) -> None:
    process = start("--no-web", "--port", str(port))
    instance = var / "instance.json"
    until(instance.exists)
    until(lambda: any("deliver.campaign" in " ".join(words(each)) for each in family(process)))
    assert healthy(port) is None


@pytest.mark.parametrize(
    ("name", "beside"),
    [("postgres", "-D"), ("valkey-server", "valkey.conf"), ("web", "--port")],
)
def test_what_dies_of_its_own_start_is_started_again(
    start: Start, port: int, name: str, beside: str
) -> None:
    process = start("--port", str(port))
    killed: list[psutil.Process] = []

    def kill_first() -> bool:
        for each in psutil.Process(process.pid).children():
            called = [Path(word).name for word in words(each)[:5]]
            if name in called and beside in called:
                each.kill()
                killed.append(each)
                return True
        return False

    until(kill_first)
    assert healthy(port) is None
    until(lambda: healthy(port) == {"database": "ok", "broker": "ok", "smtp": "ok"})
    assert process.poll() is None
    assert not killed[0].is_running()


def test_a_web_server_that_cannot_start_is_one_sentence(
    start: Start, port: int, tmp_path: Path
) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('uvicorn is broken')")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    process = start("--port", str(port), PYTHONPATH=path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "The web server did not start. Its last words:" in said
    assert "uvicorn is broken" in said
    assert "Traceback" not in said


def test_what_it_keeps_is_its_owners_alone(start: Start, port: int, var: Path) -> None:
    # As an earlier version left it.
    var.mkdir(mode=0o755)
    (var / "lock").touch()
    process = start("--port", str(port))
    until(lambda: healthy(port))
    assert stat.S_IMODE(var.stat().st_mode) == 0o700
    kept = [path for path in var.rglob("*") if path.name != "lock"]
    assert {"secret", "instance.json", "web.log", "metrics", "valkey.conf"} <= {
        path.name for path in kept
    }
    assert [path for path in kept if stat.S_IMODE(path.lstat().st_mode) & 0o077] == []
    process.terminate()
    assert process.wait(15) == 0


def test_the_screen_shows_no_banner_and_beat_keeps_no_pickle(
    start: Start, port: int, var: Path
) -> None:
    process = start("--port", str(port))
    until(lambda: healthy(port))
    until(lambda: left_behind(var) or all_parts_talk(process))
    process.terminate()
    _, said = process.communicate(timeout=15)
    logs = "".join(path.read_text() for path in (var / "logs").iterdir())
    for text in (said, logs):
        for banner in ("superuser", "celery@", "tasks]", "is starting", "scheduler ->"):
            assert banner not in text
    assert "Ready. Ctrl-C stops it." in said
    # A file of beat's schedule would be pickle, which runs what whoever wrote it wants.
    assert left_behind(var) == []


def left_behind(var: Path) -> list[str]:
    return [path.name for path in var.rglob("*") if "schedule" in path.name]


def all_parts_talk(process: subprocess.Popen[str]) -> bool:
    """Say whether each worker has its children and beat runs: what would be said, was."""
    workers = [each for each in psutil.Process(process.pid).children() if "worker" in words(each)]
    return sum(bool(each.children()) for each in workers) >= 2


def test_a_folder_that_others_use_keeps_its_rights(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "lock").touch()
    make_private(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    full = tmp_path / "full"
    full.mkdir(mode=0o755)
    (full / "of-somebody").touch()
    make_private(full)
    assert stat.S_IMODE(full.stat().st_mode) == 0o755
    make_private(tmp_path / "new" / "var")
    assert stat.S_IMODE((tmp_path / "new" / "var").stat().st_mode) == 0o700
