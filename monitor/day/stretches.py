"""The stretch of time that a person names by a day or by two moments of their local clock. Knows nothing of what lies in it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from model.errors import DayError
from monitor.day.days import Day, parse_day

FIRST, LAST = datetime(1001, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Where a stretch without a beginning begins, and one without an end ends."""


@dataclass(frozen=True, slots=True)
class Stretch:
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


EVER = Stretch(FIRST, LAST)


def parse_stretch(day: str | None, begin: str | None, finish: str | None, zone: ZoneInfo, now: datetime) -> Stretch:
    """What --day, or --from and --to mean at the aware moment `now`; what is not given is open.

    A moment is HH:MM today, YYYY-MM-DD, or YYYY-MM-DDTHH:MM, local unless it says its offset. A date is meant whole: as `finish` it
    includes its day. A local time that the clock shows twice is meant so that the stretch is longer.
    Raises DayError for what is none of this, and for a stretch that is empty or still to come.
    """
    if day is not None:
        if begin is not None or finish is not None:
            raise DayError("give either --day or --from and --to, not both")
        whole = parse_day(day, zone, now)
        return Stretch(whole.start, whole.end)
    start = FIRST if begin is None else min(_meanings(begin, zone, now))
    end = LAST if finish is None else max(_meanings(finish, zone, now, until=True))
    if start >= now:
        raise DayError(f"--from {begin} is still to come")
    if start >= end:
        raise DayError(f"--to {finish} is not after --from {begin or 'the beginning'}")
    return Stretch(start, end)


def _meanings(text: str, zone: ZoneInfo, now: datetime, until: bool = False) -> tuple[datetime, ...]:
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
        if min(found) < FIRST + timedelta(days=1) or max(found) > LAST:
            raise ValueError("out of range")
    except (ValueError, OverflowError) as error:
        raise DayError(f"{text!r} is no moment: give HH:MM for today, 2026-07-14 or 2026-07-14T12:00") from error
    return found
