"""The benchmark runs from end to end; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys

from notifier.testing import ROOT


def test_bench_accounts_for_every_message() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "notifier",
            "bench",
            "--messages",
            "600",
            "--json",
            "--no-baselines",
            "--workers",
            "1",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["messages"], found["accepted"], found["lost"], found["duplicated"]) == (
        600,
        600,
        0,
        0,
    )
    assert found["messages_per_second"] > 0
    assert set(found["cpu_seconds_per_1000"]) == {"workers", "database", "sink"}
    assert all(value > 0 for value in found["cpu_seconds_per_1000"].values())
    assert found["worker_rss_mb"] > 0
