"""A person's own usual range of a measure: what a day, or a week, is compared with.

The middle is the median of the days before; the range reaches as far to both sides as three quarters of these days lie from it, times a
factor. So up to a quarter of unusual days hardly moves or widens it. The factor is larger for few days, which tell less. It was fixed by
simulation so that a day like those before it lies outside with a probability of at most FALSE_ALARMS, whether days are normally
distributed, with heavier tails (Student's t with five degrees of freedom), skewed (gamma with shape 4), or alike from one day to the next
(autocorrelation 0.5); then it is 3 to 5 %. In harder cases it is more: 6.7 % for t with three degrees, 5.6 % for seven days with an
autocorrelation of 0.7. tests/test_trend.py simulates it again. Knows no calendar and no measures; `trend.py` chooses the days.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST, SHORTEST = 28, 7
"""How many days a usual range is made of, at most and at least."""

FALSE_ALARMS = 0.05
"""How often, at most, a day like those before it lies outside."""

# The factor for very many days, and what fewer add to it.
_FACTOR, _FOR_FEW = 1.92, 7.5


@dataclass(frozen=True, slots=True)
class Band:
    """The usual range of a measure, from `days` days before: low to high, with their median in the middle."""

    low: float
    middle: float
    high: float
    days: int

    def side(self, value: float) -> int:
        """-1 below the range, 1 above it, 0 within."""
        return (value > self.high) - (value < self.low)


def band_of(values: Sequence[float], least: float = 0.0) -> Band | None:
    """The usual range by the values of the days before, oldest first, of which the last LONGEST count; None for fewer than SHORTEST.

    least: a distance from the middle that means nothing, so the range is never narrower.
    """
    recent = values[-LONGEST:]
    if len(recent) < SHORTEST:
        return None
    middle = _quantile(sorted(recent), 0.5)
    off = _quantile(sorted(abs(value - middle) for value in recent), 0.75)
    width = max(least, (_FACTOR + _FOR_FEW / len(recent)) * off)
    return Band(middle - width, middle, middle + width, len(recent))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """By linear interpolation, as numpy does by default; the statistics module takes ten times as long."""
    place = share * (len(ordered) - 1)
    before = int(place)
    after = min(before + 1, len(ordered) - 1)
    return ordered[before] + (place - before) * (ordered[after] - ordered[before])
