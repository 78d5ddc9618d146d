"""Topics: what the service writes about, whether one may opt out, and on what legal ground it is sent.

They stand in `templates/topics.toml`, with their legal sentences, because law changes and code should not.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notifier.errors import SettingsError
from notifier.rendering.catalogue import LANGUAGES, TopicInfo

_KEYS = {"name", "statutory", "in_doubt", "legal_ground", "description"}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; `in_doubt` says what happens to a message whose fate a crash left unknown: `resend` or `hold`."""

    info: TopicInfo
    in_doubt: str

    @property
    def code(self) -> str:
        """The topic's short name."""
        return self.info.code

    @property
    def statutory(self) -> bool:
        """Whether the law demands it, so that nobody can opt out."""
        return self.info.statutory


def load_topics(path: Path) -> dict[str, Topic]:
    """Read the topics by code, in the file's order; raise SettingsError that names the topic and key at fault."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(
            f"The topics cannot be read from {path.name}: {error}.", fix="Restore or correct it."
        ) from error
    return {code: _topic(code, table) for code, table in tables.items()}


def _topic(code: str, table: Any) -> Topic:
    if not isinstance(table, dict) or set(table) != _KEYS:
        odd = sorted(_KEYS ^ set(table)) if isinstance(table, dict) else sorted(_KEYS)
        raise SettingsError(
            f"Topic {code}: {odd[0]} is missing or not known.",
            fix=f"A topic has: {', '.join(sorted(_KEYS))}.",
        )
    for key in ("name", "legal_ground", "description"):
        texts = table[key]
        if not isinstance(texts, dict) or not all(
            isinstance(texts.get(each), str) and texts[each] for each in LANGUAGES
        ):
            raise SettingsError(
                f"Topic {code}: {key} needs a text for {' and '.join(LANGUAGES)}.", fix="Add it."
            )
    if not isinstance(table["statutory"], bool):
        raise SettingsError(
            f"Topic {code}: statutory is neither true nor false.", fix="Correct it."
        )
    if table["in_doubt"] not in {"resend", "hold"}:
        raise SettingsError(
            f"Topic {code}: in_doubt is neither resend nor hold.", fix="Correct it."
        )
    info = TopicInfo(
        code, table["name"], table["statutory"], table["legal_ground"], table["description"]
    )
    return Topic(info, table["in_doubt"])
