"""Mail that comes back changes what it proves, once; what a hand can write silences no law."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from notifier.domain import addresses, keys
from notifier.domain import suppressions as suppression
from notifier.domain.suppressions import Reason
from notifier.flows import bounces
from notifier.flows import message_requests as message
from notifier.flows.message_requests import Wanted
from notifier.services import Services

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "bounces"
ADDRESS = "ketoan@congty.example.test"
ABUSE = "abuse@notices.example.test"
DEAD, FULL, BLOCKED = "postfix-user-unknown", "postfix-mailbox-full", "postfix-blocked"
OPTIONAL = {"tax-policy", "settlement-guidance"}


def make_key(services: Services) -> int:
    with services.engine.begin() as connection:
        keys.create(
            connection,
            name="portal",
            scopes=["messages:write"],
            sandbox=False,
            now=services.clock(),
        )
        keys.set_webhook(connection, "portal", "https://portal.example.test/hook")
        return keys.named(connection, "portal").id


def send(services: Services, key_id: int) -> uuid.UUID:
    """A message that a server took."""
    template = services.catalogue["settlement-guidance"]
    data = {"tax_year": 2026, "tax_kind": "thuế", "deadline": "2027-03-31"}
    wanted = Wanted(template, ADDRESS, "Công ty", "vi", None, data)
    found = message.ask(
        services, wanted, key_id=key_id, sandbox=False, token=None, fingerprint=b"", request="r"
    )
    with services.session() as session:
        session.execute(
            text("UPDATE message SET state = 'accepted', settled_at = now() WHERE id = :id"),
            {"id": found},
        )
    return found


def ask(services: Services) -> tuple[int, uuid.UUID, int]:
    """A key, a message of it that a server took, and the address's number."""
    key_id = make_key(services)
    message_id = send(services, key_id)
    with services.session() as session:
        return key_id, message_id, addresses.id_of(session, ADDRESS)


def bounce(name: str = DEAD) -> bytes:
    return (SAMPLES / f"{name}.eml").read_bytes()


def complaint(link: str, message_id: object, kind: str = "arf-abuse") -> bytes:
    raw = bounce(kind).replace(b"{LINK}", link.encode())
    return raw.replace(b"{MESSAGE}", str(message_id).encode())


def hooks(services: Services) -> list[str]:
    with services.session() as session:
        return list(session.scalars(text("SELECT kind FROM webhook_event ORDER BY id")))


def to(services: Services, message_id: uuid.UUID) -> str:
    return f"b+{services.signer.bounce_tag(message_id)}@notices.example.test"


def active(services: Services, address_id: int) -> Mapping[str, str]:
    with services.session() as session:
        return suppression.active(session, address_id)


def state(services: Services, message_id: uuid.UUID) -> str:
    with services.session() as session:
        return str(
            session.scalar(text("SELECT state FROM message WHERE id = :id"), {"id": message_id})
        )


def later(services: Services, **days: float) -> None:
    now = services.clock() + timedelta(**days)
    services.clock = lambda: now


def test_a_bounce_is_noted_and_notified_once_and_seen(services: Services) -> None:
    key_id, message_id, _ = ask(services)
    for _ in range(2):
        assert bounces.take(services, bounce(), to(services, message_id)) is not None
    found = message.get(services, message_id, key_id=key_id)
    assert state(services, message_id) == "bounced"
    (reply,) = [each for each in found.replies if each.kind == "bounced"]
    assert reply.detail is not None
    assert reply.detail.startswith("smtp; 550 5.1.1")
    assert hooks(services) == ["message.bounced"]


@pytest.mark.parametrize("name", [FULL, BLOCKED, "postfix-expired", "gmail-rate"])
def test_a_full_or_blocking_mailbox_is_noted_and_stopped_for_nothing(
    services: Services, name: str
) -> None:
    _, message_id, address_id = ask(services)
    bounces.take(services, bounce(name), to(services, message_id))
    assert state(services, message_id) == "bounced"
    assert active(services, address_id) == {}


# --- what the law demands ------------------------------------------------------------------------


def test_one_report_stops_what_may_be_stopped_and_nothing_that_the_law_demands(
    services: Services,
) -> None:
    _, message_id, address_id = ask(services)
    for _ in range(3):
        bounces.take(services, bounce(), to(services, message_id))
        later(services, days=1)
    assert active(services, address_id) == dict.fromkeys(OPTIONAL, "hard_bounce"), (
        "the same report on another day is no second one"
    )


def test_a_report_of_another_message_on_a_later_day_stops_every_topic(services: Services) -> None:
    key_id, first, address_id = ask(services)
    bounces.take(services, bounce(), to(services, first))
    later(services, days=1)
    second = send(services, key_id)
    bounces.take(services, bounce("exim-text-user-unknown"), to(services, second))
    assert active(services, address_id) == {
        suppression.EVERY_TOPIC: "hard_bounce",
        **dict.fromkeys(OPTIONAL, "hard_bounce"),
    }


def test_two_reports_of_one_day_are_one(services: Services) -> None:
    key_id, first, address_id = ask(services)
    # Nine in the morning, then ten minutes before midnight and ten after, in Hanoi (UTC+7).
    day = services.clock().replace(hour=2, minute=0)
    services.clock = lambda: day
    bounces.take(services, bounce(), to(services, first))
    late = day.replace(hour=16, minute=50)
    services.clock = lambda: late
    bounces.take(services, bounce(), to(services, send(services, key_id)))
    assert active(services, address_id).keys() == OPTIONAL
    services.clock = lambda: late + timedelta(minutes=20)
    bounces.take(services, bounce(), to(services, send(services, key_id)))
    assert suppression.EVERY_TOPIC in active(services, address_id)


def test_a_report_that_was_taken_back_is_no_first_one(services: Services) -> None:
    key_id, first, address_id = ask(services)
    bounces.take(services, bounce(), to(services, first))
    with services.session() as session:
        for topic in OPTIONAL:
            assert suppression.lift(session, address_id, topic, by="officer", now=services.clock())
    later(services, days=2)
    bounces.take(services, bounce(), to(services, send(services, key_id)))
    assert active(services, address_id).keys() == OPTIONAL


def test_a_soft_bounce_is_no_first_report(services: Services) -> None:
    key_id, first, address_id = ask(services)
    bounces.take(services, bounce(FULL), to(services, first))
    later(services, days=1)
    bounces.take(services, bounce(), to(services, send(services, key_id)))
    assert active(services, address_id).keys() == OPTIONAL


def test_a_report_of_an_old_message_is_noted_and_stops_nothing(services: Services) -> None:
    _, message_id, address_id = ask(services)
    later(services, days=31)
    bounces.take(services, bounce(), to(services, message_id))
    assert state(services, message_id) == "bounced"
    assert active(services, address_id) == {}


# --- what is not believed ------------------------------------------------------------------------


def test_a_forged_bounce_a_delay_and_an_automatic_reply_change_nothing(services: Services) -> None:
    _, message_id, address_id = ask(services)
    mine = to(services, message_id)
    forged = f"b+{message_id.hex}.0123456789abcdef@notices.example.test"
    for raw, recipient in (
        (bounce(), forged),
        (bounce(), "someone@notices.example.test"),
        (bounce("postfix-delayed"), mine),
        (bounce("reply-vacation"), mine),
        (bounce("reply-of-a-person"), mine),
        (b"\xff\x00" * 50, mine),
    ):
        assert bounces.take(services, raw, recipient) is None
    assert state(services, message_id) == "accepted"
    assert hooks(services) == []
    assert active(services, address_id) == {}


def test_a_complaint_with_our_link_stops_what_may_be_stopped(services: Services) -> None:
    _, message_id, address_id = ask(services)
    link = services.signer.token(address_id, "settlement-guidance")
    for _ in range(2):
        assert bounces.take(services, complaint(link, message_id), ABUSE) is not None
    assert active(services, address_id) == dict.fromkeys(OPTIONAL, "complaint")
    assert state(services, message_id) == "complained"
    assert hooks(services) == ["message.complained"]


def test_a_complaint_that_is_taken_back_stops_nothing(services: Services) -> None:
    _, message_id, address_id = ask(services)
    link = services.signer.token(address_id, "settlement-guidance")
    raw = complaint(link, message_id, "arf-not-spam")
    assert bounces.take(services, raw, ABUSE) is None
    assert active(services, address_id) == {}
    assert state(services, message_id) == "accepted"


def test_a_complaint_with_a_forged_link_or_anothers_message_is_not_believed(
    services: Services,
) -> None:
    _, message_id, address_id = ask(services)
    assert bounces.take(services, complaint("A" * 43, message_id), ABUSE) is None
    with services.session() as session:
        other = addresses.id_of(session, "khac@example.test")
    link = services.signer.token(other, "settlement-guidance")
    bounces.take(services, complaint(link, message_id), ABUSE)
    assert hooks(services) == []
    assert state(services, message_id) == "accepted"
    assert active(services, address_id) == {}
    assert active(services, other).keys() == OPTIONAL


def test_a_bounce_beside_an_opt_out_is_a_reason_of_its_own(services: Services) -> None:
    _, message_id, address_id = ask(services)
    with services.session() as session:
        suppression.suppress(
            session,
            address_id,
            "tax-policy",
            reason=Reason.UNSUBSCRIBED,
            source="link",
            now=services.clock(),
        )
    bounces.take(services, bounce(), to(services, message_id))
    with services.session() as session:
        assert suppression.reasons(session, address_id)["tax-policy"] == (
            Reason.HARD_BOUNCE,
            Reason.UNSUBSCRIBED,
        )


# --- the command at the end of a pipe ------------------------------------------------------------


def start(
    environment: Mapping[str, str], *arguments: str, command: str = "bounces"
) -> subprocess.Popen[bytes]:
    """Run the command as a mail server does: with an environment of its own, which may be empty."""
    return subprocess.Popen(
        [sys.executable, "-m", "notifier", command, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environment},
    )


def run(environment: Mapping[str, str], raw: bytes, *arguments: str) -> tuple[int, str]:
    with start(environment, *arguments) as process:
        _, said = process.communicate(raw, timeout=60)
    return process.returncode, said.decode()


def test_the_command_takes_a_report_for_each_recipient(services: Services) -> None:
    key_id, first, address_id = ask(services)
    second = send(services, key_id)
    raw = bounce() + b"x" * 2_000_000
    code, said = run(
        services.settings.to_env(),
        raw,
        "--recipient",
        to(services, first),
        # What a mail server writes for a second recipient.
        to(services, second),
        "someone@notices.example.test",
    )
    assert code == 0, said
    assert said.split() == ["bounced", str(first), "bounced", str(second), "ignored"]
    assert active(services, address_id).keys() == OPTIONAL


@pytest.mark.parametrize(
    ("changed", "arguments"),
    [
        (None, ("--recipient", "b+x@notices.example.test")),
        ({}, ()),
        (
            {"NOTIFIER_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"},
            ("--recipient", "{mine}"),
        ),
        ({"NOTIFIER_SECRET_KEY": ""}, ("--recipient", "{mine}")),
        ({"NOTIFIER_TEMPLATES": "/nowhere"}, ("--recipient", "{mine}")),
    ],
    ids=["no-settings", "no-recipient", "no-database", "no-secret", "no-templates"],
)
def test_any_failure_of_the_command_asks_for_the_report_again(
    services: Services, changed: dict[str, str] | None, arguments: tuple[str, ...]
) -> None:
    _, message_id, _ = ask(services)
    mine = to(services, message_id)
    environment = {} if changed is None else services.settings.to_env() | changed
    code, said = run(environment, bounce(), *(each.format(mine=mine) for each in arguments))
    assert code == os.EX_TEMPFAIL, said
    assert "Traceback" not in said
    assert state(services, message_id) == "accepted"


def test_a_stop_of_the_command_asks_for_the_report_again(services: Services) -> None:
    with start(services.settings.to_env(), "--recipient", "b+x@notices.example.test") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # It has begun to read when it takes more than a pipe holds.
        process.stdin.write(b"Subject: x\n\n" + b"x" * 400_000)
        process.stdin.flush()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == os.EX_TEMPFAIL
