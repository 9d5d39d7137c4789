"""Loudness, pitch, pitch range, jitter and shimmer of one utterance, and their words in a prompt (paper, A.3 and B.5).

Knows Praat's measures, the terciles of a training set and the text made of them; knows nothing of emotions, corpora or chat templates.
Praat comes as praat-parselmouth, which is large and under the GPL-3.0: it is imported only where features are measured.

Loudness is relative to full scale, so it depends on microphone, distance and gain: it compares recordings of one set-up only, and
terciles fitted on one set-up say nothing about another. The other four do not change with gain. Jitter and shimmer grow with
background noise, and in running speech also with intonation and syllables: they are cues, not a clinical measure of the voice.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat

from model.errors import TrainingError
from model.extras import require

if TYPE_CHECKING:
    from model.audio import Float32

# Feature, as the prompt names it, to field of Measured and Terciles.
_FIELDS = {"loudness": "loudness", "pitch": "pitch", "pitch range": "pitch_range", "jitter": "jitter", "shimmer": "shimmer"}
VOICE_FEATURES = tuple(_FIELDS)

DESCRIPTION_INTRODUCTIONS = (
    "Measured in the voice:",
    "This is how the voice sounds:",
    "Some acoustic measures of the utterance:",
    "The voice compared with that of other speakers:",
    "What an acoustic analysis of the speech found:",
)

# -120 dB: under the rounding noise of 16 bits, so nothing but digital silence.
_SILENCE_POWER = 1e-12
# Praat's standard range, wide enough for low men's and agitated women's voices. Autocorrelation is as exact as cross-correlation for
# this and takes a quarter of the time; the glottal pulses that jitter and shimmer need are then placed by cross-correlation.
_PITCH_FLOOR_HZ = 75.0
_PITCH_CEILING_HZ = 600.0
# One pitch frame is 10 ms; fewer than these are as likely a click as a voice.
_MIN_VOICED_FRAMES = 5
# Praat's defaults for local jitter and shimmer: periods of 0.1 to 20 ms, neighbours at most 1.3 times as long and 1.6 times as loud.
_PERIODS = (0.0, 0.0, 1e-4, 0.02, 1.3)
_MAX_AMPLITUDE_FACTOR = 1.6
_MIN_VALUES = 3


class FeatureLevel(StrEnum):
    """Which third of the training set a value falls into; the value is the word in the prompt."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class VoiceMeasurement:
    """One utterance's features; None where one cannot be measured, because nothing is voiced or the sound is too short.

    loudness: mean energy without DC in dB re a square wave of full scale, -120 to 0. pitch: mean F0 of the voiced frames in Hz,
    75 to 600. pitch_range: 5th to 95th percentile of F0 in semitones. jitter, shimmer: Praat's local measures, the mean
    difference between the lengths, or amplitudes, of neighbouring periods over the mean, as a ratio (0.01 is 1 %).
    """

    loudness: float | None
    pitch: float | None
    pitch_range: float | None
    jitter: float | None
    shimmer: float | None


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]} lies over the upper bound {bounds[1]}")
    return bounds


Bounds = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ordered)]


class Terciles(BaseModel):
    """For each feature the two values between which the middle third of a training set lies, in the units of Measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loudness: Bounds
    pitch: Bounds
    pitch_range: Bounds
    jitter: Bounds
    shimmer: Bounds

    @classmethod
    def fit(cls, measured: Sequence[VoiceMeasurement]) -> Self:
        """Bounds that cut each feature's measured values into thirds that differ by one at most, where no two values are equal.

        Raises TrainingError when a feature was measured in fewer than three utterances.
        """
        return cls.model_validate({field: _bounds(feature, field, measured) for feature, field in _FIELDS.items()})

    def levels(self, measured: VoiceMeasurement) -> dict[str, FeatureLevel]:
        """Feature to level, in the order of FEATURES; what was not measured is absent."""
        values = {feature: getattr(measured, field) for feature, field in _FIELDS.items()}
        return {feature: _level(value, getattr(self, _FIELDS[feature])) for feature, value in values.items() if value is not None}


def measure_voice(audio: "Float32") -> VoiceMeasurement:
    """Measure float32 (N,) in [-1, 1) at SAMPLE_RATE, of any length. No value is ever NaN or infinite, and no sound is an error."""
    from model.audio import SAMPLE_RATE

    samples = audio.astype("float64")
    loudness = _loudness(samples)
    # Praat's pitch analysis takes windows of three periods of the lowest pitch and refuses anything shorter than one.
    if loudness is None or len(samples) < 3 * SAMPLE_RATE / _PITCH_FLOOR_HZ:
        return VoiceMeasurement(loudness, None, None, None, None)
    return VoiceMeasurement(loudness, *_voice(samples, SAMPLE_RATE))


def describe_voice(
    levels: Mapping[str, FeatureLevel], gender: str | None = None, intro: int = 0, order: Sequence[str] | None = None
) -> str:
    """The supplementary text z of a prompt (paper, B.5): the speaker's gender if known, an introduction, a line per feature.

    intro: which of INTRODUCTIONS. order: features of FEATURES, each at most once, FEATURES itself if None; those without a level
    and levels it does not name are left out. "" when there is nothing to say. Raises ValueError for an order of anything else.
    """
    chosen = VOICE_FEATURES if order is None else tuple(order)
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(VOICE_FEATURES):
        raise ValueError(f"the order {list(chosen)} must name features of {', '.join(VOICE_FEATURES)}, each at most once")
    lines = [f"- {feature}: {levels[feature]}" for feature in chosen if feature in levels]
    about = [f"Gender of the speaker: {gender}."] if gender else []
    return "\n".join([*about, DESCRIPTION_INTRODUCTIONS[intro], *lines] if lines else about)


def _loudness(samples: Any) -> float | None:
    power = float(samples.var()) if len(samples) else 0.0
    return 10.0 * math.log10(power) if power > _SILENCE_POWER else None


def _voice(samples: Any, rate: int) -> tuple[float | None, float | None, float | None, float | None]:
    """Pitch, pitch range, jitter and shimmer of float64 (N,), N no shorter than one window of pitch analysis."""
    require("parselmouth")
    import parselmouth

    sound = parselmouth.Sound(samples, rate)
    pitch = sound.to_pitch_ac(pitch_floor=_PITCH_FLOOR_HZ, pitch_ceiling=_PITCH_CEILING_HZ)
    f0 = [float(hz) for hz in pitch.selected_array["frequency"] if hz > 0]
    if len(f0) < _MIN_VOICED_FRAMES:
        return None, None, None, None
    percentiles = statistics.quantiles(f0, n=20, method="inclusive")
    pulses = parselmouth.praat.call([sound, pitch], "To PointProcess (cc)")
    jitter = parselmouth.praat.call(pulses, "Get jitter (local)", *_PERIODS)
    shimmer = parselmouth.praat.call([sound, pulses], "Get shimmer (local)", *_PERIODS, _MAX_AMPLITUDE_FACTOR)
    return statistics.fmean(f0), 12.0 * math.log2(percentiles[-1] / percentiles[0]), _finite(jitter), _finite(shimmer)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bounds(feature: str, field: str, measured: Sequence[VoiceMeasurement]) -> tuple[float, float]:
    values = sorted(value for value in (getattr(one, field) for one in measured) if value is not None)
    if len(values) < _MIN_VALUES:
        raise TrainingError(
            f"{feature} could be measured in {len(values)} of {len(measured)} utterances and terciles need {_MIN_VALUES}: "
            "train on more voiced speech, or without paralinguistic features"
        )
    outer = round(len(values) / 3)
    return values[outer], values[-1 - outer]


def _level(value: float, bounds: tuple[float, float]) -> FeatureLevel:
    if value < bounds[0]:
        return FeatureLevel.LOW
    return FeatureLevel.HIGH if value > bounds[1] else FeatureLevel.MEDIUM
