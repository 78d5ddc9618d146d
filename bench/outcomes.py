"""Which way of keeping the outcomes of messages is cheapest: rows updated, or rows only added?

    python bench/outcomes.py --messages 114072                       # the table, some 20 minutes
    python bench/outcomes.py --candidates "A,A*'" --writers 2 --old 0  # two of them, side by side
    python bench/outcomes.py --readers                                # what reading costs

It starts a private PostgreSQL, plans a campaign and settles it with real worker processes that do
what a worker does to the database and nothing else: lease a batch of 500, load it, settle in groups
of 32, release it. The statements stand in `outcomes_sql.py`, frozen as they were when the decision
in docs/decisions/0001 was taken. Candidates take turns, so that a noisy machine is fair to all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString, cast

import psutil
import psycopg
import uvloop
from psycopg.rows import TupleRow

from bench import outcomes_sql as sql
from notifier.embedded.postgres import Postgres

BATCH, GROUP, WINDOW, LEASE_SECONDS = 500, 32, 64, 30
REPLY, HOST = "250 2.0.0 Ok: queued as 4F1B2C3D4E{:05d}", "mx1.example.test [192.0.2.17]:25"
# One of three for what is not accepted: state, reply, whether the address is dead.
OTHERS = (
    ("refused", "550 5.1.1 No such user here", True),
    ("deferred", "451 4.7.1 Greylisted, try again later", False),
    ("skipped", "unsubscribed", False),
)
# What every sending connection of the product sets.
OPTIONS = (
    "-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off -c jit=off "
    "-c plan_cache_mode=force_generic_plan -c max_parallel_workers_per_gather=0 -c timezone=UTC"
)


def execute(connection: psycopg.Connection[TupleRow], statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[TupleRow]:
    """Execute a statement that was put together from constants."""
    return connection.execute(cast(LiteralString, statement), values or None)


# --- a writer: what a worker does to the database -------------------------------------------------


def literal(values: Iterable[object]) -> str:
    """Return an array literal of numbers and plain words, as the product's ledger does."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def texts(values: Iterable[str]) -> str:
    """Return an array literal of arbitrary texts, as the product's ledger does."""
    quoted = [value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", " ") for value in values]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


class Writer:
    """A worker process's connection; outcomes are invented, a share `others` of them not accepted."""

    def __init__(self, candidate: sql.Candidate, others: float) -> None:
        """Remember what to do."""
        self.how = candidate
        self.others = others
        self.connection: psycopg.AsyncConnection[TupleRow]

    async def fetch(self, statement: str, values: Sequence[Any]) -> list[TupleRow]:
        """Execute as the product's `Ledger._fetch` does."""
        cursor = await self.connection.execute(cast(LiteralString, statement), values)
        return await cursor.fetchall() if cursor.description else []

    def outcomes(self, rows: Sequence[TupleRow]) -> list[tuple[Any, ...]]:
        """Return (position, id, state, at, attempts, detail, host, sha256, due, dead, address)."""
        made = []
        for row in rows:
            now, sha256 = time.time(), f"{row[0]:064x}"
            if random.random() < self.others:
                state, detail, dead = random.choice(OTHERS)
                due = now + 900 if state == "deferred" else None
                made.append((row[0], row[1], state, now, 1, detail, HOST, sha256, due, dead, row[2]))
            else:
                made.append((row[0], row[1], "accepted", now, 1, REPLY.format(row[0]), HOST, sha256, None, False, row[2]))
        return made

    async def settle(self, lease: tuple[Any, ...], mark: int, group: list[tuple[Any, ...]], loaded: float) -> None:
        """Write a group by the candidate's statement."""
        batch, owner = lease[0], lease[1]
        head = (mark, LEASE_SECONDS, bool(group), batch, owner)
        position, ids, state, at, attempts, detail, host, sha256, due, dead, address = zip(*group, strict=True) if group else [()] * 11
        plain = bool(group) and all(each[2] == "accepted" for each in group)
        if plain and self.how.copy:
            return await self.copy(head, lease, group, loaded)
        key, span = literal(position if self.how.family == "A" else ids), ()
        if self.how.bounds:
            span = (min(ids), max(ids)) if group else (uuid.UUID(int=0), uuid.UUID(int=0))
        if plain and self.how.plain:
            lists: tuple[Any, ...] = (key, literal(at), texts(detail), texts(host), texts(sha256))
            await self.fetch(self.how.plain, (*head, *lists, *span, loaded))
            return None
        doubts = literal([0] * len(group))
        lists = (key, literal(state), literal(at), literal(attempts), doubts, texts(detail), texts(host), texts(sha256), literal(due))
        if self.how.family == "A":
            lists = (*lists, literal(dead), *span)
        else:
            lists = (*lists, literal([None] * len(group)), literal([a for a, d in zip(address, dead, strict=True) if d]))
        await self.fetch(self.how.settle, (*head, *lists, loaded))
        return None

    async def copy(self, head: tuple[Any, ...], lease: tuple[Any, ...], group: list[tuple[Any, ...]], loaded: float) -> None:
        """Write accepted outcomes by COPY, in one transaction with the watermark and the tally.

        libpq allows no COPY within a pipeline, so that this takes four round trips.
        """
        connection = self.connection
        async with connection.pipeline():
            await connection.execute("BEGIN")
            await connection.execute(sql.COPY_LEASE, head)
        lines = [f"{o[1]}\t{lease[0]}\t{datetime.fromtimestamp(o[3], UTC)}\t{o[5]}\t{o[6]}\t\\\\x{o[7]}\n" for o in group]
        async with connection.cursor().copy(sql.COPY_OUTCOME) as copy:
            await copy.write("".join(lines))
        async with connection.pipeline():
            values = (lease[2], lease[3], group[0][3], lease[0], len(group), loaded, lease[2])
            cursor = await connection.execute(sql.COPY_TALLY, values)
            await connection.execute("COMMIT")
        await cursor.fetchall()

    async def batch(self, batch_id: int) -> None:
        """Lease, load, settle and release one batch."""
        owner = uuid.uuid4()
        leased = await self.fetch(sql.LEASE, (owner, LEASE_SECONDS, batch_id))
        campaign_id, route = leased[0]
        lease, loaded = (batch_id, owner, campaign_id, route), time.time()
        rows = await self.fetch(self.how.load, ("tax-policy", batch_id))
        await self.settle(lease, rows[min(WINDOW, len(rows)) - 1][0], [], loaded)
        for start in range(0, len(rows), GROUP):
            mark = rows[min(start + GROUP + WINDOW, len(rows)) - 1][0]
            await self.settle(lease, mark, self.outcomes(rows[start : start + GROUP]), loaded)
        if self.how.at_release:
            await self.fetch(self.how.at_release, (batch_id,))
        released = await self.fetch(self.how.release, (batch_id, owner))
        if released[0][0] == "done":
            await self.fetch(self.how.finish, (campaign_id,))

    async def run(self, url: str, batches: Sequence[int]) -> dict[str, float]:
        """Do the batches; return the CPU seconds used."""
        self.connection = await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=1, options=OPTIONS)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.time()
        for batch_id in batches:
            await self.batch(batch_id)
        after = resource.getrusage(resource.RUSAGE_SELF)
        await self.connection.close()
        return {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "start": start, "end": time.time()}


# --- a run ----------------------------------------------------------------------------------------


def cpu(postmaster: int) -> float:
    """Return CPU seconds of PostgreSQL so far, ended backends included."""
    total = 0.0
    parent = psutil.Process(postmaster)
    for process in (parent, *parent.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


class Bench:
    """A server, a template database for each family of candidates, and runs in copies of them."""

    def __init__(self, server: Postgres, arguments: argparse.Namespace) -> None:
        """Remember the server and the arguments."""
        self.server = server
        self.arguments = arguments
        self.base = server.url.rsplit("/", 1)[0]
        self.admin = psycopg.connect(server.url, autocommit=True)

    def template(self, family: str, old: int) -> str:
        """Make the database with the register, a list of recipients and `old` settled messages, once."""
        name = f"template_{family.lower()}_{old}"
        if self.admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            return name
        execute(self.admin, f"CREATE DATABASE {name}")
        with psycopg.connect(f"{self.base}/{name}", autocommit=True) as connection:
            execute(connection, sql.COMMON + (sql.MESSAGE if family == "A" else sql.PLAN_AND_OUTCOME))
            for statement in sql.partitions(family, self.arguments.months):
                execute(connection, statement)
            execute(connection, sql.REGISTER.format(messages=self.arguments.messages))
            for campaign in range(2, 2 + old // 100_000):
                execute(connection, sql.OLD[family].format(campaign=campaign, messages=100_000))
            execute(connection, "VACUUM ANALYZE")
        return name

    def run(self, candidate: sql.Candidate, writers: int, old: int, *, keep: bool = False) -> dict[str, float]:
        """Plan and settle a campaign in a database of its own; return the figures, microseconds a message."""
        name, messages = f"run_{uuid.uuid4().hex[:8]}", self.arguments.messages
        execute(self.admin, f"CREATE DATABASE {name} TEMPLATE {self.template(candidate.family, old)} STRATEGY FILE_COPY")
        url = f"{self.base}/{name}"
        with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:

            def mark() -> tuple[float, int]:
                row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
                return cpu(self.server.pid), int(row[0]) if row else 0

            def size() -> float:
                row = execute(connection, sql.SIZE, (candidate.tables,)).fetchone()
                return float(row[0]) / 1e6 if row else 0.0

            if candidate.setup:
                execute(connection, candidate.setup)
            empty, (at_first, _) = size(), mark()
            execute(connection, sql.PLAN)
            if self.arguments.checkpoint:
                connection.execute("CHECKPOINT")
            if self.arguments.hold_snapshot:
                holder = psycopg.connect(url)
                holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT count(*) FROM campaign")
            batches = [row[0] for row in connection.execute("SELECT id FROM batch WHERE state = 'ready' ORDER BY id")]
            planned, wal = mark()
            results = self.write(candidate, url, [batches[number::writers] for number in range(writers)])
            settled, wal_after = mark()
            if self.arguments.hold_snapshot:
                holder.close()
            full = size()
            connection.execute("VACUUM")
            vacuumed, _ = mark()
            small = size()
            self.check(connection, candidate)
            client = sum(each["cpu"] for each in results)
            wall = max(each["end"] for each in results) - min(each["start"] for each in results)
            each = 1e6 / messages
            figures = {
                "plan_db_us": (planned - at_first) * each, "client_us": client * each, "db_us": (settled - planned) * each,
                "both_us": (client + settled - planned) * each, "wal_bytes": (wal_after - wal) / messages,
                "wall_us": wall * each, "mb": full - empty, "mb_vacuumed": small - empty, "vacuum_us": (vacuumed - settled) * each,
            }  # fmt: skip
            if keep:
                execute(connection, sql.FRESH[candidate.family])
                connection.execute("ANALYZE")
                figures |= self.read(connection, candidate)
        execute(self.admin, f"DROP DATABASE {name} WITH (FORCE)")
        return figures

    def write(self, candidate: sql.Candidate, url: str, shares: list[list[int]]) -> list[dict[str, float]]:
        """Let one process a share settle it."""
        tasks = []
        for share in shares:
            command = [sys.executable, __file__, "--writer", candidate.name, "--others", str(self.arguments.others)]
            task = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            tasks.append((task, json.dumps({"url": url, "batches": share})))
        for task, order in tasks:
            if task.stdin:
                task.stdin.write(order)
                task.stdin.close()
        results = [json.loads(task.stdout.read()) for task, _ in tasks if task.stdout]
        for task, _ in tasks:
            task.wait()
        return results

    def check(self, connection: psycopg.Connection[TupleRow], candidate: sql.Candidate) -> None:
        """Raise unless every message has one outcome and the tally says the same as the rows."""
        counted = dict(execute(connection, candidate.count_rows).fetchall())
        if sum(counted.values()) != self.arguments.messages or counted.get("queued"):
            raise RuntimeError(f"{candidate.name}: {counted}")
        if candidate.tally and dict(connection.execute(sql.COUNT_TALLY).fetchall()) != counted:
            raise RuntimeError(f"{candidate.name}: the tally disagrees")

    def read(self, connection: psycopg.Connection[TupleRow], candidate: sql.Candidate) -> dict[str, float]:
        """Return how long each reader takes, in milliseconds (best of five)."""
        found = {}
        for reader, statement in sql.readers(candidate).items():
            times = []
            for _ in range(5):
                start = time.perf_counter()
                execute(connection, statement).fetchall()
                times.append((time.perf_counter() - start) * 1000)
            found[f"read {reader}"] = min(times)
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=114_072)
    parser.add_argument("--candidates", default=",".join(sql.DECISION), help=f"some of {', '.join(sql.CANDIDATES)}")
    parser.add_argument("--writers", default="1,2", help="numbers of worker processes")
    parser.add_argument("--old", default="0,1000000", help="numbers of settled messages that are there before")
    parser.add_argument("--others", type=float, default=0.01, help="share of messages not accepted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--months", type=int, default=3, help="monthly partitions")
    parser.add_argument("--checkpoint", action="store_true", help="between planning and settling, as on a campaign that waits")
    parser.add_argument("--hold-snapshot", action="store_true", help="another session keeps an old snapshot meanwhile")
    parser.add_argument("--readers", action="store_true", help="time the readers too")
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.writer:
        order = json.load(sys.stdin)
        random.seed(order["batches"][0])
        writer = Writer(sql.CANDIDATES[arguments.writer], arguments.others)
        print(json.dumps(uvloop.run(writer.run(order["url"], order["batches"]))))
        return
    print(f"# Python {platform.python_version()}, psycopg {psycopg.__version__}, {psutil.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="notifier-bench-") as folder, Postgres(Path(folder) / "postgres") as server:
        bench = Bench(server, arguments)
        for old in map(int, arguments.old.split(",")):
            for writers in map(int, arguments.writers.split(",")):
                rounds: dict[str, list[dict[str, float]]] = {}
                for number in range(arguments.rounds):
                    # There and back, so that no candidate always follows the same one.
                    for name in arguments.candidates.split(",")[:: 1 if number % 2 == 0 else -1]:
                        figures = bench.run(sql.CANDIDATES[name], writers, old, keep=arguments.readers)
                        rounds.setdefault(name, []).append(figures)
                print(f"\n## {writers} writer(s), {old} old rows, others {arguments.others}; medians of {arguments.rounds}")
                for name, runs in rounds.items():
                    shown = {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
                    shown["both_least_us"] = round(min(run["both_us"] for run in runs), 1)
                    print(f"{name:6}", json.dumps(shown), flush=True)
        bench.admin.close()


if __name__ == "__main__":
    main()
