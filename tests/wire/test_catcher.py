"""The catcher keeps what it was sent, byte for byte and bounded, and finds it after a kill."""

from __future__ import annotations

import smtplib
from pathlib import Path

import psutil
import pytest

from notifier.instance.servers import mailbox
from notifier.instance.servers.catcher import Catcher
from notifier.instance.servers.mailbox import Mailbox, MailboxWriter


def mail(number: int, *, subject: str = "", body: str = "text") -> bytes:
    return (
        f"Message-ID: <{number}@x.test>\r\nSubject: {subject or number}\r\n\r\n{body}\r\n".encode()
    )


def test_mail_is_kept_as_it_was_sent(catcher: Catcher) -> None:
    text = mail(1, body=".\r\n..two\r\n.\r\nend" + "x" * 200_000)
    starting_with_a_dot = b".first line\r\nSubject: odd\r\n\r\n"
    with smtplib.SMTP("127.0.0.1", catcher.port) as client:
        client.sendmail("a@x.test", ["b@y.test"], text)
        client.sendmail("a@x.test", ["c@y.test"], starting_with_a_dot)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@x.test", ["bounce@simulate.test"], text)
    catcher.stop()
    assert catcher.folder is not None
    box = Mailbox(catcher.folder)
    total, [newest, first] = box.page()
    assert total == 2
    assert (first.mail_from, first.rcpt_to, first.subject, first.message_id) == (
        "a@x.test",
        "b@y.test",
        "1",
        "<1@x.test>",
    )
    assert box.raw(first) == text
    assert box.raw(newest) == starting_with_a_dot


def test_same_message_id_is_counted_as_a_duplicate(catcher: Catcher) -> None:
    with smtplib.SMTP("127.0.0.1", catcher.port) as client:
        for number in (1, 2, 1):
            client.sendmail("a@x.test", ["b@y.test"], mail(number))
    seen = catcher.ask(ids=True)
    assert (seen["received"], seen["distinct"], seen["duplicates"]) == (3, 2, 1)
    assert seen["message_ids"] == {"<1@x.test>": 2, "<2@x.test>": 1}
    assert catcher.ask(reset=True)["received"] == 0


def test_inbox_goes_on_after_a_kill(tmp_path: Path) -> None:
    for number in range(3):
        with Catcher(folder=tmp_path / "mail") as server:
            with smtplib.SMTP("127.0.0.1", server.port) as client:
                client.sendmail("a@x.test", ["b@y.test"], mail(number))
            box = Mailbox(tmp_path / "mail")
            while box.page()[0] <= number:
                pass
            psutil.Process(server.pid).kill()
    assert [entry.subject for entry in box.page()[1]] == ["2", "1", "0"]
    assert [box.raw(entry) for entry in box.entries()] == [mail(number) for number in range(3)]


def test_half_a_line_of_a_killed_writer_is_left_out(tmp_path: Path) -> None:
    writer = MailboxWriter(tmp_path)
    writer.add("a@x.test", "b@y.test", mail(1))
    writer.close()
    index = tmp_path / "index.jsonl"
    index.write_text(index.read_text() + '{"number": 2, "at": 17')
    writer = MailboxWriter(tmp_path)
    writer.add("a@x.test", "b@y.test", mail(3))
    writer.close()
    box = Mailbox(tmp_path)
    assert [(entry.number, entry.subject) for entry in box.entries()] == [(1, "1"), (2, "3")]
    assert [box.raw(entry) for entry in box.entries()] == [mail(1), mail(3)]


def test_oldest_mail_is_dropped_beyond_the_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "SEGMENT_BYTES", 5_000)
    monkeypatch.setattr(mailbox, "MAX_SEGMENTS", 3)
    writer = MailboxWriter(tmp_path)
    for number in range(1, 101):
        writer.add("a@x.test", f"u{number}@y.test", mail(number, body="x" * 900))
    writer.close()
    box = Mailbox(tmp_path)
    entries = list(box.entries())
    assert entries[-1].number == 100
    assert 10 <= len(entries) <= 15
    assert all(box.raw(entry) == mail(entry.number, body="x" * 900) for entry in entries)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.mail")) <= 15_000


def test_mail_is_found_by_recipient_subject_and_number(tmp_path: Path) -> None:
    writer = MailboxWriter(tmp_path)
    for number in range(1, 31):
        writer.add(
            "a@x.test",
            f"User{number}@y.test",
            mail(number, subject="=?utf-8?b?VGh14bq/IHRow6FuZw==?="),
        )
    writer.close()
    box = Mailbox(tmp_path)
    assert [entry.number for entry in box.page(limit=3, offset=1)[1]] == [29, 28, 27]
    assert box.page(search="user7@")[0] == 1
    assert box.page(search="THUẾ")[0] == 30
    entry = box.get(12)
    assert entry is not None
    assert box.parsed(entry)["subject"] == "Thuế tháng"
    assert box.get(99) is None
    assert Mailbox(tmp_path / "absent").page() == (0, [])
