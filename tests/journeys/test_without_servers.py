"""Commands without servers, without settings and under their former names: one sentence each."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from notifier.instance.processes import LOOPBACK, kept_port
from notifier.testing import ROOT

FILE = str(ROOT / "campaigns" / "debt-notice.toml")
NOWHERE = {
    "NOTIFIER_DATABASE_URL": "postgresql://office:word@127.0.0.1:9/none",
    "NOTIFIER_BROKER_URL": "redis://:word@127.0.0.1:9/0",
    "NOTIFIER_SMTP_URL": "smtp://127.0.0.1:9",
    "NOTIFIER_SECRET_KEY": "test-" * 10,
}


def notifier(
    var: Path, *arguments: str, env: Mapping[str, str] | None = None, mail: bytes = b""
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NOTIFIER_")}
    done = subprocess.run(
        [sys.executable, "-m", "notifier", *arguments],
        env={**kept, "NOTIFIER_VAR": str(var), **(env or {})},
        cwd=ROOT,
        input=mail,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["campaign", "status", "june"],
        ["campaign", "list"],
        ["campaign", "launch", FILE, "--audience", "{list}"],
        ["campaign", "test", FILE, "--to", "officer@example.test"],
        ["campaign", "report", "june", "--out", "{out}"],
        ["api-key", "list"],
        ["dossier", "undeliverable"],
        ["webhook", "list"],
        ["migrate"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_database_that_is_unavailable_is_one_sentence(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "list.csv").write_text("Mã số thuế,Tên,Email\n")
    filled = [
        each.format(list=tmp_path / "list.csv", out=tmp_path / "report.csv") for each in arguments
    ]
    done = notifier(tmp_path, *filled, env=NOWHERE)
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 3, done.stderr
    assert sentence.startswith("Error: The database cannot be reached: ")
    assert sentence.endswith("or start everything with: notifier up")
    assert "Traceback" not in done.stderr
    assert "word" not in done.stderr
    # Beside it there are the bars of progress at most.
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["campaign", "list"], "No database is set."),
        (["worker", "--lane", "notice"], "No database is set."),
        (["beat"], "No broker is set."),
        (["dossier", "undeliverable"], "No database is set."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_are_missing_are_one_sentence(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    done = notifier(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {sentence} Set NOTIFIER_")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["up"], ["worker", "--lane", "campaign"], ["doctor"]])
def test_a_setting_that_is_wrong_is_one_sentence(tmp_path: Path, arguments: list[str]) -> None:
    done = notifier(tmp_path, *arguments, env={**NOWHERE, "NOTIFIER_CONNECTIONS": "many"})
    assert done.returncode == 2
    assert done.stderr == (
        "Error: NOTIFIER_CONNECTIONS is not a whole number of 1 or more. Correct or unset it.\n"
    )


def test_the_doctor_names_each_server_and_each_slip_in_a_name(tmp_path: Path) -> None:
    slips = {"NOTIFIER_DATABSE_URL": "x", "NOTIFIER_COLOUR": "red"}
    done = notifier(tmp_path, "doctor", env={**NOWHERE, **slips})
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["database", "schema", "broker", "smtp"]
    assert all("cannot be reached" in line for line in lines[:4])
    assert lines[-2:] == [
        "settings   warning: NOTIFIER_COLOUR is set, and nothing reads it. Unset it.",
        (
            "settings   warning: NOTIFIER_DATABSE_URL is set, and nothing reads it. "
            "Is NOTIFIER_DATABASE_URL meant?"
        ),
    ]
    assert "Traceback" not in done.stderr


def test_former_names_run_with_a_hint(tmp_path: Path) -> None:
    done = notifier(tmp_path, "returned", "--recipient", "x@y.test", mail=b"Hi\n", env=NOWHERE)
    assert (done.returncode, done.stdout) == (0, "")
    hint, answer = done.stderr.splitlines()
    assert hint == "`notifier returned` is now called `notifier bounces`."
    assert answer == "ignored"
    done = notifier(tmp_path, "dossier", "untold", "--days", "3", env=NOWHERE)
    hint, answer = done.stderr.splitlines()
    assert hint == "`notifier dossier untold` is now called `notifier dossier undeliverable`."
    assert answer.startswith("Error: The database cannot be reached: ")
    for arguments in ((), ("dossier",)):
        shown = notifier(tmp_path, *arguments, "--help").stdout
        assert "untold" not in shown
        assert "returned" not in shown
    assert "bounces" in notifier(tmp_path, "--help").stdout


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_catcher_ends_with_its_command(tmp_path: Path, sign: signal.Signals) -> None:
    port = kept_port(tmp_path / "port")
    process = subprocess.Popen(
        [sys.executable, "-m", "notifier", "catcher", "--port", str(port)],
        env={**os.environ, "NOTIFIER_VAR": str(tmp_path)},
        cwd=ROOT,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with smtplib.SMTP(LOOPBACK, port) as client:
                    client.sendmail("a@x.test", ["b@y.test"], b"Subject: kept\r\n\r\n")
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sign)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert [each for each in family if each.is_running()] == []
    with socket.socket() as probe:
        assert probe.connect_ex((LOOPBACK, port)) != 0
    assert b"Subject: kept" in (tmp_path / "mail" / "000001.mail").read_bytes()
