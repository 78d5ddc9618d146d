"""`notifier up` as a command: it starts, stops, is killed, and says what is in its way."""

from __future__ import annotations

import json
import os
import signal
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
    second = start("--port", str(kept_port(var.parent / "other")))
    _, said = second.communicate(timeout=20)
    assert second.returncode == 3
    assert "Another notifier is running in" in said
    assert "Traceback" not in said
    assert healthy(port)
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
