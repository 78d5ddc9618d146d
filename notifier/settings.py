"""Settings, read from the environment once and passed on as one frozen value.

Nothing else in the package reads `os.environ`, so a test or a second instance on the same machine
is one `Settings` away. A field's description, unit, example and what holds while it is unset
stand beside it; the reference in the documents is made of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

import psutil
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from notifier.errors import SettingsError
from notifier.setting_types import (
    CORRECT,
    MIN_SECRET_CHARS,
    Count,
    Folder,
    LogLevel,
    Minutes,
    Networks,
    Number,
    Port,
    SecretKey,
    SmtpServer,
    SmtpUrl,
    WebUrl,
)
from notifier.validation import first_problem

__all__ = ["Settings", "SmtpServer", "unknown_variables", "variable"]

PREFIX = "NOTIFIER_"
DEFAULT_PUBLIC_URL = "http://127.0.0.1:8000"
# In the folder NOTIFIER_VAR: how to reach the instance that `notifier up` runs there.
INSTANCE_FILE = "instance.json"


def _setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    example: str = "",
    unset: str = "",
    secret: bool = False,
) -> Any:
    """Declare a field: `unset` says what holds while it has no value, a `secret` is never shown."""
    notes = {"unit": unit, "unset": unset}
    return Field(
        default,
        description=description,
        examples=[example] if example else None,
        json_schema_extra={key: value for key, value in notes.items() if value},
        repr=not secret,
    )


class Settings(BaseSettings):
    """All that differs between two installations.

    `Settings(…)` takes its values from its arguments alone; `from_env` reads `NOTIFIER_*`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    var: Folder = _setting(
        Path("var"),
        "The folder for state: logs, metrics, and the private servers' data.",
        unset="var in the current folder",
        example="/var/lib/notifier",
    )
    templates: Folder = _setting(
        Path("templates"),
        "The folder of the mails' templates, with topics.toml and sender.toml.",
        unset="templates in the current folder, else beside the program",
        example="/etc/notifier/templates",
    )
    campaigns: Folder = _setting(
        Path("campaigns"),
        "The folder of the campaigns' files.",
        unset="campaigns in the current folder, else beside the program",
        example="/etc/notifier/campaigns",
    )
    sources: Folder = _setting(
        Path("sources"),
        "The folder with a file for each system that reports dossier events.",
        unset="sources in the current folder, else beside the program",
        example="/etc/notifier/sources",
    )
    database_url: str | None = _setting(
        None,
        "PostgreSQL 18.",
        unset="a private one, started by notifier up",
        example="postgresql://user:password@host/name",
        secret=True,
    )
    broker_url: str | None = _setting(
        None,
        "Valkey or Redis.",
        unset="a private one, started by notifier up",
        example="redis://:password@host:6379/0",
        secret=True,
    )
    smtp_url: SmtpUrl | None = _setting(
        None,
        "Where mail is handed over; with a password TLS is demanded.",
        unset="the mail catcher, started by notifier up",
        example="smtps://user:password@host",
        secret=True,
    )
    sandbox_smtp_url: SmtpUrl | None = _setting(
        None,
        "Where mail of sandbox keys goes. Without it such keys are refused.",
        unset="the mail catcher, started by notifier up",
        example="smtp://127.0.0.1:2525",
        secret=True,
    )
    public_url: WebUrl = _setting(
        DEFAULT_PUBLIC_URL,
        "What links in mails begin with.",
        unset="the web server of notifier up",
        example="https://notices.example.test",
    )
    secret_key: SecretKey | None = _setting(
        None,
        f"Signs links; {MIN_SECRET_CHARS} characters or more. Keep it, or old links die.",
        unset="made once by notifier up, in var/secret",
        example="the output of: openssl rand -hex 32",
        secret=True,
    )
    routes_file: Folder | None = _setting(
        None,
        "The routes file: limits towards providers.",
        unset="everything goes to NOTIFIER_SMTP_URL without limits",
        example="/etc/notifier/routes.toml",
    )
    mail_domain: str = _setting(
        "notices.example.test",
        "The domain of Message-ID, List-Id and return path.",
        example="notices.example.test",
    )
    hostname: str = _setting(
        "notifier.example.test", "Our name in EHLO.", example="mail.example.test"
    )
    dkim_key_file: Folder | None = _setting(
        None,
        "The RSA key that mail is signed with.",
        unset="mail is not signed here",
        example="/var/lib/notifier/dkim/notices-2026.pem",
    )
    dkim_selector: str | None = _setting(
        None, "The name of that key in DNS.", example="notices-2026"
    )
    dkim_domain: str | None = _setting(
        None,
        "The domain that signs; senders' addresses belong to it.",
        unset="NOTIFIER_MAIL_DOMAIN",
        example="example.test",
    )
    lease_seconds: Number = _setting(
        30.0,
        "How long a dead worker's batch rests before it is taken back.",
        unit="seconds",
        example="30",
    )
    sweep_seconds: Number = _setting(
        2.0, "How often lost tasks and dead leases are looked for.", unit="seconds", example="2"
    )
    smtp_timeout_seconds: Number = _setting(
        60.0,
        "Patience for a server's reply; five times as long after the final dot.",
        unit="seconds",
        example="60",
    )
    connections: Count = _setting(
        8, "SMTP connections of one sending process.", unit="connections", example="8"
    )
    retry_minutes: Minutes = _setting(
        (5.0, 15.0, 30.0, 60.0, 120.0, 240.0),
        "The waits between tries of a deferred message; the last one is repeated.",
        unit="minutes",
        example="5,15,30,60,120,240",
    )
    log_format: Literal["auto", "console", "json"] = _setting(
        "auto", "auto: for eyes on a terminal, else JSON.", example="json"
    )
    log_level: LogLevel = _setting("INFO", "The least level that is logged.", example="WARNING")
    metrics_port: Port = _setting(
        0, "Each Celery worker serves /metrics there; 0: not.", example="9102"
    )
    trusted_proxies: Networks = _setting(
        (),
        "Reverse proxies whose X-Forwarded-For names the client. Without it all clients of a proxy "
        "share one limit of checks.",
        unset="none",
        example="10.0.0.5,192.168.7.0/24",
    )
    api_per_minute: Count = _setting(
        120_000, "Requests and events that one key may send.", unit="a minute", example="6000"
    )
    webhooks_private: bool = _setting(
        False,
        "true allows webhooks to private addresses, in tests and closed networks.",
        example="true",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's form
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the arguments alone: `from_env` says when the environment is read."""
        return (init_settings,)

    def __init__(self, **values: Any) -> None:
        """Check the values; raise SettingsError naming the variable that cannot be used."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            problem = first_problem(error, type(self))
            name = variable(problem.key) if problem.key else type(self).__name__
            raise SettingsError(
                f"{name} {problem.words}",
                fix=CORRECT if problem.fix.startswith("Correct or remove") else problem.fix,
            ) from None

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the `NOTIFIER_*` variables; raise SettingsError naming the one that cannot be used.

        An empty variable is an unset one. What is unset comes from the instance that runs in the
        folder NOTIFIER_VAR, then from the defaults.
        """
        given = EnvSettingsSource(cls)
        given.env_vars = {
            name.lower(): value.strip()
            for name, value in (os.environ if env is None else env).items()
            if name.startswith(PREFIX) and value.strip()
        }
        found = given()
        var = Path(found.get("var", "var")).absolute()
        root = _project_root()
        folders = {name: root / name for name in ("templates", "campaigns", "sources")}
        return cls(**{**folders, **_running_instance(var), **found, "var": var})

    def to_env(self) -> dict[str, str]:
        """Return the variables by which another process gets the same settings."""
        values: dict[str, str] = {}
        for name, value in self:
            if value is not None:
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                values[variable(name)] = shown
        return values

    def replace(self, **changes: Any) -> Self:
        """Return the same settings but for `changes`; raise SettingsError."""
        return type(self)(**{**dict(self), **changes})

    def require_database(self) -> str:
        """Return the database URL; raise SettingsError when there is none."""
        if not self.database_url:
            raise SettingsError(
                "No database is set.",
                fix="Set NOTIFIER_DATABASE_URL, or start everything with: notifier up",
            )
        return self.database_url

    def require_broker(self) -> str:
        """Return the broker URL; raise SettingsError when there is none."""
        if not self.broker_url:
            raise SettingsError(
                "No broker is set.",
                fix="Set NOTIFIER_BROKER_URL, or start everything with: notifier up",
            )
        return self.broker_url

    def require_smtp(self) -> SmtpServer:
        """Return the SMTP server of the default route; raise SettingsError when there is none."""
        if not self.smtp_url:
            raise SettingsError(
                "No SMTP server is set.",
                fix="Set NOTIFIER_SMTP_URL, or start everything with: notifier up",
            )
        return SmtpServer.parse(self.smtp_url, setting="NOTIFIER_SMTP_URL")

    def require_secret(self) -> bytes:
        """Return the key that signs links; raise SettingsError when there is none."""
        if not self.secret_key:
            raise SettingsError(
                "No secret key is set, so links cannot be signed.",
                fix="Set NOTIFIER_SECRET_KEY to the output of: openssl rand -hex 32",
            )
        return self.secret_key.encode()


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def unknown_variables(env: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Return the NOTIFIER_* variables that nobody reads, each with the name that may be meant."""
    known = [variable(name) for name in Settings.model_fields]
    names = sorted(os.environ if env is None else env)
    return {
        name: next(iter(get_close_matches(name, known, n=1, cutoff=0.8)), None)
        for name in names
        if name.startswith(PREFIX) and name not in known
    }


def _running_instance(var: Path) -> dict[str, str]:
    """Return the addresses of the instance that runs in `var`.

    None when its note is a leftover of one that was killed.
    """
    try:
        note = json.loads((var / INSTANCE_FILE).read_text())
        if psutil.Process(note["pid"]).create_time() == note["started"]:
            return {
                key: value
                for key, value in note.items()
                if isinstance(value, str) and key in Settings.model_fields
            }
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        pass
    return {}


def _project_root() -> Path:
    """Return the folder that holds templates/: the current one, else this package's checkout."""
    here = Path.cwd()
    return here if (here / "templates").is_dir() else Path(__file__).resolve().parent.parent
