"""Compares each day's measures with the person's own usual range, and finds changes that last.

Usual range (baseline): the median of the preceding days, plus and minus their 75 % absolute deviation times a factor that is larger for
few days. Up to a quarter of unusual days hardly moves it. The factor was fixed by simulation so that an unchanged day lies outside with
a probability of at most FALSE_ALARMS (3 to 5 %) for normal, heavy-tailed (Student's t, five degrees of freedom), skewed (gamma, shape
4) and autocorrelated (0.5) days. Harder cases are worse: 6.7 % for t with three degrees, 5.6 % for seven days at an autocorrelation of
0.7.

A day is compared, and counts for later ranges, only if it is over, has at least ENOUGH_HEARD_S of recorded time and enough of what is
measured. Measures that depend on the model are compared only among days judged by the same version and against the same voice references,
so a new model or a newly learned voice is not read as a mood.

A change lasts when LASTING of the last LASTING_OF such days lie on one side of the range that was usual before those seven. How often
that happens in a month without any change, for one measure: under 0.3 % for independent days whatever their distribution; 1.3 to 3 % at
an autocorrelation of 0.5 (3 % with the shortest range); 9 to 13 % at 0.7. There are many measures, so one of them is unusual more often
than any given one. tests/test_trend.py repeats the simulations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from model.emotions import Emotion
from monitor.analysis.summary import DayState, DaySummary, Gap

BASELINE_MAX_DAYS, BASELINE_MIN_DAYS = 28, 7
"""How many days a usual range is made of, at most and at least."""

FALSE_ALARMS = 0.05
"""How often, at most, a day like those before it lies outside."""

# The factor for very many days, and what fewer add to it.
_FACTOR, _FOR_FEW = 1.92, 7.5


@dataclass(frozen=True, slots=True)
class UsualRange:
    """The usual range of a measure, from `days` days before: low to high, with their median in the middle."""

    low: float
    middle: float
    high: float
    days: int

    def side(self, value: float) -> int:
        """-1 below the range, 1 above it, 0 within."""
        return (value > self.high) - (value < self.low)


def usual_range(values: Sequence[float], least: float = 0.0) -> UsualRange | None:
    """The usual range by the values of the days before, oldest first, of which the last LONGEST count; None for fewer than SHORTEST.

    least: a distance from the middle that means nothing, so the range is never narrower.
    """
    recent = values[-BASELINE_MAX_DAYS:]
    if len(recent) < BASELINE_MIN_DAYS:
        return None
    middle = _quantile(sorted(recent), 0.5)
    off = _quantile(sorted(abs(value - middle) for value in recent), 0.75)
    width = max(least, (_FACTOR + _FOR_FEW / len(recent)) * off)
    return UsualRange(middle - width, middle, middle + width, len(recent))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """By linear interpolation, as numpy does by default; the statistics module takes ten times as long."""
    place = share * (len(ordered) - 1)
    before = int(place)
    after = min(before + 1, len(ordered) - 1)
    return ordered[before] + (place - before) * (ordered[after] - ordered[before])


REACH_DAYS = 56
"""Days longer ago than this are not part of what is usual now."""

LASTING_OF, LASTING = 7, 5
"""A change lasts when so many of the last seven days that count lie outside the usual range, on one side."""

MIN_BASELINE_DAYS = 21
"""Days that a usual range must have, so that a week can be compared with it."""

WARM_UP_DAYS = REACH_DAYS + 2 * LASTING_OF
"""How many days before the first that is shown are needed to compare it, and to see a change that lasts."""

MIN_REFERENCE_SHARE = 0.1
"""Where a smaller part of a day's segments than this was heard against a reference of the voice, as through a microphone that was used
once, that does not count."""

MIN_AFFECT_SEGMENTS = 20
MIN_SHARE_SPEECH_S = 60.0
"""With fewer judged segments, or less speech that shares are of, a day has no value of affect, or of shares."""

_NOUNS = {
    Emotion.ANGRY: "anger",
    Emotion.SAD: "sadness",
    Emotion.HAPPY: "happiness",
    Emotion.SURPRISE: "surprise",
    Emotion.FEAR: "fear",
    Emotion.DISGUST: "disgust",
    Emotion.CONTEMPT: "contempt",
    Emotion.NEUTRAL: "neutral speech",
    Emotion.OTHER: "other emotion",
}

MeasureOf = Callable[[DaySummary], float | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """Something a day has one value of. words: what it is, in the middle of a sentence. get: None where there is too little to tell.

    least: a difference that means nothing. by_model: whether another model would give another value.
    """

    key: str
    words: str
    unit: str
    get: MeasureOf
    least: float
    by_model: bool = True


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """A measure on a day.

    value: None where there is too little to tell. band: the usual range by the days before. outside: -1 below it, 1 above it, 0 within or
    not to be compared. model_changed: a version judged that did not judge on the day before. voice_changed: the voice was heard against a
    reference that is new among these days and those before them.
    """

    on: date
    state: DayState
    value: float | None
    band: UsualRange | None
    outside: int
    model_changed: bool
    voice_changed: bool


@dataclass(frozen=True, slots=True)
class LastingChange:
    """A measure that stayed below (-1) or above (1) what was usual before, on `days_outside` of the last `of_days` days that count."""

    measure: Measure
    direction: int
    days_outside: int
    of_days: int
    band: UsualRange
    sentence: str


@dataclass(frozen=True, slots=True)
class Trend:
    """A measure over days; change: one that lasts, as of the last of them."""

    measure: Measure
    points: tuple[TrendPoint, ...]
    change: LastingChange | None


@dataclass(frozen=True, slots=True)
class _ComparableDay:
    """A day that can be compared: its value, and who judged it, where that matters."""

    on: date
    value: float
    judged_by: str


def _affect(dimension: str, figure: str) -> MeasureOf:
    def get(day: DaySummary) -> float | None:
        affect = day.speech.affect
        if affect is None or affect.segments < MIN_AFFECT_SEGMENTS:
            return None
        value: float | None = getattr(getattr(affect, dimension), figure)
        return value

    return get


def _share(emotion: Emotion) -> MeasureOf:
    return lambda day: day.speech.shares.get(emotion) if day.speech.basis.seconds >= MIN_SHARE_SPEECH_S else None


def _minutes_an_hour(day: DaySummary) -> float | None:
    return 60 * day.speech.total.seconds / day.heard_s if day.heard_s >= 3600 else None


def _voice(figure: str) -> MeasureOf:
    def get(day: DaySummary) -> float | None:
        if day.speech.voice is None or day.speech.voice.segments < MIN_AFFECT_SEGMENTS:
            return None
        quartiles = getattr(day.speech.voice, figure)
        return None if quartiles is None else quartiles.median

    return get


MEASURES: tuple[Measure, ...] = (
    Measure("valence", "how pleasant your voice sounded", "-1 to 1", _affect("valence", "mean"), 0.02),
    Measure("arousal", "how excited your voice sounded", "-1 to 1", _affect("arousal", "mean"), 0.02),
    Measure("valence_sd", "how much pleasantness varied", "0 to 1", _affect("valence", "sd"), 0.02),
    Measure("valence_mssd", "how much pleasantness changed from one moment to the next", "0 to 4", _affect("valence", "mssd"), 0.02),
    Measure("valence_inertia", "how much pleasantness carried over to the next moment", "-1 to 1", _affect("valence", "inertia"), 0.05),
    Measure("speech_per_hour", "speaking time", "minutes per recorded hour", _minutes_an_hour, 0.5, by_model=False),
    *(Measure(f"share_{emotion.value}", _NOUNS[emotion], "of speech", _share(emotion), 0.02) for emotion in Emotion),
    Measure("loudness_db", "the loudness of your voice", "dB re full scale", _voice("loudness_db"), 1.0, by_model=False),
    Measure("pitch_hz", "the pitch of your voice", "Hz", _voice("pitch_hz"), 3.0, by_model=False),
)


def compute_trends(days: Sequence[DaySummary], first: date = date.min) -> dict[str, Trend]:
    """Each measure by its key, over consecutive days, its points from `first` on.

    WARM_UP_DAYS before `first` have to be among the days; of them no hours are asked for.
    """
    changed = list(zip(_model_changes(days), _voice_changes(days), strict=True))
    return {measure.key: _trend(measure, days, changed, first) for measure in MEASURES}


def is_comparable(day: DaySummary) -> bool:
    """Whether a day can be compared with others: it is over, and enough of it was heard."""
    return day.state is not DayState.NO_DATA and not {Gap.NOT_OVER, Gap.HEARD_LITTLE} & set(day.gaps)


def _trend(measure: Measure, days: Sequence[DaySummary], changed: Sequence[tuple[bool, bool]], first: date) -> Trend:
    points: list[TrendPoint] = []
    known: list[_ComparableDay] = []
    for day, (model_changed, voice_changed) in zip(days, changed, strict=True):
        value = None if day.state is DayState.NO_DATA else measure.get(day)
        judged_by = _judged_by(day) if measure.by_model else ""
        new = _ComparableDay(day.day.on, value, judged_by) if value is not None and judged_by is not None and is_comparable(day) else None
        if day.day.on >= first:
            band = None if judged_by is None else _band(measure, known, day.day.on, judged_by)
            outside = band.side(new.value) if new and band else 0
            points.append(TrendPoint(day.day.on, day.state, value, band, outside, model_changed, voice_changed))
        if new:
            known.append(new)
    return Trend(measure, tuple(points), _change(measure, known))


def _band(measure: Measure, known: Sequence[_ComparableDay], on: date, judged_by: str) -> UsualRange | None:
    """What was usual before a day that this version judged."""
    earliest = on - timedelta(days=REACH_DAYS)
    return usual_range([day.value for day in known[-REACH_DAYS:] if day.judged_by == judged_by and day.on >= earliest], measure.least)


def _change(measure: Measure, known: Sequence[_ComparableDay]) -> LastingChange | None:
    before, recent = known[:-LASTING_OF], known[-LASTING_OF:]
    if len(recent) < LASTING_OF or len({day.judged_by for day in recent}) > 1:
        return None
    band = _band(measure, before, recent[0].on, recent[0].judged_by)
    if band is None or band.days < MIN_BASELINE_DAYS:
        return None
    sides = [band.side(day.value) for day in recent]
    for direction, word in ((1, "above"), (-1, "below")):
        outside = sides.count(direction)
        if outside >= LASTING:
            subject = measure.words[0].upper() + measure.words[1:]
            sentence = f"{subject} was {word} your usual range on {outside} of the last {LASTING_OF} covered days."
            return LastingChange(measure, direction, outside, LASTING_OF, band, sentence)
    return None


def _judged_by(day: DaySummary) -> str | None:
    """The one model that judged a day, and against which references of the voice; None where there were several models, or none."""
    return " ".join((next(iter(day.bundles)), *sorted(_heard_against(day)))) if len(day.bundles) == 1 else None


def _heard_against(day: DaySummary) -> set[str]:
    least = MIN_REFERENCE_SHARE * sum(day.references.values())
    return {version for version, segments in day.references.items() if segments >= least}


def _model_changes(days: Sequence[DaySummary]) -> list[bool]:
    """Of each day, whether a version judged on it that did not judge on the one before that has any."""
    changes: list[bool] = []
    known: set[str] = set()
    for day in days:
        changes.append(bool(known) and not set(day.bundles) <= known)
        known = set(day.bundles) or known
    return changes


def _voice_changes(days: Sequence[DaySummary]) -> list[bool]:
    """Of each day, whether the voice was heard against a reference that none of the days before was. Where there was none before, nothing
    changed: another model began to use one then."""
    changes: list[bool] = []
    known: set[str] = set()
    for day in days:
        against = _heard_against(day)
        changes.append(bool(known) and not against <= known)
        known |= against
    return changes
