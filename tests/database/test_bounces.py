"""Mail that comes back changes what it proves, once, and a forged one changes nothing."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import text

from notifier.domain import addresses, keys
from notifier.domain import suppressions as suppression
from notifier.flows import bounces as returned
from notifier.flows import message_requests as message
from notifier.flows.message_requests import Wanted
from notifier.services import Services

ADDRESS = "ketoan@congty.example.test"


def ask(services: Services) -> tuple[int, uuid.UUID, int]:
    """A key, a message of it and the address's number."""
    with services.engine.begin() as connection:
        token = keys.create(
            connection,
            name="portal",
            scopes=["messages:write"],
            sandbox=False,
            now=services.clock(),
        )
        key = keys.find(connection, token)
        assert key is not None
        connection.execute(
            text("UPDATE api_key SET webhook_url = 'https://portal.example.test/hook'")
        )
    template = services.catalogue["settlement-guidance"]
    data = {"tax_year": 2026, "tax_kind": "thuế", "deadline": "2027-03-31"}
    wanted = Wanted(template, ADDRESS, "Công ty", "vi", None, data)
    message_id = message.ask(
        services, wanted, key_id=key.id, sandbox=False, token=None, fingerprint=b"", request="r"
    )
    with services.session() as session:
        return key.id, message_id, addresses.id_of(session, ADDRESS)


def bounce(status: str = "5.1.1", action: str = "failed") -> bytes:
    return (
        "From: MAILER-DAEMON@mx.example.test\r\nTo: b@notices.example.test\r\nSubject: Undelivered\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="x"\r\n\r\n'
        "--x\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n"
        f"Reporting-MTA: dns; mx.example.test\r\n\r\nFinal-Recipient: rfc822; {ADDRESS}\r\nAction: {action}\r\nStatus: {status}\r\n"
        "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--x--\r\n"
    ).encode()


def complaint(link: str, message_id: object) -> bytes:
    return (
        "From: fbl@provider.example.test\r\nTo: abuse@notices.example.test\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="x"\r\n\r\n'
        "--x\r\nContent-Type: text/plain\r\n\r\nA complaint.\r\n--x\r\nContent-Type: message/feedback-report\r\n\r\n"
        "Feedback-Type: abuse\r\nVersion: 1\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\n"
        f"From: a@example.test\r\nMessage-ID: <{message_id}@notices.example.test>\r\nList-Unsubscribe: <https://notices.example.test/u/{link}>\r\n"
        "Subject: x\r\n\r\nBody\r\n\r\n--x--\r\n"
    ).encode()


def hooks(services: Services) -> list[str]:
    with services.session() as session:
        return list(session.scalars(text("SELECT kind FROM webhook_event ORDER BY id")))


def to(services: Services, message_id: uuid.UUID) -> str:
    return f"b+{services.signer.bounce_tag(message_id)}@notices.example.test"


def test_a_bounce_is_noted_told_and_stops_an_address_that_is_no_more(services: Services) -> None:
    key_id, message_id, address_id = ask(services)
    for _ in range(2):
        assert returned.take(services, bounce(), to(services, message_id)) is not None
    found = message.get(services, message_id, key_id=key_id)
    assert [(each.kind, each.detail) for each in found.replies] == [
        ("bounced", "smtp; 550 5.1.1 no such user")
    ]
    assert hooks(services) == ["message.bounced"]
    with services.session() as session:
        assert suppression.active(session, address_id) == {"*": "hard_bounce"}


@pytest.mark.parametrize("status", ["4.2.2", "5.2.2", "5.7.1", "5.2.1"])
def test_a_full_or_blocking_mailbox_is_noted_and_stopped_for_nothing(
    services: Services, status: str
) -> None:
    key_id, message_id, address_id = ask(services)
    returned.take(services, bounce(status), to(services, message_id))
    assert len(message.get(services, message_id, key_id=key_id).replies) == 1
    with services.session() as session:
        assert suppression.active(session, address_id) == {}


def test_a_forged_bounce_a_delay_and_an_automatic_reply_change_nothing(services: Services) -> None:
    key_id, message_id, address_id = ask(services)
    forged = f"b+{message_id.hex}.0123456789abcdef@notices.example.test"
    reply = b"From: a@example.test\r\nAuto-Submitted: auto-replied\r\nSubject: away\r\n\r\nI am away.\r\n"
    mails = (
        (bounce(), forged),
        (bounce(), "someone@notices.example.test"),
        (bounce(action="delayed"), to(services, message_id)),
    )
    for raw, recipient in (
        *mails,
        (reply, to(services, message_id)),
        (b"\xff\x00" * 50, to(services, message_id)),
    ):
        assert returned.take(services, raw, recipient) is None
    assert message.get(services, message_id, key_id=key_id).replies == []
    assert hooks(services) == []
    with services.session() as session:
        assert suppression.active(session, address_id) == {}


def test_a_complaint_with_our_link_stops_what_may_be_stopped(services: Services) -> None:
    _, message_id, address_id = ask(services)
    link = services.signer.token(address_id, "settlement-guidance")
    assert (
        returned.take(services, complaint(link, message_id), "abuse@notices.example.test")
        is not None
    )
    with services.session() as session:
        assert suppression.active(session, address_id) == {
            "tax-policy": "complaint",
            "settlement-guidance": "complaint",
        }
    assert hooks(services) == ["message.complained"]


def test_a_complaint_with_a_forged_link_or_anothers_message_is_not_believed(
    services: Services,
) -> None:
    _, message_id, address_id = ask(services)
    assert (
        returned.take(services, complaint("A" * 43, message_id), "abuse@notices.example.test")
        is None
    )
    with services.session() as session:
        other = addresses.id_of(session, "khac@example.test")
    link = services.signer.token(other, "settlement-guidance")
    returned.take(services, complaint(link, message_id), "abuse@notices.example.test")
    assert hooks(services) == []
    with services.session() as session:
        assert suppression.active(session, address_id) == {}
        assert suppression.active(session, other).keys() == {"tax-policy", "settlement-guidance"}
