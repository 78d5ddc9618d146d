"""The one module of verbs for `audience`, `audience_reject` and `list_file`."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from notifier.schema import ListFile


def attach_file(session: Session, name: str, content: bytes, now: datetime) -> int:
    """Keep a list's file; return its number."""
    return session.scalars(
        insert(ListFile)
        .values(name=name, sha256=hashlib.sha256(content).digest(), content=content, created_at=now)
        .returning(ListFile.id)
    ).one()


def read_file(session: Session, number: int) -> tuple[str, bytes]:
    """Return the name and content of a list's file."""
    row = session.execute(
        select(ListFile.name, ListFile.content).where(ListFile.id == number)
    ).one()
    return row.name, row.content


def drop_file(session: Session, number: int) -> None:
    """Delete a list's file."""
    session.execute(delete(ListFile).where(ListFile.id == number))
