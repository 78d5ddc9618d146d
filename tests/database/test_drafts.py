"""A draft is a campaign: prepared, shown, changed, launched or deleted, and never half of any."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from notifier.domain import keys
from notifier.domain.campaign_files import load_definition
from notifier.errors import CampaignError, NotFoundError, TransitionError
from notifier.flows import control, drafts, lists
from notifier.invented import tax_code
from notifier.schema import Campaign, ListFile, Message
from notifier.services import Services
from notifier.states import CampaignState
from notifier.testing import ROOT

DEFINITION: dict[str, Any] = {
    "title": "Chính sách thuế mới",
    "topic": "tax-policy",
    "template": "tax-policy",
    "pace_per_minute": 600,
}


@pytest.fixture
def listed() -> bytes:
    rows = [f"{tax_code(number)},Công ty {number},a{number}@example.test" for number in range(1, 6)]
    return "\n".join(["MST,Tên,Email", *rows]).encode()


def count(services: Services, table: type[ListFile | Message]) -> int:
    with services.session() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def policy_definition(services: Services) -> dict[str, Any]:
    found = load_definition(ROOT / "campaigns" / "tax-policy.toml")
    return {**DEFINITION, "data": dict(found.data)}


def test_a_draft_is_shown_and_listed_as_a_campaign(services: Services) -> None:
    drafts.create(services, "policy", policy_definition(services))
    assert control.status(services, "policy").to_json()["state"] == "draft"
    (found,) = control.listed(services, state=CampaignState.DRAFT)
    assert (found.name, found.title, found.pace_per_minute) == ("policy", DEFINITION["title"], 600)


def test_an_edit_replaces_the_definition_and_keeps_the_list(
    services: Services, listed: bytes
) -> None:
    drafts.create(services, "policy", policy_definition(services))
    drafts.attach(services, "policy", listed, ".csv")
    drafts.edit(services, "policy", {**policy_definition(services), "title": "Khác"})
    (found,) = control.listed(services)
    assert found.title == "Khác"
    assert found.list_file_id is not None


def test_a_second_list_replaces_the_first(services: Services, listed: bytes) -> None:
    drafts.create(services, "policy", policy_definition(services))
    drafts.attach(services, "policy", listed, ".csv")
    drafts.attach(services, "policy", listed + b"\n", ".csv")
    assert count(services, ListFile) == 1


def test_a_launched_draft_is_the_same_row_and_needs_its_list_no_more(
    services: Services, listed: bytes
) -> None:
    draft = drafts.create(services, "policy", policy_definition(services))
    drafts.attach(services, "policy", listed, ".csv")
    assert drafts.check(services, "policy").to_json()["to_send"] == 5
    launched = drafts.launch(services, "policy")
    assert (launched.id, launched.state, launched.total) == (draft.id, CampaignState.RUNNING, 5)
    assert launched.template_version is not None
    assert count(services, ListFile) == 0
    assert count(services, Message) == 5
    with pytest.raises(TransitionError, match="was launched"):
        drafts.edit(services, "policy", policy_definition(services))
    with pytest.raises(TransitionError, match="stays as evidence"):
        drafts.delete(services, "policy")


def test_a_draft_without_a_list_is_not_launched(services: Services) -> None:
    drafts.create(services, "policy", policy_definition(services))
    with pytest.raises(TransitionError, match="has no list yet"):
        drafts.launch(services, "policy")


def test_a_deleted_draft_leaves_nothing(services: Services, listed: bytes) -> None:
    drafts.create(services, "policy", policy_definition(services))
    drafts.attach(services, "policy", listed, ".csv")
    drafts.delete(services, "policy")
    assert count(services, ListFile) == 0
    assert control.listed(services) == []


def test_a_name_is_taken_once(services: Services) -> None:
    drafts.create(services, "policy", policy_definition(services))
    with pytest.raises(TransitionError, match="is being prepared"):
        drafts.create(services, "policy", policy_definition(services))


def test_a_key_knows_its_own_drafts_alone(services: Services) -> None:
    with services.engine.begin() as connection:
        for name in ("a", "b"):
            keys.create(
                connection,
                name=name,
                scopes=["campaigns:write"],
                sandbox=False,
                now=services.clock(),
            )
        first, second = (each.id for each in keys.every(connection))
    drafts.create(services, "policy", policy_definition(services), key_id=first)
    assert control.status(services, "policy", key_id=first).campaign.key_id == first
    for work in (
        lambda: control.status(services, "policy", key_id=second),
        lambda: drafts.delete(services, "policy", key_id=second),
        lambda: drafts.edit(services, "policy", policy_definition(services), key_id=second),
    ):
        with pytest.raises(NotFoundError):
            work()
    assert control.listed(services, key_id=second) == []


def test_a_change_while_a_launch_reads_the_list_stops_the_launch(
    services: Services, listed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts.create(services, "policy", policy_definition(services))
    drafts.attach(services, "policy", listed, ".csv")
    read = lists.load_list

    def read_and_change(*arguments: Any, **named: Any) -> Any:
        found = read(*arguments, **named)
        drafts.edit(services, "policy", {**policy_definition(services), "title": "Khác"})
        return found

    monkeypatch.setattr("notifier.flows.drafts.load_list", read_and_change)
    with pytest.raises(TransitionError, match="was changed while"):
        drafts.launch(services, "policy")
    assert count(services, Message) == 0
    with services.session() as session:
        assert session.scalars(select(Campaign.state)).all() == [CampaignState.DRAFT]


def test_a_definition_names_no_file_of_the_server(services: Services) -> None:
    with pytest.raises(CampaignError, match="list is not known"):
        drafts.create(services, "policy", {**policy_definition(services), "list": "a.csv"})
