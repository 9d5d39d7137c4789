"""Which days a report is about: what a person asks for on the command line, as a first and a last date.

Knows no timeline. A period may reach back before anything was stored, but not into days to come.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from model.errors import DayError
from monitor.day.days import Day, parse_day

WEEK, MONTH, SHEET = 7, 30, 28
"""How many days a week, a month and a sheet for a clinician have; all end with the day that was asked for."""

LONGEST = 3 * 366


@dataclass(frozen=True, slots=True)
class Period:
    """The calendar days from first to last, both included, in a zone."""

    first: date
    last: date
    zone: ZoneInfo

    @property
    def is_day(self) -> bool:
        """Whether it is one day, which is shown hour by hour."""
        return self.first == self.last

    @property
    def day(self) -> Day:
        """The last day."""
        return Day(self.last, self.zone)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed: --day, --week, --month, --from and --to; None and False where they were not."""

    day: str | None = None
    week: bool = False
    month: bool = False
    first: str | None = None
    last: str | None = None

    def period(self, zone: ZoneInfo, now: datetime, usual_days: int = 1) -> Period:
        """The period that is meant at the aware moment `now`. usual_days: how many days where only a day, or nothing, was given.

        Raises DayError for what is no date, is still to come, or cannot be meant together.
        """
        self._check()
        if self.first is not None:
            first, last = (parse_day(text, zone, now).on for text in (self.first, self.last or "today"))
            return _checked(Period(first, last, zone))
        last = parse_day(self.day or "today", zone, now).on
        length = WEEK if self.week else MONTH if self.month else usual_days
        return Period(last - timedelta(days=length - 1), last, zone)

    def _check(self) -> None:
        lengths = [name for name, given in (("--week", self.week), ("--month", self.month), ("--from", self.first is not None)) if given]
        if len(lengths) > 1:
            raise DayError(f"{' and '.join(lengths)} cannot be meant together: give one of them")
        if self.first is not None and self.day is not None:
            raise DayError("--day and --from cannot be meant together: end a period with --to")
        if self.last is not None and self.first is None:
            raise DayError(f"--to {self.last} ends a period: say with --from where it begins")


def _checked(period: Period) -> Period:
    days = (period.last - period.first).days + 1
    if days < 1:
        raise DayError(f"--from {period.first} lies after --to {period.last}: turn them round")
    if days > LONGEST:
        raise DayError(
            f"{period.first} to {period.last} are {days} days: a report has at most {LONGEST}, three years; take a shorter period"
        )
    return period
