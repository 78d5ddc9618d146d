"""What other systems are to be notified of: recorded with its outcome, for who wants to know."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from notifier.domain import addresses, keys, suppressions, webhooks
from notifier.flows import unsubscribe as subscription
from notifier.flows import upkeep
from notifier.instance.servers.catcher import Catcher
from notifier.services import Services
from notifier.settings import Settings
from notifier.states import Lane, MessageState
from notifier.worker import lifecycle
from tests.receiver import add_key, ask


def ask_for(services: Services, email: str, *, key: str = "portal") -> uuid.UUID:
    with services.engine.connect() as connection:
        key_id = keys.named(connection, key).id
    return ask(services, key_id, email)


@pytest.fixture
def sending(settings: Settings, catcher: Catcher) -> Iterator[tuple[Services, Callable[[], None]]]:
    """Services with a key, and what delivers every message that waits."""
    services = Services(settings.replace(smtp_url=catcher.url, smtp_timeout_seconds=2.0))
    add_key(services, "portal", "https://receiver.example.test/")
    sender = lifecycle.make_sender(services)

    def deliver() -> None:
        for batch_id in upkeep.gather(services, Lane.NOTICE):
            sender.deliver(batch_id)

    yield services, deliver
    sender.close()
    services.close()


def notified(services: Services) -> list[tuple[str, dict[str, Any], Any, Any]]:
    with services.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT kind, data, message_id, at FROM webhook_event ORDER BY id")
        )
        return [(kind, data, number, at) for kind, data, number, at in rows]


def test_outcomes_are_recorded_as_they_are_settled(
    sending: tuple[Services, Callable[[], None]], catcher: Catcher
) -> None:
    services, deliver = sending
    good, bounced, busy = (
        ask_for(services, each)
        for each in ("ai@example.test", "bounce@simulate.test", "busy@simulate.test")
    )
    deliver()
    found = {str(number): (kind, data, at) for kind, data, number, at in notified(services)}
    assert {key: value[0] for key, value in found.items()} == {
        str(good): "message.accepted",
        str(bounced): "message.refused",
        str(busy): "message.deferred",
    }
    _, data, at = found[str(bounced)]
    assert set(data) == {"message_id", "state", "attempts", "reply", "host"}
    assert (data["message_id"], data["state"], data["attempts"]) == (str(bounced), "refused", 1)
    assert data["reply"].startswith("550 5.1.1")
    with services.engine.connect() as connection:
        assert (
            connection.scalar(
                text("SELECT settled_at FROM message WHERE id = :id"), {"id": bounced}
            )
            == at
        )
    with services.engine.begin() as connection:
        connection.execute(
            text("UPDATE message SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
        )
    deliver()
    assert [kind for kind, _, number, _ in notified(services) if number == busy] == [
        "message.deferred",
        "message.deferred",
    ]


def test_a_doubt_is_notified_though_the_message_is_sent_again(
    sending: tuple[Services, Callable[[], None]], catcher: Catcher
) -> None:
    services, deliver = sending
    catcher.ask(script={"at_dot": "keep-drop"})
    number = ask_for(services, "ai@example.test")
    deliver()
    ((kind, data, found, _),) = notified(services)
    assert (kind, found, data["state"]) == ("message.in_doubt", number, "deferred")


def test_a_worker_that_died_is_notified_as_a_doubt(
    sending: tuple[Services, Callable[[], None]],
) -> None:
    services, _ = sending
    number = ask_for(services, "ai@example.test")
    (batch_id,) = upkeep.gather(services, Lane.NOTICE)
    with services.engine.begin() as connection:
        connection.execute(
            text("""UPDATE batch SET state = 'leased', started_through = 5,
                           lease_until = clock_timestamp() - interval '1 s' WHERE id = :id"""),
            {"id": batch_id},
        )
    upkeep.sweep(services)
    ((kind, data, found, _),) = notified(services)
    assert (kind, found, data["message_id"], data["state"], data["host"]) == (
        "message.in_doubt",
        number,
        str(number),
        "queued",
        "",
    )


def test_messages_without_a_key_or_webhook_notify_nobody(
    sending: tuple[Services, Callable[[], None]],
) -> None:
    services, deliver = sending
    add_key(services, "silent", None)
    ask_for(services, "ai@example.test", key="silent")
    deliver()
    assert notified(services) == []


def test_an_opt_out_notifies_every_system_that_wrote_to_the_address(
    sending: tuple[Services, Callable[[], None]],
) -> None:
    services, _ = sending
    add_key(services, "other", "https://other.example.test/")
    add_key(services, "stranger", "https://stranger.example.test/")
    for key, email in (
        ("portal", "ai@example.test"),
        ("portal", "ai@example.test"),
        ("other", "ai@example.test"),
        ("stranger", "b@example.test"),
    ):
        ask_for(services, email, key=key)
    with services.session() as session:
        number = addresses.id_of(session, "ai@example.test")
    token = services.signer.token(number, "tax-policy")
    assert subscription.stop(services, token).stopped
    subscription.stop(services, token)
    clicks = subscription.OneClicks(services)
    clicks.stop(services.signer.token(number, "settlement-guidance")).result(10)
    found = notified(services)
    assert [(kind, data, message_id) for kind, data, message_id, _ in found] == [
        (webhooks.UNSUBSCRIBED, {"topics": [topic], "email": "ai@example.test"}, None)
        for topic in ("tax-policy", "tax-policy", "settlement-guidance", "settlement-guidance")
    ]
    with services.engine.connect() as connection:
        names = connection.scalars(
            text("SELECT k.name FROM webhook_event e JOIN api_key k ON k.id = e.key_id")
        )
        assert sorted(names) == ["other", "other", "portal", "portal"]


def settled(services: Services, state: str, *, new_doubt: bool = False) -> list[str]:
    """Notify of one message in a state, as every statement that settles does."""
    number = keys_number(services)
    row = (
        "SELECT uuidv7() AS id, cast(:key AS integer) AS key_id,"
        " cast(:state AS message_state) AS state, now() AS settled_at, 1::smallint AS attempts,"
        " NULL::text AS detail, NULL::text AS host, cast(:new_doubt AS boolean) AS new_doubt"
    )
    statement = text(
        f"WITH done AS ({row}), notified AS"
        f" ({webhooks.NOTIFY_SETTLED.format(settled='done')} RETURNING kind)"
        " SELECT kind FROM notified"
    )
    with services.engine.begin() as connection:
        return list(
            connection.scalars(statement, {"key": number, "state": state, "new_doubt": new_doubt})
        )


def keys_number(services: Services) -> int:
    with services.engine.connect() as connection:
        return keys.named(connection, "portal").id


@pytest.mark.parametrize("state", MessageState)
def test_every_state_notifies_as_it_says(
    sending: tuple[Services, Callable[[], None]], state: MessageState
) -> None:
    services, _ = sending
    assert settled(services, state) == ([state.webhook] if state.webhook else [])
    assert settled(services, state, new_doubt=True) == ["message.in_doubt"]


def test_the_kinds_are_those_of_the_states_and_the_opt_out() -> None:
    assert {
        "message.accepted",
        "message.skipped",
        "message.expired",
        "message.cancelled",
        "message.bounced",
        "message.complained",
    } <= set(webhooks.KINDS)
    assert len(set(webhooks.KINDS)) == len(webhooks.KINDS)
    assert webhooks.UNSUBSCRIBED in webhooks.KINDS
    with pytest.raises(ValueError, match="queued"):
        webhooks.kind_of(MessageState.QUEUED)


def test_what_is_not_sent_is_notified_too(
    sending: tuple[Services, Callable[[], None]],
) -> None:
    services, deliver = sending
    stopped, late = ask_for(services, "ai@example.test"), ask_for(services, "b@example.test")
    with services.session() as session:
        suppressions.suppress(
            session,
            addresses.id_of(session, "ai@example.test"),
            suppressions.EVERY_TOPIC,
            reason="manual",
            source="test",
            now=services.clock(),
        )
        session.execute(
            text("UPDATE message SET expires_at = now() - interval '1 s' WHERE id = :id"),
            {"id": late},
        )
    deliver()
    found = {number: (kind, data["state"]) for kind, data, number, _ in notified(services)}
    assert found == {
        stopped: ("message.skipped", "skipped"),
        late: ("message.expired", "expired"),
    }
