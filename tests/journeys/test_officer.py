"""An officer at the command line: check, preview, test, launch, watch, report.

And what a mistake says.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Protocol

import openpyxl
import pytest

from notifier.cli.demo import write_list
from notifier.testing import ROOT
from tests.journeys.conftest import World


class Notifier(Protocol):
    """Runs `notifier …` and checks its exit code."""

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]: ...


FILE = str(ROOT / "campaigns" / "debt-notice.toml")


@pytest.fixture
def notifier(world: World, tmp_path: Path) -> Notifier:
    """Run `notifier …` as its own process in a folder of its own."""
    environment = {**os.environ, **world.instance.settings.to_env()}

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "notifier", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    world.sink.ask(reset=True, script={})
    return run


@pytest.fixture
def audience(tmp_path: Path) -> str:
    path = tmp_path / "list.csv"
    write_list(path, 50)
    text = path.read_text(encoding="utf-8-sig")
    path.write_text(text + "123,Công ty Sai Mã,a@example.test\n", encoding="utf-8-sig")
    return str(path)


def test_a_campaign_from_check_to_report(
    notifier: Notifier, audience: str, tmp_path: Path, world: World
) -> None:
    found = json.loads(
        notifier(
            "campaign", "check", FILE, "--audience", audience, "--rejected", "bad.xlsx", "--json"
        ).stdout
    )
    assert found["accepted"] + found["rejected"] + found["merged"] == found["rows_read"]
    assert (found["accepted"], found["rejected"], found["messages"], found["unrenderable"]) == (
        50,
        1,
        50,
        0,
    )
    assert found["largest_mail_bytes"] > 5_000
    assert found["control_totals"]["total_debt"] > 0
    assert world.sink.ask()["received"] == 0
    sheet = openpyxl.load_workbook(tmp_path / "bad.xlsx").active
    assert sheet is not None
    assert "123" in [str(cell.value) for cell in sheet[2]]
    assert "Rows read" in notifier("campaign", "check", FILE, "--audience", audience).stdout

    notifier("campaign", "preview", FILE, "--audience", audience, "--out", "look")
    mail = BytesParser(policy=policy.default).parsebytes(
        (tmp_path / "look" / "debt-notice.eml").read_bytes()
    )
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert "đồng" in (tmp_path / "look" / "debt-notice.txt").read_text()
    assert "<html" in (tmp_path / "look" / "debt-notice.html").read_text()

    notifier("campaign", "test", FILE, "--to", "officer@example.test")
    world.until(lambda: world.sink.ask()["received"] == 1, seconds=10)

    done = json.loads(
        notifier(
            "campaign",
            "launch",
            FILE,
            "--audience",
            audience,
            "--name",
            "by-hand",
            "--wait",
            "--json",
        ).stdout
    )
    assert (done["state"], done["total"], done["accepted"]) == ("finished", 50, 50)
    status = json.loads(notifier("campaign", "status", "by-hand", "--json").stdout)
    needed = {
        "state",
        "total",
        "queued",
        "accepted",
        "deferred",
        "refused",
        "skipped",
        "in_doubt",
        "expired",
        "started_at",
        "finished_at",
    }
    assert needed <= status.keys()
    parts = (
        "queued",
        "deferred",
        "accepted",
        "refused",
        "skipped_total",
        "expired",
        "cancelled",
        "held",
        "given_up",
    )
    assert sum(status[key] for key in parts) == status["total"]
    assert "by-hand" in notifier("campaign", "list").stdout
    assert "by-hand" in notifier("campaign", "status", "by-hand").stdout

    notifier("campaign", "report", "by-hand", "--out", "report.csv")
    with (tmp_path / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 51
    assert {row[4] for row in rows[1:]} == {"accepted"}
    notifier("campaign", "report", "by-hand", "--out", "report.xlsx")
    book = openpyxl.load_workbook(tmp_path / "report.xlsx").active
    assert book is not None
    assert book.max_row == 51


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["campaign", "status", "nobody"], "There is no campaign nobody"),
        (["campaign", "launch", "missing.toml"], "There is no campaign file"),
        (["campaign", "launch", FILE], "names no list"),
        (["campaign", "launch", FILE, "--audience", "missing.csv"], "There is no file"),
        (["campaign", "check", FILE, "--audience", FILE], "is not a kind of list"),
        (["campaign", "test", FILE, "--to", "nobody"], "not valid"),
        (["campaign", "report", "nobody", "--out", "x.pdf"], "neither a .csv nor an .xlsx"),
        (["campaign", "pause", "nobody"], "There is no campaign"),
    ],
)
def test_a_mistake_is_one_clear_sentence(
    notifier: Notifier, arguments: list[str], words: str
) -> None:
    done = notifier(*arguments, code=1)
    assert words in " ".join(done.stderr.split())


def test_doctor_says_what_is_well_and_what_is_not(notifier: Notifier, world: World) -> None:
    assert notifier("doctor").stdout.count(" ok") == 10
    environment = {
        **os.environ,
        **world.instance.settings.to_env(),
        "NOTIFIER_SMTP_URL": "smtp://127.0.0.1:9",
    }
    sick = subprocess.run(
        [sys.executable, "-m", "notifier", "doctor"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert sick.returncode == 3
    assert "The SMTP server 127.0.0.1:9 cannot be reached" in sick.stdout
