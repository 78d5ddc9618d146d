"""More than five hundred hostile requests to a live service.

Each is refused in words that programs understand, and none is kept.
"""

from __future__ import annotations

import copy
import itertools
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from httpx2 import Client, Response
from sqlalchemy import text

from notifier.domain import keys
from notifier.services import Services
from notifier.settings import Settings
from notifier.web.api.models import CAMPAIGN, EVENT, MESSAGE_REQUEST, SUPPRESSION
from notifier.web.api.problems import TITLES
from tests.journeys.test_web import served

EVENTS, BATCH, MESSAGES = (
    "/api/v1/dossier-events",
    "/api/v1/dossier-events/batch",
    "/api/v1/messages",
)
SUPPRESSIONS, CAMPAIGNS = "/api/v1/suppressions", "/api/v1/campaigns"
NEW_CAMPAIGN = {"name": "tax-policy-2026-12", "definition": CAMPAIGN}
BODIES: dict[str, Any] = {
    EVENTS: EVENT,
    MESSAGES: MESSAGE_REQUEST,
    SUPPRESSIONS: SUPPRESSION,
    CAMPAIGNS: NEW_CAMPAIGN,
}
PERSONAL = ("Ban Mai", "banmai.example", "0100109106", "evil@", "notifier_live_", "notifier_test_")
WRONG: list[Any] = [None, True, 1.5, -1, 10**30, {}, {"$ne": None}, [], [[]], "", " ", "x" * 70_000]
NASTY = [
    "a\r\nBcc: evil@example.test",
    "a\0b",
    "a\u202eb",
    "a\u200bb",
    "a\x1bb",
    "{{ 7*7 }}",
    "{% raw %}",
    "a\u2028b",
    "\ufeffx",
]
ADDRESSES = [
    "a@b.test\r\nBcc: evil@example.test",
    "a@b.test,evil@example.test",
    "a@b.test\nRCPT TO:<evil@example.test>",
    "evil@example.test> <b@b.test",
    "evil@",
    "@example.test",
    "evil@exam ple.test",
    "a\0@example.test",
    "{{ 7*7 }}@example.test",
    "evil@example..test",
    "x" * 300 + "@example.test",
]
SQL = ["' OR 1=1 --", "1; DROP TABLE message", "1 UNION SELECT digest FROM api_key", "\\'", "%27"]


@dataclass
class Hostile:
    """A request that must be refused, and with which status."""

    name: str
    path: str
    body: Any = None
    raw: bytes | None = None
    method: str = "POST"
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    status: tuple[int, ...] = (422,)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the places of all fields."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, (*path, name))


def put(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value at a place."""
    found = copy.deepcopy(body)
    inner = found
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return found


def optional(path: tuple[Any, ...], value: Any) -> bool:
    """Say whether a value is no fault there.

    A field may be absent, or is a number without bounds.
    """
    if value is None:
        return path[-1] in {"tax_code", "promised_at", "office"} or path == ("applicant", "email")
    return path == ("data", "tax_year") and value == -1


def fields() -> Iterator[Hostile]:
    """Each field with what it must not be."""
    for at, body in BODIES.items():
        for path in leaves(body):
            if path[0] == "definition" and len(path) > 1:
                values: list[Any] = ["{{ 7*7 }}\0", {}, [[]]]
            else:
                values = WRONG
            for value in values:
                if not optional(path, value):
                    yield Hostile(
                        f"{path} {str(value)[:12]!r}", at, put(body, path, value), status=(422, 413)
                    )
            if path[-1] == "email":
                for value in ADDRESSES:
                    yield Hostile(f"address {value[:20]!r}", at, put(body, path, value))
            if path[-1] in {
                "name",
                "procedure",
                "office",
                "reason",
                "topic",
                "tax_code",
                "template",
                "code",
                "source",
            }:
                for value in NASTY:
                    # A topic or template in a definition is looked up as its file's is; line ends
                    # are no fault of a text there.
                    absent = (422, 404) if path[0] == "definition" else (422,)
                    yield Hostile(f"{path} {value!r}", at, put(body, path, value), status=absent)
        for name in ("unknown", "id", "__proto__", "key_id", ""):
            yield Hostile(f"extra {name}", at, {**body, name: 1})


def bodies() -> Iterator[Hostile]:
    """Bodies that are no JSON, or not the right one."""
    broken = {
        "nothing": b"",
        "brace": b"{",
        "text": b"x",
        "nan": b'{"status": NaN}',
        "infinity": b'{"status": Infinity}',
        "bytes": b"\xff\xfe{}",
        "surrogate": b'{"source": "\\ud800"}',
        "deep": b"[" * 100_000,
        "deep-object": b'{"a":' * 9_000,
        "comma": b'{"a": 1,}',
        "nul": b"\0",
        "deep-closed": b"[" * 30_000 + b"]" * 30_000,
        "digits": b'{"amount": ' + b"9" * 5_000 + b"}",
        "array": b"[]",
        "null": b"null",
        "number": b"1",
        "string": b'"x"',
        "true": b"true",
        "two": b"{}{}",
        "single": b"{'a': 1}",
        "bom": b"\xef\xbb\xbf{}",
    }
    for at in (*BODIES, BATCH, "/api/v1/suppressions/lift"):
        for name, raw in broken.items():
            yield Hostile(f"body {name}", at, raw=raw, status=(400, 413, 422))
        yield Hostile(
            "too large", at, raw=b'{"a": "' + b"x" * (5 * 1024 * 1024) + b'"}', status=(413,)
        )
        for kind in (
            "",
            "text/plain",
            "application/xml",
            "multipart/form-data",
            "application/jsonx",
            "application/x-www-form-urlencoded",
        ):
            yield Hostile(
                f"type {kind}", at, raw=b"{}", headers={"Content-Type": kind}, status=(415,)
            )
    for name, listed in (("none", []), ("many", [EVENT] * 1_001), ("object", {}), ("null", None)):
        yield Hostile(f"batch {name}", BATCH, {"events": listed})


def addresses() -> Iterator[Hostile]:
    """Paths, queries, methods and headers."""
    for value in (
        *SQL,
        str(uuid4()),
        "0",
        "../../etc/passwd",
        "%2e%2e%2f",
        "x" * 3_000,
        "%00",
        "a%0Ab",
        "%0A",
        "a%0D%0Ab%2F",
        "{{7*7}}",
    ):
        quoted = (
            value.replace(" ", "%20")
            .replace("{", "%7B")
            .replace("}", "%7D")
            .replace("\\", "%5C")
            .replace("'", "%27")
        )
        for at, method in (
            (f"{MESSAGES}/{quoted}", "GET"),
            (f"{MESSAGES}/{quoted}/cancel", "POST"),
            (f"{CAMPAIGNS}/{quoted}", "GET"),
            (f"{CAMPAIGNS}/{quoted}/launch", "POST"),
        ):
            yield Hostile(f"id {value[:10]}", at, method=method, status=(404, 405, 422))
    for name, value in itertools.product(
        ("state", "since", "until", "limit", "cursor", "unknown"),
        ("%27%20OR%201=1", "%00", "-1", "9" * 99),
    ):
        yield Hostile(f"?{name}", f"{MESSAGES}?{name}={value}", method="GET")
    for name in (
        "..",
        "../x",
        "a/b",
        "a b",
        "/etc/passwd",
        "a\0",
        "A" * 300,
        "{{ 7*7 }}",
        "a\r\nb",
        "-",
    ):
        yield Hostile(f"campaign {name!r}", CAMPAIGNS, {**NEW_CAMPAIGN, "name": name})
    for method, at in itertools.product(
        ("PUT", "PATCH", "DELETE"), (*BODIES, BATCH, "/api/v1/topics", "/api/openapi.json")
    ):
        yield Hostile(f"method {method}", at, method=method, status=(405,))
    for at in (
        "/api//v1/messages",
        "/api/v1//messages",
        "/api/v1/messages/",
        "/api/v2/messages",
        "/api/v1/nothing",
    ):
        yield Hostile(f"path {at}", at, method="GET", status=(404,))
    for value in ("x" * 201, "a b", "ch\xe0o", ""):
        for at, body in (
            (EVENTS, EVENT),
            (MESSAGES, MESSAGE_REQUEST),
            (BATCH, {"events": [EVENT]}),
        ):
            yield Hostile(
                "idempotency",
                at,
                body,
                headers={"Idempotency-Key": value.encode("latin-1")},
                status=(400,),
            )


def check(case: Hostile, answer: Response) -> str | None:
    """Return what is wrong with an answer."""
    if answer.status_code not in case.status:
        return (
            f"{case.method} {case.path[:60]} {case.name}: {answer.status_code} {answer.text[:150]}"
        )
    if answer.headers["content-type"] != "application/problem+json":
        return f"{case.name}: {answer.headers['content-type']}"
    found = answer.json()
    if found["code"] not in TITLES or found["status"] != answer.status_code:
        return f"{case.name}: {found}"
    if answer.status_code == 422 and not all(
        "pointer" in each for each in found.get("errors", [{}])
    ):
        return f"{case.name}: no pointer"
    if answer.status_code == 405 and "allow" not in answer.headers:
        return f"{case.name}: no Allow"
    return None


def make(
    services: Services, name: str, *, sandbox: bool = False, scopes: tuple[str, ...] = keys.SCOPES
) -> dict[str, str]:
    with services.engine.begin() as connection:
        expires = datetime.now(UTC) + timedelta(hours=1)
        token = keys.create(
            connection,
            name=name,
            scopes=scopes,
            sandbox=sandbox,
            now=datetime.now(UTC),
            expires_at=expires,
        )
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.timeout(240)
def test_hostile_requests_are_refused_and_nothing_of_them_is_kept(
    services: Services, settings: Settings
) -> None:
    header, other = make(services, "portal"), make(services, "other")
    sandbox, narrow = (
        make(services, "trial", sandbox=True),
        make(services, "narrow", scopes=("messages:read",)),
    )
    revoked, expired = make(services, "revoked"), make(services, "expired")
    with services.engine.begin() as connection:
        keys.revoke(connection, "revoked", datetime.now(UTC))
        connection.execute(text("UPDATE api_key SET expires_at = now() WHERE name = 'expired'"))
    cases = [*fields(), *bodies(), *addresses()]
    for name, who, status in (
        ("revoked", revoked, 401),
        ("expired", expired, 401),
        ("narrow", narrow, 403),
    ):
        cases += [
            Hostile(name, at, body, headers=who, status=(status,)) for at, body in BODIES.items()
        ]
    cases.append(Hostile("sandbox", CAMPAIGNS, NEW_CAMPAIGN, headers=sandbox, status=(403,)))
    wrong: list[str] = []
    with served(settings) as site, Client(base_url=site, timeout=20) as client:
        mine = client.post(
            MESSAGES, json=MESSAGE_REQUEST, headers={**header, "Idempotency-Key": "once"}
        ).json()["id"]
        client.post(CAMPAIGNS, json={**NEW_CAMPAIGN, "name": "mine"}, headers=header)
        cases.append(
            Hostile(
                "used",
                MESSAGES,
                {**MESSAGE_REQUEST, "language": "en"},
                headers={"Idempotency-Key": "once"},
                status=(409,),
            )
        )
        cases.append(
            Hostile("other's", f"{MESSAGES}/{mine}", method="GET", headers=other, status=(404,))
        )
        cases.append(Hostile("other's", f"{MESSAGES}/{mine}/cancel", headers=other, status=(404,)))
        cases += [
            Hostile("other's", f"{CAMPAIGNS}/mine/{step}", headers=other, status=(404,))
            for step in ("check", "launch", "pause")
        ]
        for case in cases:
            headers = {
                name.encode(): value if isinstance(value, bytes) else value.encode()
                for name, value in {
                    "Content-Type": "application/json",
                    **header,
                    **case.headers,
                }.items()
            }
            content = case.raw
            if content is None and case.body is not None:
                content = json.dumps(case.body).encode()
            fault = check(
                case, client.request(case.method, case.path, content=content, headers=headers)
            )
            if fault is not None:
                wrong.append(fault)
        assert client.get("/api/v1/topics", headers=header).status_code == 200
    assert len(cases) >= 500
    log = (settings.var / "web.log").read_text()
    assert "Traceback" not in log
    assert [each for each in PERSONAL if each in log] == []
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)
    with services.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM message")) == 1
        assert connection.scalar(text("SELECT count(*) FROM dossier_event")) == 0


def answer_to(site: str, head: bytes, *parts: bytes) -> bytes:
    """Send the head of a request and parts of its body, and no more; return what comes."""
    place = urlsplit(site)
    with socket.create_connection(
        (place.hostname or "", place.port or 0), timeout=10
    ) as connection:
        connection.sendall(head)
        for part in parts:
            connection.sendall(part)
        return connection.recv(65_536)


def test_a_body_is_not_read_for_strangers_nor_beyond_its_limit(
    services: Services, settings: Settings
) -> None:
    header = make(services, "portal")["Authorization"]
    narrow = make(services, "narrow", scopes=("messages:read",))["Authorization"]
    with served(settings) as site:
        for path, kind, most in (
            (EVENTS, "application/json", 64),
            (BATCH, "application/json", 4 * 1024),
            (MESSAGES, "application/json", 256),
            (f"{CAMPAIGNS}/mine/list", "text/csv", 64 * 1024),
        ):
            method = "PUT" if path.endswith("/list") else "POST"

            def head(key: str, method: str = method, path: str = path, kind: str = kind) -> bytes:
                return (
                    f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\n"
                    f"Content-Type: {kind}\r\nContent-Length: 999999999\r\n\r\n"
                ).encode()

            # Not one byte of a body was sent, and there is an answer.
            assert answer_to(site, head("Bearer " + "x" * 40)).startswith(b"HTTP/1.1 401 ")
            assert answer_to(site, head(narrow)).startswith(b"HTTP/1.1 403 ")
            if most <= 4 * 1024:
                parts = [b" " * 65_536] * (most // 64) + [b" "]
                said = answer_to(site, head(header), *parts)
                assert said.startswith(b"HTTP/1.1 413 ")
                assert b"connection: close" in said.lower()
