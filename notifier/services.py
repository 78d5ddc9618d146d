"""The composition root: the only place where adapters are made.

Everything is made on first use and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Self

from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from notifier.db import make_engine
from notifier.domain.campaign_files import load_sender
from notifier.domain.links import LinkSigner
from notifier.domain.sources import Source, load_sources
from notifier.domain.topics import Topic, load_topics
from notifier.errors import SettingsError
from notifier.queues import Queues, make_app
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import Catalogue, load_all
from notifier.rendering.dkim import DkimSigner, read_key
from notifier.sending.routes import Routes, load_routes
from notifier.settings import Settings, SmtpServer

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


class Services:
    """What flows work with. One per process; `clock` is replaced in tests."""

    def __init__(
        self, settings: Settings | None = None, *, clock: Clock = utc_now, app: Celery | None = None
    ) -> None:
        """Use `settings`, or the environment's."""
        self.settings = settings or Settings.from_env()
        self.clock = clock
        self._app = app
        # The endless campaigns of single notices by template version and sandbox: they never
        # change, so each is looked up once.
        self.transactional: dict[tuple[str, bool], int] = {}

    @cached_property
    def engine(self) -> Engine:
        """The pool of database connections."""
        return make_engine(self.settings.require_database())

    @cached_property
    def queues(self) -> Queues:
        """The broker, to enqueue work."""
        return Queues(self._app or make_app(self.settings.require_broker()))

    @cached_property
    def catalogue(self) -> Catalogue:
        """All templates by name, as they are in the folder now; a broken one costs itself alone."""
        return load_all(self.settings.templates)

    @cached_property
    def topics(self) -> dict[str, Topic]:
        """All topics by code."""
        return load_topics(self.settings.templates / "topics.toml")

    @cached_property
    def sources(self) -> dict[str, Source]:
        """The systems that report dossier events, each with its table of statuses."""
        return load_sources(self.settings.sources, self.catalogue)

    @cached_property
    def sender(self) -> Sender:
        """The office that mail comes from when a campaign names no other."""
        return load_sender(self.settings.templates / "sender.toml", self.settings.public_url)

    @cached_property
    def signer(self) -> LinkSigner:
        """Makes and checks the tokens of links."""
        return LinkSigner(self.settings.require_secret())

    @cached_property
    def dkim(self) -> DkimSigner | None:
        """Signs mail.

        None when NOTIFIER_DKIM_KEY_FILE is not set, for many mail servers sign by themselves.
        """
        file = self.settings.dkim_key_file
        if file is None:
            return None
        if self.settings.dkim_selector is None:
            raise SettingsError(
                "NOTIFIER_DKIM_SELECTOR is not set.",
                fix="Name the DNS record of the key in NOTIFIER_DKIM_KEY_FILE.",
            )
        try:
            pem = file.read_bytes()
        except OSError as error:
            raise SettingsError(
                f"NOTIFIER_DKIM_KEY_FILE cannot be read: {error.strerror}.",
                fix="Correct or unset it.",
            ) from None
        domain = self.settings.dkim_domain or self.settings.mail_domain
        return DkimSigner(
            read_key(pem, "NOTIFIER_DKIM_KEY_FILE"),
            domain=domain,
            selector=self.settings.dkim_selector,
        )

    @cached_property
    def routes(self) -> Routes:
        """Where mail is handed over."""
        sandbox = self.settings.sandbox_smtp_url
        return load_routes(
            self.settings.require_smtp(),
            self.settings.routes_file,
            sandbox=SmtpServer.parse(sandbox, setting="NOTIFIER_SANDBOX_SMTP_URL")
            if sandbox
            else None,
        )

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction: committed at the end, rolled back when the block raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Give the database connections back."""
        if "engine" in self.__dict__:
            self.engine.dispose()
