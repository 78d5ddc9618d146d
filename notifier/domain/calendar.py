"""Working days and sending windows in Hanoi's time; the one module of verbs for `calendar_day`.

The table is the truth and may be edited; `seed` fills it with the official holidays that the
package `holidays` knows (it misses some of the swapped days that are announced each year). A day
that is not in the table is a working day from Monday to Friday.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import holidays
from pydantic import BeforeValidator, Field, model_validator
from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from notifier.errors import CampaignError
from notifier.schema import CalendarDay
from notifier.validation import Otherwise, Table, read, wrong

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
        return read(WindowTable, value, where=f"[{where}]", raises=CampaignError).window()


def _hour(value: object) -> object:
    """Read an hour that is written as a text, or as TOML's own local time."""
    if isinstance(value, str):
        value = time.fromisoformat(value)
    if isinstance(value, time) and value.tzinfo is not None:
        raise ValueError("hours are Hanoi's")
    return value


_OPENS, _CLOSES = time(8), time(17)


class WindowTable(Table):
    """A sending window as a campaign's file or JSON describes it."""

    days: Literal["working", "all"] = "working"
    opens: Annotated[
        time,
        BeforeValidator(_hour),
        Otherwise("is not an hour.", f'Write {{key}} = "{_OPENS:%H:%M}".'),
    ] = Field(default=_OPENS, alias="from")
    closes: Annotated[
        time,
        BeforeValidator(_hour),
        Otherwise("is not an hour.", f'Write {{key}} = "{_CLOSES:%H:%M}".'),
    ] = Field(default=_CLOSES, alias="to")

    @model_validator(mode="after")
    def _opens_first(self) -> Self:
        if self.opens >= self.closes:
            raise wrong("closes before it opens.", "Let from be earlier than to.")
        return self

    def window(self) -> Window:
        """Return the window."""
        return Window(self.days, self.opens, self.closes)


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
