"""The one module of verbs for `audience`, `audience_reject` and `list_file`: lists, and their rows.

An audience is a list that was read for one template version. Its rows add up, always: accepted +
rejected + merged = read. Those that were not accepted as they are stand in `audience_reject`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import orjson
import psycopg
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from notifier.errors import NotFoundError
from notifier.rendering.catalogue import Template
from notifier.schema import Audience, AudienceReject, ListFile

__all__ = [
    "Audience",
    "Kind",
    "Problem",
    "add_problems",
    "attach_file",
    "begin",
    "drop_file",
    "first_problems",
    "get",
    "known",
    "problems",
    "read_file",
]

Kind = Literal["rejected", "warning", "merged"]
"""What a problem did to its row: it was rejected, accepted all the same, or counts once."""

_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that was rejected or merged, or accepted with a warning, and what to do.

    `column` is its heading in the list. `value` is masked; `cells` are the row as it came.
    """

    row_no: int
    kind: Kind
    column: str
    value: str
    code: str
    vi: str
    en: str
    cells: list[str]


# --- what a list became --------------------------------------------------------------------------


def known(session: Session, sha256: bytes, template: Template) -> Audience | None:
    """Return what the same list and template made before, the newest, if there is any."""
    return session.scalar(
        select(Audience)
        .where(Audience.sha256 == sha256, Audience.template_version == template.version)
        .order_by(Audience.id.desc())
        .limit(1)
    )


def get(session: Session, audience_id: int) -> Audience:
    """Return the audience with that number, which was made before."""
    return session.get_one(Audience, audience_id)


def begin(
    session: Session,
    *,
    name: str,
    sha256: bytes,
    template: Template,
    header: Sequence[str],
    unused_columns: Sequence[str],
    now: datetime,
) -> Audience:
    """Add a list whose rows are yet to be read and counted."""
    audience = Audience(
        file_name=name,
        sha256=sha256,
        template=template.name,
        template_version=template.version,
        rows_read=0,
        accepted=0,
        rejected=0,
        merged=0,
        header=list(header),
        unused_columns=list(unused_columns),
        totals={},
        created_at=now,
    )
    session.add(audience)
    session.flush()
    return audience


# --- rows that were not accepted as they are -----------------------------------------------------

# COPY, for a list that was exported wrongly has as many problems as rows.
_COPY = """
COPY audience_reject
     (audience_id, row_no, kind, column_name, value, code, problem_vi, problem_en, cells)
FROM STDIN
"""


def add_problems(session: Session, audience_id: int, found: Iterable[Problem]) -> None:
    """Add problems to an audience's report, in their order."""
    driver = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        for each in found:
            # PostgreSQL keeps no NUL, neither in text nor in JSON.
            cells = orjson.dumps([cell.replace("\0", " ") for cell in each.cells])
            copy.write_row(
                (
                    audience_id,
                    each.row_no,
                    each.kind,
                    each.column,
                    each.value.replace("\0", " "),
                    each.code,
                    each.vi,
                    each.en,
                    cells.decode(),
                )
            )


# Columns, no mapped objects: the table has no key, and two bad addresses of one cell would be one.
_PROBLEMS = select(
    AudienceReject.row_no,
    AudienceReject.kind,
    AudienceReject.column_name,
    AudienceReject.value,
    AudienceReject.code,
    AudienceReject.problem_vi,
    AudienceReject.problem_en,
    AudienceReject.cells,
)


def _problem(row: Any) -> Problem:
    return Problem(
        row_no=row.row_no,
        kind=row.kind,
        column=row.column_name,
        value=row.value,
        code=row.code,
        vi=row.problem_vi,
        en=row.problem_en,
        cells=row.cells,
    )


def problems(session: Session, audience_id: int) -> Iterator[Problem]:
    """Yield all problems of an audience in the order of the list, however many, in a stream."""
    rows = session.execute(
        _PROBLEMS.where(AudienceReject.audience_id == audience_id).order_by(
            AudienceReject.row_no, AudienceReject.kind
        ),
        execution_options={"yield_per": _ROWS_AT_ONCE},
    )
    return map(_problem, rows)


def first_problems(session: Session, audience_id: int, *, limit: int) -> list[Problem]:
    """Return the first rejected rows and warnings, at most `limit`, in the order of the list."""
    rows = session.execute(
        _PROBLEMS.where(AudienceReject.audience_id == audience_id, AudienceReject.kind != "merged")
        .order_by(AudienceReject.row_no)
        .limit(limit)
    )
    return [_problem(row) for row in rows]


# --- the file of a draft -------------------------------------------------------------------------


def attach_file(session: Session, name: str, content: bytes, now: datetime) -> int:
    """Keep a list's file for a draft, and return its number. `name` ends as its kind demands."""
    file = ListFile(
        name=name, sha256=hashlib.sha256(content).digest(), content=content, created_at=now
    )
    session.add(file)
    session.flush()
    return file.id


def read_file(session: Session, file_id: int) -> tuple[str, bytes]:
    """Return a draft's list: its name and its bytes. Raise NotFoundError when it was dropped."""
    file = session.execute(
        select(ListFile.name, ListFile.content).where(ListFile.id == file_id)
    ).one_or_none()
    if file is None:
        raise NotFoundError("The draft's list is there no more.", fix="Attach it again.")
    return file.name, file.content


def drop_file(session: Session, file_id: int) -> None:
    """Delete a list's file once its draft was launched, deleted, or given another list.

    The draft's `list_file_id` becomes NULL by itself. What was read of the list stays.
    """
    session.execute(delete(ListFile).where(ListFile.id == file_id))
