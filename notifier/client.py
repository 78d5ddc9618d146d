"""A client of the HTTP API for other systems.

It stands on its own: nothing else of the service is needed to use it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict

import httpx2

_MAX_WAIT = 60.0
_RETRIED = frozenset({429, 503})
_LIST_TYPES = {
    ".csv": "text/csv",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xls": "application/vnd.ms-excel",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
}
Json = dict[str, Any]
Language = Literal["vi", "en"]


class Applicant(TypedDict):
    """Who filed a dossier."""

    name: str
    email: NotRequired[str]
    tax_code: NotRequired[str]
    language: NotRequired[Language]


class DossierEvent(TypedDict):
    """A dossier has a new status.

    Moments are ISO 8601 with an offset, dates are 2026-12-31, money is whole đồng.
    """

    source: str
    code: str
    status: str | int
    occurred_at: str
    procedure: str
    applicant: Applicant
    promised_at: NotRequired[str]
    reason: NotRequired[str]
    amount: NotRequired[int]
    due_on: NotRequired[str]
    papers: NotRequired[list[str]]
    result_place: NotRequired[str]
    office: NotRequired[str]


class Recipient(TypedDict):
    """Who gets a mail."""

    name: str
    email: str
    tax_code: NotRequired[str]


class ApiError(Exception):
    """The service refused a request.

    `errors` names the fields at fault by JSON pointers, `request_id` finds it in the service's log.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, str]],
        request_id: str,
    ) -> None:
        """Keep what the problem details said."""
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail, self.errors, self.request_id = (
            status,
            code,
            detail,
            errors,
            request_id,
        )


class ApiUnavailable(Exception):  # noqa: N818 - it says what is the matter
    """No answer came, however often it was tried.

    What was asked for may have been done all the same.
    """


class NotifierClient:
    """Talks to the service with one key. Use it as a context manager.

    A call is tried up to `attempts` times: after 429 and 503, as late as the answer asks, and after
    a lost answer when asking twice does no more than asking once. Every method raises ApiError when
    it is refused and ApiUnavailable when no answer came.
    """

    def __init__(
        self, base_url: str, key: str, *, timeout: float = 10.0, attempts: int = 5
    ) -> None:
        """Prepare.

        `base_url` is the service's address without /api, `timeout` seconds are waited for each
        answer.
        """
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self._http = httpx2.Client(
            base_url=base_url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout,
        )
        self._attempts = attempts

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def report_event(self, event: DossierEvent, *, idempotency_key: str | None = None) -> Json:
        """Report that a dossier has a new status; return {id, outcome[, message_id, links]}."""
        return self._call("POST", "dossier-events", event, key=idempotency_key)

    def report_events(
        self, events: Sequence[DossierEvent], *, idempotency_key: str | None = None
    ) -> Json:
        """Report up to 1,000 events.

        Return {accepted, refused, results}, where `results` answers each by itself.
        """
        return self._call(
            "POST", "dossier-events/batch", {"events": list(events)}, key=idempotency_key
        )

    def send_message(
        self,
        template: str,
        recipient: Recipient,
        data: Mapping[str, Any] | None = None,
        *,
        language: Language = "vi",
        send_at: datetime | None = None,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Send one mail; return {id, state, links}. Moments must be aware."""
        message = _message(template, recipient, data, language)
        for name, moment in (("send_at", send_at), ("expires_at", expires_at)):
            if moment is not None:
                message[name] = _aware(moment)
        return self._call("POST", "messages", message, key=idempotency_key)

    def preview_message(
        self,
        template: str,
        recipient: Recipient,
        data: Mapping[str, Any] | None = None,
        *,
        language: Language = "vi",
    ) -> Json:
        """Return {subject, text, html, bytes} of a mail, and send nothing."""
        return self._call(
            "POST",
            "messages",
            _message(template, recipient, data, language),
            query={"dry_run": "true"},
        )

    def message(self, message_id: str) -> Json:
        """Return one message with its replies."""
        return self._call("GET", f"messages/{uuid.UUID(message_id)}")

    def messages(
        self,
        *,
        state: str | None = None,
        template: str | None = None,
        topic: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        recipient: str | None = None,
        page: int = 100,
    ) -> Iterator[Json]:
        """Yield the key's messages, the newest first, fetched `page` at a time.

        `recipient` is an e-mail address, which is asked for in a body and not in a URL.
        """
        filters = {
            "state": state,
            "template": template,
            "topic": topic,
            "since": since and _aware(since),
            "until": until and _aware(until),
            "limit": page,
            "recipient": recipient,
        }
        wanted = {name: value for name, value in filters.items() if value is not None}
        if recipient is None:
            return self._pages("messages", "messages", wanted)
        return self._pages("messages/search", "messages", wanted, method="POST")

    def cancel_message(self, message_id: str) -> Json:
        """Take a message back while it is queued; return it."""
        return self._call("POST", f"messages/{uuid.UUID(message_id)}/cancel")

    def topics(self) -> list[Json]:
        """Return what the service writes about."""
        return list(self._call("GET", "topics")["topics"])

    def templates(self) -> list[Json]:
        """Return the templates with their fields."""
        return list(self._call("GET", "templates")["templates"])

    def suppressions(self) -> Iterator[Json]:
        """Yield the addresses that are not written to, the newest first."""
        return self._pages("suppressions", "suppressions", {})

    def suppress(self, email: str, topic: str, reason: str) -> Json:
        """Stop writing to an address about a topic, or about all with "*"."""
        return self._call(
            "POST", "suppressions", {"email": email, "topic": topic, "reason": reason}
        )

    def lift_suppression(self, email: str, topic: str, reason: str) -> Json:
        """Write to an address again."""
        return self._call(
            "POST", "suppressions/lift", {"email": email, "topic": topic, "reason": reason}
        )

    def create_campaign(self, name: str, definition: Mapping[str, Any]) -> Json:
        """Keep a campaign's definition, with the keys of a campaign file."""
        return self._call(
            "POST", "campaigns", {"name": name, "definition": dict(definition)}, twice=False
        )

    def campaigns(self, *, state: str | None = None) -> Iterator[Json]:
        """Yield the key's campaigns, drafts too, the newest first."""
        return self._pages("campaigns", "campaigns", {} if state is None else {"state": state})

    def edit_campaign(self, name: str, definition: Mapping[str, Any]) -> Json:
        """Replace the definition of a campaign that is not launched; its list stays."""
        return self._call("PUT", f"campaigns/{_name(name)}", {"definition": dict(definition)})

    def delete_campaign(self, name: str) -> None:
        """Delete a campaign that is not launched, with its list."""
        self._ask("DELETE", f"campaigns/{_name(name)}", twice=False)

    def attach_list(self, name: str, path: Path | str) -> Json:
        """Attach a list of recipients (.csv, .xlsx, .xls, .ods) to a campaign not yet launched."""
        path = Path(path)
        kind = _LIST_TYPES.get(path.suffix.lower())
        if kind is None:
            raise ValueError(f"{path.name}: a list is one of {', '.join(_LIST_TYPES)}")
        return self._call(
            "PUT", f"campaigns/{_name(name)}/list", content=path.read_bytes(), kind=kind
        )

    def check_campaign(self, name: str) -> Json:
        """Render every mail without sending one; return the counts."""
        return self._call("POST", f"campaigns/{_name(name)}/check")

    def launch_campaign(self, name: str, *, at: datetime | None = None) -> Json:
        """Start a campaign, at once or at an aware moment; return where it stands."""
        body = {"at": _aware(at)} if at is not None else {}
        return self._call("POST", f"campaigns/{_name(name)}/launch", body, twice=False)

    def campaign(self, name: str) -> Json:
        """Return where a campaign stands."""
        return self._call("GET", f"campaigns/{_name(name)}")

    def step_campaign(self, name: str, step: Literal["pause", "resume", "cancel"]) -> Json:
        """Pause, resume or cancel a campaign; return where it stands."""
        return self._call("POST", f"campaigns/{_name(name)}/{step}", twice=False)

    def campaign_report(self, name: str) -> bytes:
        """Return a CSV file in UTF-8, one row per message."""
        return self._ask("GET", f"campaigns/{_name(name)}/report").content

    def _pages(
        self, path: str, name: str, wanted: Json, *, method: Literal["GET", "POST"] = "GET"
    ) -> Iterator[Json]:
        while True:
            asked = {"query": wanted} if method == "GET" else {"body": wanted}
            page = self._call(method, path, **asked)
            yield from page[name]
            if page["next"] is None:
                return
            wanted = {**wanted, "cursor": page["next"]}

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **options: Any
    ) -> Json:
        found: Json = self._ask(method, path, body, **options).json()
        return found

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        query: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        kind: str | None = None,
        twice: bool = True,
    ) -> httpx2.Response:
        """Ask until there is an answer.

        `twice`: a lost answer may be asked for again, for the service sees that it is one request.
        """
        headers = {"Content-Type": kind} if kind else {}
        if method == "POST":
            headers["Idempotency-Key"] = key or str(uuid.uuid4())
        for attempt in range(1, self._attempts + 1):
            wait = min(_MAX_WAIT, 0.2 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - it only spreads the load
            try:
                answer = self._http.request(
                    method,
                    f"/api/v1/{path}",
                    json=body,
                    content=content,
                    params=query,
                    headers=headers,
                )
            except httpx2.TransportError as error:
                if attempt == self._attempts or not (
                    twice or isinstance(error, httpx2.ConnectError)
                ):
                    raise ApiUnavailable(
                        f"No answer in {attempt} attempts: {type(error).__name__}."
                    ) from error
            else:
                if answer.is_success:
                    return answer
                if answer.status_code not in _RETRIED or attempt == self._attempts:
                    raise _error(answer)
                wait += _asked_wait(answer.headers.get("Retry-After", ""))
            time.sleep(wait)
        raise AssertionError


class WebhookForged(Exception):  # noqa: N818 - it says what is the matter
    """A call to your webhook was not made by the service, or was made long ago."""


def verify_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: float = 300.0,
    now: float | None = None,
) -> None:
    """Check a call to your webhook; raise WebhookForged when you must not believe it.

    `secret` is the key's (whsec_…), `headers` have names in small letters, `body` is as it came.
    Calls are believed for `tolerance` seconds; drop those whose webhook-id you have seen
    (https://www.standardwebhooks.com).
    """
    try:
        sent_at = float(headers["webhook-timestamp"])
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        given = headers["webhook-signature"].split(" ")
        expected = base64.b64encode(
            hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, "sha256")
        )
    except (KeyError, ValueError, binascii.Error) as error:
        raise WebhookForged(f"It is not signed: {type(error).__name__}.") from None
    if not any(hmac.compare_digest(each.encode(), b"v1," + expected) for each in given):
        raise WebhookForged("The signature is wrong.")
    if not abs((time.time() if now is None else now) - sent_at) <= tolerance:
        raise WebhookForged("It was signed too long ago, or a clock is wrong.")


def _message(
    template: str, recipient: Recipient, data: Mapping[str, Any] | None, language: Language
) -> Json:
    return {
        "template": template,
        "recipient": recipient,
        "language": language,
        "data": dict(data or {}),
    }


def _aware(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("the moment needs a time zone")
    return moment.isoformat()


def _name(name: str) -> str:
    """Return a campaign's name as one part of a path."""
    if not name or any(char in "/?#%\\" or char.isspace() for char in name) or name in {".", ".."}:
        raise ValueError(f"{name!r} is no name of a campaign")
    return name


def _asked_wait(value: str) -> float:
    """Return the seconds that Retry-After asks for.

    Its value is a number or a date (RFC 9110, section 10.2.3).
    """
    if value.isascii() and value.isdecimal():
        return min(_MAX_WAIT, float(value))
    try:
        seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(_MAX_WAIT, max(0.0, seconds))


def _error(answer: httpx2.Response) -> ApiError:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    problem = problem if isinstance(problem, dict) else {}
    number = answer.headers.get("X-Request-Id", "")
    return ApiError(
        answer.status_code,
        problem.get("code", ""),
        problem.get("detail", answer.reason_phrase),
        problem.get("errors", []),
        number,
    )
