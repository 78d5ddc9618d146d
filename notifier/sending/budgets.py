"""What all workers share about a route, kept in Valkey: budgets, back-off and the server's habits.

Budgets are set by people: rates as token buckets, connections as slots that expire. Habits are
learnt from the server, which tells them to nobody: how many messages it takes over one connection,
how many connections at once, how many messages a minute. Connections and rate fall by half when it
complains and rise by small steps after; all is forgotten when it has not complained for a while.

Losing Valkey loses no mail: a budget that cannot be read is answered with "wait" for rates and with
one connection for slots, so that a provider's limit is never broken because our own broker is
unavailable. Habits are learnt anew.
"""

from __future__ import annotations

import random
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

# KEYS: bucket. ARGV: tokens a second, burst, wanted. Answers {granted, milliseconds until the next
# token}. Time is the server's own, so the clocks of the workers' machines do not matter.
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

# KEYS: sorted set of slots. ARGV: owner, wanted, limit, seconds. An owner's slots are renewed by
# asking again.
_SLOTS = """
local t = redis.call('TIME')
local now = tonumber(t[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local mine = 0
for _, slot in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(slot, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then
    redis.call('ZREM', KEYS[1], slot)
  end
end
local free = tonumber(ARGV[3]) - redis.call('ZCARD', KEYS[1])
mine = math.max(0, math.min(tonumber(ARGV[2]), free))
for i = 1, mine do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[1] .. ':' .. i) end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[4]) + 60)
return mine
"""

# KEYS: the habits of a route (hash), its pause. ARGV: sign, number. A sign is '' (only look) or one
# of `Sign`. Answers {milliseconds of pause left, pauses in a row, messages a connection,
# connections, messages a minute}; 0 where nothing is known. Times are seconds.
_HABITS = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local key, sign, number = KEYS[1], ARGV[1], tonumber(ARGV[2])
local forget, rise, alike_enough, least_rate = 600, 2, 3, 60
local names = {'alike', 'alike_times', 'messages', 'messages_at', 'connections', 'connections_at',
               'connections_most', 'connections_fell', 'rate', 'rate_at', 'rate_step', 'rate_fell',
               'pauses'}
local h = {}
for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
  h[names[i]] = tonumber(value) or 0
end
local before = {}
for name, value in pairs(h) do before[name] = value end

-- What has not been seen for a while is forgotten; what fell rises by a step at a time.
if now - h.messages_at > forget then h.messages = 0 end
if h.connections > 0 then
  local steps = math.floor((now - h.connections_at) / rise)
  h.connections = h.connections + steps
  h.connections_at = h.connections_at + steps * rise
  if h.connections >= h.connections_most then h.connections = 0 end
end
if h.rate > 0 then
  local steps = math.floor((now - h.rate_at) / rise)
  h.rate = h.rate + steps * h.rate_step
  h.rate_at = h.rate_at + steps * rise
  if now - h.rate_fell > forget then h.rate = 0 end
end

if sign == 'parted' then
  if number == h.alike then h.alike_times = h.alike_times + 1
  else h.alike, h.alike_times = number, 1 end
  if h.alike_times >= alike_enough then h.messages, h.messages_at = number, now end
elseif sign == 'crowded' and now - h.connections_fell >= 1 then
  if h.connections == 0 then h.connections, h.connections_most = number, number end
  h.connections = math.max(1, math.floor(h.connections / 2))
  h.connections_at, h.connections_fell = now, now
elseif sign == 'hurried' and number > 0 and now - h.rate_fell >= 5 then
  local from = h.rate > 0 and math.min(h.rate, number) or number
  h.rate = math.max(least_rate, math.floor(from / 2))
  h.rate_step = math.floor(h.rate / 20)
  h.rate_at, h.rate_fell = now, now
end

local changed = {}
for name, value in pairs(h) do
  if value ~= before[name] then
    changed[#changed + 1] = name
    changed[#changed + 1] = tostring(value)
  end
end
if #changed > 0 then
  redis.call('HSET', key, unpack(changed))
  redis.call('EXPIRE', key, 2 * forget)
end
return {math.max(0, redis.call('PTTL', KEYS[2])), h.pauses, h.messages, h.connections,
        math.floor(h.rate)}
"""

SLOT_SECONDS = 60
FIRST_BACKOFF = 5.0
MAX_BACKOFF = 600.0
_DOWN_WAIT = 2.0
_AWAY_SECONDS = 5.0


class Sign(StrEnum):
    """What a server lets us feel of its habits."""

    PARTED = "parted"  # it ended a connection after it had taken so many messages
    CROWDED = "crowded"  # it refused one of so many connections while others of ours were open
    HURRIED = "hurried"  # it often says that we are too fast, at so many messages a minute


@dataclass(frozen=True, slots=True)
class Habits:
    """What is known of a route's server; 0 where nothing is.

    `pause`: seconds for which it is still to be left alone. `pauses`: how many there were in a row.
    `messages` a connection, `connections` of all workers together, messages `per_minute`.
    """

    pause: float = 0.0
    pauses: int = 0
    messages: int = 0
    connections: int = 0
    per_minute: int = 0


class Throttle:
    """The budgets, over one asyncio client; used from one event loop."""

    def __init__(self, url: str) -> None:
        """Connect on first use."""
        self._client = redis.asyncio.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
        self._owner = uuid.uuid4().hex
        self._away_until = 0.0

    async def _eval(self, script: str, keys: list[str], *arguments: object) -> Any:
        return await self._client.eval(script, len(keys), *keys, *[str(a) for a in arguments])

    async def take(self, name: str, per_minute: int, wanted: int) -> tuple[int, float]:
        """Take up to `wanted` tokens of the bucket `name`.

        Return how many were granted and the seconds until there is another.
        """
        burst = max(1, per_minute // 60)
        try:
            granted, wait = await self._eval(
                _TAKE, [f"notifier:rate:{name}"], per_minute / 60, burst, wanted
            )
        except (RedisError, OSError):
            return 0, _DOWN_WAIT
        return int(granted), int(wait) / 1000

    async def slots(self, route: str, wanted: int, limit: int, *, owner: str = "") -> int:
        """Claim or renew up to `wanted` connections of `route`; return how many there are.

        All workers together have `limit`. `owner` tells apart what one process claims twice.
        """
        try:
            return int(
                await self._eval(
                    _SLOTS,
                    [f"notifier:slots:{route}"],
                    self._owner + owner,
                    wanted,
                    limit,
                    SLOT_SECONDS,
                )
            )
        except (RedisError, OSError):
            return min(1, wanted)

    async def habits(self, route: str, sign: Sign | None = None, number: int = 0) -> Habits:
        """Return what is known of `route`, after noting a `sign` with its number, if any.

        Without Valkey nothing is known, and it is not asked again for a moment: no message waits
        for what only saves time.
        """
        if time.monotonic() < self._away_until:
            return Habits()
        try:
            pause, pauses, messages, connections, rate = await self._eval(
                _HABITS,
                [f"notifier:habits:{route}", f"notifier:pause:{route}"],
                sign or "",
                number,
            )
        except (RedisError, OSError):
            self._away_until = time.monotonic() + _AWAY_SECONDS
            return Habits()
        return Habits(int(pause) / 1000, int(pauses), int(messages), int(connections), int(rate))

    async def pause(self, route: str) -> float:
        """Let all workers leave `route` alone for a while, as it takes nothing.

        Return for how many seconds: doubling from 5 s to 10 min, jittered.
        """
        pauses = 1
        with suppress(RedisError, OSError):
            pauses = int(await self._client.hincrby(f"notifier:habits:{route}", "pauses", 1))
            await self._client.expire(f"notifier:habits:{route}", int(MAX_BACKOFF * 2))
        longest = min(MAX_BACKOFF, FIRST_BACKOFF * float(2 ** min(pauses - 1, 10)))
        # Not security: jitter keeps workers from returning in step.
        seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311
        with suppress(RedisError, OSError):
            await self._client.set(f"notifier:pause:{route}", "1", px=max(1, int(seconds * 1000)))
        return seconds

    async def works(self, route: str) -> None:
        """Forget the pauses of `route`: it takes mail again."""
        with suppress(RedisError, OSError):
            await self._client.hset(f"notifier:habits:{route}", "pauses", 0)

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()
