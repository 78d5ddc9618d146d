"""Budgets shared by all workers, kept in Valkey: rates as token buckets, connections as slots that expire, back-off of a route.

Losing Valkey loses no mail: a budget that cannot be read is answered with "wait" for rates and with one connection for slots, so that a
provider's limit is never broken because our own broker is away.
"""

from __future__ import annotations

import random
import uuid
from contextlib import suppress
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

# KEYS: bucket. ARGV: tokens a second, burst, wanted. Answers {granted, milliseconds until the next token}. Time is the server's own, so
# the clocks of the workers' machines do not matter.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local rate, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local have = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(have[1]) or burst
tokens = math.min(burst, tokens + math.max(0, now - (tonumber(have[2]) or now)) * rate / 1000)
local granted = math.min(want, math.floor(tokens))
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 60000)
return {granted, math.ceil(math.max(0, 1 - tokens) / rate * 1000)}
"""

# KEYS: sorted set of slots. ARGV: owner, wanted, limit, seconds. An owner's slots are renewed by asking again.
_SLOTS = """
local t = redis.call('TIME')
local now = tonumber(t[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local mine = 0
for _, slot in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(slot, 1, #ARGV[1]) == ARGV[1] then
    redis.call('ZREM', KEYS[1], slot)
  end
end
local free = tonumber(ARGV[3]) - redis.call('ZCARD', KEYS[1])
mine = math.max(0, math.min(tonumber(ARGV[2]), free))
for i = 1, mine do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[1] .. ':' .. i) end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[4]) + 60)
return mine
"""

SLOT_SECONDS = 60
FIRST_BACKOFF = 5.0
MAX_BACKOFF = 600.0
_DOWN_WAIT = 2.0


class Throttle:
    """The budgets, over one asyncio client; used from one event loop."""

    def __init__(self, url: str) -> None:
        """Connect on first use."""
        self._client = redis.asyncio.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
        self._owner = uuid.uuid4().hex

    async def _eval(self, script: str, key: str, *arguments: object) -> Any:
        return await self._client.eval(script, 1, key, *[str(a) for a in arguments])

    async def take(self, name: str, per_minute: int, wanted: int) -> tuple[int, float]:
        """Take up to `wanted` tokens of the bucket `name`; return how many were granted and the seconds until there is another."""
        burst = max(1, per_minute // 60)
        try:
            granted, wait = await self._eval(
                _TAKE, f"notifier:rate:{name}", per_minute / 60, burst, wanted
            )
        except (RedisError, OSError):
            return 0, _DOWN_WAIT
        return int(granted), int(wait) / 1000

    async def slots(self, route: str, wanted: int, limit: int) -> int:
        """Claim or renew up to `wanted` connections of `route`, of which all workers together have `limit`; return how many."""
        try:
            return int(
                await self._eval(
                    _SLOTS, f"notifier:slots:{route}", self._owner, wanted, limit, SLOT_SECONDS
                )
            )
        except (RedisError, OSError):
            return min(1, wanted)

    async def back_off(self, route: str) -> float:
        """Note that `route` asked us to slow down; return for how many seconds (doubling from 5 s to 10 min, jittered)."""
        failures = 1
        try:
            failures = int(await self._client.incr(f"notifier:backoff:{route}"))
            await self._client.expire(f"notifier:backoff:{route}", int(MAX_BACKOFF * 2))
        except (RedisError, OSError):
            pass
        longest = min(MAX_BACKOFF, FIRST_BACKOFF * float(2 ** min(failures - 1, 10)))
        # Not security: jitter keeps workers from returning in step.
        seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311
        with suppress(RedisError, OSError):
            await self._client.set(f"notifier:hold:{route}", "1", px=max(1, int(seconds * 1000)))
        return seconds

    async def held(self, route: str) -> float:
        """Return for how many seconds more `route` is to be left alone (0: it is free)."""
        try:
            left = int(await self._client.pttl(f"notifier:hold:{route}"))
        except (RedisError, OSError):
            return 0.0
        return max(0, left) / 1000

    async def all_well(self, route: str) -> None:
        """Forget the failures of `route`: it took mail again."""
        try:
            await self._client.delete(f"notifier:backoff:{route}")
        except (RedisError, OSError):
            return

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()
