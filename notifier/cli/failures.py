"""What libraries raise when a server, the disk or a file fails, as the sentence for a person.

Whatever is not known here is a defect of ours, and shows its traceback.
"""

from __future__ import annotations

import errno

import psycopg
import redis
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import DBAPIError

from notifier.errors import NotifierError, UnavailableError

_UP = "or start everything with: notifier up"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_OLDER = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError)


def explain(error: BaseException) -> NotifierError | None:
    """Return what to say of `error` and with which exit code; None when nothing is known of it."""
    if isinstance(error, NotifierError):
        return error
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, psycopg.Error):
        return _database(error)
    if isinstance(error, (redis.RedisError, BrokerError)):
        return UnavailableError(
            f"The broker cannot be reached: {_first_line(error)}.",
            fix=f"Check NOTIFIER_BROKER_URL and that Valkey runs, {_UP}",
        )
    if isinstance(error, OSError):
        return _system(error)
    return None


def _database(error: psycopg.Error) -> NotifierError | None:
    if isinstance(error, psycopg.errors.DiskFull):
        return UnavailableError(
            f"PostgreSQL's disk is full: {_first_line(error)}.", fix="Make room on it."
        )
    if isinstance(error, _OLDER):
        return UnavailableError("The database has an older schema.", fix="Run: notifier migrate")
    if isinstance(error, _AWAY):
        return UnavailableError(
            f"The database cannot be reached: {_first_line(error)}.",
            fix=f"Check NOTIFIER_DATABASE_URL and that PostgreSQL runs, {_UP}",
        )
    return None


def _system(error: OSError) -> NotifierError | None:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return UnavailableError(f"The disk is full{place}.", fix="Make room on it, and try again.")
    if error.filename and error.strerror:
        return NotifierError(
            f"{error.filename} cannot be used: {error.strerror}.",
            fix="Name another, or correct its rights.",
        )
    return None


def _first_line(error: BaseException) -> str:
    words = str(error).strip().split("\n", 1)[0].rstrip(".")
    return words or type(error).__name__
