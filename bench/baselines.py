"""The two ends of the scale for `notifier bench`: what simple code does, and what the wire can do.

Each is one process of several.

`naive`: for each recipient render the texts with Jinja, build an EmailMessage, hand it to
aiosmtplib.sendmail. `limit`: mails that were made before, over the product's own pipelined
connections; no rendering, no database.

Prints "ready", waits for a line, sends for so many seconds and prints {"messages": …, "seconds":
…}.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage

import aiosmtplib
import psycopg
import uvloop

from notifier.channel import Connection, Fate, Go, Outgoing, Verdict
from notifier.db import plain_url
from notifier.sending.jobs import Job, Jobs
from notifier.sending.ledger import Ledger, Row
from notifier.services import Services
from notifier.settings import Settings
from notifier.smtp.connection import connect

SAMPLE = 2_000
_ROWS = """SELECT 0, m.id, m.address_id, a.email, r.name, r.tax_code, r.language, r.data::text,
                  0, 0, NULL
             FROM message m
             JOIN recipient r ON r.id = m.recipient_id
             JOIN address a ON a.id = m.address_id
            WHERE m.campaign_id = %s LIMIT %s"""


def naive_mail(job: Job, row: Row) -> bytes:
    """Build a mail the way the documentation of Python's email package shows."""
    letter = job.letter(row, time.time())
    subject, text, html = job.blueprint(row.language).texts(letter)
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = f"{job.terms.sender.name_vi} <{job.terms.sender.address}>"
    message["To"] = f"{row.name} <{row.email}>"
    message["Subject"] = subject
    message["Message-ID"] = f"<{row.id}@{job.mail_domain}>"
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message.as_bytes()


async def naive(
    job: Job, rows: list[Row], settings: Settings, connections: int, seconds: float
) -> int:
    """Send for `seconds` over `connections` at once; return how many mails were taken."""
    server = settings.require_smtp()
    endless = itertools.cycle(rows)
    done = 0

    async def one(until: float) -> None:
        nonlocal done
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            start_tls=False,
            local_hostname=settings.hostname,
        )
        async with client:
            while time.monotonic() < until:
                row = next(endless)
                await client.sendmail(f"b@{job.mail_domain}", [row.email], naive_mail(job, row))
                done += 1

    until = time.monotonic() + seconds
    await asyncio.gather(*(one(until) for _ in range(connections)))
    return done


class Endless:
    """A source that hands out ready mails until its time is up."""

    def __init__(self, mails: Iterator[Outgoing], until: float, connections: int) -> None:
        """Serve `connections` of them."""
        self.mails = mails
        self.until = until
        self.left = connections
        self.done = 0
        self.over = asyncio.Event()

    def pull(self) -> Outgoing | None:
        """Hand out the next mail."""
        return next(self.mails) if time.monotonic() < self.until else None

    def may_go(self, message: Outgoing) -> Go:
        """Let every text go."""
        del message
        return Go.NOW

    def settled(self, message: Outgoing, verdict: Verdict, host: str) -> None:
        """Count what was taken."""
        del message, host
        self.done += verdict.fate is Fate.ACCEPTED

    def idle(self, connection: Connection) -> None:
        """One connection has finished."""
        connection.close()

    def closed(self, connection: Connection, verdict: Verdict | None) -> None:
        """One connection is gone."""
        del connection
        if verdict is not None:
            raise ConnectionError(verdict.detail)
        self.left -= 1
        if not self.left:
            self.over.set()


async def limit(mails: list[Outgoing], settings: Settings, connections: int, seconds: float) -> int:
    """Send ready mails for `seconds` over `connections` at once; return how many were taken."""
    source = Endless(itertools.cycle(mails), time.monotonic() + seconds, connections)
    for _ in range(connections):
        connection = await connect(
            settings.require_smtp(), hostname=settings.hostname, timeout=60, limit=0
        )
        connection.send(source)
    async with asyncio.timeout(seconds + 60):
        await source.over.wait()
    return source.done


async def run(kind: str, campaign_id: int, connections: int, seconds: float) -> None:
    """Prepare, wait for the word, measure."""
    services = Services(Settings.from_env())
    settings = services.settings
    ledger = Ledger(plain_url(settings.require_database()), lease_seconds=1)
    job = await Jobs(settings.mail_domain, services.signer).get(ledger, campaign_id)
    await ledger.close()
    with psycopg.connect(plain_url(settings.require_database())) as database:
        rows = [Row(*row) for row in database.execute(_ROWS, (campaign_id, SAMPLE))]
    mails = [job.render(row, time.time()) for row in rows]
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    if kind == "naive":
        sent = await naive(job, rows, settings, connections, seconds)
    else:
        sent = await limit(mails, settings, connections, seconds)
    print(json.dumps({"messages": sent, "seconds": time.perf_counter() - started}), flush=True)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["naive", "limit"])
    parser.add_argument("--campaign", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    uvloop.run(run(arguments.kind, arguments.campaign, arguments.connections, arguments.seconds))


if __name__ == "__main__":
    main()
