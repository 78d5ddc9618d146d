"""What a setting's value may be, and what is said of one that is not."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from notifier.errors import SettingsError
from notifier.validation import Otherwise, wrong

MIN_SECRET_CHARS = 32
CORRECT = "Correct or unset it."


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


Folder = Annotated[Path, AfterValidator(Path.absolute)]
SmtpUrl = Annotated[str, AfterValidator(_smtp_url)]
Number = Annotated[
    float,
    # Any upper bound serves: it also refuses nan and infinity.
    Field(ge=0, lt=1e9),
    Otherwise("is not a number of 0 or more.", CORRECT),
]
Count = Annotated[
    int, Field(ge=1, lt=10**9), Otherwise("is not a whole number of 1 or more.", CORRECT)
]
Minutes = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1e6)], ...],
    NoDecode,
    BeforeValidator(_parts),
    Field(min_length=1),
    Otherwise(
        "is not a list of minutes.",
        "Write it as 5,15,30,60,120,240 or unset it.",
    ),
]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...],
    NoDecode,
    BeforeValidator(_parts),
    Otherwise(
        "is not a list of addresses.",
        "Write it as 10.0.0.5,192.168.7.0/24 or unset it.",
    ),
]
Port = Annotated[int, Field(ge=0, le=65535), Otherwise("is not a port from 0 to 65535.", CORRECT)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
SecretKey = Annotated[str, AfterValidator(_secret)]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
]
