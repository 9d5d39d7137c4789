"""The reference of one person's voice: what is subtracted from the encoder's states so that a voice is compared with itself.

K numbers are summed for each segment, D is the encoder's width. The sums are means of encoder states: no sound and no words can be had from
them. A monitor keeps and adds them without knowing what they mean; which of them belong together, a bundle's `voice_space` says.
"""

import struct
from dataclasses import dataclass
from typing import Self

import numpy as np

from model.audio import Float32

_HEAD = struct.Struct("<2d")


@dataclass(frozen=True, slots=True, eq=False)
class VoiceSums:
    """What some segments of one person add to the reference of their voice. Adds up with +.

    segments: how many, 0 and up; it may be weighted. speech_s: seconds of them. sums: float32 (K,), of the mean state of each segment.
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

    prior_segments: how many segments the population counts for, above 0. population_mean: float32 (K,), the mean state of all speakers.
    """

    prior_segments: float
    population_mean: Float32


def shift_of(sums: VoiceSums | None, settings: ReferenceSettings) -> Float32:
    """What is subtracted from every encoder state of the person, float32 (D,); zeros without sums.

    It is the person's mean state against the population's, shrunk towards nothing while there are few segments. Raises ValueError for sums
    of another voice space.
    """
    if sums is None:
        return np.zeros_like(settings.population_mean)
    if sums.sums.shape != settings.population_mean.shape:
        raise ValueError(f"the bundle takes sums of {len(settings.population_mean)} numbers, these have {len(sums.sums)}")
    apart = sums.sums - np.float32(sums.segments) * settings.population_mean
    return (apart / np.float32(sums.segments + settings.prior_segments)).astype(np.float32)
