"""The story of a list: read once, everything accounted for, what could not be used reported."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from notifier.audience import load
from notifier.audience.load import Audience, ProgressCallback
from notifier.audience.rejects import write_problems
from notifier.audience.tables import open_tables
from notifier.rendering.catalogue import Template
from notifier.services import Services

__all__ = ["Audience", "ProgressCallback", "first_problems", "load_list", "write_rejected"]


def load_list(
    services: Services, path: Path, template: Template, *, progress: ProgressCallback | None = None
) -> Audience:
    """Load a list for a template, or return what the same file made before. Raise TableError; nothing is kept then."""
    open_tables(path)
    with services.session() as session:
        known = load.known_audience(session.connection(), path, template)
        if known is not None:
            return known
        return load.load(
            session.connection(), path, template, now=services.clock(), progress=progress
        )


def write_rejected(services: Services, audience_id: int, out: Path) -> int:
    """Write the rejected rows and warnings of a list to a .xlsx or .csv file; return how many."""
    with services.session() as session:
        return write_problems(session.connection(), audience_id, out)


def first_problems(services: Services, audience_id: int, *, limit: int = 10) -> list[str]:
    """Return a sentence for each of the first rejected rows and warnings."""
    with services.session() as session:
        rows = session.execute(
            text("""SELECT row_no, column_name, value, problem_vi, problem_en FROM audience_reject
                     WHERE audience_id = :id AND kind <> 'merged' ORDER BY row_no LIMIT :limit"""),
            {"id": audience_id, "limit": limit},
        )
        return [
            f"Row {row}, {column} “{value}”: {vi} / {en}" for row, column, value, vi, en in rows
        ]
