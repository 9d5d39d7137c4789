"""Which days a page is about: a week from Monday to Sunday or a month, up to today, with its neighbours. Pure dates."""

import calendar
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum


class Length(StrEnum):
    """How long a period is."""

    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Period:
    """first, last: its days, both within; the last is today where the period is not over. before, after: a day of each neighbour.

    `after` is None when that is still to come.
    """

    length: Length
    title: str
    first: date
    last: date
    before: date
    after: date | None


def period(length: Length, on: date, today: date) -> Period:
    """The period that has the day `on`, which is not later than `today`."""
    if length is Length.WEEK:
        first = on - timedelta(days=on.weekday())
        last = first + timedelta(days=6)
        title = f"Week of {first.day} {first:%B} to {last.day} {last:%B %Y}"
    else:
        first = on.replace(day=1)
        last = on.replace(day=calendar.monthrange(on.year, on.month)[1])
        title = f"{on:%B %Y}"
    after = last + timedelta(days=1)
    return Period(length, title, first, min(last, today), first - timedelta(days=1), after if after <= today else None)
