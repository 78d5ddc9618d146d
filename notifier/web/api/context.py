"""What the routes of the API depend on, in the order in which it is asked for.

Whoever calls is known before a byte of the body is read; then the body is read up to its limit.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Header, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from notifier.domain.keys import SCOPES, Key
from notifier.flows import dossier_events
from notifier.flows.dossier_events import Call, Results
from notifier.group_commit import GroupWriter
from notifier.services import Services
from notifier.web.api.gate import REQUEST_ID, Gate

_THREADS = 48
_MAX_WAIT = 30.0
P = ParamSpec("P")
T = TypeVar("T")


class Context:
    """What all requests share: services, limits, threads, and the writer of events."""

    def __init__(self, services: Services) -> None:
        """Work through `services`."""
        self._services = services
        self.gate = Gate(services)
        # Threads of its own: callers who wait for a commit must not take those of the public pages.
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="api")
        self._events: GroupWriter[Call, Results] = GroupWriter(
            partial(dossier_events.record, services),
            name="dossier-events",
            most=dossier_events.MAX_EVENTS,
            size=lambda call: max(1, len(call.events)),
            linger=0.003,
            alone=True,
        )

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Do work that may wait in a thread."""
        call = partial(copy_context().run, work, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def services(self) -> Services:
        """Return the services with topics, templates and sources read (by the first request)."""
        if "sources" not in vars(self._services):
            await self.run(lambda: (self._services.topics, self._services.sources))
        return self._services

    async def record(self, call: Call) -> Results:
        """Record events together with those of other requests; raise IdempotencyError."""
        written = asyncio.wrap_future(self._events.submit(call))
        return await asyncio.wait_for(written, _MAX_WAIT)


async def _context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


async def _request_id(request: Request) -> str:
    return str(request.scope[REQUEST_ID])


Here = Annotated[Context, Depends(_context)]
RequestId = Annotated[str, Depends(_request_id)]
"""The id of the request, for the logs."""

_BEARER = HTTPBearer(
    scheme_name="key", description=f"An API key. Scopes: {', '.join(SCOPES)}.", auto_error=False
)


async def _key(
    request: Request,
    here: Here,
    needed: SecurityScopes,
    sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Key:
    client = request.client.host if request.client else ""
    token = "" if sent is None else sent.credentials
    key = await here.run(here.gate.admit, token, client, needed.scopes)
    request.state.key = key
    return key


AnyKey = Annotated[Key, Security(_key)]
EventsKey = Annotated[Key, Security(_key, scopes=["events:write"])]
MessagesKey = Annotated[Key, Security(_key, scopes=["messages:write"])]
ReadKey = Annotated[Key, Security(_key, scopes=["messages:read"])]
CampaignsKey = Annotated[Key, Security(_key, scopes=["campaigns:write"])]
SuppressionsKey = Annotated[Key, Security(_key, scopes=["suppressions:write"])]

IdempotencyKey = Annotated[
    Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
    | SkipJsonSchema[None],
    Header(
        alias="Idempotency-Key",
        description="The same key gets the same answer again; with another body 409.",
    ),
]
