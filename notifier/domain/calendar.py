"""Working days and sending windows, in the time of Hanoi; the verbs for `calendar_day`.

The table is the truth and may be edited; `seed` fills it with the official holidays that the
package `holidays` knows (it misses some of the swapped days that are announced each year). A day
that is not in the table is a working day from Monday to Friday.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import holidays
from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from notifier.errors import CampaignError
from notifier.schema import CalendarDay

HANOI = ZoneInfo("Asia/Ho_Chi_Minh")
_SATURDAY = 5
_SEARCH_DAYS = 400


@dataclass(frozen=True, slots=True)
class Calendar:
    """Which days are worked on; `exceptions` overrides the rule Monday to Friday."""

    exceptions: Mapping[date, bool]

    def is_working(self, day: date) -> bool:
        """Say whether offices are open on `day`."""
        return self.exceptions.get(day, day.weekday() < _SATURDAY)

    def add_working_days(self, day: date, count: int) -> date:
        """Return the `count`-th working day after `day`."""
        while count > 0:
            day += timedelta(days=1)
            count -= self.is_working(day)
        return day


@dataclass(frozen=True, slots=True)
class Window:
    """The hours of the day, Hanoi time, and the days on which mail of a campaign may leave."""

    days: Literal["working", "all"]
    opens: time
    closes: time

    def next_open(self, now: datetime, calendar: Calendar) -> datetime:
        """Return `now` when the window is open, else the moment it opens next."""
        local = now.astimezone(HANOI)
        for offset in range(_SEARCH_DAYS):
            day = local.date() + timedelta(days=offset)
            if self.days == "working" and not calendar.is_working(day):
                continue
            opens = datetime.combine(day, self.opens, HANOI)
            if local <= opens:
                return opens
            if local < datetime.combine(day, self.closes, HANOI):
                return now
        raise CampaignError(
            "The sending window does not open within a year.",
            fix="Correct the calendar or the window.",
        )

    def to_json(self) -> dict[str, str]:
        """Return what `from_json` reads."""
        return {"days": self.days, "from": f"{self.opens:%H:%M}", "to": f"{self.closes:%H:%M}"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str = "window") -> Window:
        """Read `{days, from, to}`; raise CampaignError that names the key of `where` at fault."""
        if unknown := sorted(set(value) - {"days", "from", "to"}):
            raise CampaignError(
                f"[{where}] has the unknown key {unknown[0]}.", fix="Known are days, from, to."
            )
        days = value.get("days", "working")
        if days not in {"working", "all"}:
            raise CampaignError(
                f"[{where}] days is neither working nor all.", fix='Write days = "working".'
            )
        hours = []
        for key, default in (("from", "08:00"), ("to", "17:00")):
            try:
                hours.append(time.fromisoformat(str(value.get(key, default))))
            except ValueError as error:
                raise CampaignError(
                    f"[{where}] {key} is not an hour.", fix=f'Write {key} = "{default}".'
                ) from error
        if hours[0] >= hours[1]:
            raise CampaignError(
                f"[{where}] closes before it opens.", fix="Let from be earlier than to."
            )
        return cls(days, hours[0], hours[1])


def load(connection: Connection) -> Calendar:
    """Read the calendar from the database."""
    days = connection.execute(select(CalendarDay.day, CalendarDay.working))
    return Calendar({each.day: each.working for each in days})


def seed(connection: Connection, years: range) -> int:
    """Add the official holidays of `years` that are not in the table yet; return how many.

    A row that is there is never changed.
    """
    official = holidays.country_holidays("VN", years=years, language="vi")
    if not official:
        return 0
    added = connection.execute(
        insert(CalendarDay)
        .values([{"day": day, "working": False, "name": name} for day, name in official.items()])
        .on_conflict_do_nothing(index_elements=[CalendarDay.day])
        .returning(CalendarDay.day)
    )
    return len(added.all())
