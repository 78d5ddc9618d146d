"""Settings, read from the environment once and passed on as one frozen value.

Nothing else in the package reads `os.environ`, so a test or a second instance on the same machine
is one `Settings` away. A field's description, unit, example and what holds while it is unset
stand beside it; the reference in the documents is made of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

import psutil
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from notifier.errors import SettingsError
from notifier.validation import Otherwise, first_problem, wrong

PREFIX = "NOTIFIER_"
MIN_SECRET_CHARS = 32
DEFAULT_PUBLIC_URL = "http://127.0.0.1:8000"
# In the folder NOTIFIER_VAR: how to reach the instance that `notifier up` runs there.
INSTANCE_FILE = "instance.json"
_CORRECT = "Correct or unset it."


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over.

    `smtp://` uses STARTTLS when it is offered, `smtps://` TLS from the first byte.
    """

    host: str
    port: int
    implicit_tls: bool = False
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str, *, setting: str) -> SmtpServer:
        """Read `smtp[s]://[user:password@]host[:port]`; raise SettingsError naming `setting`."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise SettingsError(
                f"{setting} is not an SMTP address.",
                fix="Write it as smtp://host:25 or smtps://user:password@host.",
            )
        implicit = parts.scheme == "smtps"
        return cls(
            host=parts.hostname,
            port=port or (465 if implicit else 25),
            implicit_tls=implicit,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )


def _smtp_url(value: str) -> str:
    try:
        SmtpServer.parse(value, setting="")
    except SettingsError as error:
        raise wrong("is not an SMTP address.", error.fix) from None
    return value


def _web_url(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise wrong("is not a web address.", "Write it as https://host.")
    return value.rstrip("/")


def _secret(value: str) -> str:
    if len(value) < MIN_SECRET_CHARS:
        raise wrong(
            f"is shorter than {MIN_SECRET_CHARS} characters.",
            "Use for example the output of: openssl rand -hex 32",
        )
    return value


def _parts(value: Any) -> Any:
    """Cut a text at its commas."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _network(value: str) -> str:
    return str(ip_network(value, strict=False))


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


_Folder = Annotated[Path, AfterValidator(Path.absolute)]
_SmtpUrl = Annotated[str, AfterValidator(_smtp_url)]
_Number = Annotated[
    float,
    # Any upper bound serves: it also refuses nan and infinity.
    Field(ge=0, lt=1e9),
    Otherwise("is not a number of 0 or more.", _CORRECT),
]
_Count = Annotated[
    int, Field(ge=1, lt=10**9), Otherwise("is not a whole number of 1 or more.", _CORRECT)
]
_Minutes = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1e6)], ...],
    NoDecode,
    BeforeValidator(_parts),
    Field(min_length=1),
    Otherwise(
        "is not a list of minutes.",
        "Write it as 5,15,30,60,120,240 or unset it.",
    ),
]
_Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...],
    NoDecode,
    BeforeValidator(_parts),
    Otherwise(
        "is not a list of addresses.",
        "Write it as 10.0.0.5,192.168.7.0/24 or unset it.",
    ),
]


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

    var: _Folder = _setting(
        Path("var"),
        "The folder for state: logs, metrics, and the private servers' data.",
        unset="var in the current folder",
        example="/var/lib/notifier",
    )
    templates: _Folder = _setting(
        Path("templates"),
        "The folder of the mails' templates, with topics.toml and sender.toml.",
        unset="templates in the current folder, else beside the program",
        example="/etc/notifier/templates",
    )
    campaigns: _Folder = _setting(
        Path("campaigns"),
        "The folder of the campaigns' files.",
        unset="campaigns in the current folder, else beside the program",
        example="/etc/notifier/campaigns",
    )
    sources: _Folder = _setting(
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
    smtp_url: _SmtpUrl | None = _setting(
        None,
        "Where mail is handed over; with a password TLS is demanded.",
        unset="the mail catcher, started by notifier up",
        example="smtps://user:password@host",
        secret=True,
    )
    sandbox_smtp_url: _SmtpUrl | None = _setting(
        None,
        "Where mail of sandbox keys goes. Without it such keys are refused.",
        unset="the mail catcher, started by notifier up",
        example="smtp://127.0.0.1:2525",
        secret=True,
    )
    public_url: Annotated[str, AfterValidator(_web_url)] = _setting(
        DEFAULT_PUBLIC_URL,
        "What links in mails begin with.",
        unset="the web server of notifier up",
        example="https://notices.example.test",
    )
    secret_key: Annotated[str, AfterValidator(_secret)] | None = _setting(
        None,
        f"Signs links; {MIN_SECRET_CHARS} characters or more. Keep it, or old links die.",
        unset="made once by notifier up, in var/secret",
        example="the output of: openssl rand -hex 32",
        secret=True,
    )
    routes_file: _Folder | None = _setting(
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
    dkim_key_file: _Folder | None = _setting(
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
    lease_seconds: _Number = _setting(
        30.0,
        "How long a dead worker's batch rests before it is taken back.",
        unit="seconds",
        example="30",
    )
    sweep_seconds: _Number = _setting(
        2.0, "How often lost wakes and dead leases are looked for.", unit="seconds", example="2"
    )
    smtp_timeout_seconds: _Number = _setting(
        60.0,
        "Patience for a server's reply; five times as long after the final dot.",
        unit="seconds",
        example="60",
    )
    connections: _Count = _setting(
        8, "SMTP connections of one sending process.", unit="connections", example="8"
    )
    retry_minutes: _Minutes = _setting(
        (5.0, 15.0, 30.0, 60.0, 120.0, 240.0),
        "The waits between tries of a deferred message; the last one is repeated.",
        unit="minutes",
        example="5,15,30,60,120,240",
    )
    log_format: Literal["auto", "console", "json"] = _setting(
        "auto", "auto: for eyes on a terminal, else JSON.", example="json"
    )
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
    ] = _setting("INFO", "The least level that is logged.", example="WARNING")
    metrics_port: Annotated[
        int, Field(ge=0, le=65535), Otherwise("is not a port from 0 to 65535.", _CORRECT)
    ] = _setting(0, "Each Celery worker serves /metrics there; 0: not.", example="9102")
    trusted_proxies: _Networks = _setting(
        (),
        "Reverse proxies whose X-Forwarded-For names the client. Without it all clients of a proxy "
        "share one limit of checks.",
        unset="none",
        example="10.0.0.5,192.168.7.0/24",
    )
    api_per_minute: _Count = _setting(
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
                fix=_CORRECT if problem.fix.startswith("Correct or remove") else problem.fix,
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
