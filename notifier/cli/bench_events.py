"""`notifier bench events`: dossier events through the real API to the sink.

Alone and beside a campaign; bench/README.md says what each figure means.
"""

from __future__ import annotations

import http.client
import itertools
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from sqlalchemy import text

from notifier.cli.bench import OurSink, running, write_list
from notifier.domain import keys
from notifier.domain.campaign_files import Definition, load_definition
from notifier.errors import UnavailableError
from notifier.flows import control as story
from notifier.flows.launch import launch
from notifier.flows.lists import load_list
from notifier.instance.processes import LOOPBACK, kept_port
from notifier.services import Services
from notifier.states import MessageState

CONNECTIONS = 16
PER_SECOND = 50
_CAMPAIGN, _SECOND = "bench-beside", "bench-beside-rates"
_BATCH = 500
_BATCH_CONNECTIONS = 4
_SETTLED = ("accepted", "refused", "skipped", "expired", "cancelled", "given_up")
_err = Console(stderr=True, highlight=False)


def event(number: int, *, status: int = 2, at: datetime | None = None) -> dict[str, Any]:
    """Return the `number`-th invented event, of a dossier of its own."""
    day = 1 + number // 1_000_000
    return {
        "source": "portal",
        "code": f"000.A0.01.H26-2611{day:02d}-{number % 1_000_000:06d}",
        "status": status,
        "occurred_at": (at or datetime.now(UTC)).isoformat(),
        "procedure": "Đăng ký thuế lần đầu",
        "applicant": {"name": f"Hộ kinh doanh Ví Dụ {number}", "email": f"ho{number}@example.test"},
        "promised_at": (datetime.now(UTC) + timedelta(days=5)).isoformat(),
        "office": "Thuế cơ sở 1 thành phố Hà Nội",
    }


class Caller:
    """One connection to the API.

    What was reported is kept by the message's id, with the moment (epoch seconds) of the answer.
    """

    def __init__(self, port: int, key: str) -> None:
        """Connect lazily."""
        self._connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.reported: dict[str, float] = {}

    def post(self, path: str, body: Any) -> Any:
        """Send a request; raise UnavailableError when it is not taken."""
        self._connection.request("POST", f"/api/v1/{path}", orjson.dumps(body), self._headers)
        answer = self._connection.getresponse()
        raw = answer.read()
        if answer.status not in {200, 202}:
            raise UnavailableError(
                f"The API answered {answer.status}.", fix=raw.decode(errors="replace")[:300]
            )
        return orjson.loads(raw)

    def one(self, number: int) -> None:
        """Report one event."""
        found = self.post("dossier-events", event(number))
        self.reported[found["message_id"]] = time.time()

    def many(self, numbers: Sequence[int]) -> None:
        """Report a batch."""
        found = self.post("dossier-events/batch", {"events": [event(number) for number in numbers]})
        now = time.time()
        if found["refused"]:
            raise UnavailableError(
                "The API refused an event of a batch.", fix=str(found["results"])[:300]
            )
        self.reported.update((result["message_id"], now) for result in found["results"])


class Bench:
    """The parts of the measurement, over one running instance."""

    def __init__(self, services: Services, port: int, key: str) -> None:
        """Start numbering events."""
        self._services = services
        self._make: Callable[[], Caller] = lambda: Caller(port, key)
        self._numbers = itertools.count()
        self.reported: dict[str, float] = {}

    def _together(self, callers: Sequence[Caller], work: Any) -> float:
        """Let every caller work in a thread of its own; return the seconds it took."""
        began = time.perf_counter()
        with ThreadPoolExecutor(len(callers)) as pool:
            list(pool.map(work, callers))
        seconds = time.perf_counter() - began
        for caller in callers:
            self.reported |= caller.reported
        return seconds

    def singles(self, seconds: float) -> float:
        """Report events one by one over `CONNECTIONS` connections; return events a second."""
        deadline = time.perf_counter() + seconds
        callers = [self._make() for _ in range(CONNECTIONS)]

        def work(caller: Caller) -> None:
            while time.perf_counter() < deadline:
                caller.one(next(self._numbers))

        took = self._together(callers, work)
        return sum(len(caller.reported) for caller in callers) / took

    def batches(self, events: int) -> float:
        """Report events in batches; return events a second."""
        callers = [self._make() for _ in range(_BATCH_CONNECTIONS)]
        share = events // _BATCH // _BATCH_CONNECTIONS

        def work(caller: Caller) -> None:
            for _ in range(share):
                caller.many([next(self._numbers) for _ in range(_BATCH)])

        took = self._together(callers, work)
        return sum(len(caller.reported) for caller in callers) / took

    def latency(self, seconds: float, stop: threading.Event | None = None) -> tuple[float, float]:
        """Report `PER_SECOND` events a second.

        Return the median and the 99th percentile from a 202 to the server's 250, in ms.
        """
        callers = [self._make() for _ in range(CONNECTIONS)]
        began = time.perf_counter()
        total = int(seconds * PER_SECOND)

        def work(part: int) -> None:
            for place in range(part, total, CONNECTIONS):
                wait = began + place / PER_SECOND - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                if stop is not None and stop.is_set():
                    return
                callers[part].one(next(self._numbers))

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(work, range(CONNECTIONS)))
        reported: dict[str, float] = {}
        for caller in callers:
            reported |= caller.reported
        self.reported |= reported
        settled = self.settled(list(reported))
        waits = sorted(
            max(0.0, settled[each] - at) * 1000 for each, at in reported.items() if each in settled
        )
        if not waits:
            raise UnavailableError("No notice arrived.", fix="See the logs of the workers.")
        return waits[len(waits) // 2], waits[min(len(waits) - 1, len(waits) * 99 // 100)]

    def settled(self, wanted: Sequence[str], *, seconds: float = 60.0) -> dict[str, float]:
        """Wait until the messages are done; return when each was accepted (epoch seconds)."""
        deadline = time.monotonic() + seconds
        ids = [uuid.UUID(each) for each in wanted]
        while True:
            with self._services.session() as session:
                rows = session.execute(
                    text(
                        """SELECT id::text, extract(epoch FROM settled_at)::float8, state::text
                             FROM message WHERE id = ANY(:ids)"""
                    ),
                    {"ids": ids},
                ).all()
            if all(state in _SETTLED for _, _, state in rows) or time.monotonic() > deadline:
                return {number: at for number, at, state in rows if state == "accepted"}
            time.sleep(0.2)


def events(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Take less than 50 seconds: fewer events, a smaller campaign."
        ),
    ] = False,
) -> None:
    """Measure dossier events through the API, alone and beside a running campaign."""
    with tempfile.TemporaryDirectory(prefix="notifier-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # PostgreSQL may run as another user, who must be able to come in.
        folder.chmod(0o711)
        sink = OurSink().start()
        try:
            port = kept_port(folder / "web.port")
            with running(folder / "var", sink, 2, port=port) as instance:
                services = Services(instance.settings)
                with services.engine.begin() as connection:
                    key = keys.create(
                        connection,
                        name="bench",
                        scopes=["events:write"],
                        sandbox=False,
                        now=services.clock(),
                    )
                figures = measure(services, Bench(services, port, key), sink, quick=quick)
                services.close()
        finally:
            sink.stop()
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for label, value in figures.items():
        typer.echo(f"{label:<30} {value:,}")


@contextmanager
def campaign(
    services: Services, definition: Definition, audience: Path
) -> Iterator[threading.Event]:
    """Let a campaign run meanwhile, and wait for its end; the event says that it is over."""
    launch(services, definition, audience=audience)
    over = threading.Event()

    def watch() -> None:
        while not story.status(services, definition.name).over:
            time.sleep(0.5)
        over.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield over
    watcher.join(120)


def measure(services: Services, bench: Bench, sink: OurSink, *, quick: bool) -> dict[str, Any]:
    """Run all parts and return the figures."""
    mails = 60_000 if quick else 114_072
    path = services.settings.var / "bench.csv"
    write_list(path, mails)
    definition = replace(
        load_definition(services.settings.campaigns / "debt-notice.toml", name=_CAMPAIGN),
        window=None,
        not_after=None,
    )
    load_list(services, path, services.catalogue[definition.template])
    bench.latency(1)
    _err.print("Single events …")
    singles = bench.singles(3 if quick else 10)
    _err.print("Batches …")
    batches = bench.batches(8_000 if quick else 40_000)
    bench.settled(list(bench.reported))
    _err.print(f"{PER_SECOND} events a second …")
    alone = bench.latency(5 if quick else 20)
    _err.print(f"{PER_SECOND} events a second beside a campaign of {mails:,} …")
    with campaign(services, definition, path) as over:
        # Only while the campaign runs: a calm second behind it would flatter the figures.
        beside = bench.latency(60, stop=over)
    bench.settled(list(bench.reported))
    rates: dict[str, int] = {}
    if not quick:
        _err.print("Single events and batches beside another one …")
        with campaign(services, replace(definition, name=_SECOND), path) as over:
            rates = {
                "with_campaign_single_events_per_second": round(bench.singles(5)),
                "with_campaign_batch_events_per_second": round(bench.batches(10_000)),
            }
            if over.is_set():
                raise UnavailableError(
                    "The campaign was over before the events were taken.",
                    fix="Run it again, on an idle machine.",
                )
        bench.settled(list(bench.reported))
    sent = [
        story.status(services, name).counts.of(MessageState.ACCEPTED)
        for name in ([_CAMPAIGN] if quick else [_CAMPAIGN, _SECOND])
    ]
    received, distinct = sink.counts()
    wanted = len(bench.reported) + mails * len(sent)
    return {
        "single_events_per_second": round(singles),
        "batch_events_per_second": round(batches),
        "p50_ms": round(alone[0], 1),
        "p99_ms": round(alone[1], 1),
        "with_campaign_p50_ms": round(beside[0], 1),
        "with_campaign_p99_ms": round(beside[1], 1),
        **rates,
        "lost": wanted - (received if distinct is None else distinct),
        "duplicated": 0 if distinct is None else received - distinct,
        "events": len(bench.reported),
        "campaign_accepted": sum(sent),
    }
