"""A whole system, started once for the journeys of a module.

Helpers send a campaign through it and count at the sink.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from notifier.cli.demo import write_list
from notifier.cli.up import make_instance
from notifier.domain.campaign_files import Definition, load_definition
from notifier.flows import control as story
from notifier.flows.launch import launch
from notifier.instance.servers.catcher import Catcher
from notifier.instance.supervisor import Instance
from notifier.services import Services
from notifier.settings import Settings
from notifier.testing import ROOT

WINDOW = 64


@dataclass
class World:
    """A running system and its sink."""

    instance: Instance
    services: Services
    folder: Path
    number: int = 0

    @property
    def sink(self) -> Catcher:
        """The catcher at which lost and doubled mail is counted."""
        assert self.instance.catcher is not None
        return self.instance.catcher

    def definition(self, **changes: object) -> Definition:
        """Return the debt notice's campaign under a new name."""
        self.number += 1
        found = load_definition(
            ROOT / "campaigns" / "debt-notice.toml", name=f"journey-{self.number}"
        )
        return replace(found, **changes)  # type: ignore[arg-type]

    def launch(
        self,
        mails: int,
        *,
        delay_ms: float = 0.0,
        definition: Definition | None = None,
        **script: object,
    ) -> str:
        """Launch a campaign of `mails` invented businesses against a fresh sink.

        Return its name.
        """
        path = self.folder / f"list-{mails}.csv"
        if not path.exists():
            write_list(path, mails)
        self.sink.ask(reset=True, script={"delay_ms": delay_ms, **script})
        return launch(self.services, definition or self.definition(), audience=path).name

    def status(self, name: str) -> story.Status:
        """Return where a campaign stands."""
        return story.status(self.services, name)

    def until(self, what: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Wait until something is so.

        Parts that died meanwhile are started again, as `notifier up` does.
        """
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.instance.tend()
            time.sleep(0.02)

    def until_done(self, name: str, share: float) -> None:
        """Wait until a share of the campaign's mails is done."""
        total = self.status(name).campaign.total
        self.until(lambda: self.status(name).done >= total * share)

    def finish(self, name: str, *, seconds: float = 90.0) -> story.Status:
        """Wait until the campaign is over, check that its books are right, return its status."""
        self.until(lambda: self.status(name).over, seconds=seconds)
        found = self.status(name)
        assert sum(found.counts.states.values()) == found.campaign.total
        self.nothing_is_lost(name)
        return found

    def nothing_is_lost(self, name: str) -> None:
        """Check at the sink: every message that counts as accepted is there."""
        there = self.sink.ask(ids=True)["message_ids"]
        with self.services.session() as session:
            accepted = session.scalars(
                text("""SELECT m.id::text FROM message m JOIN campaign c ON c.id = m.campaign_id
                         WHERE c.name = :name AND m.state = 'accepted'"""),
                {"name": name},
            ).all()
        domain = self.instance.settings.mail_domain
        lost = [each for each in accepted if f"<{each}@{domain}>" not in there]
        assert not lost

    def worker_children(self) -> list[psutil.Process]:
        """Return the processes that send campaigns."""
        return psutil.Process(self.instance.processes["worker-campaign"]).children()

    def kill(self, pid: int) -> None:
        """End a process the hard way."""
        os.kill(pid, signal.SIGKILL)


def start_world(folder: Path, **changes: object) -> World:
    """Start a system in `folder` with short leases."""
    base = Settings(
        var=folder / "var",
        templates=ROOT / "templates",
        campaigns=ROOT / "campaigns",
        lease_seconds=2.0,
        sweep_seconds=0.3,
        smtp_timeout_seconds=1.0,
        retry_minutes=(0.01,),
        connections=8,
        log_format="json",
    )
    settings = base.replace(**changes)
    instance = make_instance(
        settings, port=8000, workers=2, web=False, logs=False, keep_mail=False
    ).start()
    return World(instance, Services(instance.settings), folder)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running system for a module's journeys."""
    folder = Path(tempfile.mkdtemp(prefix="notifier-journey-"))
    found = start_world(folder)
    yield found
    found.services.close()
    found.instance.stop()
    shutil.rmtree(folder, ignore_errors=True)
