"""Replies as hostile or broken servers send them: cut, in many lines, endless, out of place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.channel import Fate
from tests.wire.dialogue import Notes, drive, with_server

A, L, R, U = Fate.ACCEPTED, Fate.LATER, Fate.REFUSED, Fate.UNKNOWN
EHLO = b"250-s.test\r\n250 PIPELINING\r\n"


class Server:
    """Speaks SMTP with given replies, in pieces of given sizes, and notes which texts it took."""

    def __init__(
        self,
        replies: Mapping[bytes, Sequence[bytes]],
        pieces: Sequence[int] = (),
        *,
        offer: bytes = EHLO,
    ) -> None:
        self.replies = {verb: list(options) for verb, options in replies.items()}
        self.pieces = list(pieces) or [1 << 16]
        self.offer = offer
        self.taken: list[bytes] = []
        self.lines: list[bytes] = []
        self._number = 0

    def _next(self, verb: bytes, good: bytes) -> bytes:
        options = self.replies.get(verb)
        return options.pop(0) if options else good

    async def _say(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        while reply:
            size = self.pieces[self._number % len(self.pieces)]
            self._number += 1
            writer.write(reply[:size])
            reply = reply[size:]
            await writer.drain()
            await asyncio.sleep(0)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, b"220 s.test\r\n")
        while line := (await reader.readuntil(b"\r\n"))[:-2]:
            verb = line[:4].upper()
            self.lines.append(verb)
            if verb == b"QUIT":
                return
            good = {b"EHLO": self.offer, b"DATA": b"354 go\r\n"}.get(verb, b"250 2.0.0 ok\r\n")
            reply = self._next(verb, good)
            await self._say(writer, reply)
            if verb == b"DATA" and reply.startswith(b"354"):
                text = b""
                while not text.endswith(b"\r\n.\r\n") and text != b".\r\n":
                    text += await reader.readuntil(b"\r\n")
                answer = self._next(b".", b"250 2.0.0 queued\r\n")
                if answer.startswith(b"250") and text != b".\r\n":
                    self.taken.append(text)
                await self._say(writer, answer)


def talk(server: Server, messages: int, *, timeout: float = 5.0) -> Notes:
    """Send `messages` to `server` and return what was heard."""
    notes = Notes([f"u{n}@example.test" for n in range(messages)])

    async def client(port: int) -> None:
        connection = await drive(notes, port, timeout=timeout)
        connection.close()

    asyncio.run(with_server(server, client))
    return notes


replies = st.lists(
    st.sampled_from(
        [
            b"250 ok\r\n",
            b"250-a\r\n250-b\r\n250 2.0.0 c\r\n",
            b"451 4.3.0 x\r\n",
            b"550-5.1.1 a\r\n550 5.1.1 b\r\n",
        ]
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    mail=replies,
    rcpt=replies,
    data=st.lists(
        st.sampled_from(
            [
                b"354 go\r\n",
                b"354-a\r\n354 b\r\n",
                b"451 4.3.0 x\r\n",
                b"554 no valid recipients\r\n",
            ]
        ),
        max_size=4,
    ),
    dot=replies,
    pieces=st.lists(st.integers(1, 40), max_size=5),
)
def test_verdicts_do_not_depend_on_where_the_network_cuts(
    mail: list[bytes], rcpt: list[bytes], data: list[bytes], dot: list[bytes], pieces: list[int]
) -> None:
    """However replies are cut: what the server took is accepted, nothing else, all goes on."""
    server = Server({b"MAIL": mail, b"RCPT": rcpt, b"DATA": data, b".": dot}, pieces)
    notes = talk(server, 6)
    assert notes.pulled == 6
    accepted = [n for n, fate in enumerate(notes.fates) if fate is A]
    assert [notes.message_id(n).encode() for n in accepted] == [
        text.split(b" ", 1)[1].split(b"\r\n", 1)[0] for text in server.taken
    ]
    assert U not in notes.fates
    whole = talk(Server({b"MAIL": mail, b"RCPT": rcpt, b"DATA": data, b".": dot}), 6)
    assert (whole.fates, whole.details) == (notes.fates, notes.details)


@pytest.mark.parametrize(
    ("replies", "first"),
    [
        ({b"MAIL": [b"hello there\r\n"]}, L),
        ({b"RCPT": [b"\r\n"]}, L),
        ({b"DATA": [b"250 what\r\n"]}, L),
        ({b"DATA": [b"\xff\xfe\x00\r\n"]}, L),
        ({b".": [b"354 again\r\n"]}, U),
        ({b".": [b"thanks\r\n"]}, U),
        ({b".": [b"999 9.9.9 x\r\n"]}, U),
        ({b"MAIL": [b"354 go\r\n"]}, L),
    ],
    ids=str,
)
def test_reply_out_of_place_ends_the_connection(
    replies: dict[bytes, list[bytes]], first: Fate
) -> None:
    notes = talk(Server(replies), 4)
    assert notes.fates[0] is first
    assert all(notes.verdicts[n].unsent for n in range(1, notes.pulled))
    assert len(notes.ends) == 1


def test_words_that_nobody_asked_for_end_the_connection_without_loss() -> None:
    notes = talk(Server({b".": [b"250 2.0.0 ok\r\n421 4.3.2 shutting down\r\n"]}), 1)
    assert notes.fates == [A]
    server = Server({b".": [b"250 2.0.0 ok\r\n250 2.0.0 surplus\r\n"]})
    notes = talk(server, 5)
    assert notes.fates[0] is A
    # From the surplus reply on, a message may only be called accepted when the server took it.
    assert notes.fates.count(A) <= len(server.taken)


@pytest.mark.parametrize(
    "endless",
    [b"2" * 100_000, b"250-" + b"x" * 70_000 + b"\r\n", b"250-x\r\n" * 20_000],
    ids=["line", "long", "lines"],
)
@pytest.mark.parametrize(("verb", "fate"), [(b"MAIL", L), (b".", U)])
def test_endless_reply_is_cut_off(endless: bytes, verb: bytes, fate: Fate) -> None:
    notes = talk(Server({verb: [endless]}), 3, timeout=2)
    assert notes.fates[0] is fate
    assert all(notes.verdicts[n].unsent for n in range(1, notes.pulled))


def test_refused_recipient_is_followed_by_a_reset_before_the_next_message() -> None:
    server = Server(
        {b"RCPT": [b"550 5.1.1 nobody\r\n"], b"DATA": [b"554 5.5.1 no valid recipients\r\n"]}
    )
    notes = talk(server, 2)
    assert notes.fates == [R, A]
    assert server.lines == [
        b"EHLO",
        b"MAIL",
        b"RCPT",
        b"DATA",
        b"RSET",
        b"MAIL",
        b"RCPT",
        b"DATA",
        b"QUIT",
    ]


def test_data_taken_after_a_refused_recipient_is_ended_by_a_lone_dot() -> None:
    server = Server(
        {b"RCPT": [b"550 5.1.1 nobody\r\n"], b".": [b"554 5.5.1 no valid recipients\r\n"]}
    )
    notes = talk(server, 2)
    assert notes.fates == [R, A]
    assert len(server.taken) == 1
    assert b"RSET" not in server.lines


def test_many_lines_are_kept_as_one_evidence() -> None:
    notes = talk(
        Server(
            {
                b".": [
                    b"550-5.7.1 we do not\r\n550-5.7.1 like you,\r\n550 5.7.1 see example.test\r\n"
                ]
            }
        ),
        1,
    )
    assert notes.fates == [R]
    assert notes.details == ["550 5.7.1 we do not 5.7.1 like you, 5.7.1 see example.test"]


def test_words_of_a_server_are_made_harmless() -> None:
    notes = talk(
        Server(
            {
                b"RCPT": [b"550 5.1.1 \x1b[31m\x00\xe1\xbb\x87 " + b"y" * 5000 + b"\r\n"],
                b"DATA": [b"554 no\r\n"],
            }
        ),
        1,
    )
    assert notes.fates == [R]
    assert notes.details[0].isprintable()
    assert len(notes.details[0]) <= 300
