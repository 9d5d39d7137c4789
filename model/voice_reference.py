"""The reference of one person's voice: what is subtracted from the encoder's states so that a voice is compared with itself.

A segment's state is taken as: what is common to all + what its emotion adds + what the voice adds + the rest. The reference estimates
what the voice adds. What the emotions add is taken off first, as far as the model's own posteriors tell them, so that a month of sadness
does not become the zero that sadness is measured from (the offsets are those of train/learning/voice_model.py).

A monitor keeps and adds the sums without knowing what they mean; which of them belong together, a bundle's `voice_space` says. They are
means of encoder states: no sound and no words can be had from them.
D encoder width, L letters of the bundle, K = D + L numbers are summed for each segment.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from model.audio import Float32

_HEAD = struct.Struct("<2d")
# Chosen on voices and corpora left out, with references of mostly neutral speech, of all emotions alike, and of one emotion alone.
_TRUST, _NEUTRAL_SHARE = 0.8, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class VoiceSums:
    """What some segments of one person add to the reference of their voice. Adds up with +.

    segments: how many, 0 and up; it may be weighted. speech_s: seconds of them. sums: float32 (K,): of each segment's mean state (D,), and
    of how much it is held to be of each letter (L,).
    """

    segments: float
    speech_s: float
    sums: Float32

    def __add__(self, other: "VoiceSums") -> "VoiceSums":
        """Both together. Raises ValueError for sums of different lengths, which are of different voice spaces."""
        if self.sums.shape != other.sums.shape:
            raise ValueError(f"sums of {len(self.sums)} and of {len(other.sums)} numbers do not add up")
        return VoiceSums(self.segments + other.segments, self.speech_s + other.speech_s, self.sums + other.sums)

    def to_bytes(self) -> bytes:
        """segments and speech_s as float64, then the sums as float32, all little-endian."""
        return _HEAD.pack(self.segments, self.speech_s) + self.sums.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises ValueError for anything that it did not write."""
        if len(data) <= _HEAD.size or (len(data) - _HEAD.size) % 4:
            raise ValueError(f"{len(data)} bytes are no sums of a voice")
        segments, speech_s = _HEAD.unpack_from(data)
        sums = np.frombuffer(data, "<f4", offset=_HEAD.size).astype(np.float32)
        if not (np.isfinite([segments, speech_s]).all() and np.isfinite(sums).all()) or segments < 0 or speech_s < 0:
            raise ValueError("the sums of a voice hold what is no number, or less than nothing")
        return cls(segments, speech_s, sums)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSettings:
    """How a bundle makes a shift of sums.

    prior_segments: times ratio; over 1, a voice is learned more slowly. population_mean: float32 (D,), the mean state of all voices.
    emotion_offsets: float32 (L, D), what each letter adds to the states of any voice. ratio: float32 (D,), how many segments it takes, in
    each channel, until a voice's own mean counts as much as what is known of all voices.
    """

    prior_segments: float
    population_mean: Float32
    emotion_offsets: Float32
    ratio: Float32

    def sums_of(self, state: Float32, posterior: Sequence[float], speech_s: float, neutral: int | None) -> VoiceSums:
        """What one segment adds: its mean state (D,) and its posterior (L,). neutral: the place of neutral among the letters.

        Posteriors of a voice that is not known yet are trusted in part; for the rest, half of speech is taken for neutral.
        """
        expected = np.full(len(self.emotion_offsets), 1 / len(self.emotion_offsets), np.float32)
        if neutral is not None:
            expected = np.full(len(expected), (1 - _NEUTRAL_SHARE) / (len(expected) - 1), np.float32)
            expected[neutral] = _NEUTRAL_SHARE
        held = _TRUST * np.asarray(posterior, np.float32) + (1 - _TRUST) * expected
        return VoiceSums(1.0, speech_s, np.concatenate([state, held]).astype(np.float32))


def voice_shift(sums: VoiceSums | None, settings: ReferenceSettings) -> Float32:
    """What is subtracted from every encoder state of the person, float32 (D,); zeros without sums.

    In each channel it is shrunk towards nothing by n / (n + prior_segments * ratio), n segments: with 1, the best linear estimate where
    voices and segments vary normally. Raises ValueError for sums of another voice space.
    """
    letters, width = settings.emotion_offsets.shape
    if sums is None or sums.segments <= 0:
        return np.zeros(width, np.float32)
    if sums.sums.shape != (width + letters,):
        raise ValueError(f"the bundle takes sums of {width + letters} numbers, these have {len(sums.sums)}")
    known = np.float32(sums.segments) * settings.population_mean + sums.sums[width:] @ settings.emotion_offsets
    rest = sums.sums[:width] - known
    return (rest / (np.float32(sums.segments) + np.float32(settings.prior_segments) * settings.ratio)).astype(np.float32)
