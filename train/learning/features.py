"""nano's features of every clip at several speeds, computed once, kept on disk, and augmented anew at each look.

F feature frames.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from model.audio import SAMPLE_RATE, read_audio
from model.features import N_MELS, N_RAW, analyse, normalise
from train.corpora.manifest import Utterance

logger = logging.getLogger(__name__)

_MIN_FRAMES = 20
_CROP_CHANCE = 0.5
_NOISE_CHANCE = 0.15


class FeatureStore:
    """Raw features of utterances at each speed, in one memory-mapped file under `folder`, made where it is missing."""

    def __init__(self, folder: Path, utterances: Sequence[Utterance], speeds: Sequence[float]) -> None:
        self._utterances = list(utterances)
        self._index = {utterance.path: i for i, utterance in enumerate(self._utterances)}
        self.speeds = list(speeds)
        key = hashlib.sha256(repr([(str(u.path), self.speeds) for u in self._utterances]).encode()).hexdigest()[:12]
        self._path = folder / f"features-{key}.npy"
        if not self._path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._compute()
        self._rows = np.load(self._path, mmap_mode="r")
        self._bounds = np.load(self._path.with_suffix(".bounds.npy"))

    def raw(self, utterance: Utterance, speed: int = 0) -> Tensor:
        """Raw features (F, N_RAW) of an utterance at `speeds[speed]`."""
        slot = self._index[utterance.path] * len(self.speeds) + speed
        return torch.from_numpy(np.array(self._rows[self._bounds[slot] : self._bounds[slot + 1]]))

    def frames(self, utterance: Utterance) -> int:
        """F of an utterance as recorded."""
        slot = self._index[utterance.path] * len(self.speeds)
        return int(self._bounds[slot + 1] - self._bounds[slot])

    def view(self, utterance: Utterance, rng: np.random.Generator) -> Tensor:
        """One augmented view (F, N_FEATURES): speed, crop, noise, then a band and a time mask on the normalised features."""
        raw = self.raw(utterance, int(rng.integers(len(self.speeds))))
        if rng.random() < _CROP_CHANCE:
            kept = max(_MIN_FRAMES, int(len(raw) * rng.uniform(0.7, 1.0)))
            start = int(rng.integers(max(1, len(raw) - kept + 1)))
            raw = raw[start : start + kept]
        if rng.random() < _NOISE_CHANCE:
            raw = _with_noise(raw, rng)
        return _masked(normalise(raw), rng)

    def _compute(self) -> None:
        pieces: list[np.ndarray] = []
        for number, utterance in enumerate(self._utterances):
            audio = read_audio(utterance.path)
            for speed in self.speeds:
                played = audio if speed == 1.0 else soxr.resample(audio, SAMPLE_RATE * speed, SAMPLE_RATE)
                pieces.append(analyse(torch.from_numpy(played.astype(np.float32))).numpy())
            if number % 500 == 0:
                logger.info("features: %d of %d clips", number, len(self._utterances))
        bounds = np.cumsum([0] + [len(piece) for piece in pieces])
        np.save(self._path.with_suffix(".bounds.npy"), bounds)
        partial = self._path.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(pieces) if pieces else np.zeros((0, N_RAW), np.float32))
        partial.rename(self._path)


def _masked(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Hide up to 8 bands and up to a tenth of the time (Park et al., 2019)."""
    band, width = int(rng.integers(N_MELS)), int(rng.integers(8))
    features[:, band : min(N_MELS, band + width)] = 0
    hidden = int(rng.uniform(0, 0.1) * len(features))
    start = int(rng.integers(max(1, len(features) - hidden)))
    features[start : start + hidden] = 0
    return features


def _with_noise(raw: Tensor, rng: np.random.Generator) -> Tensor:
    """Stationary noise with a random spectral slope at 5 to 20 dB SNR, added as power in the mel bands."""
    power = raw[:, :N_MELS].exp()
    slope = torch.linspace(0, float(rng.uniform(-6, 2)), N_MELS).exp()
    flicker = torch.from_numpy(rng.exponential(1.0, size=power.shape)).float()
    noise = slope * flicker
    ratio = 10 ** (-float(rng.uniform(5, 20)) / 10)
    noise = noise * (power.mean() * ratio / noise.mean())
    return torch.cat([(power + noise).log(), raw[:, N_MELS:]], dim=1)
