"""A campaign that another system prepares: its definition, then its list, then check and launch; the officers' own flow takes over there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import text

from notifier.domain.campaign_files import Definition, read_definition
from notifier.errors import CampaignError, NotFoundError, TransitionError
from notifier.flows import control as campaign
from notifier.flows import proofs as proof
from notifier.flows.control import make_plan, refuse_known
from notifier.schema import Campaign
from notifier.services import Services

ENDINGS = (".csv", ".xlsx", ".xls", ".ods")


def _read(name: str, definition: Mapping[str, Any]) -> Definition:
    """Return the definition; a `not_after` is text in JSON. Raise CampaignError."""
    values = dict(definition)
    if isinstance(values.get("not_after"), str):
        try:
            values["not_after"] = datetime.fromisoformat(values["not_after"])
        except ValueError:
            raise CampaignError(
                "definition: not_after is not a moment.",
                fix="Write it as 2026-12-31T17:00:00+07:00.",
            ) from None
    if "list" in values:
        raise CampaignError(
            "definition: list is not known.", fix="Attach the list by a request of its own."
        )
    return read_definition(
        values, name=name, shown="definition", text=orjson.dumps(definition).decode(), folder=Path()
    )


def create(services: Services, name: str, definition: Mapping[str, Any], *, key_id: int) -> None:
    """Keep a definition under a new name, or replace the key's own draft; raise CampaignError or TransitionError."""
    read = _read(name, definition)
    make_plan(services, read, services.settings.templates)
    with services.session() as session:
        refuse_known(session, name)
        row = session.execute(
            text("""INSERT INTO campaign_draft (name, key_id, definition, created_at)
                    VALUES (:name, :key_id, cast(:definition AS json), :now)
                    ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, created_at = excluded.created_at
                     WHERE campaign_draft.key_id = excluded.key_id RETURNING name"""),
            {
                "name": name,
                "key_id": key_id,
                "definition": orjson.dumps(definition).decode(),
                "now": services.clock(),
            },
        )
        if row.first() is None:
            raise TransitionError(
                f"Another system prepares a campaign {name}.", fix="Choose another name."
            )


def attach(services: Services, name: str, content: bytes, ending: str, *, key_id: int) -> None:
    """Keep the list of a draft, a file that ends in `ending`; raise NotFoundError."""
    with services.session() as session:
        row = session.execute(
            text("""UPDATE campaign_draft SET list = :content, list_name = :list_name WHERE name = :name AND key_id = :key_id
                    RETURNING name"""),
            {"content": content, "list_name": f"{name}{ending}", "name": name, "key_id": key_id},
        )
        if row.first() is None:
            raise _unknown(name)


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"This key prepares no campaign {name}.", fix="Create it first.")


@contextmanager
def _prepared(services: Services, name: str, key_id: int) -> Iterator[tuple[Definition, Path]]:
    """Put the list of a draft into a file for as long as it is needed; raise NotFoundError or CampaignError."""
    with services.session() as session:
        row = session.execute(
            text(
                "SELECT definition, list_name, list FROM campaign_draft WHERE name = :name AND key_id = :key_id"
            ),
            {"name": name, "key_id": key_id},
        ).first()
    if row is None:
        raise _unknown(name)
    definition, list_name, content = row
    if content is None:
        raise TransitionError(f"The campaign {name} has no list yet.", fix="Attach one first.")
    with tempfile.TemporaryDirectory(prefix="notifier-draft-") as folder:
        path = Path(folder) / list_name
        path.write_bytes(content)
        yield replace(_read(name, definition), audience=path), path


def check(services: Services, name: str, *, key_id: int) -> dict[str, Any]:
    """Render every mail of a draft without sending one; return what `notifier campaign check --json` prints."""
    with _prepared(services, name, key_id) as (definition, path):
        return proof.check(services, definition, audience=path).to_json()


def launch(services: Services, name: str, *, key_id: int, at: datetime | None = None) -> Campaign:
    """Launch a draft, or schedule it for `at`; the draft ends with that."""
    with _prepared(services, name, key_id) as (definition, path):
        launched = campaign.launch(services, definition, audience=path, at=at)
    with services.session() as session:
        session.execute(
            text("UPDATE campaign SET key_id = :key_id WHERE id = :id"),
            {"key_id": key_id, "id": launched.id},
        )
        session.execute(
            text("DELETE FROM campaign_draft WHERE name = :name AND key_id = :key_id"),
            {"name": name, "key_id": key_id},
        )
    return launched
