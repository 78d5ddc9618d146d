"""The one module of verbs for `api_key`: how another system proves who it is, what it may do.

A key is 256 random bits behind a readable prefix; only its SHA-256 is stored, which is enough for a
secret that nobody can guess. A key's webhook has one receiver, which one worker calls at a time:
it holds a lease in `webhook_until`, and the same column lets a receiver without an answer rest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from notifier.errors import NotFoundError, NotifierError
from notifier.schema import ApiKey

SCOPES = (
    "events:write",
    "messages:write",
    "messages:read",
    "campaigns:write",
    "suppressions:write",
)
_LIVE, _SANDBOX = "notifier_live_", "notifier_test_"
_USED_EVERY = timedelta(minutes=1)
_WEBHOOK_SECRET_BYTES = 32


class KeyRequestError(NotifierError, ValueError):
    """A key cannot be made or changed as asked."""

    code = "key"


@dataclass(frozen=True, slots=True)
class Key:
    """A system that may call.

    `sandbox` keys deliver to the catcher only; `sources` are those it may report for, None: all of
    them.
    """

    id: int
    name: str
    scopes: frozenset[str]
    sandbox: bool
    webhook_url: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    sources: frozenset[str] | None

    def may_report_for(self, source: str) -> bool:
        """Say whether it may report events of a source."""
        return self.sources is None or source in self.sources

    def valid_at(self, now: datetime) -> bool:
        """Say whether it may be used."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


_COLUMNS = tuple(getattr(ApiKey, each.name) for each in fields(Key))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def create(
    connection: Connection,
    *,
    name: str,
    scopes: Sequence[str],
    sandbox: bool,
    now: datetime,
    expires_at: datetime | None = None,
    sources: Sequence[str] = (),
) -> str:
    """Make a key and return it; it is shown this once and cannot be had again.

    Raise KeyRequestError.

    With `sources` it may report events of these alone.
    """
    if not name.strip() or len(name) > 100:  # noqa: PLR2004 - what fits in a list
        raise KeyRequestError(
            "The name is empty or longer than 100 characters.",
            fix="Name the system that will use the key.",
        )
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise KeyRequestError(
            f"The scope {unknown[0]} is not known."
            if unknown
            else "A key without a scope may do nothing.",
            fix=f"Scopes are: {', '.join(SCOPES)}.",
        )
    if expires_at is not None and expires_at <= now:
        raise KeyRequestError("The key would be expired already.", fix="Give a later end.")
    token = (_SANDBOX if sandbox else _LIVE) + secrets.token_urlsafe(32)
    row = connection.execute(
        insert(ApiKey)
        .values(
            name=name.strip(),
            digest=_digest(token),
            scopes=sorted(set(scopes)),
            sandbox=sandbox,
            created_at=now,
            expires_at=expires_at,
            sources=sorted(set(sources)) or None,
        )
        .on_conflict_do_nothing(index_elements=[ApiKey.name])
        .returning(ApiKey.id)
    )
    if row.first() is None:
        raise KeyRequestError(
            f"There is a key named {name.strip()} already.",
            fix="Choose another name; names of revoked keys stay taken.",
        )
    return token


def find(connection: Connection, token: str) -> Key | None:
    """Return the key that `token` is, whether it may still be used or not."""
    row = connection.execute(select(*_COLUMNS).where(ApiKey.digest == _digest(token))).first()
    return None if row is None else _key(row)


def used(connection: Connection, key: Key, now: datetime) -> None:
    """Note that the key was used, at most once a minute."""
    if key.last_used_at is None or now - key.last_used_at >= _USED_EVERY:
        connection.execute(update(ApiKey).where(ApiKey.id == key.id).values(last_used_at=now))


def _key(row: Row[Any]) -> Key:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    for name in ("scopes", "sources"):
        if values[name] is not None:
            values[name] = frozenset(values[name])
    return Key(**values)


def every(connection: Connection) -> list[Key]:
    """Return all keys, by name."""
    return [_key(row) for row in connection.execute(select(*_COLUMNS).order_by(ApiKey.name))]


def named(connection: Connection, name: str) -> Key:
    """Return the key with that name; raise NotFoundError."""
    row = connection.execute(select(*_COLUMNS).where(ApiKey.name == name)).first()
    if row is None:
        raise NotFoundError(
            f"There is no key named {name}.", fix="See them with: notifier api-key list"
        )
    return _key(row)


def revoke(connection: Connection, name: str, now: datetime) -> bool:
    """Let the key be of no use from now on; say whether it was of use before.

    Raise NotFoundError.
    """
    key = named(connection, name)
    connection.execute(
        update(ApiKey)
        .where(ApiKey.id == key.id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, now))
    )
    return key.revoked_at is None


def webhook_secret(service_secret: bytes, key_id: int) -> str:
    """Return the secret that signs a key's webhooks, in the form of Standard Webhooks.

    It is derived, so it lies in no table.
    """
    derived = hmac.digest(service_secret, b"notifier/webhook/%d" % key_id, "sha256")[
        :_WEBHOOK_SECRET_BYTES
    ]
    return "whsec_" + base64.b64encode(derived).decode()


# --- the receiver of a key's webhook --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WebhookLease:
    """The right of one worker to call a key's receiver at `url` until `until`.

    `silences` calls in a row before had no answer.
    """

    key_id: int
    url: str
    until: datetime
    silences: int


def set_webhook(connection: Connection, name: str, url: str) -> None:
    """Call `url` with events of this key's messages from now on, also with those that wait.

    Raise NotFoundError.
    """
    key = named(connection, name)
    connection.execute(
        update(ApiKey)
        .where(ApiKey.id == key.id)
        .values(webhook_url=url, webhook_until=None, webhook_silences=0)
    )


def remove_webhook(connection: Connection, key_id: int, *, url: str | None = None) -> bool:
    """Call a key's receiver no more; say if there was one.

    With `url`, only if it still is that one.
    """
    there = ApiKey.webhook_url.is_not(None) if url is None else ApiKey.webhook_url == url
    removed = connection.execute(
        update(ApiKey).where(ApiKey.id == key_id, there).values(webhook_url=None)
    )
    return removed.rowcount > 0


def lease_webhook(
    connection: Connection,
    key_id: int,
    *,
    now: datetime,
    until: datetime,
    held: WebhookLease | None = None,
) -> WebhookLease | None:
    """Take or renew the right to call a key's receiver until `until`.

    None when the key has no receiver, that rests, or another worker has the right.
    """
    free = ApiKey.webhook_until.is_(None) | (ApiKey.webhook_until <= now)
    if held is not None:
        free |= ApiKey.webhook_until == held.until
    row = connection.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.webhook_url.is_not(None), free)
        .values(webhook_until=until)
        .returning(ApiKey.webhook_url, ApiKey.webhook_silences)
    ).first()
    if row is None:
        return None
    return WebhookLease(
        key_id=key_id, url=row.webhook_url, until=until, silences=row.webhook_silences
    )


def end_webhook_lease(
    connection: Connection, held: WebhookLease, *, until: datetime | None, silences: int
) -> None:
    """Give the right back; nobody calls the receiver before `until`. It may be lost meanwhile."""
    connection.execute(
        update(ApiKey)
        .where(ApiKey.id == held.key_id, ApiKey.webhook_until == held.until)
        .values(webhook_until=until, webhook_silences=silences)
    )
