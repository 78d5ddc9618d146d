"""What a status of a dossier means, by the system that reports it: `sources/<source>.toml`, read and checked.

The portal and the offices' own systems number their statuses differently; each brings its table as a file, and code knows none of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notifier.errors import SettingsError
from notifier.rendering.catalogue import Catalogue

TOPIC = "dossier-status"
APOLOGY = "dossier-new-date"
# Loose on purpose: offices write their codes in local variants (domain facts, part B).
CODE = re.compile(r"[0-9A-Z]{1,4}(\.[0-9A-Z]{1,4}){1,5}-\d{6}-\d{4,6}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MAX_QUIET = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Status:
    """One status: the template of its notice (None: nobody is told), whether it ends the dossier, and whether the clock stands still."""

    code: str
    name: str
    notice: str | None
    closes: bool
    waits: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A system that reports events. Only the newest notice is sent when several come within `quiet_seconds`.

    `apology`: whoever was promised a date hears of it at least one working day before it passes.
    """

    name: str
    title: str
    quiet_seconds: int
    apology: bool
    statuses: Mapping[str, Status]


def load_sources(folder: Path, catalogue: Catalogue) -> dict[str, Source]:
    """Read every source's file; raise SettingsError that names the file and key at fault."""
    found = {}
    for path in sorted(folder.glob("*.toml")):
        source = _source(path, catalogue)
        found[source.name] = source
    return found


def _source(path: Path, catalogue: Catalogue) -> Source:
    shown = f"{path.parent.name}/{path.name}"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{shown} cannot be read: {error}.", fix="Correct the file.") from error
    if not _NAME.fullmatch(path.stem):
        raise SettingsError(
            f"{shown}: the file's name is the source's name.",
            fix="Use small letters, digits and hyphens.",
        )
    _known(shown, "", values, {"title", "quiet_seconds", "apology", "statuses"})
    title, quiet, apology = (
        values.get("title"),
        values.get("quiet_seconds", 0),
        values.get("apology", True),
    )
    if not isinstance(title, str) or not title.strip():
        raise SettingsError(f"{shown}: title is missing.", fix='Write title = "…".')
    if type(quiet) is not int or not 0 <= quiet <= _MAX_QUIET:
        raise SettingsError(
            f"{shown}: quiet_seconds is not a whole number from 0 to {_MAX_QUIET}.",
            fix="Correct or remove it.",
        )
    if not isinstance(apology, bool):
        raise SettingsError(
            f"{shown}: apology is neither true nor false.", fix="Correct or remove it."
        )
    if apology:
        _template(shown, "apology", APOLOGY, catalogue)
    tables = values.get("statuses")
    if not isinstance(tables, dict) or not tables:
        raise SettingsError(
            f"{shown}: it has no statuses.", fix="Add a table [statuses.…] for each status."
        )
    return Source(
        path.stem,
        title,
        quiet,
        apology,
        {code: _status(shown, code, table, catalogue) for code, table in tables.items()},
    )


def _status(shown: str, code: str, table: Any, catalogue: Catalogue) -> Status:
    place = f"statuses.{code}"
    if not isinstance(table, dict):
        raise SettingsError(
            f"{shown}: {place} must be a table.", fix=f'Write [{place}] and below it name = "…".'
        )
    _known(shown, f"{place}.", table, {"name", "notice", "closes", "waits"})
    name, notice = table.get("name"), table.get("notice")
    if not isinstance(name, str) or not name.strip():
        raise SettingsError(
            f"{shown}: {place}.name is missing.",
            fix="Write the status as the source's own people call it.",
        )
    for key in ("closes", "waits"):
        if not isinstance(table.get(key, False), bool):
            raise SettingsError(
                f"{shown}: {place}.{key} is neither true nor false.", fix="Correct or remove it."
            )
    if notice is not None:
        _template(shown, f"{place}.notice", notice, catalogue)
    return Status(code, name, notice, table.get("closes", False), table.get("waits", False))


def _template(shown: str, place: str, name: object, catalogue: Catalogue) -> None:
    if name in catalogue.broken:
        # It costs itself alone: who needs it learns why, and the other statuses have their notices.
        return
    template = catalogue.get(name) if isinstance(name, str) else None
    if template is None:
        raise SettingsError(
            f"{shown}: {place} names no template.",
            fix="Name a folder of templates/ such as dossier-received.",
        )
    if template.topic != TOPIC:
        raise SettingsError(
            f"{shown}: the template {name} of {place} is not of the topic {TOPIC}.",
            fix="Name another.",
        )


def _known(shown: str, place: str, table: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(table) - known):
        raise SettingsError(
            f"{shown}: {place}{unknown[0]} is not known.",
            fix=f"Known are: {', '.join(sorted(known))}.",
        )
