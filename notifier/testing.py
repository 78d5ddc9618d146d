"""Fixtures and factories for tests of this service and of programs beside it.

The servers and the data are real, the people invented. Use them from a conftest.py with
`from notifier.testing import *` or by name; each is a plain pytest fixture.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from notifier.db import make_engine
from notifier.instance.servers.catcher import Catcher
from notifier.instance.servers.postgres import Postgres
from notifier.instance.servers.valkey import Valkey
from notifier.migrations import migrate
from notifier.services import Services
from notifier.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
_TEMPLATE = "notifier_template"


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A short-lived folder for the session's servers."""
    folder = Path(tempfile.mkdtemp(prefix="notifier-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(servers_folder: Path) -> Iterator[Postgres]:
    """A private PostgreSQL with a migrated database to copy from."""
    with Postgres(servers_folder / "postgres") as server:
        admin = server.url.rsplit("/", 1)[0]
        with psycopg.connect(server.url, autocommit=True) as connection:
            # Tests throw their databases away: waiting for the disk would prove nothing.
            connection.execute("ALTER SYSTEM SET synchronous_commit = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE DATABASE {_TEMPLATE}")
        engine = make_engine(f"{admin}/{_TEMPLATE}")
        migrate(engine)
        engine.dispose()
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A fresh, migrated database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY")
    yield postgres.url.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def valkey(servers_folder: Path) -> Iterator[Valkey]:
    """A private Valkey."""
    with Valkey(servers_folder / "valkey") as server:
        yield server


@pytest.fixture
def broker_url(valkey: Valkey) -> str:
    """An empty broker."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url


@pytest.fixture
def catcher(tmp_path: Path) -> Iterator[Catcher]:
    """An SMTP server that keeps what it gets and can be told to misbehave."""
    with Catcher(folder=tmp_path / "mail") as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, database_url: str, broker_url: str) -> Settings:
    """Settings with real servers, short leases and quick retries.

    SMTP leads nowhere until a test says otherwise.
    """
    return Settings(
        var=tmp_path,
        templates=ROOT / "templates",
        campaigns=ROOT / "campaigns",
        sources=ROOT / "sources",
        database_url=database_url,
        broker_url=broker_url,
        smtp_url="smtp://127.0.0.1:9",
        public_url="https://notices.example.test",
        secret_key="test-" * 10,
        lease_seconds=3.0,
        sweep_seconds=0.5,
        retry_minutes=(0.02,),
        log_format="json",
    )


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """Services over `settings`."""
    made = Services(settings)
    yield made
    made.close()
