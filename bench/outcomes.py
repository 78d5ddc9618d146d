"""Which way of keeping the outcomes of messages is cheapest: rows updated, or rows only added?

    python bench/outcomes.py --messages 114072           # some 25 minutes
    python bench/outcomes.py --candidates "A,L" --old 0  # two of them, side by side
    python bench/outcomes.py --readers                    # what reading costs, too

It starts a private PostgreSQL, plans a campaign and settles it with processes that do what a worker
does to the database: lease a batch of 500, load it, settle in groups of 32, release it. The
statements stand in `outcomes_sql.py`, frozen as they were for the decision of 2026-11-24
(docs/decisions). Candidates take turns of ten batches, each in a database of its own, so that a
noisy machine is fair to all.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import psycopg
from psycopg.rows import TupleRow

from bench import outcomes_sql as sql
from bench import outcomes_writer
from notifier.instance.servers.postgres import Postgres

# Batches of a turn: under a second of work, so that what else the machine does is shared fairly.
SLICE = 10


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


def megabytes(connection: psycopg.Connection[TupleRow]) -> float:
    """Return the size of the tables that hold messages and outcomes, with their indexes."""
    row = connection.execute(sql.SIZE).fetchone()
    return float(row[0]) / 1e6 if row else 0.0


def written(connection: psycopg.Connection[TupleRow]) -> int:
    """Return how many bytes of write-ahead log there are."""
    row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    return int(row[0]) if row else 0


class Run:
    """A candidate at work in a database of its own: planned, settled slice by slice, looked at."""

    def __init__(self, bench: Bench, candidate: sql.Candidate, *, old: int, writers: int) -> None:
        """Make the database, plan the campaign and start the writers."""
        self.bench = bench
        self.arguments = bench.arguments
        self.candidate = candidate
        self.name = f"run_{uuid.uuid4().hex[:8]}"
        template = bench.template(candidate.family, old)
        bench.admin.execute(f"CREATE DATABASE {self.name} TEMPLATE {template} STRATEGY FILE_COPY")
        url = f"{bench.base}/{self.name}"
        self.connection = psycopg.connect(url, autocommit=True, options="-c timezone=UTC")
        if candidate.setup:
            self.connection.execute(candidate.setup)
        self.empty = megabytes(self.connection)
        before = bench.cpu()
        self.connection.execute(sql.PLAN)
        self.plan_seconds = bench.cpu() - before
        self.holder: psycopg.Connection[TupleRow] | None = None
        if self.arguments.hold_snapshot:
            self.holder = psycopg.connect(url)
            self.holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.holder.execute("SELECT count(*) FROM campaign")
        ready = "SELECT id FROM batch WHERE state = 'ready' ORDER BY id"
        self.batches = [int(row[0]) for row in self.connection.execute(ready)]
        command = [sys.executable, outcomes_writer.__file__, candidate.name, url]
        self.writers = [
            subprocess.Popen(
                [*command, str(self.arguments.others)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(writers)
        ]
        # Client seconds, database seconds, bytes of log and wall seconds of each slice.
        self.slices: list[tuple[float, float, int, float]] = []

    def slice(self, number: int) -> None:
        """Let the writers settle the slice `number`, the others meanwhile wait."""
        batches = self.batches[number * SLICE : (number + 1) * SLICE]
        database, log, start = self.bench.cpu(), written(self.connection), time.perf_counter()
        for index, writer in enumerate(self.writers):
            if writer.stdin:
                writer.stdin.write(json.dumps(batches[index :: len(self.writers)]) + "\n")
                writer.stdin.flush()
        client = sum(float(writer.stdout.readline()) for writer in self.writers if writer.stdout)
        wall = time.perf_counter() - start
        log_bytes = written(self.connection) - log
        self.slices.append((client, self.bench.cpu() - database, log_bytes, wall))

    def end(self) -> dict[str, float]:
        """Stop the writers, check what they wrote and return the figures for a message."""
        for writer in self.writers:
            if writer.stdin:
                writer.stdin.close()
            writer.wait()
        if self.holder is not None:
            self.holder.close()
        full, before = megabytes(self.connection), self.bench.cpu()
        self.connection.execute("VACUUM")
        vacuum = self.bench.cpu() - before
        small = megabytes(self.connection)
        self.check()
        client, database, log, wall = map(sum, zip(*self.slices, strict=True))
        each = 1e6 / self.arguments.messages
        figures = {
            "plan_db_us": self.plan_seconds * each,
            "client_us": client * each,
            "db_us": database * each,
            "both_us": (client + database) * each,
            "wal_bytes": log / self.arguments.messages,
            "wall_us": wall * each,
            "vacuum_db_us": vacuum * each,
            "mb": full - self.empty,
            "mb_vacuumed": small - self.empty,
        }
        if self.arguments.readers:
            self.connection.execute(sql.FRESH[self.candidate.family])
            self.connection.execute("ANALYZE")
            figures |= self.read()
        self.connection.close()
        self.bench.admin.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
        return figures

    def check(self) -> None:
        """Raise unless every message has an outcome and the tally says the same as the rows."""
        name = self.candidate.name
        rows: dict[str, int] = dict(self.connection.execute(self.candidate.count_rows).fetchall())
        if sum(rows.values()) != self.arguments.messages or rows.get("queued"):
            raise RuntimeError(f"{name}: {rows}")
        tally: dict[str, int] = dict(self.connection.execute(sql.COUNT_TALLY).fetchall())
        if self.candidate.tally and tally != rows:
            raise RuntimeError(f"{name}: {rows}, but the tally says {tally}")

    def read(self) -> dict[str, float]:
        """Return how long each reader takes, in milliseconds (best of five)."""
        found = {}
        for reader, statement in sql.readers(self.candidate).items():
            times = []
            for _ in range(5):
                start = time.perf_counter()
                self.connection.execute(statement).fetchall()
                times.append((time.perf_counter() - start) * 1000)
            found[f"ms {reader}"] = min(times)
        return found


class Bench:
    """A server, and a template database for each family of candidates."""

    def __init__(self, server: Postgres, arguments: argparse.Namespace) -> None:
        """Remember the server and the arguments."""
        self.server = server
        self.arguments = arguments
        self.base = server.url.rsplit("/", 1)[0]
        self.admin = psycopg.connect(server.url, autocommit=True)

    def cpu(self) -> float:
        """Return CPU seconds of PostgreSQL so far, ended backends included."""
        return cpu(self.server.pid)

    def template(self, family: str, old: int) -> str:
        """Make, once, the database with the list of recipients and `old` settled messages."""
        name = f"template_{family.lower()}_{old}"
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if self.admin.execute(query, (name,)).fetchone():
            return name
        self.admin.execute(f"CREATE DATABASE {name}")
        with psycopg.connect(f"{self.base}/{name}", autocommit=True) as connection:
            connection.execute(sql.COMMON + (sql.MESSAGE if family == "A" else sql.PLAN_OUTCOME))
            for statement in sql.partitions(family, self.arguments.months):
                connection.execute(statement)
            connection.execute(sql.REGISTER.format(messages=self.arguments.messages))
            for campaign in range(2, 2 + old // 100_000):
                connection.execute(sql.OLD[family].format(campaign=campaign, messages=100_000))
            connection.execute("VACUUM ANALYZE")
        return name

    def round(self, names: list[str], *, old: int, writers: int) -> dict[str, dict[str, float]]:
        """Let the candidates settle the same campaign in turns, a slice each; return figures."""
        runs = [Run(self, sql.CANDIDATES[name], old=old, writers=writers) for name in names]
        if self.arguments.checkpoint:
            self.admin.execute("CHECKPOINT")
        for number in range(-(-len(runs[0].batches) // SLICE)):
            # There and back, so that no candidate always follows the same one.
            for run in runs if number % 2 == 0 else reversed(runs):
                run.slice(number)
        each = 1e6 / 500 / SLICE
        found = {}
        for run in runs:
            # The last slice is smaller than the others, the first pays for plans and connections.
            pairs = list(zip(run.slices, runs[0].slices, strict=True))[1:-1] or [
                (run.slices[0],) * 2
            ]
            ahead = statistics.median((a[0] + a[1] - b[0] - b[1]) * each for a, b in pairs)
            found[run.candidate.name] = {"against_first_us": ahead}
        for run in runs:
            found[run.candidate.name] |= run.end()
        return found


def show(name: str, runs: list[dict[str, float]]) -> None:
    """Print the medians of a candidate's rounds."""
    shown = {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
    print(f"{name:4}", json.dumps(shown), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(sql.CANDIDATES)
    add = parser.add_argument
    add("--messages", type=int, default=114_072)
    add("--candidates", default=",".join(sql.DECISION), help=f"some of {known}")
    add("--writers", default="1,2", help="numbers of worker processes")
    add("--old", default="0,1000000", help="numbers of settled messages that are there before")
    add("--others", type=float, default=0.01, help="share of messages not accepted")
    add("--rounds", type=int, default=3)
    add("--months", type=int, default=3, help="monthly partitions")
    add("--checkpoint", action="store_true", help="between plan and first settle")
    add("--hold-snapshot", action="store_true", help="another session keeps an old snapshot")
    add("--readers", action="store_true", help="time the readers too")
    arguments = parser.parse_args()
    cores = psutil.cpu_count()
    print(f"# Python {platform.python_version()}, psycopg {psycopg.__version__}, {cores} cores")
    with (
        tempfile.TemporaryDirectory(prefix="notifier-bench-") as folder,
        Postgres(Path(folder) / "postgres") as server,
    ):
        bench = Bench(server, arguments)
        names = arguments.candidates.split(",")
        for old in map(int, arguments.old.split(",")):
            for writers in map(int, arguments.writers.split(",")):
                rounds = [
                    bench.round(names, old=old, writers=writers) for _ in range(arguments.rounds)
                ]
                print(f"\n## {writers} writers, {old} old rows; medians of {arguments.rounds}")
                for name in names:
                    show(name, [each[name] for each in rounds])
        bench.admin.close()


if __name__ == "__main__":
    main()
