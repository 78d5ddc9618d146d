"""What a status of a dossier means, by the system that reports it: `sources/<source>.toml`.

The portal and the offices' own systems number their statuses differently; each brings its table
as a file, and code knows none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from notifier.errors import SettingsError
from notifier.rendering.catalogue import Catalogue
from notifier.validation import Otherwise, Table, Text, parse_toml, read

TOPIC = "dossier-status"
APOLOGY = "dossier-new-date"
# Loose on purpose: offices write their codes in local variants (domain facts, part B).
CODE = re.compile(r"[0-9A-Z]{1,4}(\.[0-9A-Z]{1,4}){1,5}-\d{6}-\d{4,6}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MAX_QUIET = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Status:
    """One status.

    `notice` is the template of its notice (None: nobody is notified), `closes` whether it ends the
    dossier, `waits` whether the clock stands still.
    """

    code: str
    name: str
    notice: str | None
    closes: bool
    waits: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A system that reports events.

    Only the newest notice is sent when several come within `quiet_seconds`. `apology`: whoever was
    promised a date hears of it at least one working day before it passes.
    """

    name: str
    title: str
    quiet_seconds: int
    apology: bool
    statuses: Mapping[str, Status]


class _StatusTable(Table):
    name: Annotated[
        Text,
        Otherwise(
            "is empty or not a text.", "Write the status as the source's own people call it."
        ),
    ]
    notice: Text | None = None
    closes: bool = False
    waits: bool = False


class _SourceFile(Table):
    title: Text
    quiet_seconds: Annotated[
        int,
        Field(ge=0, le=_MAX_QUIET),
        Otherwise(f"is not a whole number from 0 to {_MAX_QUIET}."),
    ] = 0
    apology: bool = True
    statuses: Annotated[
        dict[str, _StatusTable],
        Field(min_length=1),
        Otherwise("is empty.", "Add a table [statuses.…] for each status."),
    ]


def load_sources(folder: Path, catalogue: Catalogue) -> dict[str, Source]:
    """Read every source's file; raise SettingsError that names the file and key at fault."""
    found = {}
    for path in sorted(folder.glob("*.toml")):
        source = _source(path, catalogue)
        found[source.name] = source
    return found


def _source(path: Path, catalogue: Catalogue) -> Source:
    shown = f"{path.parent.name}/{path.name}"
    values = parse_toml(path, where=shown, raises=SettingsError, fix="Correct the file.")
    if not _NAME.fullmatch(path.stem):
        raise SettingsError(
            f"{shown}: the file's name is the source's name.",
            fix="Use small letters, digits and hyphens.",
        )
    read_file = read(_SourceFile, values, where=shown, raises=SettingsError)
    if read_file.apology:
        _template(shown, "apology", APOLOGY, catalogue)
    for code, status in read_file.statuses.items():
        if status.notice is not None:
            _template(shown, f"statuses.{code}.notice", status.notice, catalogue)
    return Source(
        path.stem,
        read_file.title,
        read_file.quiet_seconds,
        read_file.apology,
        {
            code: Status(code, each.name, each.notice, each.closes, each.waits)
            for code, each in read_file.statuses.items()
        },
    )


def _template(shown: str, place: str, name: str, catalogue: Catalogue) -> None:
    if name in catalogue.broken:
        # It costs itself alone: who needs it learns why, and the others have their notices.
        return
    template = catalogue.get(name)
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
