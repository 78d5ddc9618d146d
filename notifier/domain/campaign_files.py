"""Campaign files: `campaigns/<name>.toml`, read and checked; campaigns/README.md has every key.

What another system sends as a campaign's definition is the same table, in JSON.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from notifier.domain.calendar import HANOI, Window, WindowTable
from notifier.domain.topics import Policy
from notifier.errors import CampaignError, SettingsError
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template
from notifier.rendering.fields import as_json, problem_of
from notifier.states import InDoubtPolicy
from notifier.validation import Otherwise, Table, Text, parse_toml, parse_toml_text, read

DEFAULT_EXPIRY = timedelta(days=5)
CAMPAIGN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
# Beyond it neither Python nor an officer can name the moment in every zone.
_MAX_YEAR = 2999
_MAX_PACE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Definition:
    """A campaign as its file describes it.

    `audience` is relative to the file; `not_after` is aware; `sender` holds overrides; `text` is
    what the file said, word for word.
    """

    name: str
    title: str
    topic: str
    template: str
    audience: Path | None
    not_after: datetime | None
    pace_per_minute: int | None
    in_doubt: InDoubtPolicy | None
    sender: Mapping[str, str]
    window: Window | None
    data: Mapping[str, Any]
    text: str


def _moment(value: object) -> object:
    """Read a moment that is written as a text: JSON has no other way. A day alone is none."""
    if isinstance(value, str):
        date_alone = len(value) <= len("2026-12-31")
        value = date.fromisoformat(value) if date_alone else datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.year > _MAX_YEAR:
        raise ValueError("too late")
    return value


def _in_hanoi(value: datetime) -> datetime:
    # A moment without an offset is Hanoi's: that is what an officer means.
    return value if value.tzinfo else value.replace(tzinfo=HANOI)


class SenderTable(Table):
    """The office that mail comes from, as a campaign may override it: `Sender` but for its URL."""

    name_vi: Text | None = None
    name_en: Text | None = None
    address: Text | None = None
    reply_to: Text | None = None
    phone: Text | None = None
    postal_address_vi: Text | None = None
    postal_address_en: Text | None = None
    website: Text | None = None


class CampaignTable(Table):
    """The keys of a campaign's file, and of a definition in JSON."""

    title: Text
    topic: Text
    template: Text
    list: Annotated[Text | None, Otherwise("is not a file name.", 'Write list = "list.csv".')] = (
        None
    )
    not_after: Annotated[
        datetime | None,
        BeforeValidator(_moment),
        AfterValidator(lambda value: value and _in_hanoi(value)),
        Otherwise("is not a moment.", "Write it as 2026-12-31T17:00:00+07:00."),
    ] = None
    pace_per_minute: Annotated[
        int | None,
        Field(ge=1, le=_MAX_PACE),
        Otherwise(f"is not a whole number from 1 to {_MAX_PACE}."),
    ] = None
    in_doubt: Policy | None = None
    sender: SenderTable = Field(default_factory=SenderTable)
    window: WindowTable | None = None
    data: dict[str, Any] = Field(default_factory=dict)


def load_definition(path: Path, *, name: str | None = None) -> Definition:
    """Read a campaign file; raise CampaignError that names the file and key at fault.

    `name` replaces the file's own name.
    """
    if not path.exists():
        raise CampaignError(
            f"There is no campaign file {path}.",
            fix="Name a file such as campaigns/debt-notice.toml.",
        )
    values, text = parse_toml_text(
        path, where=path.name, raises=CampaignError, fix="Correct the file."
    )
    return read_definition(
        values, name=name or path.stem.lower(), shown=path.name, text=text, folder=path.parent
    )


def parse_definition(text: str, *, name: str, shown: str) -> Definition:
    """Read a definition that is kept with its campaign, as TOML or JSON; raise CampaignError."""
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except ValueError as error:
        raise CampaignError(f"{shown} cannot be read: {error}.", fix="Correct it.") from error
    # A list is attached to a draft itself; where the file once lay says nothing here.
    values.pop("list", None)
    return read_definition(values, name=name, shown=shown, text=text, folder=Path())


def read_definition(
    values: Mapping[str, Any], *, name: str, shown: str, text: str, folder: Path
) -> Definition:
    """Check the keys of a campaign, called `shown` in errors; raise CampaignError.

    `values` come from TOML or JSON; `text` is kept with the campaign; a list lies in `folder`.
    """
    if not CAMPAIGN_NAME.fullmatch(name):
        raise CampaignError(
            f"{name} cannot be the name of a campaign.",
            fix="Use small letters, digits, dots and hyphens.",
        )
    found = read(CampaignTable, values, where=shown, raises=CampaignError)
    return Definition(
        name=name,
        title=found.title,
        topic=found.topic,
        template=found.template,
        audience=folder / found.list if found.list else None,
        not_after=found.not_after,
        pace_per_minute=found.pace_per_minute,
        in_doubt=found.in_doubt,
        sender=found.sender.model_dump(exclude_none=True),
        window=found.window.window() if found.window else None,
        data={key: as_json(value) for key, value in found.data.items()},
        text=text,
    )


def load_sender(path: Path, public_url: str) -> Sender:
    """Read the office that mail comes from by default.

    Raise SettingsError that names the file and the key at fault.
    """
    values = parse_toml(
        path, where=path.name, raises=SettingsError, fix="Restore templates/sender.toml."
    )
    office = read(SenderTable, values, where=path.name, raises=SettingsError)
    for key, value in office:
        if value is None:
            raise SettingsError(f"{path.name}: {key} is missing.", fix="Add it.")
    return Sender(**office.model_dump(), public_url=public_url)


def check_data(definition: Definition, template: Template) -> dict[str, Any]:
    """Return the [data] of a campaign as JSON values that fit the template's fields.

    Moments without an offset are Hanoi's. Raise CampaignError naming the key at fault.
    """
    known = {each.name: each for each in template.fields if each.scope == "campaign"}
    found = {}
    for key, value in definition.data.items():
        if key not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise CampaignError(
                f"[data] {key} is no campaign-wide field of {template.name}.",
                fix=f"Known are: {allowed}.",
            )
        found[key] = as_json(value)
        if (problem := problem_of(known[key], found[key])) is not None:
            raise CampaignError(f"[data] {key} is not of type {known[key].type}.", fix=problem.en)
    return found
