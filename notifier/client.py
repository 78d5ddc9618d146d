"""A client of the HTTP API for other systems. It stands on its own: nothing else of the service is needed to use it."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2

_MOST_WAIT = 30.0
_RETRIED = frozenset({429, 503})
Json = dict[str, Any]


class ApiError(Exception):
    """The service refused a request; `errors` names the fields at fault."""

    def __init__(self, status: int, code: str, detail: str, errors: Sequence[Mapping[str, str]], request_id: str) -> None:
        """Keep what the problem details said."""
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail, self.errors, self.request_id = status, code, detail, errors, request_id


class ApiUnavailable(Exception):  # noqa: N818 - it says what is the matter
    """No answer came, however often it was tried."""


class NotifierClient:
    """Talks to the service with one key. Use it as a context manager."""

    def __init__(self, base_url: str, key: str, *, timeout: float = 10.0, attempts: int = 5) -> None:
        """Prepare; `base_url` is the service's address without /api."""
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self._http = httpx2.Client(base_url=base_url.rstrip("/"), headers={"Authorization": f"Bearer {key}"}, timeout=timeout)
        self._attempts = attempts

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close its connections."""
        self._http.close()

    def report_event(self, event: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Report that a dossier has a new status."""
        return self._call("POST", "dossier-events", event, key=idempotency_key)

    def report_events(self, events: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None) -> Json:
        """Report up to 1,000 events; `results` answers each by itself."""
        return self._call("POST", "dossier-events/batch", {"events": list(events)}, key=idempotency_key)

    def send_message(self, *, dry_run: bool = False, idempotency_key: str | None = None, **message: Any) -> Json:
        """Send one mail (template, recipient, language, data, send_at, expires_at), or only show it."""
        return self._call("POST", "messages", message, key=idempotency_key, query={"dry_run": "true"} if dry_run else None)

    def message(self, number: str) -> Json:
        """Return one message with its replies."""
        return self._call("GET", f"messages/{uuid.UUID(number)}")

    def messages(self, **filters: Any) -> Iterator[Json]:
        """Yield the key's messages, the newest first, page after page."""
        query = dict(filters)
        while True:
            page = self._call("GET", "messages", query=query)
            yield from page["messages"]
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def cancel_message(self, number: str) -> Json:
        """Take a message back while it is queued."""
        return self._call("POST", f"messages/{uuid.UUID(number)}/cancel")

    def topics(self) -> list[Json]:
        """Return what the service writes about."""
        return list(self._call("GET", "topics")["topics"])

    def templates(self) -> list[Json]:
        """Return the templates with their fields."""
        return list(self._call("GET", "templates")["templates"])

    def suppress(self, email: str, topic: str, reason: str) -> Json:
        """Stop writing to an address."""
        return self._call("POST", "suppressions", {"email": email, "topic": topic, "reason": reason})

    def lift_suppression(self, email: str, topic: str, reason: str) -> Json:
        """Write to an address again."""
        return self._call("POST", "suppressions/lift", {"email": email, "topic": topic, "reason": reason})

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Json:
        # The same key over all attempts lets the service see that they are one request.
        headers = {"Idempotency-Key": key or str(uuid.uuid4())} if method == "POST" else {}
        for attempt in range(1, self._attempts + 1):
            wait = min(_MOST_WAIT, 0.2 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - it only spreads the load
            try:
                answer = self._http.request(method, f"/api/v1/{path}", json=body, params=query, headers=headers)
            except httpx2.TransportError as error:
                if attempt == self._attempts:
                    raise ApiUnavailable(f"No answer in {attempt} attempts: {type(error).__name__}.") from error
            else:
                if answer.is_success:
                    found: Json = answer.json()
                    return found
                if answer.status_code not in _RETRIED or attempt == self._attempts:
                    raise _error(answer)
                asked = answer.headers.get("Retry-After", "")
                if asked.isdecimal():
                    wait += min(_MOST_WAIT, float(asked))
            time.sleep(wait)
        raise AssertionError


def _error(answer: httpx2.Response) -> ApiError:
    try:
        told = answer.json()
    except ValueError:
        told = None
    told = told if isinstance(told, dict) else {}
    number = answer.headers.get("X-Request-Id", "")
    return ApiError(answer.status_code, told.get("code", ""), told.get("detail", answer.reason_phrase), told.get("errors", []), number)
