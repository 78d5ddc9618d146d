"""What libraries raise becomes a sentence with an exit code; a defect stays a traceback."""

from __future__ import annotations

import errno
import os

import psycopg
import pytest
import redis
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import OperationalError, ProgrammingError

from notifier.cli.failures import explain
from notifier.errors import SettingsError

REFUSED = psycopg.OperationalError("connection failed: Connection refused\n\tIs the server there?")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SettingsError("No.", fix="Yes."), 2, "No. Yes."),
        (
            OperationalError("SELECT secret", {"name": "Ana"}, REFUSED),
            3,
            (
                "The database cannot be reached: connection failed: Connection refused. "
                "Check NOTIFIER_DATABASE_URL and that PostgreSQL runs, "
                "or start everything with: notifier up"
            ),
        ),
        (REFUSED, 3, "The database cannot be reached: connection failed: Connection refused."),
        (
            psycopg.InterfaceError("the connection is closed"),
            3,
            "The database cannot be reached: the connection is closed.",
        ),
        (
            ProgrammingError("SELECT 1", {}, psycopg.errors.UndefinedTable("no such table")),
            3,
            "The database has an older schema. Run: notifier migrate",
        ),
        (
            OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file")),
            3,
            "PostgreSQL's disk is full: could not extend file. Make room on it.",
        ),
        (
            redis.ConnectionError("Error 111 connecting to 127.0.0.1:9."),
            3,
            (
                "The broker cannot be reached: Error 111 connecting to 127.0.0.1:9. "
                "Check NOTIFIER_BROKER_URL and that Valkey runs, "
            ),
        ),
        (BrokerError(""), 3, "The broker cannot be reached: OperationalError."),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "var/instance.json"),
            3,
            "The disk is full (var/instance.json). Make room on it, and try again.",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 3, "The disk is full. Make room"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/report.csv"),
            1,
            "/report.csv cannot be used: Permission denied. Name another, or correct its rights.",
        ),
    ],
)
def test_a_failure_is_one_sentence(error: Exception, code: int, sentence: str) -> None:
    found = explain(error)
    assert found is not None
    assert (found.exit_code, str(found)[: len(sentence)]) == (code, sentence)
    assert "\n" not in str(found)
    # Neither statements nor their values: they hold names and addresses.
    assert "SELECT" not in str(found)
    assert "Ana" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a defect"),
        OSError("without a number"),
        ProgrammingError("SELEC", {}, psycopg.errors.SyntaxError("syntax error")),
        psycopg.errors.UniqueViolation("twice"),
    ],
)
def test_a_defect_of_ours_is_not_explained_away(error: Exception) -> None:
    assert explain(error) is None
