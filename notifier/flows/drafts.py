"""The story of a campaign that is being prepared: its definition, then its list, check and launch.

A draft is a campaign in the state `draft`. It is created, shown, listed, changed and deleted by the
command line and the API alike; a system's key sees its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from notifier.domain import audiences, campaigns
from notifier.domain.campaign_files import Definition, parse_definition
from notifier.errors import CampaignError, TransitionError
from notifier.flows import proofs
from notifier.flows.launch import LANE, make_plan, refuse_moment, start
from notifier.flows.lists import load_list
from notifier.schema import Campaign
from notifier.services import Services
from notifier.states import CampaignState

ENDINGS = (".csv", ".xlsx", ".xls", ".ods")


def from_json(name: str, definition: Mapping[str, Any]) -> Definition:
    """Return a definition that came as JSON, named `definition` in errors; raise CampaignError."""
    if "list" in definition:
        raise CampaignError(
            "definition: list is not known.", fix="Attach the list by a request of its own."
        )
    text = orjson.dumps(definition).decode()
    return parse_definition(text, name=name, shown="definition")


def create(
    services: Services,
    name: str,
    definition: Mapping[str, Any] | Definition,
    *,
    key_id: int | None = None,
) -> Campaign:
    """Keep a definition as a draft; raise CampaignError, NotFoundError or TransitionError."""
    read = definition if isinstance(definition, Definition) else from_json(name, definition)
    plan = make_plan(services, read)
    with services.session() as session:
        return campaigns.create_draft(
            session, name, plan.terms, read.text, key_id=key_id, now=services.clock()
        )


def edit(
    services: Services,
    name: str,
    definition: Mapping[str, Any] | Definition,
    *,
    key_id: int | None = None,
) -> Campaign:
    """Replace a draft's definition; its list stays. Raise as `create` does, or NotFoundError."""
    read = definition if isinstance(definition, Definition) else from_json(name, definition)
    plan = make_plan(services, read)
    with services.session() as session:
        draft = campaigns.get(session, name, lock=True, key_id=key_id)
        _refuse_launched(draft)
        campaigns.put_terms(draft, plan.terms)
        draft.definition = read.text
    return draft


def _refuse_launched(campaign: Campaign) -> None:
    if campaign.state is not CampaignState.DRAFT:
        raise TransitionError(
            f"The campaign {campaign.name} was launched and can no longer be changed.",
            fix="Prepare another one.",
        )


def attach(
    services: Services, name: str, content: bytes, ending: str, *, key_id: int | None = None
) -> Campaign:
    """Keep the list of a draft, a file that ends in `ending`, instead of the one before."""
    with services.session() as session:
        draft = campaigns.get(session, name, lock=True, key_id=key_id)
        _refuse_launched(draft)
        before = draft.list_file_id
        draft.list_file_id = audiences.attach_file(
            session, f"{name}{ending}", content, services.clock()
        )
        session.flush()
        if before is not None:
            audiences.drop_file(session, before)
    return draft


def delete(services: Services, name: str, *, key_id: int | None = None) -> None:
    """Delete a draft with its list; raise NotFoundError, or TransitionError once it is launched."""
    with services.session() as session:
        draft = campaigns.get(session, name, lock=True, key_id=key_id)
        list_file = draft.list_file_id
        campaigns.delete_draft(session, draft)
        if list_file is not None:
            audiences.drop_file(session, list_file)


@contextmanager
def _prepared(
    services: Services, name: str, key_id: int | None
) -> Iterator[tuple[Campaign, Definition, Path]]:
    """Put a draft's list into a file for as long as it is needed; raise NotFoundError."""
    with services.session() as session:
        draft = campaigns.get(session, name, key_id=key_id)
        _refuse_launched(draft)
        if draft.list_file_id is None:
            raise TransitionError(f"The campaign {name} has no list yet.", fix="Attach one first.")
        list_name, content = audiences.read_file(session, draft.list_file_id)
    with tempfile.TemporaryDirectory(prefix="notifier-draft-") as folder:
        path = Path(folder) / list_name
        path.write_bytes(content)
        read = parse_definition(draft.definition, name=name, shown="definition")
        yield draft, replace(read, audience=path), path


def check(services: Services, name: str, *, key_id: int | None = None) -> proofs.Check:
    """Render every mail of a draft without sending one."""
    with _prepared(services, name, key_id) as (_, definition, path):
        return proofs.check(services, definition, audience=path)


def launch(
    services: Services, name: str, *, key_id: int | None = None, at: datetime | None = None
) -> Campaign:
    """Launch a draft, or schedule it for `at`. What was read is what is launched, or nothing."""
    with _prepared(services, name, key_id) as (seen, definition, path):
        plan = make_plan(services, definition, path)
        refuse_moment(definition, services.clock(), at)
        listed = load_list(services, path, plan.template)
    with services.session() as session:
        draft = campaigns.get(session, name, lock=True, key_id=key_id)
        _refuse_launched(draft)
        if (draft.definition, draft.list_file_id) != (seen.definition, seen.list_file_id):
            raise TransitionError(
                f"The campaign {name} was changed while it was launched; nothing was started.",
                fix="Look at it, then launch it again.",
            )
        ready = start(session, services, draft, plan, listed, at)
        list_file, draft.list_file_id = draft.list_file_id, None
        session.flush()
        if list_file is not None:
            audiences.drop_file(session, list_file)
    services.queues.enqueue_batches(LANE, ready)
    return draft
