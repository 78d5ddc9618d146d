"""What becomes of a reported event: it is recorded, or refused with the fields at fault."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self


class Outcome(StrEnum):
    """What an event led to."""

    QUEUED = "queued"
    """A notice was planned."""
    RECORDED = "recorded"
    """The status has no notice."""
    OLDER = "older"
    """The applicant was notified of something newer already."""
    NO_ADDRESS = "no-address"
    """There is no e-mail address: listed for officers."""


@dataclass(frozen=True, slots=True)
class EventResult:
    """What became of an event; `message_id` is its notice, when one was planned."""

    id: uuid.UUID
    outcome: Outcome
    message_id: uuid.UUID | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as it is kept."""
        return {
            "id": str(self.id),
            "outcome": self.outcome.value,
            "message_id": None if self.message_id is None else str(self.message_id),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Return what `to_json` kept."""
        message_id = kept["message_id"]
        return cls(
            id=uuid.UUID(kept["id"]),
            outcome=Outcome(kept["outcome"]),
            message_id=None if message_id is None else uuid.UUID(message_id),
        )


class Fault(NamedTuple):
    """What is wrong with one field: a JSON pointer (RFC 6901), a stable code, and a sentence.

    It never repeats the value: that may be personal.
    """

    pointer: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event is not recorded: a stable code, a sentence, and the fields at fault."""

    code: str
    detail: str
    faults: tuple[Fault, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as it is kept."""
        return {
            "code": self.code,
            "detail": self.detail,
            "errors": [each._asdict() for each in self.faults],
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Return what `to_json` kept."""
        return cls(kept["code"], kept["detail"], tuple(Fault(**each) for each in kept["errors"]))


CONFLICT = Refusal(
    "conflict",
    "This source, dossier, status and moment were reported before with other content; "
    "that report stands.",
)
