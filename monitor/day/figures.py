"""Figures of a stretch of time beyond seconds and shares: how affect moved in it, the longest run, how the voice sounded.

Plain frozen records; `dynamics.py`, `affect.py` and `summarizing.py` make them. Knows no database and no numpy.
"""

from dataclasses import dataclass
from datetime import datetime

from model.types import Emotion


@dataclass(frozen=True, slots=True)
class Quartiles:
    """A quarter of the values lies under `low`, half under `median`, three quarters under `high`."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
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
    valence: Spread
    arousal: Spread


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring segments of one emotion. seconds: of speech, while start_at to end_at (aware UTC) includes the pauses between."""

    emotion: Emotion
    segments: int
    seconds: float
    start_at: datetime
    end_at: datetime


@dataclass(frozen=True, slots=True)
class VoiceFigures:
    """How the voice sounded, segment by segment: RMS level in dB re full scale, and median pitch in Hz.

    segments: how many were measured. Loudness depends on the microphone, its gain and the distance, so it compares days of one
    set-up only.
    """

    segments: int
    loudness_db: Quartiles | None
    pitch_hz: Quartiles | None
