"""Local time in one place: calendar days and their hours in a time zone, and the time ranges that a person names.

Days may have 23 or 25 hours, begin at 01:00 where midnight was skipped, or be missing from the calendar. Knows nothing about what was
recorded.
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
        raise DayError(f"{day.on} is in the future: today is {today} in {zone}")
    if day.start == day.end:
        raise DayError(f"{day.on} does not exist in {zone}: the calendar skipped it")
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
        raise DayError(f"--at {text!r} is not a time; use HH:MM or YYYY-MM-DDTHH:MM") from error
    if not _FIRST_YEAR < moment.year < MAXYEAR:
        raise DayError(f"--at {text} is out of range: it must be after {_FIRST_YEAR}")
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    if moment > now:
        raise DayError(f"--at {text} is in the future: it is now {now.astimezone(zone):%Y-%m-%d %H:%M} in {zone}")
    return moment


def _parse_date(text: str) -> date:
    problem = DayError(f"{text!r} is not a day; use today, yesterday or a date such as 2026-07-14")
    if not _DATE.fullmatch(text.strip()):
        raise problem
    try:
        parsed = date.fromisoformat(text.strip())
    except ValueError as error:
        raise problem from error
    if parsed.year < _FIRST_YEAR:
        raise DayError(f"{text!r} is out of range: the earliest day is {_FIRST_YEAR}-01-01")
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


EARLIEST, LATEST = datetime(1001, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Where a stretch without a beginning begins, and one without an end ends."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[start, end), aware UTC, not empty."""

    start: datetime
    end: datetime

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Whether [start, end) has a moment in common with it."""
        return start < self.end and end > self.start

    def left_of(self, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """What remains of [start, end) without it: one piece, two or none."""
        if not self.overlaps(start, end):
            return [(start, end)]
        pieces = [(start, min(end, self.start)), (max(start, self.end), end)]
        return [(first, last) for first, last in pieces if first < last]


ALL_TIME = TimeRange(EARLIEST, LATEST)


def parse_time_range(day: str | None, begin: str | None, finish: str | None, zone: ZoneInfo, now: datetime) -> TimeRange:
    """What --day, or --from and --to mean at the aware moment `now`; what is not given is open.

    A moment is HH:MM today, YYYY-MM-DD, or YYYY-MM-DDTHH:MM, local unless it says its offset. A date is meant whole: as `finish` it
    includes its day. A local time that the clock shows twice is meant so that the stretch is longer.
    Raises DayError for what is none of this, and for a stretch that is empty or still to come.
    """
    if day is not None:
        if begin is not None or finish is not None:
            raise DayError("--day and --from with --to exclude each other; pass only one")
        whole = parse_day(day, zone, now)
        return TimeRange(whole.start, whole.end)
    start = EARLIEST if begin is None else min(_possible_moments(begin, zone, now))
    end = LATEST if finish is None else max(_possible_moments(finish, zone, now, until=True))
    if start >= now:
        raise DayError(f"--from {begin} is in the future")
    if start >= end:
        raise DayError(f"--to {finish} is not after --from {begin or 'the beginning'}")
    return TimeRange(start, end)


def _possible_moments(text: str, zone: ZoneInfo, now: datetime, until: bool = False) -> tuple[datetime, ...]:
    """The one or two moments that a local time can mean."""
    text = text.strip()
    try:
        if len(text) == len("2026-07-14"):
            day = Day(date.fromisoformat(text), zone)
            return (day.end if until else day.start,)
        if len(text) <= len("12:00:00"):
            moment = datetime.combine(now.astimezone(zone).date(), time.fromisoformat(text))
        else:
            moment = datetime.fromisoformat(text)
        aware = [moment] if moment.tzinfo else [moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
        found = tuple(one.astimezone(UTC) for one in aware)
        if min(found) < EARLIEST + timedelta(days=1) or max(found) > LATEST:
            raise ValueError("out of range")
    except (ValueError, OverflowError) as error:
        raise DayError(f"{text!r} is not a time; use HH:MM for today, 2026-07-14 or 2026-07-14T12:00") from error
    return found
