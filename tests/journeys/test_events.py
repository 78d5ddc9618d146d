"""Dossier events through the real API while parts are killed: none is lost, no notice doubled."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from notifier.cli.up import make_instance
from notifier.domain import keys
from notifier.domain.calendar import HANOI
from notifier.instance.processes import LOOPBACK, kept_port
from notifier.instance.supervisor import kill_tree
from notifier.services import Services
from notifier.settings import Settings
from notifier.testing import ROOT
from tests.journeys.conftest import World

NINE = datetime(2026, 11, 2, 9, 0, tzinfo=HANOI)


@pytest.fixture(scope="module")
def town() -> Iterator[World]:
    """A running system with its web server."""
    folder = Path(tempfile.mkdtemp(prefix="notifier-events-"))
    folder.chmod(0o711)
    settings = Settings(
        var=folder / "var",
        templates=ROOT / "templates",
        campaigns=ROOT / "campaigns",
        sources=ROOT / "sources",
        lease_seconds=2.0,
        sweep_seconds=0.3,
        smtp_timeout_seconds=1.0,
        retry_minutes=(0.01,),
        log_format="json",
    )
    port = kept_port(folder / "port")
    instance = make_instance(
        settings, port=port, workers=1, web=True, logs=False, keep_mail=False
    ).start()
    found = World(instance, Services(instance.settings), folder)
    yield found
    found.services.close()
    instance.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def token(town: World) -> str:
    with town.services.engine.begin() as connection:
        return keys.create(
            connection,
            name="portal",
            scopes=["events:write"],
            sandbox=False,
            now=town.services.clock(),
        )


def event(number: int, *, status: int = 2, minute: int = 0, prefix: int = 1) -> dict[str, Any]:
    return {
        "source": "portal",
        "code": f"000.A0.{prefix:02d}.H26-261102-{number:06d}",
        "status": status,
        "occurred_at": (NINE + timedelta(minutes=minute)).isoformat(),
        "procedure": "Đăng ký thuế lần đầu",
        "applicant": {"name": f"Hộ Ví Dụ {number}", "email": f"ho{prefix}-{number}@example.test"},
    } | ({"amount": 150_000} if status == 6 else {})


class Portal:
    """A client that repeats a request until it is answered, as integrators are told to."""

    def __init__(self, town: World, token: str) -> None:
        self._connection = HTTPConnection(LOOPBACK, town.instance.port, timeout=10)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.repeats = 0

    def close(self) -> None:
        self._connection.close()

    def send(self, path: str, body: Any) -> Any:
        headers = {**self._headers, "Idempotency-Key": uuid.uuid4().hex}
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, "the API did not come back"
            try:
                self._connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
                answer = self._connection.getresponse()
                status, raw = answer.status, answer.read()
            except (OSError, HTTPException):
                self._connection.close()
                status, raw = 503, b""
            if status in {200, 202}:
                return json.loads(raw)
            assert status == 503, raw
            self.repeats += 1
            time.sleep(0.1)


def together(
    town: World,
    work: Callable[[int], object],
    parts: int,
    strike: Callable[[], object],
    *,
    seconds: float = 90,
) -> None:
    """Let `parts` threads work, strike after a moment, and tend the system until all are done."""
    with ThreadPoolExecutor(parts) as pool:
        futures = [pool.submit(work, part) for part in range(parts)]
        began, struck = time.monotonic(), False
        while not all(each.done() for each in futures):
            assert time.monotonic() < began + seconds
            if not struck and time.monotonic() > began + 0.4:
                # From this thread: a server ends with the thread that started it.
                strike()
                struck = True
            town.instance.tend()
            time.sleep(0.02)
        for each in futures:
            each.result()


def all_told(town: World, wanted: int, prefix: int) -> tuple[int, int]:
    """Wait until every dossier's notice is accepted.

    Return how many were ever in doubt and how many came twice.
    """

    def states() -> dict[str, int]:
        with town.services.session() as session:
            rows = session.execute(
                text("""SELECT m.state::text, count(*)
                          FROM dossier d JOIN message m ON m.id = d.message_id
                         WHERE d.code LIKE :prefix GROUP BY 1"""),
                {"prefix": f"000.A0.{prefix:02d}.%"},
            )
            return dict(rows.all())

    town.until(lambda: states() == {"accepted": wanted}, seconds=60)
    with town.services.session() as session:
        rows = session.execute(
            text("""SELECT m.id::text, m.doubts
                      FROM message m JOIN recipient r ON r.id = m.recipient_id
                     WHERE m.state = 'accepted' AND m.key_id IS NOT NULL"""),
        ).all()
    found = town.sink.ask(ids=True)
    domain = town.instance.settings.mail_domain
    assert not [number for number, _ in rows if f"<{number}@{domain}>" not in found["message_ids"]]
    return sum(doubts for _, doubts in rows), found["duplicates"]


def report_in_batches(
    town: World, token: str, prefix: int, strike: Callable[[], object]
) -> Sequence[Portal]:
    portals = [Portal(town, token) for _ in range(4)]

    def work(part: int) -> None:
        for step in range(6):
            first = (part * 6 + step) * 50
            found = portals[part].send(
                "dossier-events/batch",
                {"events": [event(first + at, prefix=prefix) for at in range(50)]},
            )
            assert found["refused"] == 0

    together(town, work, 4, strike)
    for each in portals:
        each.close()
    return portals


def test_web_is_killed_in_the_middle_of_batches(town: World, token: str) -> None:
    portals = report_in_batches(town, token, 1, lambda: town.kill(town.instance.processes["web"]))
    assert sum(each.repeats for each in portals) > 0
    assert all_told(town, 1_200, 1) == (0, 0)


def test_the_broker_is_killed_and_its_data_wiped(town: World, token: str) -> None:
    valkey = town.instance.valkey
    assert valkey is not None

    def strike() -> None:
        town.kill(valkey.pid)
        valkey.stop()
        for file in valkey.folder.glob("*.rdb"):
            file.unlink()
        time.sleep(0.5)
        valkey.start()

    report_in_batches(town, token, 2, strike)
    assert all_told(town, 1_200, 2) == (0, 0)


def test_the_notice_worker_is_killed(town: World, token: str) -> None:
    before = town.sink.ask()["duplicates"]

    def strike() -> None:
        parent = psutil.Process(town.instance.processes["worker-notice"])
        for process in [*parent.children(recursive=True), parent]:
            process.kill()

    report_in_batches(town, token, 3, strike)
    doubted, twice = all_told(town, 1_200, 3)
    assert twice - before <= doubted <= 2 * 64


def test_the_database_is_killed_and_started_again(town: World, token: str) -> None:
    before = town.sink.ask()["duplicates"]

    postgres = town.instance.postgres
    assert postgres is not None

    def strike() -> None:
        kill_tree(postgres.pid)
        postgres.stop()
        postgres.start()

    report_in_batches(town, token, 4, strike)
    doubted, twice = all_told(town, 1_200, 4)
    assert twice - before <= doubted


@pytest.mark.timeout(3600)
def test_a_day_is_replayed_in_order(town: World, token: str) -> None:
    """Dossiers go through their statuses, and some reports come late.

    The newest word is what each applicant hears last.
    """
    events = int(os.environ.get("NOTIFIER_DAY_EVENTS", "600"))
    chance = random.Random(7)
    dossiers = events // 3
    steps = [
        event(number, status=status, minute=minute, prefix=5)
        for number in range(dossiers)
        for minute, status in ((0, 2), (60, 6), (120, 9))
    ]
    chance.shuffle(steps)
    portals = [Portal(town, token) for _ in range(8)]
    told: list[str] = []
    outcomes: dict[str, int] = {}
    lock = threading.Lock()

    def work(part: int) -> None:
        for step in steps[part::8]:
            found = portals[part].send("dossier-events", step)
            with lock:
                told.append(found["id"])
                outcomes[found["outcome"]] = outcomes.get(found["outcome"], 0) + 1

    began = time.monotonic()
    together(town, work, 8, lambda: None, seconds=60 + events / 20)
    for each in portals:
        each.close()
    print(f"{len(steps)} events in {time.monotonic() - began:.0f} s: {outcomes}")
    assert len(set(told)) == len(steps)
    assert set(outcomes) == {"queued", "older"}
    all_told(town, dossiers, 5)
    with town.services.session() as session:
        last = session.execute(
            text("""SELECT v.name, count(*)
                      FROM dossier d
                      JOIN message m ON m.id = d.message_id
                      JOIN campaign c ON c.id = m.campaign_id
                      JOIN template_version v ON v.version = c.template_version
                     WHERE d.code LIKE '000.A0.05.%' GROUP BY 1""")
        )
        # Whatever came in whichever order: the last that each was told is that the dossier is done.
        assert dict(last.all()) == {"dossier-done": dossiers}
        never_older = session.scalar(
            text("""SELECT count(*)
                      FROM dossier_event e JOIN dossier d USING (source, code, sandbox)
                     WHERE e.code LIKE '000.A0.05.%' AND e.outcome = 'older'
                       AND e.occurred_at >= d.notified_at""")
        )
    assert never_older == 0
