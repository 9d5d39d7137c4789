"""What a day amounts to: time heard, time of speech, seconds per emotion, and everything that is missing.

Pure arithmetic on records of the timeline; knows no database and prints nothing. Time is clipped to the day and split
at its hours. Only judged speech that passed the bundle's threshold ("sure") is given to an emotion; what is unsure,
waits, or will never be judged keeps its own place, so that nothing is silently left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from model.types import Emotion
from monitor.day.days import Day
from monitor.store.records import Coverage, CoverageInterval, SegmentState, TimelineEntry
from monitor.store.tiling import Tile, tile

ENOUGH_HEARD_S = 4 * 3600.0
"""A day with less sound than this is PARTIAL: a quarter of the 16 hours most people are awake."""

MUCH_UNJUDGED = 0.1
"""A day of which more than this part of the speech will never be judged is PARTIAL."""

_LISTENED = (Coverage.HEARD, Coverage.ENGINE_DOWN)

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

    emotions: sure segments. It has every letter that the models of this time could have answered with, so 0 means
    "could have been heard and was not"; a letter that is missing could not be answered.
    unjudged: by the reason why.
    """

    emotions: Mapping[Emotion, Amount]
    unsure: Amount
    waiting: Amount
    unjudged: Mapping[str, Amount]

    @property
    def sure(self) -> Amount:
        """What the shares are taken of."""
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
    def shares(self) -> dict[Emotion, float]:
        """Each emotion's part of sure time; they sum to 1. Empty when nothing is sure."""
        sure_s = self.sure.seconds
        return {emotion: amount.seconds / sure_s for emotion, amount in self.emotions.items()} if sure_s else {}

    @property
    def leading(self) -> Emotion | None:
        """The emotion with the most sure time, None when nothing is sure."""
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
    """

    day: Day
    now: datetime
    state: DayState
    gaps: tuple[Gap, ...]
    coverage: tuple[Tile, ...]
    speech: Speech
    bundles: Mapping[str, int]
    hours: tuple[HourSummary, ...]

    @property
    def length_s(self) -> float:
        """Seconds the day has: 86400, more or less when the clock is changed."""
        return (self.day.end - self.day.start).total_seconds()

    @property
    def passed_s(self) -> float:
        """Seconds of the day that had passed at `now`."""
        return _overlap_s((self.day.start, self.now), (self.day.start, self.day.end))

    @property
    def heard_s(self) -> float:
        """Seconds that were listened to, whether or not what was said could be judged."""
        return sum(self.coverage_s.get(kind, 0.0) for kind in _LISTENED)

    @property
    def coverage_s(self) -> dict[Coverage, float]:
        """Seconds of each kind that occurred; they sum to `passed_s` unless a clock was set back."""
        seconds: dict[Coverage, float] = {}
        for part in self.coverage:
            seconds[part.kind] = seconds.get(part.kind, 0.0) + part.seconds
        return {kind: seconds[kind] for kind in Coverage if kind in seconds}


def summarize(day: Day, entries: Iterable[TimelineEntry], coverage: Iterable[CoverageInterval], now: datetime) -> DaySummary:
    """Summarize a day from the segments and coverage that overlap it; others are ignored. now: aware UTC."""
    whole = (day.start, day.end)
    entries = [entry for entry in entries if _overlap_s(_stretch(entry), whole)]
    coverage = list(coverage)
    tiles = tile(day.start, min(day.end, now), coverage, entries)
    # Where a clock was set back something is known of what is still to come.
    tiles += [part for part in tile(max(day.start, now), day.end, coverage, entries) if part.kind is not Coverage.NOT_RUNNING]
    heard = [(part.start_at, part.end_at) for part in tiles if part.kind in _LISTENED]
    speech = _speech(entries, whole)
    state, gaps = _state(day, _within_s(heard, whole), speech, now)
    return DaySummary(
        day=day,
        now=now.astimezone(UTC),
        state=state,
        gaps=gaps,
        coverage=tuple(tiles),
        speech=speech,
        bundles=Counter(entry.prediction.bundle_version for entry in entries if entry.prediction),
        hours=tuple(
            HourSummary(
                hour.label,
                hour.start,
                hour.end,
                _within_s(heard, (hour.start, hour.end)),
                _speech(entries, (hour.start, hour.end)),
            )
            for hour in day.hours()
        ),
    )


def _state(day: Day, heard_s: float, speech: Speech, now: datetime) -> tuple[DayState, tuple[Gap, ...]]:
    if not heard_s:
        return DayState.NO_DATA, ()
    found = {
        Gap.NOT_OVER: now < day.end,
        Gap.HEARD_LITTLE: heard_s < ENOUGH_HEARD_S,
        Gap.WAITING: speech.waiting.segments > 0,
        Gap.UNJUDGED: speech.given_up.seconds > MUCH_UNJUDGED * speech.total.seconds,
    }
    gaps = tuple(gap for gap, present in found.items() if present)
    return (DayState.PARTIAL if gaps else DayState.COVERED), gaps


def _speech(entries: Iterable[TimelineEntry], within: Stretch) -> Speech:
    emotions: dict[Emotion, Amount] = {}
    unjudged: defaultdict[str, Amount] = defaultdict(Amount)
    unsure = waiting = Amount()
    for entry in entries:
        if entry.start_at >= within[1] or entry.end_at <= within[0]:
            continue
        amount = Amount(1, _overlap_s(_stretch(entry), within))
        if entry.prediction is None:
            if entry.state is SegmentState.WAITING:
                waiting += amount
            else:
                unjudged[entry.reason or "no reason stored"] += amount
            continue
        for emotion in entry.prediction.posterior:
            emotions.setdefault(emotion, Amount())
        if entry.prediction.unsure:
            unsure += amount
        else:
            emotions[entry.prediction.emotion] += amount
    return Speech(emotions, unsure, waiting, dict(unjudged))


def _stretch(record: TimelineEntry) -> Stretch:
    return record.start_at, record.end_at


def _overlap_s(first: Stretch, second: Stretch) -> float:
    return max(0.0, (min(first[1], second[1]) - max(first[0], second[0])).total_seconds())


def _within_s(stretches: Iterable[Stretch], within: Stretch) -> float:
    return sum(_overlap_s(stretch, within) for stretch in stretches)
