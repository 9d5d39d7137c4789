"""Batches for nano: features of every clip at several speeds, computed once, kept on disk, augmented anew at each draw.

F feature frames, B batch. Letters are drawn uniformly inside each corpus, so that neutral does not drown the rest.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.audio import SAMPLE_RATE, read_audio
from model.features import N_MELS, N_RAW, analyse, normalise
from model.types import Emotion
from train.corpora import Utterance

logger = logging.getLogger(__name__)

_MIN_FRAMES = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """features (B, F, N_FEATURES), lengths (B,), targets (B, L): a distribution over letters for each clip."""

    features: Tensor
    lengths: Tensor
    targets: Tensor


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


class Sampler:
    """Draws augmented batches from several corpora in fixed shares, letters uniform inside each."""

    def __init__(
        self,
        store: FeatureStore,
        parts: Sequence[tuple[int, Sequence[Utterance]]],
        letters: Sequence[Emotion],
        seed: int,
    ) -> None:
        self._store = store
        self._letters = list(letters)
        self._rng = np.random.default_rng(seed)
        self._parts: list[tuple[int, list[list[Utterance]]]] = []
        for share, utterances in parts:
            by_letter: dict[Emotion, list[Utterance]] = defaultdict(list)
            for utterance in utterances:
                assert utterance.emotion is not None
                by_letter[utterance.emotion].append(utterance)
            self._parts.append((share, list(by_letter.values())))

    def draw(self, size: int) -> Batch:
        """A batch of `size` clips; targets are one-hot."""
        shares = np.array([share for share, _ in self._parts], dtype=float)
        corpora = self._rng.choice(len(self._parts), size=size, p=shares / shares.sum())
        clips = [self._pick(self._parts[corpus][1]) for corpus in corpora]
        features = [self._view(clip) for clip in clips]
        labels = torch.tensor([self._letters.index(clip.emotion) for clip in clips if clip.emotion is not None])
        targets = torch.nn.functional.one_hot(labels, len(self._letters)).float()
        return Batch(pad_sequence(features, batch_first=True), torch.tensor([len(f) for f in features]), targets)

    def mixup(self, batch: Batch, alpha: float) -> Batch:
        """Blend every clip with another of the batch, share drawn from Beta(alpha, alpha) (Zhang et al., 2018)."""
        share = float(self._rng.beta(alpha, alpha))
        order = torch.from_numpy(self._rng.permutation(len(batch.lengths)))
        return Batch(
            share * batch.features + (1 - share) * batch.features[order],
            torch.maximum(batch.lengths, batch.lengths[order]),
            share * batch.targets + (1 - share) * batch.targets[order],
        )

    def chance(self, probability: float) -> bool:
        """One draw of a coin, from the same source of randomness."""
        return bool(self._rng.random() < probability)

    def _pick(self, by_letter: list[list[Utterance]]) -> Utterance:
        clips = by_letter[self._rng.integers(len(by_letter))]
        return clips[self._rng.integers(len(clips))]

    def _view(self, clip: Utterance) -> Tensor:
        """One augmented view: speed, crop, noise, then band and time masks on the normalised features."""
        raw = self._store.raw(clip, int(self._rng.integers(len(self._store.speeds))))
        if self.chance(0.5):
            kept = max(_MIN_FRAMES, int(len(raw) * self._rng.uniform(0.7, 1.0)))
            start = int(self._rng.integers(max(1, len(raw) - kept + 1)))
            raw = raw[start : start + kept]
        if self.chance(0.15):
            raw = self._add_noise(raw)
        features = normalise(raw)
        band, width = int(self._rng.integers(N_MELS)), int(self._rng.integers(8))
        features[:, band : min(N_MELS, band + width)] = 0
        hidden = int(self._rng.uniform(0, 0.1) * len(features))
        start = int(self._rng.integers(max(1, len(features) - hidden)))
        features[start : start + hidden] = 0
        return features

    def _add_noise(self, raw: Tensor) -> Tensor:
        """Stationary noise with a random spectral slope at 5 to 20 dB SNR, added as power in the mel bands."""
        power = raw[:, :N_MELS].exp()
        slope = torch.linspace(0, float(self._rng.uniform(-6, 2)), N_MELS).exp()
        flicker = torch.from_numpy(self._rng.exponential(1.0, size=power.shape)).float()
        noise = slope * flicker
        ratio = 10 ** (-float(self._rng.uniform(5, 20)) / 10)
        noise = noise * (power.mean() * ratio / noise.mean())
        return torch.cat([(power + noise).log(), raw[:, N_MELS:]], dim=1)
