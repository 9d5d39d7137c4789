"""How one dimension of affect moved from segment to segment: variability, instability, inertia; and runs and transitions of emotions.

As the affect-dynamics literature defines them: variability is the standard deviation; instability the mean squared successive
difference (MSSD; Jahng, Wood & Trull 2008, Psychological Methods 13, 354-375); inertia the lag-1 autocorrelation (Kuppens, Allen &
Sheeber 2010, Psychological Science 21, 984-991); all three as in Houben, Van Den Noortgate & Kuppens (2015), Psychological Bulletin
141, 901-930. There, reports come at planned times. Speech does not: segments are unequally spaced, so successive means neighbours that
are at most NEIGHBOURS_S apart, and figures of a talkative day say more about its conversations than about the day between them. Their
size is not that of studies with questionnaires; only a person's own days compare.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import pairwise
from math import fsum, sqrt

from model.types import Emotion
from monitor.day.figures import Run, Spread
from monitor.store.records import TimelineEntry

NEIGHBOURS_S = 300.0
"""Segments with a longer pause between them are not successive: five minutes of silence is another situation."""

ENOUGH_FOR_SD = 5
ENOUGH_PAIRS = 10
"""With fewer segments, or pairs of neighbours, there is no figure."""

_LONGEST_PAUSE = timedelta(seconds=NEIGHBOURS_S)
# A dimension that moves less than rounding errors does not move.
_STILL = 1e-12


def follows(before: TimelineEntry, after: TimelineEntry) -> bool:
    """Whether two segments, in order, are neighbours."""
    return after.start_at - before.end_at <= _LONGEST_PAUSE


def spread(values: Sequence[float], seconds: Sequence[float], linked: Sequence[bool]) -> Spread:
    """Figures of at least one segment, in order. seconds: their weights. linked: of each, whether it is the neighbour of the one before."""
    total = fsum(seconds)
    mean = fsum(value * weight for value, weight in zip(values, seconds, strict=True)) / total
    variance = fsum(weight * (value - mean) ** 2 for value, weight in zip(values, seconds, strict=True)) / total
    pairs = [(values[i - 1], values[i]) for i in range(1, len(values)) if linked[i]]
    enough = len(pairs) >= ENOUGH_PAIRS
    return Spread(
        mean=mean,
        sd=sqrt(variance) if len(values) >= ENOUGH_FOR_SD else None,
        mssd=fsum((after - before) ** 2 for before, after in pairs) / len(pairs) if enough else None,
        inertia=_inertia(pairs) if enough else None,
    )


def _inertia(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's correlation of each value with its neighbour's; None where nothing moves, because then it is anything."""
    first = fsum(before for before, _ in pairs) / len(pairs)
    second = fsum(after for _, after in pairs) / len(pairs)
    before_var = fsum((before - first) ** 2 for before, _ in pairs) / len(pairs)
    after_var = fsum((after - second) ** 2 for _, after in pairs) / len(pairs)
    if before_var < _STILL or after_var < _STILL:
        return None
    covariance = fsum((before - first) * (after - second) for before, after in pairs) / len(pairs)
    return max(-1.0, min(1.0, covariance / sqrt(before_var * after_var)))


def transitions(named: Iterable[tuple[TimelineEntry, Emotion]]) -> dict[tuple[Emotion, Emotion], int]:
    """How often a segment of one emotion was followed by one of another, or of the same, among neighbours. In order."""
    counts: dict[tuple[Emotion, Emotion], int] = {}
    for (before, emotion), (after, following) in pairwise(named):
        if follows(before, after):
            counts[emotion, following] = counts.get((emotion, following), 0) + 1
    return counts


def longest_run(named: Iterable[tuple[TimelineEntry, Emotion]]) -> Run | None:
    """The most speech of one emotion in neighbouring segments; of two as long the earlier. None where there are no segments."""
    longest: Run | None = None
    current: Run | None = None
    last: TimelineEntry | None = None
    for entry, emotion in named:
        seconds = (entry.end_at - entry.start_at).total_seconds()
        if current is not None and last is not None and current.emotion is emotion and follows(last, entry):
            current = Run(emotion, current.segments + 1, current.seconds + seconds, current.start_at, entry.end_at)
        else:
            current = Run(emotion, 1, seconds, entry.start_at, entry.end_at)
        if longest is None or current.seconds > longest.seconds:
            longest = current
        last = entry
    return longest
