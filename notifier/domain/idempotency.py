"""The one file of verbs for `idempotency`: a request repeated under its key does nothing twice.

After the IETF draft "The Idempotency-Key HTTP Header Field". What came of a request is written in
the transaction that does it, so the two cannot come apart; a request that races with its own repeat
waits for it. Kept is what came of it in the service's own terms, never an answer of the web.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, delete, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Integer, LargeBinary, String

from notifier.errors import NotifierError
from notifier.schema import Idempotency

KEPT = timedelta(days=7)
# The caller's key in the database and the Idempotency-Key that it sent.
Token = tuple[int, str]


class IdempotencyError(NotifierError, ValueError):
    """An Idempotency-Key was used before for another request; nothing was done."""

    code = "idempotency"

    def __init__(self) -> None:
        """Say so, and what to do."""
        super().__init__(
            "This Idempotency-Key was sent before with another body.", fix="Use a new one."
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of a request before: `result` is JSON, `fingerprint` the hash of that request."""

    fingerprint: bytes
    result: Any

    def for_request(self, fingerprint: bytes) -> Any:
        """Return the result for a repeat of the request; raise IdempotencyError for another one."""
        if fingerprint != self.fingerprint:
            raise IdempotencyError
        return self.result


# The three statements take a group's tokens at once by unnest, which SQLAlchemy would spell out row
# by row. Tokens are claimed in one order, so that two groups never wait for each other in a circle.
_CLAIM = text("""
INSERT INTO idempotency (key_id, token, fingerprint, created_at)
SELECT o.key_id, o.token, o.fingerprint, :now
  FROM unnest(:key_ids, :tokens, :fingerprints) AS o (key_id, token, fingerprint)
 ORDER BY 1, 2 ON CONFLICT DO NOTHING RETURNING key_id, token
""").bindparams(
    bindparam("key_ids", type_=ARRAY(Integer)),
    bindparam("tokens", type_=ARRAY(String)),
    bindparam("fingerprints", type_=ARRAY(LargeBinary)),
)

_KNOWN = text("""
SELECT i.key_id, i.token, i.fingerprint, i.result FROM idempotency i
  JOIN unnest(:key_ids, :tokens) AS o (key_id, token) USING (key_id, token)
""").bindparams(
    bindparam("key_ids", type_=ARRAY(Integer)), bindparam("tokens", type_=ARRAY(String))
)

_KEEP = text("""
UPDATE idempotency i SET result = cast(o.result AS json)
  FROM unnest(:key_ids, :tokens, :results) AS o (key_id, token, result)
 WHERE i.key_id = o.key_id AND i.token = o.token
""").bindparams(
    bindparam("key_ids", type_=ARRAY(Integer)),
    bindparam("tokens", type_=ARRAY(String)),
    bindparam("results", type_=ARRAY(String)),
)


def _columns(tokens: list[Token]) -> dict[str, list[Any]]:
    return {"key_ids": [key for key, _ in tokens], "tokens": [token for _, token in tokens]}


def claim(
    connection: Connection, wanted: Mapping[Token, bytes], now: datetime
) -> dict[Token, Kept]:
    """Take the tokens, each with its request's fingerprint, for this transaction.

    Return those that were used before with what came of them; `keep` a result for all the others.
    """
    if not wanted:
        return {}
    rows = connection.execute(
        _CLAIM,
        _columns(list(wanted)) | {"fingerprints": list(wanted.values()), "now": now},
    )
    mine = {(row.key_id, row.token) for row in rows}
    others = [each for each in wanted if each not in mine]
    if not others:
        return {}
    return {
        (row.key_id, row.token): Kept(bytes(row.fingerprint), row.result)
        for row in connection.execute(_KNOWN, _columns(others))
    }


def keep(connection: Connection, results: Mapping[Token, Any]) -> None:
    """Keep what came of the request behind each claimed token, as JSON."""
    if results:
        connection.execute(
            _KEEP,
            _columns(list(results))
            | {"results": [orjson.dumps(result).decode() for result in results.values()]},
        )


def forget(connection: Connection, now: datetime) -> int:
    """Delete what is older than `KEPT`; return how many."""
    return connection.execute(
        delete(Idempotency).where(Idempotency.created_at < now - KEPT)
    ).rowcount
