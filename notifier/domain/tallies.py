"""The one module of verbs for `tally`: how many messages are in which state, without counting them.

Entries are only added, in the very statement that changes the messages, so that the sum is true at
any moment and settles never wait for each other on a row that all of them would update.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, text

from notifier.schema import Tally
from notifier.states import MessageState

UNROUTED = ""
"""The route of messages that have no batch: single notices not gathered yet, deferred ones."""

# Past minutes are summed up only when no settle can still be adding to them.
_QUIET = timedelta(minutes=5)


def enter(moved: str) -> str:
    """Return a CTE's body that adds entries for `moved`, a CTE of messages that changed state.

    It has the columns campaign_id, route_before, before (NULL for a new message), route_after and
    after. Stays SQL: it is part of the hot statements that settle and plan.
    """
    return f"""
    INSERT INTO tally (campaign_id, minute, route, state, messages)
    SELECT campaign_id, date_trunc('minute', clock_timestamp()), route, state, sum(n)
      FROM (SELECT campaign_id, route_after AS route, after AS state, count(*) AS n
              FROM {moved} GROUP BY 1, 2, 3
             UNION ALL
            SELECT campaign_id, route_before, before, -count(*)
              FROM {moved} WHERE before IS NOT NULL GROUP BY 1, 2, 3) e
     GROUP BY 1, 3, 4 HAVING sum(n) <> 0"""


def enter_doubts(doubted: str) -> str:
    """Return a CTE's body that counts those of `doubted` whose fate is unknown for the first time.

    It has the columns campaign_id, route_before and first_doubt.
    """
    return f"""
    INSERT INTO tally (campaign_id, minute, route, state, messages, doubted)
    SELECT campaign_id, date_trunc('minute', clock_timestamp()), route_before,
           '{MessageState.IN_DOUBT}', 0, count(*)
      FROM {doubted} WHERE first_doubt GROUP BY 1, 3"""


def doubted(connection: Connection, campaign_id: int) -> int:
    """Return how many messages of a campaign were in doubt at any time."""
    query = select(func.sum(Tally.doubted)).where(Tally.campaign_id == campaign_id)
    return int(connection.scalar(query) or 0)


def counts(connection: Connection, campaign_id: int) -> dict[MessageState, int]:
    """Return how many messages of a campaign are in each state (left out: none)."""
    rows = connection.execute(
        select(Tally.state, func.sum(Tally.messages).label("messages"))
        .where(Tally.campaign_id == campaign_id)
        .group_by(Tally.state)
    )
    return {row.state: int(row.messages) for row in rows if row.messages}


def open_counts(connection: Connection, campaign_ids: list[int]) -> dict[MessageState, int]:
    """Return how many messages of all these campaigns together are in each state."""
    rows = connection.execute(
        select(Tally.state, func.sum(Tally.messages).label("messages"))
        .where(Tally.campaign_id.in_(campaign_ids))
        .group_by(Tally.state)
    )
    return {row.state: int(row.messages) for row in rows}


def accepted_per_minute(
    connection: Connection, campaign_id: int, since: datetime
) -> Mapping[datetime, int]:
    """Return how many messages servers took in each minute from `since` on."""
    rows = connection.execute(
        select(Tally.minute, func.sum(Tally.messages).label("messages"))
        .where(
            Tally.campaign_id == campaign_id,
            Tally.state == MessageState.ACCEPTED,
            Tally.messages > 0,
            Tally.minute >= since,
        )
        .group_by(Tally.minute)
        .order_by(Tally.minute)
    )
    return {row.minute: int(row.messages) for row in rows}


# One statement: an entry is either among those summed up or still there, whoever reads meanwhile.
_SUM_UP = text("""
WITH many AS (
    SELECT campaign_id, minute, route, state FROM tally WHERE minute >= :since AND minute < :before
     GROUP BY 1, 2, 3, 4 HAVING count(*) > 1),
gone AS (
    DELETE FROM tally t USING many m
     WHERE t.minute = m.minute AND t.campaign_id = m.campaign_id AND t.route = m.route
       AND t.state = m.state AND t.minute >= :since AND t.minute < :before
    RETURNING t.campaign_id, t.minute, t.route, t.state, t.messages, t.doubted)
INSERT INTO tally (campaign_id, minute, route, state, messages, doubted)
SELECT campaign_id, minute, route, state, sum(messages), sum(doubted) FROM gone GROUP BY 1, 2, 3, 4
""")


def sum_up(connection: Connection, now: datetime, *, back: timedelta = timedelta(hours=1)) -> int:
    """Replace the entries of each past minute, as far `back` as asked, by their sums."""
    return connection.execute(_SUM_UP, {"since": now - back, "before": now - _QUIET}).rowcount
