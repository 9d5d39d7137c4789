"""What a night's training hears: encoder states of the person's segments in several views, and of the public clips it rehearses.

All are in memory, because a person's speech does not lie on a disk. T encoder states, D encoder width, L letters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.audio import SAMPLE_RATE, Float32, Int16, pcm16_to_float
from model.encoder import SpeechEncoder
from train.corpora.manifest import Utterance
from train.learning.examples import Example
from train.learning.hearing import Heard

_SPEEDS = (0.92, 1.08)
_KEPT = (0.7, 1.0)
_NOISE_DB = (15.0, 30.0)
_LEAST_SAMPLES = SAMPLE_RATE // 2
_AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Heardable:
    """One utterance to be learned from. views: states (T, D) of each. target (L,): what is to be answered, a distribution.

    offset (L,): see Heard.
    """

    views: Sequence[Tensor]
    target: Tensor
    offset: Tensor


class NightHearing:
    """Hands out what was encoded beforehand, by the utterance's path, which is a name and no file."""

    def __init__(self, encoder: SpeechEncoder, known: Mapping[Path, Heardable]) -> None:
        self.encoder = encoder
        self._known = known

    def length(self, utterance: Utterance) -> float:
        """Encoder states."""
        return len(self._known[utterance.path].views[0])

    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> Heard:
        """See Hearing; which view is the example's seed's to say. Nothing is blended."""
        assert not mixup
        found = [self._known[example.utterance.path] for example in examples]
        rows = [one.views[example.seed % len(one.views)] for one, example in zip(found, examples, strict=True)]
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        targets, offsets = (torch.stack(parts) for parts in ([one.target for one in found], [one.offset for one in found]))
        return Heard(pad_sequence(rows, batch_first=True), mask, targets, offsets)


def views_of(pcm: Int16, count: int, rng: np.random.Generator) -> list[Float32]:
    """A segment (N,) as it was, and count - 1 times a little faster or slower, cut shorter, in a little noise."""
    audio = pcm16_to_float(pcm)
    return [audio, *(_another(audio, rng) for _ in range(count - 1))]


@torch.no_grad()
def encoded(encoder: SpeechEncoder, clips: Sequence[Float32]) -> list[Tensor]:
    """States (T, D) of each clip (N,)."""
    found: list[Tensor] = []
    for first in range(0, len(clips), _AT_ONCE):
        states, mask = encoder([torch.from_numpy(clip) for clip in clips[first : first + _AT_ONCE]])
        found += [row[real].cpu() for row, real in zip(states, mask, strict=True)]
    return found


def _another(audio: Float32, rng: np.random.Generator) -> Float32:
    played = np.asarray(soxr.resample(audio, SAMPLE_RATE * rng.uniform(*_SPEEDS), SAMPLE_RATE), dtype=np.float32)
    kept = min(len(played), max(_LEAST_SAMPLES, int(len(played) * rng.uniform(*_KEPT))))
    start = int(rng.integers(len(played) - kept + 1))
    piece = played[start : start + kept]
    level = float(np.sqrt(np.mean(np.square(piece)))) * 10 ** (-rng.uniform(*_NOISE_DB) / 20)
    return np.asarray(piece + rng.normal(scale=max(level, 1e-6), size=len(piece)), dtype=np.float32)
