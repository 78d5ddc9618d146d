"""Notifying other systems: one call of a worker posts what is due to the receiver of one key.

Events are taken and results recorded in short transactions; no socket is open inside one. A
receiver that gives no answer costs one worker thread ten seconds, then it rests; a slow one gives
way to others after half a minute. Requests are signed as Standard Webhooks demand
(https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
import orjson
import structlog
from sqlalchemy import Engine

from notifier import observability
from notifier.domain import keys, webhooks
from notifier.domain.keys import WebhookLease
from notifier.domain.webhooks import Attempt, Event
from notifier.retries import next_due
from notifier.webhooks import targets

log = structlog.get_logger(__name__)

# After each failed try; the last one is repeated until the event is given up, where one more try is
# made.
RETRY_MINUTES = (5 / 60, 0.5, 2, 10, 30, 60, 120, 240, 480)
# For one request from the first byte to the last, however slowly a receiver trickles its answer.
TIMEOUT_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
# One call of `deliver` begins no request after so many seconds or events.
MAX_SECONDS = 30.0
MAX_EVENTS = 200
_GROUP = 40
_AT_ONCE = 4
_MAX_ADDRESSES = 4
_MAX_ANSWER = 64 * 1024
_GONE = 410
# The receiver lives, and asks for patience.
_BUSY = frozenset({429, 503})
_TICK = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said: its status, or None and the `problem` that left it without one."""

    status: int | None
    problem: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the receiver has the event now."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - 2xx

    @property
    def wants_rest(self) -> bool:
        """Whether other events should not be tried right away."""
        return self.status is None or self.status in _BUSY


def signature(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    """Return the header webhook-signature for a `secret` of the form whsec_<base64>."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{event_id}.{timestamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(signed).decode()


def payload(event: Event) -> bytes:
    """Return the body that notifies of an event: the same bytes at every try."""
    moment = event.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({"type": event.kind, "timestamp": moment, "data": event.data})


def next_try(event: Event, now: datetime) -> datetime | None:
    """Return when to retry an event that was tried `now` in vain; None when its time is over."""
    if now >= event.give_up_at:
        return None
    due = next_due(event.attempts + 1, now.timestamp(), minutes=RETRY_MINUTES, expires_at=None)
    return min(datetime.fromtimestamp(due or 0.0, UTC), event.give_up_at)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the certificates we trust, read once."""
    return httpx2.create_ssl_context()


class Caller:
    """Posts to one receiver.

    It is made anew for every call of `deliver`, so that the name is resolved and checked anew.
    """

    def __init__(
        self, url: str, *, secret: str, private: bool, clock: Callable[[], datetime]
    ) -> None:
        """Post to `url`, signed with `secret` (whsec_…) at the time of `clock`.

        `private` allows private addresses.
        """
        self._private = private
        self._text = url
        self._secret = secret
        self._clock = clock
        self._url: httpx2.URL | None = None
        self._addresses: list[str] = []
        # Not the environment's proxy, nor its passwords: we connect to the checked address.
        self._client = httpx2.AsyncClient(
            verify=tls_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(TIMEOUT_SECONDS, connect=_CONNECT_SECONDS),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def post(self, event: Event) -> Answer:
        """Post an event once and return the answer, within TIMEOUT_SECONDS.

        Never raises for what a receiver or network does.
        """
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if self._url is None:
                    self._url = await self._resolve()
                return await self._post(self._url, event)
        except targets.TargetError as error:
            return Answer(None, str(error))
        except TimeoutError:
            return Answer(None, "timeout")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return Answer(None, _innermost(error))

    async def _resolve(self) -> httpx2.URL:
        try:
            url = targets.read_url(self._text, private=self._private)
        except webhooks.WebhookError:
            raise targets.TargetError("the URL is not allowed") from None
        # In a thread of its own: a resolver that hangs must not hold up the clock.
        self._addresses = await asyncio.to_thread(targets.resolve, url, private=self._private)
        return url

    async def _post(self, url: httpx2.URL, event: Event) -> Answer:
        for address in self._addresses[:_MAX_ADDRESSES]:
            try:
                return await self._try(url, address, event)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _try(self, url: httpx2.URL, address: str, event: Event) -> Answer:
        """Post to one address.

        Once more when a connection that was kept open turns out to be closed, which says nothing of
        the receiver.
        """
        opened = False

        async def trace(name: str, _: object) -> None:
            nonlocal opened
            opened = opened or name.startswith("connection.connect_tcp")

        try:
            return await self._send(self._request(url, address, event, trace))
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
            if opened:
                raise
        return await self._send(self._request(url, address, event, trace))

    def _request(
        self,
        url: httpx2.URL,
        address: str,
        event: Event,
        trace: Callable[[str, object], Awaitable[None]],
    ) -> httpx2.Request:
        """Return the signed request to `address`, for the name that the URL has."""
        body = payload(event)
        timestamp = str(int(self._clock().timestamp()))
        headers = {
            "host": url.netloc.decode("ascii"),
            "content-type": "application/json",
            "user-agent": "notifier-webhooks/1",
            "webhook-id": str(event.id),
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._secret, str(event.id), timestamp, body),
        }
        more = {"sni_hostname": url.raw_host.decode("ascii"), "trace": trace}
        return self._client.build_request(
            "POST", url.copy_with(host=address), content=body, headers=headers, extensions=more
        )

    async def _send(self, request: httpx2.Request) -> Answer:
        response = await self._client.send(request, stream=True, auth=None, follow_redirects=False)
        try:
            length = 0
            # Read to its end, so that the connection serves the next event, but not what is
            # unreasonably long.
            async for chunk in response.aiter_raw():
                length += len(chunk)
                if length > _MAX_ANSWER:
                    break
        except httpx2.HTTPError:
            pass  # the status is there, which is the answer
        finally:
            await response.aclose()
        return Answer(response.status_code)


def _innermost(error: BaseException) -> str:
    """Return the class of what is at the bottom: ConnectionRefusedError, not ConnectError."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return type(error).__name__


async def _post_group(
    caller: Caller, events: list[Event], *, until: float, stopping: Callable[[], bool]
) -> list[tuple[Event, Answer]]:
    """Post events, a few at a time.

    Begin no more once one has no answer, the time is over or this process is to stop.
    """
    waiting = iter(events)
    answers: list[tuple[Event, Answer]] = []
    resting = False

    async def work() -> None:
        nonlocal resting
        for event in waiting:
            answer = await caller.post(event)
            answers.append((event, answer))
            resting = resting or answer.wants_rest
            if resting or time.monotonic() > until:
                return

    under_way = {asyncio.ensure_future(work()) for _ in range(min(_AT_ONCE, len(events)))}
    while under_way and not stopping():
        done, under_way = await asyncio.wait(under_way, timeout=_TICK)
        for task in done:
            task.result()
    # Delivered or not, these are delivered again: a polite stop does not wait for a receiver.
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    return answers


def deliver(
    engine: Engine,
    key_id: int,
    *,
    service_secret: bytes,
    private: bool,
    clock: Callable[[], datetime],
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Deliver to the receiver of a key what is due; say if more is due, left for another call.

    Does nothing when the key has no webhook, its receiver rests or another worker calls it. Begins
    no request after MAX_SECONDS or MAX_EVENTS, and ends at most TIMEOUT_SECONDS later. A worker
    that dies leaves its lease, which ends after a minute.
    """
    until = time.monotonic() + MAX_SECONDS
    left = MAX_EVENTS
    caller: Caller | None = None
    held: WebhookLease | None = None
    answered = False
    with asyncio.Runner() as runner:
        try:
            while True:
                # The first event goes alone: a receiver that does not answer is asked once.
                size = min(left, _GROUP) if answered else 1
                with engine.begin() as connection:
                    now = clock()
                    before = held
                    held = webhooks.lease(connection, key_id, now=now, held=held)
                    if held is None:
                        return False
                    spent = (
                        stopping()
                        or left <= 0
                        or time.monotonic() > until
                        or (before is not None and before.url != held.url)
                    )
                    events = webhooks.due(connection, key_id, now, limit=max(1, size))
                    if spent or not events:
                        webhooks.release(connection, held, answered=answered)
                        return bool(events)
                if caller is None:
                    secret = keys.webhook_secret(service_secret, key_id)
                    caller = Caller(held.url, secret=secret, private=private, clock=clock)
                answers = runner.run(_post_group(caller, events, until=until, stopping=stopping))
                left -= len(answers)
                answered = answered or any(answer.status is not None for _, answer in answers)
                if not _record(engine, held, answers, clock(), answered=answered):
                    return False
        finally:
            if caller is not None:
                runner.run(caller.close())


def _record(
    engine: Engine,
    held: WebhookLease,
    answers: list[tuple[Event, Answer]],
    now: datetime,
    *,
    answered: bool,
) -> bool:
    """Write what became of requests; say whether the receiver may be called on."""
    attempts = [_attempt(event, answer, now) for event, answer in answers]
    gone = any(answer.status == _GONE for _, answer in answers)
    tired = any(answer.wants_rest for _, answer in answers)
    with engine.begin() as connection:
        webhooks.settle(connection, attempts, now)
        switched_off = gone and webhooks.switch_off(connection, held.key_id, url=held.url, now=now)
        if gone:
            webhooks.release(connection, held, answered=True)
        elif tired:
            webhooks.rest(connection, held, now=now, answered=answered)
    counts = {
        "delivered": sum(each.problem is None for each in attempts),
        "put_off": sum(each.problem is not None and each.due is not None for each in attempts),
        "dead_letter": sum(each.problem is not None and each.due is None for each in attempts),
    }
    observability.count_webhooks(counts)
    if switched_off:
        log.warning("webhook_switched_off", key=held.key_id, status=_GONE)
    if counts["put_off"] or counts["dead_letter"]:
        problem = next(each.problem for each in attempts if each.problem is not None)
        log.warning(
            "webhook_not_taken",
            key=held.key_id,
            put_off=counts["put_off"],
            dead_letter=counts["dead_letter"],
            problem=problem,
        )
    return not gone and not tired


def _attempt(event: Event, answer: Answer, now: datetime) -> Attempt:
    if answer.accepted:
        return Attempt(event_id=event.id, problem=None, due=None)
    return Attempt(
        event_id=event.id,
        problem=answer.problem or f"status {answer.status}",
        due=None if answer.status == _GONE else next_try(event, now),
    )
