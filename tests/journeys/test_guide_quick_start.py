"""Follow docs/quick-start.md to the letter: write its files, run its commands, count the mail."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from notifier.testing import ROOT
from tests.journeys.conftest import World

GUIDE = (ROOT / "docs" / "quick-start.md").read_text(encoding="utf-8")
SECTION = GUIDE.partition("## 3.")[2].partition("## 4.")[0]


def test_a_newcomer_sends_a_campaign(world: World, tmp_path: Path) -> None:
    names = re.findall(r"`(first-try\.toml|businesses\.csv)`", SECTION)
    blocks = re.findall(r"```(toml|text)\n(.*?)```", SECTION, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["toml", "text"]
    for name, (_, text) in zip(dict.fromkeys(names), blocks, strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = re.findall(r"^notifier (.+)$", SECTION, re.MULTILINE)
    assert [line.split()[1] for line in commands] == ["check", "preview", "launch", "report"]
    world.sink.ask(reset=True, script={})
    for line in commands:
        done = subprocess.run(
            [sys.executable, "-m", "notifier", *shlex.split(line)],
            cwd=tmp_path,
            env={**os.environ, **world.instance.settings.to_env()},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if "check" in line:
            assert world.sink.ask()["received"] == 0
    assert (tmp_path / "rejected.xlsx").exists()
    assert len(list((tmp_path / "preview").iterdir())) >= 3
    with (tmp_path / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Dòng / Row"] for row in rows] == ["2", "3"]
    assert {row["Kết quả / Outcome"] for row in rows} == {"accepted"}
    assert world.sink.ask()["received"] == 2
