"""Routes: where a group of addresses is delivered, and how hard we may push there.

Without a routes file everything goes to the relay of NOTIFIER_SMTP_URL. A file gives providers a
lane of their own, so that a provider that slows us down holds up nobody else's mail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from notifier.errors import SettingsError
from notifier.settings import SmtpServer
from notifier.validation import Otherwise, Table, Text, parse_toml, read

DEFAULT_ROUTE = "relay"
# The route of sandbox keys, and the domain that stands for it: no address can be at a domain with
# such a name.
SANDBOX = "(sandbox)"
_NOWHERE = SmtpServer("sandbox.invalid", 25)


@dataclass(frozen=True, slots=True)
class Route:
    """One destination with its limits, which all workers together keep.

    `connections` at once (0: no common limit), `messages_per_connection` before QUIT (0: no limit),
    `per_minute` messages (0: no limit).
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
        """Return the route.

        The default one when a file no longer names it, so that planned mail still leaves.
        """
        return self.named.get(name, self.default)


_Limit = Annotated[
    int, Field(ge=0, lt=10**9), Otherwise("is not a whole number of 0 or more.", "Correct it.")
]


class _RouteTable(Table):
    name: Text
    domains: Annotated[
        list[Text],
        Otherwise("is not a list of names.", 'Write domains = ["example.test"].'),
    ] = Field(default_factory=list)
    smtp: Text | None = None
    connections: _Limit = 0
    messages_per_connection: _Limit = 0
    per_minute: _Limit = 0


class _RoutesFile(Table):
    route: Annotated[
        list[dict[str, Any]],
        Otherwise("is not a list of tables.", "Begin each route with [[route]]."),
    ] = Field(default_factory=list)


def load_routes(
    server: SmtpServer, path: Path | None, *, sandbox: SmtpServer | None = None
) -> Routes:
    """Read the routes file; raise SettingsError that names the route and key at fault.

    Mail of sandbox keys goes to `sandbox`, and without one nowhere: never to a server that delivers
    it.

    Each `[[route]]` has `name`, `domains`, and may have `smtp` (smtp://host:port, without a
    password; default: the relay), `connections`, `messages_per_connection`, `per_minute`. The
    name `relay` sets the limits of the default route.
    """
    default = Route(DEFAULT_ROUTE, server)
    named = {SANDBOX: Route(SANDBOX, sandbox or _NOWHERE)}
    domains = {SANDBOX: SANDBOX}
    if path is None:
        return Routes(default, named, domains)
    where = f"The routes file {path.name}"
    parsed = parse_toml(
        path, where=where, raises=SettingsError, fix="Correct NOTIFIER_ROUTES_FILE."
    )
    # The sandbox's route is never a file's: its mail must not reach a server that delivers it.
    seen = {SANDBOX}
    for number, entry in enumerate(
        read(_RoutesFile, parsed, where=where, raises=SettingsError).route, 1
    ):
        route, served = _route(entry, number, server)
        if route.name in seen:
            raise SettingsError(
                f"Two routes of the routes file have the name {route.name}.",
                fix="Give each a name of its own.",
            )
        seen.add(route.name)
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
    where = f"Route {entry.get('name') or number}"
    found = read(_RouteTable, entry, where=where, raises=SettingsError)
    if found.smtp:
        server = SmtpServer.parse(found.smtp, setting=f"smtp of route {found.name}")
        if server.password:
            raise SettingsError(
                f"Route {found.name} has a password in the routes file.",
                fix="Passwords belong in NOTIFIER_SMTP_URL only.",
            )
    route = Route(
        found.name,
        server,
        connections=found.connections,
        messages_per_connection=found.messages_per_connection,
        per_minute=found.per_minute,
    )
    return route, [domain.lower() for domain in found.domains]
