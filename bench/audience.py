"""How long a list takes to load, and how much memory.

Run: .venv/bin/python bench/audience.py [--rows 114072] [--kind csv|xlsx]

Starts a private PostgreSQL of its own, makes an invented list, loads it through the product's own
path and prints figures.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import xlsxwriter

from notifier.flows.lists import load_list
from notifier.instance.servers.postgres import Postgres
from notifier.invented import HEADINGS, invented_rows
from notifier.migrations import migrate
from notifier.services import Services
from notifier.settings import Settings


def write(path: Path, mails: int, lines: int) -> None:
    """Write an invented list of `mails` businesses with `lines` rows each."""
    rows: Iterator[list[str]] = invented_rows(mails, lines=lines)
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADINGS)
            writer.writerows(rows)
        return
    with xlsxwriter.Workbook(str(path), {"constant_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, HEADINGS)
        for number, row in enumerate(rows, 1):
            sheet.write_row(number, 0, row)


def main() -> None:
    """Print seconds, rows a second and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=114_072)
    parser.add_argument("--lines", type=int, default=1)
    parser.add_argument("--kind", choices=["csv", "xlsx"], default="csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"list.{arguments.kind}"
        # In a process of its own, so that making the list does not count as memory of loading it.
        code = (
            "from bench.audience import write; from pathlib import Path; "
            f"write(Path({str(path)!r}), {arguments.rows}, {arguments.lines})"
        )
        subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parent.parent
        )
        with Postgres(Path(folder) / "postgres") as server:
            services = Services(Settings.from_env().replace(database_url=server.url))
            migrate(services.engine)
            template = services.catalogue["debt-notice"]
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            started = time.perf_counter()
            found = load_list(services, path, template)
            seconds = time.perf_counter() - started
            services.close()
            # Those that have ended by now: the one that made the list, and the one that unpacked
            # it. The server runs on.
            unpacking = (
                resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
                if arguments.kind == "xlsx"
                else 0
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{found.rows_read:,} rows of {arguments.kind}: {seconds:.2f} s, "
        f"{found.rows_read / seconds:,.0f} rows/s"
    )
    print(f"accepted {found.accepted:,}, merged {found.merged:,}, rejected {found.rejected:,}")
    print(
        f"peak memory {peak / 1024:.0f} MB ({before / 1024:.0f} MB before), "
        f"unpacking {unpacking / 1024:.0f} MB"
    )


if __name__ == "__main__":
    main()
