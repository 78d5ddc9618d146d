"""Addresses and taxpayers by their verbs: each kept once, whoever asks for it at the same time."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from notifier.domain import addresses, calendar, taxpayers
from notifier.domain.addresses import AddressError
from notifier.flows.lists import load_list
from notifier.services import Services

NOW = datetime(2026, 11, 2, 1, 0, tzinfo=UTC)


def emails(services: Services) -> list[str]:
    with services.session() as session:
        return list(session.scalars(text("SELECT email FROM address ORDER BY id")))


def test_an_address_is_kept_once_in_its_first_spelling(services: Services) -> None:
    with services.session() as session:
        first = addresses.id_of(session, " An@Example.test ")
        assert addresses.id_of(session, "an@example.TEST") == first
        found = addresses.ids(session, ["AN@example.test", "an@example.test", "binh@example.test"])
        assert found["AN@example.test"] == found["an@example.test"] == first
        assert found["binh@example.test"] != first
        assert addresses.ids(session, []) == {}
    assert emails(services) == ["An@example.test", "binh@example.test"]


@pytest.mark.parametrize("email", ["", "an", "an@", "an@example.test, binh@example.test"])
def test_what_cannot_be_written_to_is_refused(services: Services, email: str) -> None:
    with services.session() as session, pytest.raises(AddressError) as error:
        addresses.id_of(session, email)
    assert error.value.fix
    assert emails(services) == []


def test_transactions_that_add_the_same_addresses_at_once_agree_on_their_numbers(
    services: Services,
) -> None:
    asked = [f"nguoi{each}@example.test" for each in range(200)]
    found: list[dict[str, int]] = []
    start = threading.Barrier(4)

    def add(order: int) -> None:
        start.wait()
        with services.session() as session:
            found.append(addresses.ids(session, asked[:: 1 if order % 2 else -1]))

    threads = [threading.Thread(target=add, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert all(each == found[0] for each in found)
    assert sorted(emails(services)) == sorted(asked)


def test_a_locked_address_is_waited_for_and_others_are_not(services: Services) -> None:
    with services.session() as session:
        one, two = (addresses.id_of(session, f"{each}@example.test") for each in ("a", "b"))
    with services.session() as holder:
        assert addresses.lock(holder, [one, two + 1_000]) == {one}
        with services.session() as session:
            assert addresses.lock(session, [two]) == {two}
            skipping = text("SELECT id FROM address FOR NO KEY UPDATE SKIP LOCKED")
            assert list(session.scalars(skipping)) == [two]
            # Rows that point to it may be added meanwhile.
            assert (
                session.scalar(
                    text("SELECT id FROM address WHERE id = :id FOR KEY SHARE SKIP LOCKED"),
                    {"id": one},
                )
                == one
            )


def test_the_owners_of_an_address_are_those_whom_lists_named_with_it(
    services: Services, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(
        "MST,Tên,Email,Ngôn ngữ\n"
        "0100109106,Công ty Một,chung@example.test,vi\n"
        "0100112437,Công ty Hai,chung@example.test; hai@example.test,en\n",
        encoding="utf-8",
    )
    audience = load_list(services, tmp_path / "list.csv", services.catalogue["tax-policy"])
    assert audience.accepted == 2
    with services.session() as session:
        numbers = addresses.ids(
            session, ["chung@example.test", "hai@example.test", "khac@example.test"]
        )
        owners = taxpayers.owners(session, numbers.values())
    assert {
        email: [(each.tax_code, each.name, each.language) for each in owners.get(number, [])]
        for email, number in numbers.items()
    } == {
        "chung@example.test": [
            ("0100109106", "Công ty Một", "vi"),
            ("0100112437", "Công ty Hai", "en"),
        ],
        "hai@example.test": [("0100112437", "Công ty Hai", "en")],
        "khac@example.test": [],
    }


def test_holidays_are_added_once_and_a_day_that_was_edited_stays(services: Services) -> None:
    with services.session() as session:
        session.execute(text("DELETE FROM calendar_day"))
        session.execute(text("INSERT INTO calendar_day VALUES ('2026-09-02', true, 'Làm bù')"))
        connection = session.connection()
        added = calendar.seed(connection, range(2026, 2028))
        assert added > 15
        assert calendar.seed(connection, range(2026, 2028)) == 0
        assert calendar.seed(connection, range(2026, 2026)) == 0
        found = calendar.load(connection)
    assert len(found.exceptions) == added + 1
    assert found.is_working(date(2026, 9, 2))
    assert not found.is_working(date(2027, 9, 2))
