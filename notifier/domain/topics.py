"""Topics: what the service writes about, whether one may opt out, and why it is sent.

They stand in `templates/topics.toml`, with their legal sentences, because law changes and code
should not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from notifier.errors import SettingsError
from notifier.rendering.catalogue import TopicInfo
from notifier.states import InDoubtPolicy
from notifier.validation import Table, Text, parse_toml, read

# As a file writes it: not an enumeration's member, which strict reading asks for, but its value.
Policy = Annotated[InDoubtPolicy, Field(strict=False)]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; `in_doubt` says what happens to a message whose fate a crash left unknown."""

    info: TopicInfo
    in_doubt: InDoubtPolicy

    @property
    def code(self) -> str:
        """The topic's short name."""
        return self.info.code

    @property
    def statutory(self) -> bool:
        """Whether the law demands it, so that nobody can opt out."""
        return self.info.statutory


class _Texts(Table):
    """A text in each language (`notifier.rendering.catalogue.LANGUAGES`)."""

    vi: Text
    en: Text


class _TopicTable(Table):
    name: _Texts
    statutory: bool
    in_doubt: Policy
    legal_ground: _Texts
    description: _Texts


def load_topics(path: Path) -> dict[str, Topic]:
    """Read the topics by code, in the file's order.

    Raise SettingsError that names the topic and key at fault.
    """
    tables = parse_toml(
        path,
        where=f"The topics file {path.name}",
        raises=SettingsError,
        fix="Restore or correct it.",
    )
    return {code: _topic(code, table) for code, table in tables.items()}


def _topic(code: str, table: object) -> Topic:
    found = read(_TopicTable, table, where=f"Topic {code}", raises=SettingsError)
    info = TopicInfo(
        code,
        found.name.model_dump(),
        found.statutory,
        found.legal_ground.model_dump(),
        found.description.model_dump(),
    )
    return Topic(info, found.in_doubt)
