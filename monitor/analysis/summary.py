"""The summary of one day: coverage, speech, seconds per emotion, affect, voice, and everything that is missing. Serialised as JSON text.

Frozen records and properties; `summarize.py` computes them. Only segments above the bundle's threshold ("sure"), or named by the person,
count for an emotion. Unsure, waiting and never judged speech is kept apart, so nothing is silently left out. The shares of a day are
estimated from all judged speech.

The JSON text leaves out the day and the moment it was made, so the text of a past day does not depend on when it is read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from model.emotions import Emotion
from monitor.analysis.days import Day
from monitor.storage.coverage import CoverageTile
from monitor.storage.records import Coverage


@dataclass(frozen=True, slots=True)
class Quartiles:
    """A quarter of the values lies under `low`, half under `median`, three quarters under `high`."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class AffectDynamics:
    """One dimension of affect over a stretch, -1 to 1; None where there are too few segments to tell.

    mean and sd: weighted by speech time. mssd: mean squared successive difference, 0 to 4. inertia: lag-1 autocorrelation, -1 to 1.
    """

    mean: float
    sd: float | None
    mssd: float | None
    inertia: float | None


@dataclass(frozen=True, slots=True)
class Affect:
    """Valence (unpleasant to pleasant) and arousal (calm to excited), estimated from so many judged segments of so much speech."""

    segments: int
    seconds: float
    valence: AffectDynamics
    arousal: AffectDynamics


@dataclass(frozen=True, slots=True)
class EmotionRun:
    """Neighbouring segments of one emotion. seconds: of speech, while start_at to end_at (aware UTC) includes the pauses between."""

    emotion: Emotion
    segments: int
    seconds: float
    start_at: datetime
    end_at: datetime


@dataclass(frozen=True, slots=True)
class VoiceStatistics:
    """How the voice sounded, segment by segment: RMS level in dB re full scale, and median pitch in Hz.

    segments: how many were measured. Loudness depends on the microphone, its gain and the distance, so it compares days of one
    set-up only.
    """

    segments: int
    loudness_db: Quartiles | None
    pitch_hz: Quartiles | None


ENOUGH_HEARD_S = 4 * 3600.0
"""A day with less sound than this is PARTIAL: a quarter of the 16 hours most people are awake."""

MUCH_UNJUDGED = 0.1
"""A day of which more than this part of the speech will never be judged is PARTIAL."""

RECORDED_KINDS = (Coverage.HEARD, Coverage.ENGINE_DOWN)
"""Kinds of coverage in which sound was taken in, whether or not what was said could be judged."""

Interval = tuple[datetime, datetime]


class DayState(StrEnum):
    """NO DATA: nothing was heard, so nothing is known. PARTIAL: something was heard, with `gaps`. COVERED: without."""

    NO_DATA = "NO DATA"
    PARTIAL = "PARTIAL"
    COVERED = "COVERED"


class Gap(StrEnum):
    """Why a day is PARTIAL; the value is what a person is told."""

    NOT_OVER = "the day is not over yet"
    HEARD_LITTLE = f"less than {ENOUGH_HEARD_S / 3600:.0f} hours were recorded"
    WAITING = "some speech is still waiting for analysis"
    UNJUDGED = f"more than {MUCH_UNJUDGED * 100:.0f} % of the speech could not be analysed"


@dataclass(frozen=True, slots=True)
class Amount:
    """Some segments: how many, and their time within the day or hour."""

    segments: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.segments + other.segments, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class SpeechSummary:
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
    voice: VoiceStatistics | None = None

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
    speech: SpeechSummary

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
    coverage: tuple[CoverageTile, ...]
    speech: SpeechSummary
    bundles: Mapping[str, int]
    hours: tuple[HourSummary, ...]
    longest_run: EmotionRun | None = None
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
        return sum(self.coverage_s.get(kind, 0.0) for kind in RECORDED_KINDS)

    @property
    def coverage_s(self) -> dict[Coverage, float]:
        """Seconds of each kind that occurred; they sum to `passed_s` unless a clock was set back."""
        seconds: dict[Coverage, float] = {}
        for part in self.coverage:
            seconds[part.kind] = seconds.get(part.kind, 0.0) + part.seconds
        return {kind: seconds[kind] for kind in Coverage if kind in seconds}


def overlap_s(first: Interval, second: Interval) -> float:
    """Seconds that two stretches have in common."""
    return max(0.0, (min(first[1], second[1]) - max(first[0], second[0])).total_seconds())


SUMMARY_FORMAT = 2
"""What is kept in another format is made anew. To be raised whenever the same timeline would give another text."""


def dump_summary(summary: DaySummary) -> str:
    """The same summary always gives the same text."""
    run = summary.longest_run
    values = {
        "state": summary.state.value,
        "gaps": [gap.name for gap in summary.gaps],
        "coverage": [[part.kind.value, _dump_moment(part.start_at), _dump_moment(part.end_at), part.reason] for part in summary.coverage],
        "speech": _dump_speech(summary.speech),
        "bundles": dict(summary.bundles),
        "hours": [
            [hour.label, _dump_moment(hour.start), _dump_moment(hour.end), hour.heard_s, _dump_speech(hour.speech)]
            for hour in summary.hours
        ],
        "run": run and [run.emotion.value, run.segments, run.seconds, _dump_moment(run.start_at), _dump_moment(run.end_at)],
        "transitions": {before.value + after.value: count for (before, after), count in summary.transitions.items()},
    }
    if summary.references:
        # Not before there is one: what was kept without stays true.
        values["references"] = dict(summary.references)
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False)


def load_summary(text: str, day: Day, now: datetime, with_hours: bool = True) -> DaySummary:
    """What `dump_summary` was given, as it stands at `now`, which is after the day; without its hours in under half the time."""
    values = json.loads(text)
    return DaySummary(
        day=day,
        now=now,
        state=DayState(values["state"]),
        gaps=tuple(Gap[name] for name in values["gaps"]),
        coverage=tuple(
            CoverageTile(Coverage(kind), _load_moment(start), _load_moment(end), reason) for kind, start, end, reason in values["coverage"]
        ),
        speech=_load_speech(values["speech"]),
        bundles=values["bundles"],
        hours=tuple(
            HourSummary(label, _load_moment(start), _load_moment(end), heard_s, _load_speech(speech))
            for label, start, end, heard_s, speech in (values["hours"] if with_hours else ())
        ),
        longest_run=values["run"] and _load_run(*values["run"]),
        transitions={(Emotion(pair[0]), Emotion(pair[1])): count for pair, count in values["transitions"].items()},
        references=values.get("references", {}),
    )


def _dump_speech(speech: SpeechSummary) -> list[Any]:
    return [
        _dump_amounts(speech.emotions),
        _dump_amount(speech.unsure),
        _dump_amount(speech.waiting),
        _dump_amounts(speech.unjudged),
        {emotion.value: share for emotion, share in speech.estimated.items()},
        {emotion.value: interval for emotion, interval in speech.intervals.items()},
        speech.affect and _dump_affect(speech.affect),
        speech.corrected,
        speech.voice and [speech.voice.segments, _dump_quartiles(speech.voice.loudness_db), _dump_quartiles(speech.voice.pitch_hz)],
    ]


def _load_speech(values: list[Any]) -> SpeechSummary:
    emotions, unsure, waiting, unjudged, estimated, intervals, affect, corrected, voice = values
    return SpeechSummary(
        emotions={Emotion(letter): Amount(*amount) for letter, amount in emotions.items()},
        unsure=Amount(*unsure),
        waiting=Amount(*waiting),
        unjudged={reason: Amount(*amount) for reason, amount in unjudged.items()},
        estimated={Emotion(letter): share for letter, share in estimated.items()},
        intervals={Emotion(letter): (low, high) for letter, (low, high) in intervals.items()},
        affect=affect and Affect(affect[0], affect[1], AffectDynamics(*affect[2]), AffectDynamics(*affect[3])),
        corrected=corrected,
        voice=voice and VoiceStatistics(voice[0], voice[1] and Quartiles(*voice[1]), voice[2] and Quartiles(*voice[2])),
    )


def _dump_amounts(amounts: Mapping[Any, Amount]) -> dict[str, list[float]]:
    return {str(key): _dump_amount(amount) for key, amount in amounts.items()}


def _dump_amount(amount: Amount) -> list[float]:
    return [amount.segments, amount.seconds]


def _dump_affect(affect: Affect) -> list[Any]:
    return [affect.segments, affect.seconds, *([s.mean, s.sd, s.mssd, s.inertia] for s in (affect.valence, affect.arousal))]


def _dump_quartiles(quartiles: Quartiles | None) -> list[float] | None:
    return None if quartiles is None else [quartiles.low, quartiles.median, quartiles.high]


def _load_run(letter: str, segments: int, seconds: float, start: str, end: str) -> EmotionRun:
    return EmotionRun(Emotion(letter), segments, seconds, _load_moment(start), _load_moment(end))


def _dump_moment(moment: datetime) -> str:
    return moment.isoformat()


def _load_moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
