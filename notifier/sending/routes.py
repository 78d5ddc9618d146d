"""Routes: where a group of addresses is delivered, and how hard we may push there.

Without a routes file everything goes to the relay of NOTIFIER_SMTP_URL. A file gives providers a lane of their own, so that a provider
that slows us down holds up nobody else's mail.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notifier.errors import SettingsError
from notifier.settings import SmtpServer

DEFAULT_ROUTE = "relay"
# The route of sandbox keys, and the domain that stands for it: no address can be at a domain with such a name.
SANDBOX = "(sandbox)"
_NOWHERE = SmtpServer("sandbox.invalid", 25)


@dataclass(frozen=True, slots=True)
class Route:
    """One destination with its limits, which all workers together keep.

    `connections` at once (0: no common limit), `messages_per_connection` before QUIT (0: no limit), `per_minute` messages (0: no limit).
    """

    name: str
    server: SmtpServer
    connections: int = 0
    messages_per_connection: int = 0
    per_minute: int = 0


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes and the address domains that each serves."""

    default: Route
    named: Mapping[str, Route] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)

    def of_domain(self, domain: str) -> str:
        """Return the name of the route for addresses at `domain` (lower case)."""
        return self.domains.get(domain, self.default.name)

    def get(self, name: str) -> Route:
        """Return the route; the default one when a file no longer names it, so that planned mail still leaves."""
        return self.named.get(name, self.default)


def load_routes(
    server: SmtpServer, path: Path | None, *, sandbox: SmtpServer | None = None
) -> Routes:
    """Read the routes file; raise SettingsError that names the route and key at fault.

    Mail of sandbox keys goes to `sandbox`, and without one nowhere: never to a server that delivers it.

    Each `[[route]]` has `name`, `domains`, and may have `smtp` (smtp://host:port, without a password; default: the relay),
    `connections`, `messages_per_connection`, `per_minute`. The name `relay` sets the limits of the default route.
    """
    default = Route(DEFAULT_ROUTE, server)
    named = {SANDBOX: Route(SANDBOX, sandbox or _NOWHERE)}
    domains = {SANDBOX: SANDBOX}
    if path is None:
        return Routes(default, named, domains)
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(
            f"The routes file {path.name} cannot be read: {error}.",
            fix="Correct NOTIFIER_ROUTES_FILE.",
        ) from error
    for number, entry in enumerate(parsed.get("route", []), 1):
        route, served = _route(entry, number, server)
        if route.name == DEFAULT_ROUTE:
            default = route
            continue
        named[route.name] = route
        for domain in served:
            if domain in domains:
                raise SettingsError(
                    f"Routes {domains[domain]} and {route.name} both name {domain}.",
                    fix="Keep one of them.",
                )
            domains[domain] = route.name
    return Routes(default, named, domains)


def _route(entry: dict[str, Any], number: int, server: SmtpServer) -> tuple[Route, list[str]]:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise SettingsError(
            f"Route {number} of the routes file has no name.", fix='Add name = "…".'
        )
    known = {"name", "domains", "smtp", "connections", "messages_per_connection", "per_minute"}
    if unknown := sorted(set(entry) - known):
        raise SettingsError(
            f"Route {name} has the unknown key {unknown[0]}.",
            fix=f"Known are: {', '.join(sorted(known))}.",
        )
    limits = {}
    for key in ("connections", "messages_per_connection", "per_minute"):
        value = entry.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise SettingsError(
                f"Route {name}: {key} is not a whole number of 0 or more.", fix="Correct it."
            )
        limits[key] = value
    domains = entry.get("domains", [])
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
        raise SettingsError(
            f"Route {name}: domains is not a list of names.",
            fix='Write domains = ["example.test"].',
        )
    if smtp := entry.get("smtp"):
        server = SmtpServer.parse(str(smtp), setting=f"smtp of route {name}")
        if server.password:
            raise SettingsError(
                f"Route {name} has a password in the routes file.",
                fix="Passwords belong in NOTIFIER_SMTP_URL only.",
            )
    return Route(name, server, **limits), [domain.lower() for domain in domains]
