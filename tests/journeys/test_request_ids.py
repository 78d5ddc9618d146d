"""A request's id goes with what it causes.

It stands in the answer, in the task's header and in the worker's log.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from fastapi.testclient import TestClient

from notifier.cli.up import make_instance
from notifier.domain import keys
from notifier.services import Services
from notifier.settings import Settings
from notifier.testing import ROOT
from notifier.web.api.models import EVENT
from notifier.web.app import create_app


def test_the_id_of_a_request_reaches_the_log_of_the_worker(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    settings = Settings(
        var=tmp_path / "var",
        templates=ROOT / "templates",
        campaigns=ROOT / "campaigns",
        sources=ROOT / "sources",
        log_format="json",
        log_level="DEBUG",
    )
    log = settings.var / "logs" / "worker-notice.log"
    with make_instance(
        settings, port=0, workers=1, web=False, logs=False, keep_mail=False
    ) as instance:
        services = Services(instance.settings)
        with services.engine.begin() as connection:
            token = keys.create(
                connection,
                name="portal",
                scopes=["events:write"],
                sandbox=False,
                now=services.clock(),
            )
        with TestClient(
            create_app(services),
            headers={"Authorization": f"Bearer {token}", "X-Request-Id": "onestop-4711"},
        ) as client:
            answer = client.post("/api/v1/dossier-events", json=EVENT)
        assert (answer.status_code, answer.headers["x-request-id"]) == (202, "onestop-4711")
        found: list[dict[str, str]] = []
        for _ in range(100):
            lines = log.read_text().splitlines() if log.exists() else []
            found = [
                json.loads(line)
                for line in lines
                if '"gathered"' in line and "onestop-4711" in line
            ]
            if found:
                break
            instance.tend()
            time.sleep(0.1)
        services.close()
    assert found[0]["requests"] == "onestop-4711"
