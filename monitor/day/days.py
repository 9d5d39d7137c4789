"""The one place for local time: which stretch of UTC a calendar day is in a time zone, how it divides into hours, what a time of day means.

Knows zones and their clock changes, in whatever minutes they come: a day may have 23 or 25 hours, begin at 01:00
because midnight was skipped, or be missing from the calendar. Knows nothing of what was heard on a day.
"""

import re
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from model.errors import DayError

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FIRST_YEAR = 1970
_RESOLUTION = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of a day as a clock on the wall shows it; shorter where the clock was changed within it.

    label: the local time at its start, such as "02:00"; an hour that the clock shows a second time is "02:00 again".
    start, end: aware UTC, half open.
    """

    label: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Day:
    """The calendar day `on` in `zone`. Days of one zone tile time: each ends where the next begins."""

    on: date
    zone: ZoneInfo

    @property
    def start(self) -> datetime:
        """The aware UTC moment at which this date first shows on the clock."""
        return _midnight(self.on, self.zone)

    @property
    def end(self) -> datetime:
        """The aware UTC moment at which the next date begins; equal to `start` for a date the calendar jumped over."""
        return _midnight(self.on + timedelta(days=1), self.zone)

    def at(self, clock: time) -> datetime:
        """The aware UTC moment at which the clock first shows that time; where it jumps over it, as long after the jump."""
        return datetime.combine(self.on, clock, tzinfo=self.zone).astimezone(UTC)

    def hours(self) -> tuple[Hour, ...]:
        """The hours that tile the day: 24, or one more or less when the clock changes."""
        hours: list[Hour] = []
        latest: datetime | None = None
        for start, end in pairwise(self._bounds()):
            shown = start.astimezone(self.zone).replace(tzinfo=None)
            again = " again" if latest is not None and shown < latest else ""
            hours.append(Hour(f"{shown:%H:%M}{again}", start, end))
            latest = max(latest or shown, shown + (end - start))
        return tuple(hours)

    def _bounds(self) -> list[datetime]:
        """Where hours begin and end: the full hours of the local clock, and the moments it is changed."""
        bounds, end = [self.start], self.end
        while bounds[-1] < end:
            local = bounds[-1].astimezone(self.zone)
            into_hour = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
            full_hour = min(end, bounds[-1] + timedelta(hours=1) - into_hour)
            bounds.append(_first_change(self.zone, bounds[-1], full_hour) or full_hour)
        return bounds


def parse_day(text: str, zone: ZoneInfo, now: datetime) -> Day:
    """The day that `text` names at the aware moment `now`: "today", "yesterday" or a date such as "2026-07-14".

    Raises DayError, naming the value and what is allowed, for anything else, for days to come, and for dates that
    never were (some zones have jumped over one).
    """
    today = now.astimezone(zone).date()
    word = text.strip().lower()
    if word in ("today", "yesterday"):
        return Day(today - timedelta(days=word == "yesterday"), zone)
    day = Day(_parse_date(text), zone)
    if day.on > today:
        raise DayError(f"{day.on} is still to come: today is {today} in {zone}, and nothing can be known yet")
    if day.start == day.end:
        raise DayError(f"{day.on} never was in {zone}: the calendar jumped over it there")
    return day


def parse_moment(text: str, zone: ZoneInfo, now: datetime) -> datetime:
    """HH:MM (today) or an ISO date and time, local in `zone` unless it says otherwise, as aware UTC.

    Raises DayError, naming the value and what is allowed, for what is no time, for moments after `now`, and before 1970.
    """
    try:
        if len(text) <= len("HH:MM:SS"):
            moment = datetime.combine(now.astimezone(zone).date(), time.fromisoformat(text))
        else:
            moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise DayError(f"--at {text!r} is no time; use HH:MM or YYYY-MM-DDTHH:MM") from error
    if not _FIRST_YEAR < moment.year < MAXYEAR:
        raise DayError(f"--at {text} is no time that can be used: it must lie after {_FIRST_YEAR}")
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    if moment > now:
        raise DayError(f"--at {text} lies in the future: it is {now.astimezone(zone):%Y-%m-%d %H:%M} in {zone}")
    return moment


def _parse_date(text: str) -> date:
    problem = DayError(f"{text!r} is no day: give today, yesterday or a date such as 2026-07-14")
    if not _DATE.fullmatch(text.strip()):
        raise problem
    try:
        parsed = date.fromisoformat(text.strip())
    except ValueError as error:
        raise problem from error
    if parsed.year < _FIRST_YEAR:
        raise DayError(f"{text!r} is too long ago: days from {_FIRST_YEAR}-01-01 on can be asked for")
    return parsed


def _midnight(on: date, zone: ZoneInfo) -> datetime:
    """The first moment of a date: of two midnights the earlier, of a skipped one the moment of the jump.

    The offset from before a jump makes a skipped midnight that moment, because since 1970 no zone has jumped to another
    date from earlier than midnight.
    """
    return datetime.combine(on, time(), tzinfo=zone).astimezone(UTC)


def _first_change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """The moment in (start, end] from which the zone's offset differs from that at `start`, else None.

    Zones change at most once within the few hours this is asked about, so bisection finds it.
    """
    offset = start.astimezone(zone).utcoffset()
    if end.astimezone(zone).utcoffset() == offset:
        return None
    while end - start > _RESOLUTION:
        middle = start + (end - start) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            start = middle
        else:
            end = middle
    return end
