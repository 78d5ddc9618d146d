"""The one file of verbs for `idempotency`: a request that is repeated under its key gets the same answer again.

After the IETF draft "The Idempotency-Key HTTP Header Field". An answer is written in the transaction of what it answers for, so the two
cannot come apart; a request that races with its own repeat waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Integer, LargeBinary, SmallInteger, String

KEPT = timedelta(days=7)
Token = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer that was given before; `fingerprint` is the hash of the request that it answered."""

    fingerprint: bytes
    status: int
    body: Any


_CLAIM = text("""
INSERT INTO idempotency (key_id, token, fingerprint, created_at)
SELECT o.key_id, o.token, o.fingerprint, :now FROM unnest(:key_ids, :tokens, :fingerprints) AS o (key_id, token, fingerprint)
 ORDER BY 1, 2 ON CONFLICT DO NOTHING RETURNING key_id, token
""").bindparams(
    bindparam("key_ids", type_=ARRAY(Integer)),
    bindparam("tokens", type_=ARRAY(String)),
    bindparam("fingerprints", type_=ARRAY(LargeBinary)),
)

_KNOWN = text("""
SELECT i.key_id, i.token, i.fingerprint, i.status, i.body FROM idempotency i
  JOIN unnest(:key_ids, :tokens) AS o (key_id, token) USING (key_id, token)
""").bindparams(
    bindparam("key_ids", type_=ARRAY(Integer)), bindparam("tokens", type_=ARRAY(String))
)

_ANSWER = text("""
UPDATE idempotency i SET status = o.status, body = cast(o.body AS json)
  FROM unnest(:key_ids, :tokens, :statuses, :bodies) AS o (key_id, token, status, body)
 WHERE i.key_id = o.key_id AND i.token = o.token
""").bindparams(
    bindparam("key_ids", type_=ARRAY(Integer)),
    bindparam("tokens", type_=ARRAY(String)),
    bindparam("statuses", type_=ARRAY(SmallInteger)),
    bindparam("bodies", type_=ARRAY(String)),
)


def claim(
    connection: Connection, wanted: Mapping[Token, bytes], now: datetime
) -> dict[Token, Stored]:
    """Take the tokens, each with its request's fingerprint, for this transaction; return those that were answered before."""
    if not wanted:
        return {}
    columns = {"key_ids": [key for key, _ in wanted], "tokens": [token for _, token in wanted]}
    rows = connection.execute(
        _CLAIM, {**columns, "fingerprints": list(wanted.values()), "now": now}
    )
    mine = {(key, token) for key, token in rows}
    others = [each for each in wanted if each not in mine]
    if not others:
        return {}
    known = connection.execute(
        _KNOWN, {"key_ids": [key for key, _ in others], "tokens": [token for _, token in others]}
    )
    return {
        (key, token): Stored(bytes(fingerprint), status, body)
        for key, token, fingerprint, status, body in known
    }


def answer(connection: Connection, answers: Sequence[tuple[Token, int, Any]]) -> None:
    """Keep the status and body that answer each claimed token."""
    if answers:
        connection.execute(
            _ANSWER,
            {
                "key_ids": [token[0] for token, _, _ in answers],
                "tokens": [token[1] for token, _, _ in answers],
                "statuses": [status for _, status, _ in answers],
                "bodies": [orjson.dumps(body).decode() for _, _, body in answers],
            },
        )


def forget(connection: Connection, now: datetime) -> int:
    """Delete answers older than `KEPT`; return how many."""
    return connection.execute(
        text("DELETE FROM idempotency WHERE created_at < :before"), {"before": now - KEPT}
    ).rowcount
