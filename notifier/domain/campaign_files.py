"""Campaign files: `campaigns/<name>.toml`, read and checked. campaigns/README.md describes every key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from notifier.domain.calendar import HANOI, Window
from notifier.errors import CampaignError, SettingsError
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Template
from notifier.rendering.fields import as_json, problem_of

DEFAULT_EXPIRY = timedelta(days=5)
_KEYS = {
    "title",
    "topic",
    "template",
    "list",
    "not_after",
    "pace_per_minute",
    "in_doubt",
    "sender",
    "window",
    "data",
}
CAMPAIGN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SENDER_KEYS = {each.name for each in fields(Sender)} - {"public_url"}


@dataclass(frozen=True, slots=True)
class Definition:
    """A campaign as its file describes it. `audience` is relative to the file; `not_after` is aware; `sender` holds overrides."""

    name: str
    title: str
    topic: str
    template: str
    audience: Path | None
    not_after: datetime | None
    pace_per_minute: int | None
    in_doubt: str | None
    sender: Mapping[str, str]
    window: Window | None
    data: Mapping[str, Any]
    text: str


def _text(name: str, values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        raise CampaignError(f"{name}: {key} is missing or not a text.", fix=f'Write {key} = "…".')
    return value.strip()


def load_definition(path: Path, *, name: str | None = None) -> Definition:
    """Read a campaign file; raise CampaignError that names the file and key at fault. `name` replaces the file's own name."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise CampaignError(
            f"There is no campaign file {path}.",
            fix="Name a file such as campaigns/debt-notice.toml.",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CampaignError(
            f"{path.name} cannot be read: {error}.", fix="Correct the file."
        ) from error
    return read_definition(
        values, name=name or path.stem.lower(), shown=path.name, text=text, folder=path.parent
    )


def read_definition(
    values: Mapping[str, Any], *, name: str, shown: str, text: str, folder: Path
) -> Definition:
    """Check the keys of a campaign, called `shown` in errors; raise CampaignError. `text` is kept with it, a list lies in `folder`."""
    if not CAMPAIGN_NAME.fullmatch(name):
        raise CampaignError(
            f"{name} cannot be the name of a campaign.",
            fix="Use small letters, digits, dots and hyphens.",
        )
    if unknown := sorted(set(values) - _KEYS):
        raise CampaignError(
            f"{shown}: {unknown[0]} is not known.", fix=f"Known are: {', '.join(sorted(_KEYS))}."
        )
    pace = values.get("pace_per_minute")
    if pace is not None and (type(pace) is not int or pace < 1):
        raise CampaignError(
            f"{shown}: pace_per_minute is not a whole number above 0.", fix="Correct or remove it."
        )
    policy = values.get("in_doubt")
    if policy not in {None, "resend", "hold"}:
        raise CampaignError(
            f"{shown}: in_doubt is neither resend nor hold.", fix="Correct or remove it."
        )
    for section in ("sender", "window", "data"):
        if not isinstance(values.get(section, {}), dict):
            raise CampaignError(
                f"{shown}: {section} must be a table.", fix=f"Write it as [{section}]."
            )
    audience = values.get("list")
    if audience is not None and not isinstance(audience, str):
        raise CampaignError(f"{shown}: list is not a file name.", fix='Write list = "list.csv".')
    return Definition(
        name=name,
        title=_text(shown, values, "title"),
        topic=_text(shown, values, "topic"),
        template=_text(shown, values, "template"),
        audience=folder / audience if audience else None,
        not_after=_moment(shown, values.get("not_after")),
        pace_per_minute=pace,
        in_doubt=policy,
        sender=check_sender(values.get("sender", {}), shown),
        window=Window.from_json(values["window"], where="window") if "window" in values else None,
        data={key: as_json(value) for key, value in values.get("data", {}).items()},
        text=text,
    )


def _moment(shown: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise CampaignError(
            f"{shown}: not_after is not a moment.",
            fix="Write not_after = 2026-12-31T17:00:00+07:00.",
        )
    # A moment without an offset is Hanoi's: that is what an officer means.
    return value if value.tzinfo else value.replace(tzinfo=HANOI)


def check_sender(values: Mapping[str, Any], shown: str) -> dict[str, str]:
    """Return the texts of a [sender] table; raise CampaignError that names an unknown or empty key."""
    for key, value in values.items():
        if key not in _SENDER_KEYS:
            raise CampaignError(
                f"{shown}: sender.{key} is not known.",
                fix=f"Known are: {', '.join(sorted(_SENDER_KEYS))}.",
            )
        if not isinstance(value, str) or not value.strip():
            raise CampaignError(
                f"{shown}: sender.{key} is not a text.", fix="Correct or remove it."
            )
    return dict(values)


def load_sender(path: Path, public_url: str) -> Sender:
    """Read the office that mail comes from by default; raise SettingsError that names the missing key."""
    try:
        values = check_sender(tomllib.loads(path.read_text(encoding="utf-8")), path.name)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(
            f"{path.name} cannot be read: {error}.", fix="Restore templates/sender.toml."
        ) from error
    if missing := sorted(_SENDER_KEYS - set(values)):
        raise SettingsError(f"{path.name} has no {missing[0]}.", fix="Add it.")
    return Sender(**values, public_url=public_url)


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
