"""Settings, read from the environment once and passed on as one frozen value.

Nothing else in the package reads `os.environ`, so a test or a second instance on the same machine is one `Settings` away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from notifier.errors import SettingsError

MIN_SECRET_CHARS = 32
# In the folder NOTIFIER_VAR: how to reach the instance that `notifier up` runs there.
INSTANCE_FILE = "instance.json"


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over: `smtp://` (STARTTLS when offered) or `smtps://` (TLS from the first byte)."""

    host: str
    port: int
    implicit_tls: bool = False
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str, *, setting: str) -> SmtpServer:
        """Read `smtp[s]://[user:password@]host[:port]`; raise SettingsError naming `setting`."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or port == -1:
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


def _running_instance(var: Path) -> dict[str, str]:
    """Return the addresses of the instance that runs in `var`; nothing when its note is a leftover of one that was killed."""
    try:
        note = json.loads((var / INSTANCE_FILE).read_text())
        if psutil.Process(note["pid"]).create_time() == note["started"]:
            return {key: value for key, value in note.items() if isinstance(value, str)}
    except (OSError, ValueError, KeyError, psutil.Error):
        pass
    return {}


@dataclass(frozen=True)
class Settings:
    """All that differs between two installations. Times are in seconds."""

    var: Path = Path("var")
    templates: Path = Path("templates")
    campaigns: Path = Path("campaigns")
    sources: Path = Path("sources")
    database_url: str | None = None
    broker_url: str | None = None
    smtp_url: str | None = None
    sandbox_smtp_url: str | None = None
    public_url: str = "http://127.0.0.1:8000"
    secret_key: str | None = None
    routes_file: Path | None = None
    mail_domain: str = "notices.example.test"
    hostname: str = "notifier.example.test"
    dkim_key_file: Path | None = None
    dkim_selector: str | None = None
    dkim_domain: str | None = None
    lease_seconds: float = 30.0
    sweep_seconds: float = 2.0
    smtp_timeout_seconds: float = 60.0
    connections: int = 8
    retry_minutes: tuple[float, ...] = (5, 15, 30, 60, 120, 240)
    log_format: str = "auto"
    log_level: str = "INFO"
    metrics_port: int = 0
    trusted_proxies: tuple[str, ...] = ()
    api_per_minute: int = 120_000
    webhooks_private: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the `NOTIFIER_*` variables; raise SettingsError naming the variable that cannot be used."""
        source = os.environ if env is None else env

        def text(name: str, default: str | None) -> str | None:
            return source.get(f"NOTIFIER_{name}", "").strip() or default

        def number(name: str, default: float) -> float:
            raw = text(name, None)
            if raw is None:
                return default
            try:
                value = float(raw)
            except ValueError:
                value = -1.0
            if not 0 <= value < 1e9:  # noqa: PLR2004 - any bound serves: it also refuses nan and inf
                raise SettingsError(
                    f"NOTIFIER_{name} is not a number of 0 or more.", fix="Correct or unset it."
                )
            return value

        root = cls._project_root()
        var = Path(text("VAR", "var") or "var").absolute()
        running = _running_instance(var)
        secret = text("SECRET_KEY", running.get("secret_key"))
        if secret is not None and len(secret) < MIN_SECRET_CHARS:
            raise SettingsError(
                f"NOTIFIER_SECRET_KEY is shorter than {MIN_SECRET_CHARS} characters.",
                fix="Use for example the output of: openssl rand -hex 32",
            )
        smtp = text("SMTP_URL", running.get("smtp_url"))
        if smtp is not None:
            SmtpServer.parse(smtp, setting="NOTIFIER_SMTP_URL")
        sandbox = text("SANDBOX_SMTP_URL", running.get("sandbox_smtp_url"))
        if sandbox is not None:
            SmtpServer.parse(sandbox, setting="NOTIFIER_SANDBOX_SMTP_URL")
        private = (text("WEBHOOKS_PRIVATE", None) or "false").lower()
        if private not in {"true", "false"}:
            raise SettingsError(
                "NOTIFIER_WEBHOOKS_PRIVATE is neither true nor false.", fix="Correct or unset it."
            )
        public = (text("PUBLIC_URL", running.get("public_url", cls.public_url)) or "").rstrip("/")
        if urlsplit(public).scheme not in {"http", "https"} or not urlsplit(public).hostname:
            raise SettingsError(
                "NOTIFIER_PUBLIC_URL is not a web address.", fix="Write it as https://host."
            )
        log_format = text("LOG_FORMAT", "auto") or "auto"
        if log_format not in {"auto", "console", "json"}:
            raise SettingsError(
                "NOTIFIER_LOG_FORMAT is not one of auto, console, json.", fix="Correct or unset it."
            )
        routes, dkim = text("ROUTES_FILE", None), text("DKIM_KEY_FILE", None)
        return cls(
            var=var,
            templates=Path(text("TEMPLATES", None) or root / "templates").absolute(),
            campaigns=Path(text("CAMPAIGNS", None) or root / "campaigns").absolute(),
            sources=Path(text("SOURCES", None) or root / "sources").absolute(),
            database_url=text("DATABASE_URL", running.get("database_url")),
            broker_url=text("BROKER_URL", running.get("broker_url")),
            smtp_url=smtp,
            sandbox_smtp_url=sandbox,
            public_url=public,
            secret_key=secret,
            routes_file=Path(routes).absolute() if routes else None,
            mail_domain=text("MAIL_DOMAIN", cls.mail_domain) or cls.mail_domain,
            hostname=text("HOSTNAME", cls.hostname) or cls.hostname,
            dkim_key_file=Path(dkim).absolute() if dkim else None,
            dkim_selector=text("DKIM_SELECTOR", None),
            dkim_domain=text("DKIM_DOMAIN", None),
            lease_seconds=number("LEASE_SECONDS", cls.lease_seconds),
            sweep_seconds=number("SWEEP_SECONDS", cls.sweep_seconds),
            smtp_timeout_seconds=number("SMTP_TIMEOUT_SECONDS", cls.smtp_timeout_seconds),
            connections=max(1, int(number("CONNECTIONS", cls.connections))),
            retry_minutes=cls._minutes(text("RETRY_MINUTES", None)),
            log_format=log_format,
            log_level=(text("LOG_LEVEL", "INFO") or "INFO").upper(),
            metrics_port=int(number("METRICS_PORT", 0)),
            trusted_proxies=cls._networks(text("TRUSTED_PROXIES", None)),
            api_per_minute=max(1, int(number("API_PER_MINUTE", cls.api_per_minute))),
            webhooks_private=private == "true",
        )

    def to_env(self) -> dict[str, str]:
        """Return the variables by which another process gets the same settings."""
        values: dict[str, str] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                values[f"NOTIFIER_{field.name.upper()}"] = shown
        return values

    @staticmethod
    def _minutes(raw: str | None) -> tuple[float, ...]:
        if raw is None:
            return (5, 15, 30, 60, 120, 240)
        try:
            steps = tuple(float(part) for part in raw.split(","))
        except ValueError:
            steps = ()
        if not steps or not all(0 < step < 1e6 for step in steps):  # noqa: PLR2004 - refuses nan and inf as well
            raise SettingsError(
                "NOTIFIER_RETRY_MINUTES is not a list of minutes.",
                fix="Write it as 5,15,30,60,120,240 or unset it.",
            )
        return steps

    @staticmethod
    def _networks(raw: str | None) -> tuple[str, ...]:
        try:
            return (
                tuple(str(ip_network(part.strip(), strict=False)) for part in raw.split(","))
                if raw
                else ()
            )
        except ValueError:
            raise SettingsError(
                "NOTIFIER_TRUSTED_PROXIES is not a list of addresses.",
                fix="Write it as 10.0.0.5,192.168.7.0/24 or unset it.",
            ) from None

    @staticmethod
    def _project_root() -> Path:
        """Return the folder that holds templates/ and campaigns/: the current one, else the checkout of this package."""
        here = Path.cwd()
        return here if (here / "templates").is_dir() else Path(__file__).resolve().parent.parent

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
