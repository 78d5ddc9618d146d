"""How many one-click requests a second are taken, and how long one waits.

Run: .venv/bin/python bench/unsubscribe.py [--json]

Starts a whole system of its own (database, broker, catcher, workers, web) with an invented
register, and sends RFC 8058 POSTs to it, each for another address, over kept-alive connections from
this process: so the client shares the machine with all parts. First as fast as it goes, then paced
while a campaign to everybody is being sent. At the end it counts in the database: every request
that was answered with 200 has its suppression and a confirmation: one for each address, or for
topics stopped at the same moment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import uvloop
from sqlalchemy import text

from notifier.cli.demo import write_list
from notifier.cli.up import make_instance
from notifier.domain.campaign_files import load_definition
from notifier.flows import control as story
from notifier.flows.launch import launch
from notifier.instance.supervisor import Instance
from notifier.services import Services
from notifier.settings import Settings

TOPICS = ("tax-policy", "settlement-guidance")
BODY = b"List-Unsubscribe=One-Click"


def request(token: str) -> bytes:
    """Return a one-click request as a provider sends it."""
    head = (
        f"POST /u/{token} HTTP/1.1\r\nHost: notices.example.test\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
    )
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Client:
    """Connections to the web server, and how long each answer took (seconds)."""

    def __init__(self, port: int, connections: int) -> None:
        """Prepare `connections` connections."""
        self._port = port
        self._connections = connections
        self.seconds: list[float] = []
        self.failures = 0

    async def _one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        content: bytes,
        started: float,
    ) -> None:
        writer.write(content)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        if head.startswith(b"HTTP/1.1 200"):
            self.seconds.append(time.perf_counter() - started)
        else:
            self.failures += 1

    async def run(self, contents: list[bytes], per_second: float | None) -> float:
        """Send all.

        Paced requests are timed from when they were due, so that a stall counts for all that it
        holds up.
        """
        start = time.perf_counter()
        waiting: asyncio.Queue[tuple[float | None, bytes]] = asyncio.Queue()

        async def work() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            with contextlib.suppress(
                asyncio.QueueShutDown
                if hasattr(asyncio, "QueueShutDown")
                else asyncio.CancelledError
            ):
                while True:
                    due, content = await waiting.get()
                    await self._one(
                        reader, writer, content, time.perf_counter() if due is None else due
                    )
                    waiting.task_done()

        if per_second is None:
            for content in contents:
                waiting.put_nowait((None, content))
        workers = [asyncio.create_task(work()) for _ in range(self._connections)]
        if per_second is not None:
            for number, content in enumerate(contents):
                due = start + number / per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                waiting.put_nowait((due, content))
        await waiting.join()
        for worker in workers:
            worker.cancel()
        return time.perf_counter() - start


def percentile(seconds: list[float], part: int) -> float:
    """Return a percentile in milliseconds."""
    return round(statistics.quantiles(seconds, n=100)[part - 1] * 1000, 1)


def measure(
    port: int, contents: list[bytes], *, connections: int, per_second: float | None = None
) -> dict[str, float]:
    """Send `contents` and return how they were answered.

    That is the rate, p50, p99 and slowest (milliseconds), and how many were not answered with 200.
    """
    client = Client(port, connections)
    seconds = uvloop.run(client.run(contents, per_second))
    return {
        "posts": len(contents),
        "per_second": round(len(contents) / seconds, 1),
        "p50_ms": percentile(client.seconds, 50),
        "p99_ms": percentile(client.seconds, 99),
        "slowest_ms": round(max(client.seconds) * 1000, 1),
        "failures": client.failures,
    }


def requests_for(services: Services, posts: int) -> list[bytes]:
    """Return a request for each of `posts` pairs of address and optional topic, in random order."""
    with services.session() as session:
        ids = list(session.scalars(text("SELECT id FROM address ORDER BY id")))
    pairs = [(address_id, topic) for topic in TOPICS for address_id in ids]
    random.Random(1).shuffle(pairs)
    return [request(services.signer.token(*pair)) for pair in pairs[:posts]]


def books(services: Services) -> dict[str, int]:
    """Return how many opt-outs and confirmations are recorded."""
    with services.session() as session:
        stops = session.scalar(text("SELECT count(*) FROM suppression"))
        mails = session.scalar(
            text(
                "SELECT count(*) FROM message m JOIN campaign c ON c.id = m.campaign_id "
                "WHERE c.kind = 'transactional'"
            )
        )
    return {"suppressions": int(stops or 0), "confirmations": int(mails or 0)}


def campaign_runs(services: Services, name: str) -> bool:
    """Say whether the campaign is still being sent."""
    return not story.status(services, name).over


def run(instance: Instance, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Measure against a started instance."""
    services = Services(instance.settings)
    path = folder / "list.csv"
    write_list(path, arguments.businesses)
    definition = replace(
        load_definition(instance.settings.campaigns / "debt-notice.toml", name="bench-unsubscribe"),
        window=None,
    )
    stop_tending = threading.Event()
    tending = threading.Thread(target=instance.run, args=(stop_tending,), daemon=True)
    tending.start()
    # The first launch loads the register, so the requests find it at its real size.
    launch(services, definition, audience=path)
    while campaign_runs(services, definition.name):
        time.sleep(0.2)
    contents = requests_for(services, arguments.posts + int(arguments.rate * arguments.seconds))
    flat_out = measure(
        instance.port, contents[: arguments.posts], connections=arguments.connections
    )
    second = replace(definition, name="bench-unsubscribe-2")
    campaigning = threading.Thread(
        target=launch, args=(services, second), kwargs={"audience": path}
    )
    campaigning.start()
    campaigning.join()
    paced = measure(
        instance.port,
        contents[arguments.posts :],
        connections=arguments.connections,
        per_second=arguments.rate,
    )
    running = campaign_runs(services, second.name)
    stop_tending.set()
    tending.join()
    found = books(services)
    services.close()
    return {
        "flat_out": flat_out,
        "while_a_campaign_runs": paced | {"campaign_still_ran": running},
        **found,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--posts", type=int, default=10_000, help="requests of the run without pause"
    )
    parser.add_argument(
        "--rate", type=float, default=200.0, help="requests a second of the paced run"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the paced run")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--businesses", type=int, default=114_072)
    parser.add_argument("--port", type=int, default=8137)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="notifier-bench-") as name:
        folder = Path(name)
        given = Settings.from_env({"NOTIFIER_VAR": str(folder / "var")})
        with make_instance(
            given, port=arguments.port, workers=2, logs=False, keep_mail=False
        ) as instance:
            figures = run(instance, folder, arguments)
    if arguments.json:
        print(json.dumps(figures))
        return
    for title, value in figures.items():
        shown = (
            ", ".join(f"{key} {each}" for key, each in value.items())
            if isinstance(value, dict)
            else value
        )
        print(f"{title:<24} {shown}")


if __name__ == "__main__":
    main()
