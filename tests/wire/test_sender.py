"""The sender between real database, broker and servers: what is written is what happened."""

from __future__ import annotations

import csv
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio
from sqlalchemy import text

from notifier.db import plain_url
from notifier.domain import batches
from notifier.domain import suppressions as suppression
from notifier.domain.calendar import HANOI, Window
from notifier.domain.campaign_files import Definition, load_definition
from notifier.flows import control as story
from notifier.flows import upkeep
from notifier.flows.launch import launch
from notifier.instance.servers.catcher import Catcher
from notifier.invented import HEADINGS, invented_rows
from notifier.sending import ledger
from notifier.sending.budgets import Habits
from notifier.sending.core import MAX_SLOW_REPLIES
from notifier.sending.sender import Sender
from notifier.services import Services
from notifier.settings import Settings
from notifier.states import Lane
from notifier.testing import ROOT
from notifier.worker import lifecycle


@dataclass
class World:
    """Services with a sender and a sink."""

    services: Services
    sink: Catcher
    folder: Path
    asked: int = 0
    hooks: dict[int, Callable[[], object]] = field(default_factory=dict)
    _sender: Sender | None = None

    @property
    def sender(self) -> Sender:
        """The sender under test, made with the routes that the settings name."""
        if self._sender is None:
            self._sender = lifecycle.make_sender(self.services)
            self._sender.stopping = self._stopping
        return self._sender

    def _stopping(self) -> bool:
        self.asked += 1
        hook = self.hooks.pop(self.asked, None)
        return hook is not None and hook() is True

    def at(self, number: int, hook: Callable[[], object]) -> None:
        """Call `hook` when the sender asks that often whether it shall stop; True stops it."""
        self.hooks[self.asked + number] = hook

    def launch(self, emails: list[str] | int, **changes: Any) -> str:
        """Launch the debt notice to `emails`, or to so many invented businesses."""
        count = emails if isinstance(emails, int) else len(emails)
        path = self.folder / f"{uuid.uuid4().hex}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADINGS)
            for number, row in enumerate(invented_rows(count, lines=1)):
                writer.writerow(
                    row if isinstance(emails, int) else [*row[:2], emails[number], *row[3:]]
                )
        definition = replace(self.definition(), **changes)
        return launch(self.services, definition, audience=path).name

    @staticmethod
    def definition() -> Definition:
        """Return a campaign of the debt notice that may go out now."""
        found = load_definition(
            ROOT / "campaigns" / "debt-notice.toml", name=f"c{uuid.uuid4().hex[:8]}"
        )
        return replace(found, window=None, not_after=None)

    def sql(self, statement: str, **values: object) -> list[Any]:
        """Run a statement and return its rows."""
        with self.services.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def send(self, batch_id: int) -> None:
        """Deliver a batch as a worker's task does."""
        if (done := self.sender.deliver(batch_id)) is not None:
            story.finish(self.services, done)

    def deliver(self) -> None:
        """Deliver every batch that may be leased now, once."""
        with self.services.engine.begin() as connection:
            ids = batches.ready(connection, "campaign")
        for batch_id in ids:
            self.send(batch_id)

    def wait_and_gather(self) -> None:
        """Let all deferred messages be due, put them into batches and deliver these."""
        self.sql("UPDATE message SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
        upkeep.gather(self.services, Lane.CAMPAIGN)
        self.deliver()

    def status(self, name: str) -> dict[str, Any]:
        """Return the campaign's counts, which add up."""
        found = story.status(self.services, name).to_json()
        kinds = (
            "queued",
            "deferred",
            "accepted",
            "refused",
            "skipped_total",
            "expired",
            "cancelled",
            "held",
            "given_up",
        )
        assert sum(found[kind] for kind in kinds) == found["total"]
        return found

    def assert_all_once(self, name: str, mails: int) -> None:
        """Check that all was accepted and is at the sink exactly once."""
        status = self.status(name)
        assert (status["accepted"], status["state"]) == (mails, "finished")
        seen = self.sink.ask()
        assert (seen["distinct"], seen["duplicates"]) == (mails, 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catcher]:
    with Catcher() as running:
        yield running


@pytest.fixture
def routes_file() -> str:
    return ""


@pytest.fixture
def world(settings: Settings, server: Catcher, tmp_path: Path, routes_file: str) -> Iterator[World]:
    server.ask(script={}, reset=True)
    file = None
    if routes_file:
        file = tmp_path / "routes.toml"
        file.write_text(routes_file)
    services = Services(settings.replace(smtp_url=server.url, routes_file=file))
    made = World(services, server, tmp_path)
    yield made
    made.sender.close()
    services.close()


AUDIT = """
CREATE TABLE audit (batch_id bigint, mark int, unsettled int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit SELECT NEW.id, NEW.started_through, count(*) FROM message
     WHERE batch_id = NEW.id AND state = 'queued' AND position <= NEW.started_through;
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE ON batch FOR EACH ROW EXECUTE FUNCTION note();
"""


def test_watermark_is_never_more_than_the_window_ahead(world: World) -> None:
    name = world.launch(700)
    world.sql(AUDIT)
    world.deliver()
    world.assert_all_once(name, 700)
    [(most, settles)] = world.sql("SELECT max(unsettled), count(*) FROM audit")
    assert 0 < most <= ledger.WINDOW
    assert settles > 2 * 700 / ledger.WINDOW
    marks = world.sql(
        """SELECT bool_and(mark >= before)
             FROM (SELECT mark,
                          lag(mark, 1, -1) OVER (PARTITION BY batch_id ORDER BY ctid) AS before
                     FROM audit) x"""
    )
    assert marks == [(True,)]


def test_row_keeps_what_was_sent_and_said(world: World) -> None:
    name = world.launch(30)
    world.deliver()
    world.assert_all_once(name, 30)
    rows = world.sql(
        "SELECT id, attempts, doubts, detail, host, length(sha256), settled_at FROM message"
    )
    assert {(row.attempts, row.doubts, row.host, row.length) for row in rows} == {
        (1, 0, "127.0.0.1", 32)
    }
    assert all(row.detail.startswith("250 2.0.0 Ok: queued as") for row in rows)
    stored = world.sink.ask(ids=True)["message_ids"]
    assert {key.strip("<").split("@")[0] for key in stored} == {str(row.id) for row in rows}


def test_each_outcome_is_told_apart(world: World) -> None:
    emails = [
        f"{word}+{n}@simulate.test"
        for n in range(8)
        for word in ("delivered", "bounce", "full", "block")
    ]
    # A block is about us and not about its recipient, and has a test of its own.
    name = world.launch([email for email in emails if not email.startswith("block")])
    world.deliver()
    status = world.status(name)
    assert (status["accepted"], status["refused"], status["deferred"]) == (8, 8, 8)
    assert world.sql("SELECT count(*), min(reason) FROM suppression WHERE topic = '*'") == [
        (8, "hard_bounce")
    ]
    assert world.sql("SELECT count(*) FROM message_event WHERE kind = 'deferred'") == [(8,)]
    assert world.sql(
        """SELECT count(*) FROM message
            WHERE state = 'deferred' AND due_at > settled_at AND batch_id IS NULL"""
    ) == [(8,)]
    again = world.launch(["bounce+0@simulate.test", "delivered+0@simulate.test"])
    world.deliver()
    assert world.status(again)["skipped"] == {"hard_bounce": 1}


def test_block_of_the_sender_slows_the_route_and_is_not_held_against_the_address(
    world: World,
) -> None:
    name = world.launch(100)
    world.sink.set_script(rcpt_reply="550 5.7.1 blocked by policy")
    world.deliver()
    refused = world.status(name)["refused"]
    assert MAX_SLOW_REPLIES <= refused <= MAX_SLOW_REPLIES + 2 * world.services.settings.connections
    assert world.sql("SELECT count(*) FROM suppression") == [(0,)]
    [(state, due)] = world.sql("SELECT state::text, due_at FROM batch")
    assert (state, due > datetime.now(UTC)) == ("ready", True)
    world.sink.set_script()
    resume_route(world)
    world.deliver()
    assert world.status(name)["accepted"] == 100 - refused


def test_one_recipient_that_blocks_us_holds_up_nobody_else(world: World) -> None:
    name = world.launch(["block@simulate.test", *[f"u{n}@example.test" for n in range(40)]])
    world.deliver()
    status = world.status(name)
    assert (status["refused"], status["accepted"], status["state"]) == (1, 40, "finished")
    assert world.sql("SELECT count(*) FROM suppression") == [(0,)]


def resume_route(world: World) -> None:
    """Let the routes be used at once that were to be left alone."""
    with redis.Redis.from_url(world.services.settings.require_broker()) as client:
        client.flushall()
    world.sql("UPDATE batch SET due_at = clock_timestamp() WHERE state = 'ready'")


def test_deferred_message_comes_back_in_a_batch_of_its_own(world: World) -> None:
    name = world.launch([f"defer+{n}@simulate.test" for n in range(5)])
    world.deliver()
    assert world.status(name)["deferred"] == 5
    for _ in range(2):
        world.wait_and_gather()
    world.assert_all_once(name, 5)
    assert world.sql("SELECT DISTINCT attempts FROM message") == [(3,)]


def test_message_expires_instead_of_waiting_past_its_end(world: World) -> None:
    name = world.launch(["full@simulate.test", "delivered@simulate.test"])
    world.sql("UPDATE campaign SET not_after = clock_timestamp() + interval '0.9 seconds'")
    world.deliver()
    status = world.status(name)
    assert (status["accepted"], status["expired"], status["state"]) == (1, 1, "finished")


def test_nothing_is_sent_after_the_end(world: World) -> None:
    name = world.launch(20)
    world.sql("UPDATE campaign SET not_after = clock_timestamp() - interval '1 second'")
    world.deliver()
    assert world.status(name)["expired"] == 20
    assert world.sink.ask()["received"] == 0


@pytest.mark.parametrize("policy", ["resend", "hold"])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "lost"])
def test_reply_lost_after_the_dot(world: World, policy: str, stored: bool) -> None:
    name = world.launch(60, in_doubt=policy)
    world.sink.set_script(at_dot="keep-drop" if stored else "drop", every=10, first=3)
    for _ in range(4):
        world.deliver()
        resume_route(world)
    status = world.status(name)
    assert status["in_doubt"] == 3
    # A message whose envelope was thrice behind a lost one waits for another batch as well.
    assert 54 <= status["accepted"] <= 57
    if policy == "hold":
        assert status["held"] == 3
        assert world.sink.ask()["duplicates"] == 0
        assert story.decide_in_doubt(world.services, name, resend=True) == 3
    world.wait_and_gather()
    status, seen = world.status(name), world.sink.ask()
    assert (status["accepted"], status["state"], status["in_doubt"]) == (60, "finished", 3)
    assert (seen["distinct"], seen["duplicates"]) == (60, 3 if stored else 0)


def test_pause_is_seen_within_the_window(world: World) -> None:
    name = world.launch(400)
    world.at(100, lambda: story.pause(world.services, name))
    world.deliver()
    status = world.status(name)
    assert status["state"] == "paused"
    assert 0 < status["accepted"] <= 100 + 2 * ledger.WINDOW
    assert world.sink.ask()["received"] == status["accepted"]
    world.deliver()
    assert world.sink.ask()["received"] == status["accepted"]
    story.resume(world.services, name)
    world.deliver()
    world.assert_all_once(name, 400)


def test_polite_stop_leaves_nothing_in_doubt(world: World) -> None:
    name = world.launch(300)
    world.at(120, lambda: True)
    world.deliver()
    status = world.status(name)
    assert (status["queued"] + status["accepted"], status["in_doubt"]) == (300, 0)
    assert world.sink.ask()["received"] == status["accepted"] < 120
    assert world.sql("SELECT state::text FROM batch") == [("ready",)]
    world.deliver()
    world.assert_all_once(name, 300)


def test_opting_out_while_the_batch_is_sent_counts(world: World) -> None:
    name = world.launch(400)
    [(last,)] = world.sql("SELECT address_id FROM message WHERE position = 399")

    def opt_out() -> None:
        with world.services.session() as session:
            suppression.suppress(
                session,
                last,
                "debt-notice",
                reason="unsubscribed",
                source="link",
                now=datetime.now(UTC),
            )

    world.at(100, opt_out)
    world.deliver()
    status = world.status(name)
    assert (status["accepted"], status["skipped"]) == (399, {"unsubscribed": 1})
    assert world.sink.ask()["received"] == 399


@pytest.mark.parametrize("pipelining", [True, False])
def test_opting_out_counts_within_a_second_however_slow_the_server_is(
    world: World, pipelining: bool
) -> None:
    """At 1.5 s a reply, no text of one who opted out leaves later than a second after."""
    name = world.launch(40)
    world.sink.set_script(delay_ms=1_500, pipelining=pipelining)
    rows = world.sql("SELECT id, address_id FROM message ORDER BY position")
    gone: dict[str, float] = {}  # Message-ID of who opted out → when
    there: dict[str, float] = {}  # Message-ID at the sink → when it was seen first
    over = threading.Event()

    def opt_out(number: int) -> None:
        with world.services.session() as session:
            suppression.suppress(
                session,
                rows[number].address_id,
                "debt-notice",
                reason="unsubscribed",
                source="link",
                now=datetime.now(UTC),
            )
        gone[f"<{rows[number].id}@notices.example.test>"] = time.monotonic()

    def watch() -> None:
        began = time.monotonic()
        waiting = list(range(39, 3, -1))
        while not over.wait(0.05):
            asked = time.monotonic()
            for message_id in world.sink.ask(ids=True)["message_ids"]:
                there.setdefault(message_id, asked)
            # One after the other, in the order in which they will be due.
            if waiting and asked - began > 0.3 * (40 - len(waiting)):
                opt_out(waiting.pop())

    watcher = threading.Thread(target=watch)
    watcher.start()
    world.deliver()
    over.set()
    watcher.join()
    late = [there[each] - gone[each] for each in gone if each in there]
    assert not [seconds for seconds in late if seconds > 1.2]  # it is looked for every 0.05 s
    status = world.status(name)
    assert status["skipped"].get("unsubscribed", 0) > 10
    assert status["accepted"] + status["skipped_total"] == 40
    assert world.sink.ask()["received"] == status["accepted"]
    assert status["in_doubt"] == 0


def test_a_pause_holds_back_what_a_slow_server_has_not_been_given(world: World) -> None:
    name = world.launch(40)
    world.sink.set_script(delay_ms=2_000)
    began = time.monotonic()
    counted: list[int] = []

    def watch() -> None:
        while not world.sink.ask()["received"]:
            time.sleep(0.05)
        story.pause(world.services, name)
        time.sleep(1.0)
        counted.append(world.sink.ask()["received"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    world.deliver()
    watcher.join()
    assert time.monotonic() - began < 20
    status = world.status(name)
    assert (status["state"], status["in_doubt"]) == ("paused", 0)
    # The replies of those come 2 s after; the server had asked for others meanwhile.
    assert counted == [status["accepted"]] == [world.sink.ask()["received"]]
    world.sink.set_script()
    story.resume(world.services, name)
    world.deliver()
    world.assert_all_once(name, 40)


def test_lost_lease_ends_the_batch_and_doubts_are_bounded(world: World) -> None:
    name = world.launch(400)
    world.at(100, lambda: world.sql("UPDATE batch SET lease_owner = gen_random_uuid()"))
    world.deliver()
    assert world.status(name)["accepted"] <= 100
    assert world.sink.ask()["received"] <= 100 + ledger.WINDOW
    world.sql("UPDATE batch SET lease_until = clock_timestamp() - interval '1 second'")
    found = upkeep.recover(world.services)
    assert 0 < found.in_doubt <= ledger.WINDOW
    world.deliver()
    status, seen = world.status(name), world.sink.ask()
    assert (status["accepted"], status["in_doubt"], seen["distinct"]) == (400, found.in_doubt, 400)
    assert seen["duplicates"] <= found.in_doubt


def test_database_connection_lost_in_mid_batch_changes_nothing(world: World) -> None:
    name = world.launch(400)
    ended: list[Any] = []

    def cut() -> None:
        with psycopg.connect(
            plain_url(world.services.settings.require_database()), autocommit=True
        ) as connection:
            ended.extend(
                connection.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE application_name = 'notifier-sender'
                          AND datname = current_database()"""
                )
            )

    for number in (50, 150, 151, 300):
        world.at(number, cut)
    world.deliver()
    assert len(ended) >= 3
    world.assert_all_once(name, 400)
    assert world.status(name)["in_doubt"] == 0


def test_batch_is_delivered_once_however_often_it_is_woken(world: World) -> None:
    name = world.launch(100)
    [(batch_id,)] = world.sql("SELECT id FROM batch")
    other = lifecycle.make_sender(world.services)
    world.at(50, lambda: None)
    for _ in range(3):
        world.send(batch_id)
    other.deliver(batch_id)
    other.close()
    world.assert_all_once(name, 100)


@pytest.mark.parametrize("stage", ["mail_reply", "rcpt_reply", "data_reply", "at_dot"])
def test_server_that_asks_to_slow_down_is_left_alone(world: World, stage: str) -> None:
    name = world.launch(100)
    world.sink.set_script(**{stage: "421 4.7.0 too fast"})
    world.deliver()
    assert world.status(name)["accepted"] == 0
    [(state, due)] = world.sql("SELECT state::text, due_at FROM batch")
    assert (state, due > datetime.now(UTC)) == ("ready", True)
    # Another batch of the same route is not tried either.
    received = world.sink.ask()["received"]
    world.sql("UPDATE batch SET due_at = clock_timestamp() WHERE state = 'ready'")
    world.deliver()
    assert world.sink.ask()["received"] == received
    world.sink.set_script()
    resume_route(world)
    world.deliver()
    # Only a message that met several such connections is suspected itself, and has an attempt.
    assert world.status(name)["accepted"] >= 98
    world.wait_and_gather()
    world.assert_all_once(name, 100)
    assert world.status(name)["in_doubt"] == 0


@pytest.mark.parametrize("stage", ["mail_reply", "rcpt_reply", "data_reply", "at_dot"])
@pytest.mark.parametrize("code", ["421 4.7.0", "452 4.5.3"])
def test_enough_between_successes_pauses_nothing_and_is_no_attempt(
    world: World, stage: str, code: str
) -> None:
    name = world.launch(300)
    world.sink.set_script(every=20, **{stage: f"{code} enough for now"})
    world.deliver()
    world.assert_all_once(name, 300)
    assert world.sql("SELECT DISTINCT attempts, doubts FROM message") == [(1, 0)]


@pytest.mark.parametrize("stage", ["mail_reply", "rcpt_reply", "data_reply", "at_dot"])
def test_one_421_in_a_hundred_costs_nothing(world: World, stage: str) -> None:
    name = world.launch(1_754)
    world.sink.set_script(share=0.01, **{stage: "421 4.7.0 try again later"})
    began = time.monotonic()
    world.deliver()
    world.assert_all_once(name, 1_754)
    assert time.monotonic() - began < 100
    assert world.sql("SELECT max(attempts), max(doubts) FROM message") == [(1, 0)]


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    "reply", ["421 4.7.0 too many messages", "452 4.5.3 too many messages", "452 later", ""]
)
def test_server_that_takes_three_messages_a_connection_gets_them_all(
    world: World, reply: str, pipelining: bool
) -> None:
    name = world.launch(2_000)
    script: dict[str, Any] = {"pipelining": pipelining}
    if reply:
        script |= {"enough_after": 3, "enough_reply": reply}
    else:
        script |= {"close_after": 3}
    world.sink.set_script(**script)
    began = time.monotonic()
    world.deliver()
    world.assert_all_once(name, 2_000)
    assert time.monotonic() - began < 100
    assert world.sql("SELECT max(attempts), max(doubts) FROM message") == [(1, 0)]
    # By then we say goodbye ourselves, so that no envelope is written for nothing.
    assert habits(world).messages == 3


def habits(world: World) -> Habits:
    """Return what is known of the only route's server."""
    found: list[Habits] = []

    async def look() -> None:
        found.append(await world.sender.throttle.habits("relay"))

    world.sender._loop.run_until_complete(look())
    return found[0]


def test_number_of_connections_is_learnt_and_rises_again(world: World) -> None:
    name = world.launch(1_500)
    world.sink.set_script(limit_connections=3, delay_ms=2)
    world.deliver()
    world.assert_all_once(name, 1_500)
    learnt = habits(world).connections
    assert 1 <= learnt < world.services.settings.connections
    other = lifecycle.make_sender(world.services)
    seen: list[Habits] = []

    async def look() -> None:
        seen.append(await other.throttle.habits("relay"))

    # Another worker knows it, and after a while without a refusal it may be one more.
    other._loop.run_until_complete(look())
    assert seen[0].connections == learnt
    with redis.Redis.from_url(world.services.settings.require_broker()) as client:
        client.hincrbyfloat("notifier:habits:relay", "connections_at", -2.5)
    other._loop.run_until_complete(look())
    assert seen[1].connections in {learnt + 1, 0}
    other.close()


def test_server_that_often_says_too_fast_is_sent_less(world: World) -> None:
    world.launch(150)
    world.sink.set_script(every=3, rcpt_reply="451 4.7.1 you send too fast")
    world.deliver()
    known = habits(world)
    assert known.per_minute >= 60
    # A pace that falls holds back the next batch, and rises again when there are no complaints.
    world.sink.set_script()
    with redis.Redis.from_url(world.services.settings.require_broker()) as client:
        client.hset("notifier:habits:relay", mapping={"rate": 1200, "rate_step": 60})
        client.hset("notifier:habits:relay", "rate_at", time.time())
    name = world.launch(40)
    began = time.monotonic()
    world.deliver()
    assert world.status(name)["accepted"] == 40
    assert 20 + (time.monotonic() - began) * 30 + 1 >= 40
    with redis.Redis.from_url(world.services.settings.require_broker()) as client:
        client.hincrbyfloat("notifier:habits:relay", "rate_at", -10)
    assert habits(world).per_minute >= 1200 + 5 * 60


def test_complaints_about_speed_that_are_few_change_nothing(world: World) -> None:
    name = world.launch(600)
    world.sink.set_script(every=50, rcpt_reply="451 4.7.1 you send too fast")
    world.deliver()
    status = world.status(name)
    assert (status["accepted"], status["deferred"]) == (588, 12)
    assert habits(world) == Habits()


def test_pauses_double_and_are_forgotten_when_mail_is_taken(world: World) -> None:
    world.sink.set_script(greeting="421 4.3.2 busy")
    name = world.launch(60)
    for pauses in (1, 2):
        world.deliver()
        assert habits(world).pauses == pauses
        with redis.Redis.from_url(world.services.settings.require_broker()) as client:
            client.delete("notifier:pause:relay")
        world.sql("UPDATE batch SET due_at = clock_timestamp() WHERE state = 'ready'")
    world.sink.set_script()
    world.deliver()
    world.assert_all_once(name, 60)
    assert (habits(world).pauses, habits(world).pause) == (0, 0)


def test_losing_the_broker_forgets_habits_and_sends_on(world: World) -> None:
    name = world.launch(100)
    # An address at which nobody listens.
    world.sender.throttle._client = redis.asyncio.Redis.from_url("redis://127.0.0.1:9")
    world.sink.set_script(enough_after=3)
    world.deliver()
    world.assert_all_once(name, 100)


@pytest.mark.parametrize(
    "script",
    [{"close_after": 7}, {"close_at": "data", "every": 9}, {"pipelining": False, "close_after": 7}],
    ids=str,
)
def test_server_that_hangs_up_often_loses_and_doubles_nothing(
    world: World, script: dict[str, Any]
) -> None:
    name = world.launch(100)
    world.sink.set_script(**script)
    for _ in range(20):
        world.deliver()
        resume_route(world)
        world.wait_and_gather()
        if world.status(name)["state"] == "finished":
            break
        world.sink.set_script(**script)
    world.assert_all_once(name, 100)
    assert world.status(name)["in_doubt"] == 0


@pytest.mark.parametrize(
    "script",
    [
        {"greeting": "421 4.3.2 busy"},
        {"greeting": "554 5.7.1 no"},
        {"close_at": "greeting"},
        {"close_at": "ehlo"},
        {"limit_connections": 1},
    ],
    ids=str,
)
def test_server_that_will_not_talk_costs_no_attempt(world: World, script: dict[str, Any]) -> None:
    name = world.launch(60)
    world.sink.set_script(**script)
    world.deliver()
    status = world.status(name)
    assert status["queued"] + status["accepted"] == 60
    assert world.sql("SELECT DISTINCT attempts FROM message WHERE state = 'queued'") in ([(0,)], [])
    world.sink.set_script()
    resume_route(world)
    world.deliver()
    world.assert_all_once(name, 60)


def test_closed_window_sends_nothing_and_names_the_next_opening(world: World) -> None:
    now = datetime.now(HANOI)
    # A window of the other half of the day.
    hours = ("13:00", "20:00") if now.hour < 12 else ("01:00", "11:00")
    name = world.launch(
        10, window=Window.from_json({"days": "all", "from": hours[0], "to": hours[1]})
    )
    world.deliver()
    assert world.status(name)["queued"] == 10
    world.sql("UPDATE batch SET due_at = clock_timestamp()")
    world.deliver()
    assert world.sink.ask()["received"] == 0
    [(state, due)] = world.sql("SELECT state::text, due_at FROM batch")
    assert state == "ready"
    assert f"{due.astimezone(HANOI):%H:%M}" == hours[0]


@pytest.mark.parametrize("routes_file", ['[[route]]\nname = "relay"\nper_minute = 1200\n'])
def test_rate_of_a_route_is_kept(world: World) -> None:
    name = world.launch(50)
    began = time.monotonic()
    world.deliver()
    world.assert_all_once(name, 50)
    burst, rate = 20, 20
    assert burst + (time.monotonic() - began) * rate + 1 >= 50


@pytest.mark.parametrize("routes_file", ['[[route]]\nname = "relay"\nper_minute = 2\n'])
def test_batch_is_given_back_when_the_rate_leaves_no_room(world: World) -> None:
    name = world.launch(20)
    world.deliver()
    assert world.status(name)["accepted"] == 1
    [(state, due)] = world.sql("SELECT state::text, due_at FROM batch")
    assert (state, due > datetime.now(UTC) + timedelta(seconds=5)) == ("ready", True)


def test_pace_of_a_campaign_is_kept(world: World) -> None:
    name = world.launch(45, pace_per_minute=1200)
    began = time.monotonic()
    world.deliver()
    world.assert_all_once(name, 45)
    assert 20 + (time.monotonic() - began) * 20 + 1 >= 45


@pytest.mark.parametrize(
    "routes_file", ['[[route]]\nname = "relay"\nconnections = 2\nmessages_per_connection = 10\n']
)
def test_connections_of_a_route_are_limited_for_all_workers_together(world: World) -> None:
    name = world.launch(100)
    world.deliver()
    world.assert_all_once(name, 100)
    # A connection that says QUIT may still be seen while its successor comes.
    assert world.sink.ask()["most_connections"] <= 4
    second = world.launch(100)
    other = lifecycle.make_sender(world.services)
    held: list[int] = []

    async def claim() -> None:
        held.append(await other.throttle.slots("relay", 2, 2))

    other._loop.run_until_complete(claim())
    assert held == [2]
    world.deliver()
    assert world.status(second)["queued"] == 100
    other.close()


@pytest.mark.parametrize(
    "routes_file",
    [
        (
            '[[route]]\nname = "small"\ndomains = ["simulate.test"]\nper_minute = 2\n'
            '[[route]]\nname = "relay"\n'
        )
    ],
)
def test_slow_route_holds_up_nobody_else(world: World) -> None:
    name = world.launch(
        [f"delivered+{n}@simulate.test" for n in range(10)]
        + [f"u{n}@example.test" for n in range(10)]
    )
    world.deliver()
    assert world.status(name)["accepted"] == 11
    assert world.sql("SELECT route, state::text FROM batch ORDER BY route") == [
        ("relay", "done"),
        ("small", "ready"),
    ]


def test_row_that_cannot_be_rendered_costs_that_row_alone(world: World) -> None:
    name = world.launch(20)
    world.sql(
        """UPDATE recipient SET data = '{"lines": 7}'
            WHERE row_no = (SELECT min(row_no) FROM recipient)"""
    )
    world.deliver()
    status = world.status(name)
    assert (status["accepted"], status["skipped"]) == (19, {"unrenderable": 1})
