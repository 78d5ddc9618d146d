"""One SMTP connection against a server that misbehaves in every way we know.

No message is lost, doubled or left without a verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiosmtplib
import pytest

from notifier.channel import Fate, Go
from notifier.instance.servers.catcher import Catcher
from notifier.settings import SmtpServer
from notifier.smtp.connection import PipelinedConnection, PlainConnection, connect
from tests.wire.dialogue import Notes, drive, send

A, L, R, U = Fate.ACCEPTED, Fate.LATER, Fate.REFUSED, Fate.UNKNOWN
GOOD = [f"user{n}@example.test" for n in range(10)]


@pytest.fixture(scope="module")
def server() -> Iterator[Catcher]:
    with Catcher() as running:
        yield running


@pytest.fixture
def sink(server: Catcher) -> Catcher:
    server.ask(script={}, reset=True)
    return server


@pytest.fixture(params=[True, False], ids=["pipelined", "plain"])
def pipelining(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_connection_is_chosen_by_what_the_server_offers(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining)

    async def main() -> None:
        connection = await connect(
            SmtpServer("127.0.0.1", sink.port), hostname="n.test", timeout=5, limit=0
        )
        assert isinstance(connection, PipelinedConnection if pipelining else PlainConnection)
        connection.close()

    asyncio.run(main())


def test_all_is_well(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining)
    notes = send(sink, GOOD * 20)
    assert set(notes.fates) == {A}
    assert sink.ask()["received"] == 200
    assert notes.details[0].startswith("250 2.0.0 Ok: queued as")
    assert notes.idles == 1


def test_each_recipient_gets_its_own_verdict_and_the_next_goes_on(
    sink: Catcher, pipelining: bool
) -> None:
    sink.set_script(pipelining=pipelining)
    to = [
        f"{word}@simulate.test"
        for word in (
            "bounce",
            "delivered",
            "full",
            "block",
            "bounce",
            "defer+1",
            "delivered",
            "busy",
        )
    ]
    notes = send(sink, [*to, "last@example.test"])
    assert notes.fates == [R, A, L, R, R, L, A, L, A]
    assert notes.verdicts[0].dead_address
    assert not notes.verdicts[3].dead_address
    assert notes.verdicts[3].slow_route
    assert sink.ask()["received"] == 3


def test_deferred_recipient_is_taken_at_the_third_try(sink: Catcher) -> None:
    assert [send(sink, ["defer+x@simulate.test"]).fates for _ in range(3)] == [[L], [L], [A]]


@pytest.mark.parametrize(
    ("script", "fate"),
    [
        ({"mail_reply": "451 4.3.0 later"}, L),
        ({"mail_reply": "550 5.7.1 not from you"}, L),
        ({"rcpt_reply": "450 4.2.0 greylisted"}, L),
        ({"rcpt_reply": "550 5.1.1 nobody"}, R),
        ({"data_reply": "451 4.3.0 later"}, L),
        ({"data_reply": "554 5.5.1 no"}, R),
        ({"at_dot": "552 5.3.4 too big"}, R),
        ({"at_dot": "554 5.7.1 spam"}, R),
        ({"at_dot": "450 4.7.1 slowly"}, L),
        ({"rcpt_reply": "550 5.1.1 nobody", "accept_data_anyway": True}, R),
    ],
    ids=str,
)
def test_refusal_of_every_third_message_costs_that_message_alone(
    sink: Catcher, pipelining: bool, script: dict[str, object], fate: Fate
) -> None:
    sink.set_script(pipelining=pipelining, every=3, **script)
    notes = send(sink, GOOD[:9])
    assert (
        notes.fates == [A, A, fate] * 3
        if not notes.ends
        else notes.fates[: notes.pulled] == ([A, A, fate] * 3)[: notes.pulled]
    )
    # Only a server that will not hear us at all may end the connection.
    if notes.pulled < 9:
        assert notes.verdicts[notes.pulled - 1].unsent


@pytest.mark.parametrize("stored", [True, False])
def test_drop_after_the_dot_is_unknown_for_that_message_only(
    sink: Catcher, pipelining: bool, stored: bool
) -> None:
    sink.set_script(pipelining=pipelining, every=3, at_dot="keep-drop" if stored else "drop")
    notes = send(sink, GOOD)
    assert notes.fates[:3] == [A, A, U]
    assert notes.pulled == (4 if pipelining else 3)
    if pipelining:
        # Its envelope was on the way behind the dot: certainly not taken, and no attempt.
        assert notes.fates[3] is L
        assert notes.verdicts[3].unsent
    assert sink.ask()["received"] == (3 if stored else 2)
    assert len(notes.ends) == 1


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_hang_before_the_dot_is_no_attempt(sink: Catcher, pipelining: bool, stage: str) -> None:
    sink.set_script(pipelining=pipelining, every=3, hang_at=stage)
    notes = send(sink, GOOD, timeout=0.2)
    assert notes.fates == [A, A, L]
    assert notes.verdicts[2].unsent
    assert "timed out" in notes.verdicts[2].detail


def test_hang_at_the_dot_is_unknown(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining, every=3, at_dot="hang")
    notes = send(sink, GOOD, timeout=0.1)
    assert notes.fates[:3] == [A, A, U]
    assert all(notes.verdicts[n].unsent for n in range(3, notes.pulled))
    assert "timed out" in notes.verdicts[2].detail


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_close_before_the_dot_is_no_attempt(sink: Catcher, pipelining: bool, stage: str) -> None:
    sink.set_script(pipelining=pipelining, every=3, close_at=stage)
    notes = send(sink, GOOD)
    assert notes.fates == [A, A, L]
    assert notes.verdicts[2].unsent
    assert len(notes.ends) == 1


@pytest.mark.parametrize("stage", ["mail_reply", "rcpt_reply", "data_reply", "at_dot"])
@pytest.mark.parametrize("code", ["421 4.7.0", "452 4.5.3"])
def test_enough_after_successes_ends_the_connection_and_nothing_else(
    sink: Catcher, pipelining: bool, stage: str, code: str
) -> None:
    sink.set_script(pipelining=pipelining, every=3, **{stage: f"{code} that is enough"})
    notes = send(sink, GOOD)
    assert notes.fates[:3] == [A, A, L]
    late = [notes.verdicts[n] for n in range(2, notes.pulled) if notes.fates[n] is not A]
    assert all(verdict.unsent and not verdict.slow_route for verdict in late)
    assert len(notes.ends) == 1
    # What was on its way to a server that closed nothing may still have been taken.
    assert notes.pulled <= 4


@pytest.mark.parametrize("stage", ["mail_reply", "rcpt_reply", "data_reply", "at_dot"])
def test_421_to_the_first_message_slows_the_route_and_is_no_attempt(
    sink: Catcher, pipelining: bool, stage: str
) -> None:
    sink.set_script(pipelining=pipelining, **{stage: "421 4.7.0 closing, come back later"})
    notes = send(sink, GOOD)
    assert notes.fates[0] is L
    assert notes.verdicts[0].slow_route
    assert all(notes.verdicts[n].unsent for n in range(notes.pulled))
    assert len(notes.ends) == 1


@pytest.mark.parametrize(
    "address",
    [
        "a@b.test>\r\nRCPT TO:<c@d.test",
        "a b@c.test",
        "a@b.test\n",
        "<a@b.test>",
        "nguyễn@example.test",
        "a" * 65 + "@example.test",
        "nobody",
        "a@b>c.test",
        "",
    ],
    ids=repr,
)
def test_an_address_that_does_not_belong_in_a_command_is_not_sent(
    sink: Catcher, pipelining: bool, address: str
) -> None:
    sink.set_script(pipelining=pipelining)
    notes = send(sink, [GOOD[0], address, GOOD[1]])
    assert notes.fates == [A, R, A]
    assert not notes.verdicts[1].dead_address
    assert sink.ask()["received"] == 2


def test_a_text_waits_until_its_source_lets_it_go(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining)

    async def main() -> None:
        notes = Notes(GOOD, answers={3: [Go.WAIT, Go.WAIT, Go.NOW]})
        connection = await connect(
            SmtpServer("127.0.0.1", sink.port), hostname="n.test", timeout=5, limit=0
        )
        connection.send(notes)
        for waits in (2, 1):
            async with asyncio.timeout(5):
                while len(notes.answers[3]) != waits:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert (notes.fates[:3], notes.fates[3]) == ([A] * 3, None)
            assert sink.ask()["received"] == 3
            connection.resume()
        async with asyncio.timeout(5):
            await notes.over.wait()
        assert notes.fates == [A] * 10
        connection.close()

    asyncio.run(main())


def test_a_text_that_is_withdrawn_never_reaches_the_server(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining)
    notes = Notes(GOOD, answers={3: [Go.NEVER]})

    async def main() -> None:
        await drive(notes, sink.port)

    asyncio.run(main())
    assert notes.fates == [A, A, A, L]
    assert notes.verdicts[3].unsent
    assert notes.ends == [None]
    assert sink.ask()["received"] == 3


def test_closing_while_a_text_waits_sends_it_to_nobody(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining)

    async def main() -> None:
        notes = Notes(GOOD, answers={1: [Go.WAIT] * 100})
        connection = await connect(
            SmtpServer("127.0.0.1", sink.port), hostname="n.test", timeout=5, limit=0
        )
        connection.send(notes)
        async with asyncio.timeout(5):
            while len(notes.answers[1]) == 100:
                await asyncio.sleep(0.01)
            connection.close()
            while None in notes.fates:
                await asyncio.sleep(0.01)
        assert notes.fates == [A, L]
        assert notes.verdicts[1].unsent
        assert sink.ask()["received"] == 1

    asyncio.run(main())


def test_server_that_closes_after_some_messages_loses_none(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining, close_after=4)
    notes = send(sink, GOOD)
    assert notes.fates[:4] == [A] * 4
    assert all(
        notes.verdicts[n].fate is L and notes.verdicts[n].unsent for n in range(4, notes.pulled)
    )


def test_we_say_goodbye_after_so_many_messages(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining)
    notes = send(sink, GOOD, limit=4)
    assert notes.fates == [A] * 4
    assert notes.ends == [None]


def test_slow_replies_are_waited_for(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining, delay_ms=60)
    # Each reply comes within the time allowed for one; all together take far longer.
    assert send(sink, GOOD[:3], timeout=0.25).fates == [A, A, A]


@pytest.mark.parametrize(
    "script",
    [
        {"greeting": "421 4.3.2 busy"},
        {"greeting": "554 5.7.1 go away"},
        {"close_at": "greeting"},
        {"close_at": "ehlo"},
        {"hang_at": "greeting"},
    ],
    ids=str,
)
def test_server_that_will_not_talk_is_an_error_of_connect(
    sink: Catcher, script: dict[str, object]
) -> None:
    sink.set_script(**script)

    async def main() -> None:
        with pytest.raises((aiosmtplib.SMTPException, OSError)):
            await drive(Notes(GOOD), sink.port, timeout=0.3)

    asyncio.run(main())


def test_idle_connection_takes_more_later(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining)

    async def main() -> None:
        first = Notes(GOOD[:3])
        connection = await drive(first, sink.port)
        second = Notes(["bounce@simulate.test", *GOOD[:2]])
        connection.send(second)
        async with asyncio.timeout(5):
            await second.over.wait()
        assert (first.fates, second.fates) == ([A] * 3, [R, A, A])
        connection.close()

    asyncio.run(main())


def test_closing_in_the_middle_reports_what_was_under_way(sink: Catcher, pipelining: bool) -> None:
    sink.set_script(pipelining=pipelining, at_dot="hang", every=2)

    async def main() -> None:
        notes = Notes(GOOD)
        connection = await connect(
            SmtpServer("127.0.0.1", sink.port), hostname="n.test", timeout=30, limit=0
        )
        connection.send(notes)
        async with asyncio.timeout(5):
            while notes.pulled < 2 or notes.fates[0] is None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            connection.close()
            await notes.over.wait()
            while None in notes.fates:
                await asyncio.sleep(0.01)
        assert notes.fates[:2] == [A, U]
        assert all(notes.verdicts[n].unsent for n in range(2, notes.pulled))

    asyncio.run(main())
