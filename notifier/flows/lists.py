"""The story of a list: read once, everything accounted for, what could not be used reported."""

from __future__ import annotations

from pathlib import Path

from notifier.audience.load import ProgressCallback, load
from notifier.audience.rejects import write_problems
from notifier.audience.sources import FileSource, ListSource
from notifier.domain import audiences
from notifier.domain.audiences import Audience
from notifier.rendering.catalogue import Template
from notifier.services import Services

__all__ = [
    "Audience",
    "ListSource",
    "ProgressCallback",
    "first_problems",
    "load_list",
    "write_rejected",
]


def load_list(
    services: Services,
    source: ListSource | Path,
    template: Template,
    *,
    progress: ProgressCallback | None = None,
) -> Audience:
    """Load a list for a template, or return what the same list made before.

    A path is a list in a file. Raise TableError; nothing is kept then.
    """
    if isinstance(source, Path):
        with FileSource(source) as file:
            return load_list(services, file, template, progress=progress)
    with services.session() as session:
        return audiences.known(session, source.sha256, template) or load(
            session, source, template, now=services.clock(), progress=progress
        )


def write_rejected(services: Services, audience_id: int, out: Path) -> int:
    """Write the rejected rows and warnings of a list to a .xlsx or .csv file; return how many."""
    with services.session() as session:
        return write_problems(session, audience_id, out)


def first_problems(services: Services, audience_id: int, *, limit: int = 10) -> list[str]:
    """Return a sentence for each of the first rejected rows and warnings."""
    with services.session() as session:
        found = audiences.first_problems(session, audience_id, limit=limit)
    return [
        f"Row {each.row_no}, {each.column} “{each.value}”: {each.vi} / {each.en}" for each in found
    ]
