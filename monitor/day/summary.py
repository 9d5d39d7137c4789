"""What a day amounts to: time heard, time of speech, seconds per emotion, and everything that is missing.

Plain frozen records and what follows from them; `summarizing.py` makes them of a timeline, `stored.py` makes text of them. Only what
passed the bundle's threshold ("sure") or was named by the person is given to an emotion, segment by segment; what is unsure, waits, or will
never be judged keeps its own place, so that nothing is silently left out. The shares of a day are estimated from all of what was judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from model.types import Emotion
from monitor.day.days import Day
from monitor.day.figures import Affect, Run, VoiceFigures
from monitor.store.records import Coverage
from monitor.store.tiling import Tile

ENOUGH_HEARD_S = 4 * 3600.0
"""A day with less sound than this is PARTIAL: a quarter of the 16 hours most people are awake."""

MUCH_UNJUDGED = 0.1
"""A day of which more than this part of the speech will never be judged is PARTIAL."""

LISTENED = (Coverage.HEARD, Coverage.ENGINE_DOWN)
"""Kinds of coverage in which sound was taken in, whether or not what was said could be judged."""

Stretch = tuple[datetime, datetime]


class DayState(StrEnum):
    """NO DATA: nothing was heard, so nothing is known. PARTIAL: something was heard, with `gaps`. COVERED: without."""

    NO_DATA = "NO DATA"
    PARTIAL = "PARTIAL"
    COVERED = "COVERED"


class Gap(StrEnum):
    """Why a day is PARTIAL; the value is what a person is told."""

    NOT_OVER = "the day is not over yet"
    HEARD_LITTLE = f"less than {ENOUGH_HEARD_S / 3600:.0f} hours were heard"
    WAITING = "some speech still waits to be judged"
    UNJUDGED = f"more than {MUCH_UNJUDGED * 100:.0f} % of the speech could not be judged"


@dataclass(frozen=True, slots=True)
class Amount:
    """Some segments: how many, and their time within the day or hour."""

    segments: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.segments + other.segments, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class Speech:
    """The segments of a stretch of time, by what became of them. A segment counts wherever some of it lies.

    emotions: sure segments, by what the person says they were, else by what the model said. It has every letter that the models of this
    time could have answered with, so 0 means "could have been heard and was not"; a letter that is missing could not be answered.
    unjudged: by the reason why.
    estimated: shares of all judged speech, by how the model is known to confuse emotions, with the letters of `emotions`. Of a day only,
    and empty where no model that judged says enough for it. intervals: of the shares, 95 %: what each may be in truth. Of a day only, and
    empty where nothing is known about a model that judged some of it.
    affect: None where nothing was judged. corrected: segments about which the person said what they were, or agreed with the model.
    voice: None where it was not measured.
    """

    emotions: Mapping[Emotion, Amount]
    unsure: Amount
    waiting: Amount
    unjudged: Mapping[str, Amount]
    estimated: Mapping[Emotion, float] = field(default_factory=dict)
    intervals: Mapping[Emotion, tuple[float, float]] = field(default_factory=dict)
    affect: Affect | None = None
    corrected: int = 0
    voice: VoiceFigures | None = None

    @property
    def sure(self) -> Amount:
        """What is given to an emotion."""
        return sum(self.emotions.values(), Amount())

    @property
    def judged(self) -> Amount:
        """Sure and unsure together."""
        return self.sure + self.unsure

    @property
    def given_up(self) -> Amount:
        """What will never be judged, for whatever reason."""
        return sum(self.unjudged.values(), Amount())

    @property
    def total(self) -> Amount:
        """All speech, whatever became of it."""
        return self.judged + self.waiting + self.given_up

    @property
    def unsure_share(self) -> float | None:
        """Unsure time as part of judged time, 0 to 1; None when nothing was judged."""
        return self.unsure.seconds / self.judged.seconds if self.judged.segments else None

    @property
    def counted(self) -> dict[Emotion, float]:
        """Each emotion's part of sure time; they sum to 1. Empty when nothing is sure."""
        sure_s = self.sure.seconds
        return {emotion: amount.seconds / sure_s for emotion, amount in self.emotions.items()} if sure_s else {}

    @property
    def shares(self) -> dict[Emotion, float]:
        """Each emotion's share, estimated where that is possible, otherwise counted; they sum to 1. Empty when nothing can be said."""
        return dict(self.estimated) or self.counted

    @property
    def basis(self) -> Amount:
        """What the shares are of: all that was judged where they are estimated, otherwise what is sure."""
        return self.judged if self.estimated else self.sure

    @property
    def leading(self) -> Emotion | None:
        """The emotion with the largest share, None when nothing can be said."""
        return max(self.shares, key=lambda emotion: self.shares[emotion], default=None)


@dataclass(frozen=True, slots=True)
class HourSummary:
    """One hour as `Day.hours` labels it. length_s: 3600, less where the clock was changed. heard_s: of it."""

    label: str
    start: datetime
    end: datetime
    heard_s: float
    speech: Speech

    @property
    def length_s(self) -> float:
        """Seconds the hour has."""
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True, slots=True)
class DaySummary:
    """A day as it stood at `now`.

    coverage: tiles of what has passed of the day, so that every moment of it is of one kind.
    bundles: segments judged by each bundle version. gaps: empty unless the state is PARTIAL.
    references: segments judged against each version of a reference of the voice, and under "" those against none; empty where all are.
    longest_run: the most speech of one emotion in neighbouring segments. transitions: how often a segment of the first emotion was followed
    by a neighbour of the second, which may be the same. Both pass over what is unsure or not judged.
    """

    day: Day
    now: datetime
    state: DayState
    gaps: tuple[Gap, ...]
    coverage: tuple[Tile, ...]
    speech: Speech
    bundles: Mapping[str, int]
    hours: tuple[HourSummary, ...]
    longest_run: Run | None = None
    transitions: Mapping[tuple[Emotion, Emotion], int] = field(default_factory=dict)
    references: Mapping[str, int] = field(default_factory=dict)

    @property
    def length_s(self) -> float:
        """Seconds the day has: 86400, more or less when the clock is changed."""
        return (self.day.end - self.day.start).total_seconds()

    @property
    def passed_s(self) -> float:
        """Seconds of the day that had passed at `now`."""
        return overlap_s((self.day.start, self.now), (self.day.start, self.day.end))

    @property
    def heard_s(self) -> float:
        """Seconds that were listened to, whether or not what was said could be judged."""
        return sum(self.coverage_s.get(kind, 0.0) for kind in LISTENED)

    @property
    def coverage_s(self) -> dict[Coverage, float]:
        """Seconds of each kind that occurred; they sum to `passed_s` unless a clock was set back."""
        seconds: dict[Coverage, float] = {}
        for part in self.coverage:
            seconds[part.kind] = seconds.get(part.kind, 0.0) + part.seconds
        return {kind: seconds[kind] for kind in Coverage if kind in seconds}


def overlap_s(first: Stretch, second: Stretch) -> float:
    """Seconds that two stretches have in common."""
    return max(0.0, (min(first[1], second[1]) - max(first[0], second[0])).total_seconds())
