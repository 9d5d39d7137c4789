"""nano's features of every clip in all its views, augmented anew at each look.

F feature frames.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.audio import Float32
from model.features import N_MELS, analyse, normalise
from train.corpora.manifest import Utterance
from train.learning.views import Augmentation, Extract, Rows, ViewStore

_MIN_FRAMES = 20
_MAX_FRAMES = 130  # 2.6 s: longer clips are seen in pieces, so that batches are small
_CROP_CHANCE = 0.5
_CURVE, _CURVE_RIPPLES = 0.5, 4  # 2.2 dB each


class FeatureStore(ViewStore):
    """Raw features (F, N_RAW) of all views of utterances."""

    def __init__(self, folder: Path, utterances: Sequence[Utterance], augmentation: Augmentation) -> None:
        super().__init__(folder, "features", utterances, augmentation, _make_extract)

    def view(self, utterance: Utterance, rng: np.random.Generator) -> Tensor:
        """One augmented view (F, N_FEATURES), at most 2.6 s: speed or room, crop, microphone, then a band and a time mask."""
        raw = self.rows(utterance, self.augmentation.draw(rng))
        kept = len(raw)
        if rng.random() < _CROP_CHANCE:
            kept = max(_MIN_FRAMES, int(kept * rng.uniform(0.7, 1.0)))
        kept = min(kept, _MAX_FRAMES)
        start = int(rng.integers(max(1, len(raw) - kept + 1)))
        return _masked(normalise(_through_another_microphone(raw[start : start + kept], rng)), rng)


def _make_extract() -> Extract:
    return _raw


def _raw(audio: Float32) -> Rows:
    return analyse(torch.from_numpy(audio)).numpy().astype(np.float16)


def _through_another_microphone(raw: Tensor, rng: np.random.Generator) -> Tensor:
    """The log-mel bands with a smooth curve on them, a few dB up and down, as microphones and places in a room differ."""
    places = torch.linspace(0, math.pi, N_MELS)
    curve = sum(float(rng.normal(scale=_CURVE)) * torch.cos(ripples * places) for ripples in range(1, _CURVE_RIPPLES + 1))
    raw[:, :N_MELS] += curve
    return raw


def _masked(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Hide up to 8 bands and up to a tenth of the time (Park et al., 2019)."""
    band, width = int(rng.integers(N_MELS)), int(rng.integers(8))
    for channel in (0, N_MELS):
        features[:, channel + band : channel + min(N_MELS, band + width)] = 0
    hidden = int(rng.uniform(0, 0.1) * len(features))
    start = int(rng.integers(max(1, len(features) - hidden)))
    features[start : start + hidden] = 0
    return features
