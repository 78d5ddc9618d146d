"""A process of `outcomes.py`: it does to the database what a sending worker does, no more."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
import uvloop
from psycopg.rows import TupleRow

from bench import outcomes_sql as sql

GROUP, WINDOW, LEASE_SECONDS = 32, 64, 30
REPLY, HOST = "250 2.0.0 Ok: queued as 4F1B2C3D4E{:05d}", "mx1.example.test [192.0.2.17]:25"
# One of three for what is not accepted: state, reply, whether the address is dead.
OTHERS = (
    ("refused", "550 5.1.1 No such user here", True),
    ("deferred", "451 4.7.1 Greylisted, try again later", False),
    ("skipped", "unsubscribed", False),
)
NOBODY = uuid.UUID(int=0)
# What every sending connection of the product sets.
OPTIONS = (
    "-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off -c jit=off "
    "-c plan_cache_mode=force_generic_plan -c max_parallel_workers_per_gather=0 -c timezone=UTC"
)


def literal(values: Iterable[object]) -> str:
    """Return an array literal of numbers and plain words, as the product's ledger does."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def texts(values: Iterable[str]) -> str:
    """Return an array literal of arbitrary texts, as the product's ledger does."""
    quoted = [
        value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", " ") for value in values
    ]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


class Writer:
    """A worker's connection; outcomes are invented, a share `others` of them not accepted."""

    def __init__(self, how: sql.Candidate, others: float) -> None:
        """Remember what to do."""
        self.how = how
        self.others = others
        self.connection: psycopg.AsyncConnection[TupleRow]

    async def fetch(self, statement: str, values: Sequence[Any]) -> list[TupleRow]:
        """Execute as the product's `Ledger._fetch` does."""
        cursor = await self.connection.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []

    def outcomes(self, rows: Sequence[TupleRow]) -> list[tuple[Any, ...]]:
        """Return (position, id, state, at, detail, host, sha256, due, dead, address) for each."""
        made = []
        for row in rows:
            now, sha256 = time.time(), f"{row[0]:064x}"
            state, detail, dead = "accepted", REPLY.format(row[0]), False
            if random.random() < self.others:
                state, detail, dead = random.choice(OTHERS)
            due = now + 900 if state == "deferred" else None
            made.append((row[0], row[1], state, now, detail, HOST, sha256, due, dead, row[2]))
        return made

    async def settle(
        self, lease: tuple[Any, ...], mark: int, group: list[tuple[Any, ...]], loaded: float
    ) -> None:
        """Write a group by the candidate's statement."""
        head = (mark, LEASE_SECONDS, bool(group), *lease[:2])
        columns = zip(*group, strict=True) if group else [()] * 10
        position, ids, state, at, detail, host, sha256, due, dead, address = columns
        plain = bool(group) and all(each == "accepted" for each in state)
        if plain and self.how.copy:
            await self.copy(head, lease, group, loaded)
            return
        key = literal(position if self.how.family == "A" else ids)
        span: tuple[Any, ...] = ()
        if self.how.bounds:
            span = (min(ids), max(ids)) if group else (NOBODY, NOBODY)
        written = (texts(detail), texts(host), texts(sha256))
        if plain and self.how.plain:
            await self.fetch(self.how.plain, (*head, key, literal(at), *written, *span, loaded))
            return
        tries, doubts = literal([1] * len(group)), literal([0] * len(group))
        lists: tuple[str, ...]
        lists = (key, literal(state), literal(at), tries, doubts, *written, literal(due))
        if self.how.family == "A":
            lists = (*lists, literal(dead), *span)
        else:
            dead_ones = [each for each, is_dead in zip(address, dead, strict=True) if is_dead]
            lists = (*lists, literal([None] * len(group)), literal(dead_ones))
        await self.fetch(self.how.settle, (*head, *lists, loaded))

    async def copy(
        self,
        head: tuple[Any, ...],
        lease: tuple[Any, ...],
        group: list[tuple[Any, ...]],
        loaded: float,
    ) -> None:
        """Write accepted outcomes by COPY, in one transaction with the watermark and the tally.

        libpq allows no COPY within a pipeline, so that this takes four round trips.
        """
        batch_id, _, campaign_id, route = lease
        async with self.connection.pipeline():
            await self.connection.execute("BEGIN")
            await self.connection.execute(sql.COPY_LEASE, head)
        lines = [
            f"{o[1]}\t{batch_id}\t{datetime.fromtimestamp(o[3], UTC)}\t"
            f"{o[4]}\t{o[5]}\t\\\\x{o[6]}\n"
            for o in group
        ]
        async with self.connection.cursor().copy(sql.COPY_OUTCOME) as copy:
            await copy.write("".join(lines))
        values = (campaign_id, route, group[0][3], len(group), loaded, campaign_id)
        async with self.connection.pipeline():
            cursor = await self.connection.execute(sql.COPY_TALLY, values)
            await self.connection.execute("COMMIT")
        await cursor.fetchall()

    async def batch(self, batch_id: int) -> None:
        """Lease, load, settle and release one batch."""
        owner = uuid.uuid4()
        leased = await self.fetch(sql.LEASE, (owner, LEASE_SECONDS, batch_id))
        lease, loaded = (batch_id, owner, *leased[0]), time.time()
        rows = await self.fetch(self.how.load, ("tax-policy", batch_id))
        # As the product does: the first settle only opens the window.
        await self.settle(lease, rows[min(WINDOW, len(rows)) - 1][0], [], loaded)
        for start in range(0, len(rows), GROUP):
            mark = rows[min(start + GROUP + WINDOW, len(rows)) - 1][0]
            await self.settle(lease, mark, self.outcomes(rows[start : start + GROUP]), loaded)
        if self.how.at_release:
            await self.fetch(self.how.at_release, (batch_id,))
        released = await self.fetch(self.how.release, (batch_id, owner))
        if released[0][0] == "done":
            await self.fetch(self.how.finish, (lease[2],))

    async def run(self, url: str) -> None:
        """Do the batches of each line of standard input and say what CPU seconds they took."""
        self.connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, prepare_threshold=1, options=OPTIONS
        )
        # Nothing else happens in this loop, so that it may wait for a line.
        for line in sys.stdin:
            before = resource.getrusage(resource.RUSAGE_SELF)
            for batch_id in json.loads(line):
                await self.batch(batch_id)
            after = resource.getrusage(resource.RUSAGE_SELF)
            print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)
        await self.connection.close()


def main() -> None:
    """Write as the candidate `argv[1]` to the database `argv[2]`, `argv[3]` of it not accepted."""
    random.seed(1)
    uvloop.run(Writer(sql.CANDIDATES[sys.argv[1]], float(sys.argv[3])).run(sys.argv[2]))


if __name__ == "__main__":
    main()
