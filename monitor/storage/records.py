"""What the timeline stores, as plain frozen records: segments with their predictions, coverage, feedback, job runs, voice references.

`TimelineSource` is what queries read, from this machine's timeline or at a clinic. Knows no database, no sound card and no numpy, so that
whatever only reads and reports starts fast. All moments are aware UTC.

A voice reference is learned from the first speech there is, and then frozen for good: one that followed the voice would follow a low mood
too, and a person who is sad for a month would be heard as neutral. So it needs several days, not only much speech.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from model.emotions import Emotion, Prediction

if TYPE_CHECKING:
    from model.voice_reference import VoiceSums


MIN_REFERENCE_DAYS = 5
"""Local days with speech that a reference is made of at least; a single day has a single mood."""

MIN_REFERENCE_SEGMENTS = 200
"""Segments that a reference is made of at least."""

MIN_REFERENCE_SPEECH_S = 20 * 60.0
"""Seconds of speech that a reference is made of at least."""

MIN_DAY_SPEECH_S = 60.0
"""With fewer seconds of speech a day is none of the five."""


@dataclass(frozen=True, slots=True)
class VoiceReference:
    """What is known of the person's voice through one microphone, without the sums themselves.

    version: another one whenever the reference is another: begun, frozen, or a part of it erased. voice_space: of the bundles that it fits.
    frozen: it is known, and does not change any more. begun_at, last_at: of the speech it is made of, aware UTC. segments, speech_s: how
    much that is. days: local days with enough of it.
    """

    version: str
    voice_space: str
    microphone: str
    frozen: bool
    begun_at: datetime
    last_at: datetime
    segments: int
    speech_s: float
    days: int

    @property
    def is_enough(self) -> bool:
        """Whether it is made of as much speech as a reference needs."""
        return self.days >= MIN_REFERENCE_DAYS and self.segments >= MIN_REFERENCE_SEGMENTS and self.speech_s >= MIN_REFERENCE_SPEECH_S


@dataclass(frozen=True, slots=True)
class VoiceReferenceSums:
    """A reference as a judging process holds it. sums: of all its speech, `VoiceSums` as bytes."""

    voice_space: str
    version: str
    sums: bytes


@dataclass(frozen=True, slots=True)
class VoiceContribution:
    """How a judged segment stands to the reference of the voice, where the bundle normalises.

    voice_space: of the bundle. sums: what the segment itself adds to a reference. version: of the one that was subtracted; None: of none.
    """

    voice_space: str
    sums: "VoiceSums"
    version: str | None


def new_reference_version() -> str:
    """A version that no reference has, on no machine: timelines are brought together."""
    return os.urandom(4).hex()


MAX_SEGMENT_S = 60.0

PROMPT_ANSWER_WINDOW = timedelta(minutes=30)
"""A check-in this soon after a prompt answers it; one that is entered later, or about a moment before it, does not."""


class Coverage(StrEnum):
    """What became of a stretch of a monitored day.

    heard: listened to, and what was said is stored. paused: the person had closed the microphone. muted: it delivered digital
    silence. device-lost: it was away. overflow: sound came faster than it was taken. engine-down: listened to, but the speech
    there was given up, because it could not be judged for too long. not-running: no monitor, or a machine that slept; where
    nothing is stored, that is it, and so it is where the person had erased what was.
    """

    HEARD = "heard"
    PAUSED = "paused"
    MUTED = "muted"
    DEVICE_LOST = "device-lost"
    OVERFLOW = "overflow"
    ENGINE_DOWN = "engine-down"
    NOT_RUNNING = "not-running"


class SegmentState(StrEnum):
    """waiting: stored, not judged yet; judged: has a prediction; unjudged: never will have one, `reason` says why."""

    WAITING = "waiting"
    JUDGED = "judged"
    UNJUDGED = "unjudged"


def check_time_range(start_at: datetime, end_at: datetime) -> None:
    """Raise ValueError unless both moments are in UTC and the stretch [start_at, end_at) is not empty."""
    if start_at.tzinfo is not UTC or end_at.tzinfo is not UTC:
        raise ValueError(f"moments must be aware and in UTC, these are {start_at!r} and {end_at!r}")
    if start_at >= end_at:
        raise ValueError(f"a stretch must end after it starts, this one goes from {start_at} to {end_at}")


@dataclass(frozen=True, slots=True)
class Correction:
    """What the person says a segment was. confirmed: they agreed with the model; otherwise they chose the emotion themselves."""

    id: int
    emotion: Emotion
    confirmed: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class CheckIn:
    """How the person says they feel at a moment. valence: -1 (very unpleasant) to 1 (very pleasant). emotion: what they call it."""

    id: int
    at: datetime
    zone: str
    valence: float
    emotion: Emotion
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """That the person was asked to check in at a moment, and the check-in that answered; None while none has."""

    id: int
    at: datetime
    zone: str
    checkin_id: int | None = None


@dataclass(frozen=True, slots=True)
class Prosody:
    """How a segment sounded. loudness_db: RMS level, dB re full scale. pitch_hz: median pitch of voiced frames, None without any."""

    loudness_db: float
    pitch_hz: float | None


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """One segment of speech as stored.

    stream: names one start of the monitor; samples are positions in it, half open, at SAMPLE_RATE.
    zone: IANA name of the zone the monitor ran in. reason: why it is unjudged, else None.
    prediction and judged_at are None unless the state is judged. correction: what the person says it was, where they said so.
    voice: None where it was not measured. voice_version: of the reference of the voice that it was heard against, None without one.
    """

    id: int
    stream: str
    start_sample: int
    end_sample: int
    start_at: datetime
    end_at: datetime
    zone: str
    state: SegmentState
    reason: str | None = None
    prediction: Prediction | None = None
    judged_at: datetime | None = None
    correction: Correction | None = None
    voice: Prosody | None = None
    voice_version: str | None = None

    def __post_init__(self) -> None:
        check_time_range(self.start_at, self.end_at)
        if (self.state is SegmentState.JUDGED) != (self.prediction is not None):
            raise ValueError(f"segment {self.id} is {self.state}, and its prediction is {self.prediction}")

    @property
    def named(self) -> Emotion | None:
        """The emotion it counts as: what the person says, else what the model was sure of, else None."""
        if self.correction is not None:
            return self.correction.emotion
        return self.prediction.emotion if self.prediction is not None and not self.prediction.unsure else None


class PredictedSegment(NamedTuple):
    """What the model said of a judged segment, and nothing else of it: one report goes through thousands."""

    segment: int
    start_at: datetime
    end_at: datetime
    posterior: Mapping[Emotion, float]
    unsure: bool


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """What the model said about one segment, how it sounded, and its words where somebody wrote them down.

    heard_against: how it stands to the reference of the voice; None where the model has no use for one.
    """

    prediction: Prediction
    transcript: str | None = None
    voice: Prosody | None = None
    voice_contribution: VoiceContribution | None = None


@dataclass(frozen=True, slots=True)
class CoverageInterval:
    """One kind of coverage over [start_at, end_at); reason is empty where the kind says it all."""

    stream: str
    kind: Coverage
    start_at: datetime
    end_at: datetime
    zone: str
    reason: str = ""

    def __post_init__(self) -> None:
        check_time_range(self.start_at, self.end_at)


def merge_coverage(last: CoverageInterval, new: CoverageInterval, max_gap_s: float) -> CoverageInterval | None:
    """One interval for both when they differ in time only and lie at most `max_gap_s` apart, else None.

    Order does not matter: a late, older interval that touches extends `last` backwards, one inside it changes nothing,
    and one that does not touch is to be stored on its own.
    """
    if replace(new, start_at=last.start_at, end_at=last.end_at) != last:
        return None
    if max(last.start_at, new.start_at) - min(last.end_at, new.end_at) > timedelta(seconds=max_gap_s):
        return None
    return replace(last, start_at=min(last.start_at, new.start_at), end_at=max(last.end_at, new.end_at))


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of a job for the local date `day`. outcome and ended_at: None while it goes on. details: counts and figures."""

    id: int
    job: str
    day: date
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it goes on, and where that is not known: it was interrupted, or the clock was set back."""
        took = None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()
        return None if took is None or took < 0 or self.details.get("interrupted") else took


class TimelineSource(Protocol):
    """As `TimelineReader` does each of these."""

    def segments_between(self, start: datetime, end: datetime) -> list[SegmentRecord]:
        """The segments that overlap [start, end), by start. Both moments in UTC."""

    def predicted_segments_between(self, start: datetime, end: datetime) -> list[PredictedSegment]:
        """What the model said of those of them that are judged."""

    def corrected_between(self, start: datetime, end: datetime) -> list[SegmentRecord]:
        """Those of them that the person has said something of."""

    def segment(self, segment_id: int) -> SegmentRecord | None:
        """The segment of that number, if there is one."""

    def coverage_between(self, start: datetime, end: datetime) -> list[CoverageInterval]:
        """The coverage that overlaps [start, end), by start."""

    def checkins_between(self, start: datetime, end: datetime) -> list[CheckIn]:
        """What the person said of how they felt, by time."""

    def prompts_between(self, start: datetime, end: datetime) -> list[Prompt]:
        """When they were asked, by time."""

    def job_runs(self, limit: int, job: str | None = None) -> list[JobRun]:
        """The last runs of the monitor's jobs, newest first."""

    def job_runs_between(self, start: datetime, end: datetime) -> list[JobRun]:
        """The runs that began in [start, end), by start."""

    def voice_references(self) -> list[VoiceReference] | None:
        """What is known of the voice, the last heard first; None where that is not told."""

    def earliest(self) -> datetime | None:
        """When the first segment or coverage begins."""

    def close(self) -> None:
        """Let go of it."""
