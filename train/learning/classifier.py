"""Trains encoders from random weights as emotion classifiers. The classifiers serve as teachers; the encoders are frozen.

B examples. Mixup blends every example of a batch with another of it (Zhang et al., 2018); inputs are padded, batch first. Half precision
is used where the processor computes it natively; elsewhere it would be emulated, and slower.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.emotions import Emotion
from model.errors import TrainingError
from model.speech_encoder import SpeechEncoder
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart
from train.recipe import EncoderTraining
from train.workers import Progress


def has_fast_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_precision() -> AbstractContextManager[object]:
    """Autocast to bfloat16 on a CPU that is faster with it; otherwise nothing. Weights, gradients and sums stay in single precision."""
    return torch.autocast("cpu", torch.bfloat16) if has_fast_bfloat16() else nullcontext()


MIXED_CHANCE = 0.5  # of a batch to be blended at all


@dataclass(frozen=True, slots=True)
class Mixup:
    """One drawn blend of B examples: `share` (0..1) of each, the rest of the one that `order` (B,) puts in its place."""

    share: float
    order: Tensor

    @classmethod
    def drawn(cls, size: int, alpha: float, rng: np.random.Generator) -> "Mixup":
        """For B = `size`; the share comes from Beta(alpha, alpha)."""
        return cls(float(rng.beta(alpha, alpha)), torch.from_numpy(rng.permutation(size)))

    def blend(self, values: Tensor) -> Tensor:
        """Inputs or targets (B, ...)."""
        return self.share * values + (1 - self.share) * values[self.order]

    def longer(self, lengths: Tensor) -> Tensor:
        """Lengths (B,) of the blended examples: those of the longer of the two."""
        return torch.maximum(lengths, lengths[self.order])


logger = logging.getLogger(__name__)

_WARMUP_STEPS = 100
_GRADIENT_NORM = 2.0


class EmotionClassifier(nn.Module):
    """Encoder, four-head attentive statistics pooling (Okabe et al., 2018), linear layer: letter logits."""

    def __init__(self, encoder: SpeechEncoder, letters: int, dropout: float, heads: int = 4) -> None:
        super().__init__()
        self.encoder = encoder
        self.attend = nn.Linear(encoder.width, heads)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * encoder.width, encoder.width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(encoder.width, letters),
        )

    def classify(self, states: Tensor, mask: Tensor) -> Tensor:
        """Encoder states (B, T, D) and mask (B, T) to logits (B, L)."""
        weights = self.attend(states).masked_fill(~mask[:, :, None], float("-inf")).softmax(dim=1)  # (B, T, heads)
        weights = weights.repeat_interleave(states.shape[2] // weights.shape[2], dim=2)  # (B, T, D)
        mean = (weights * states).sum(dim=1)
        spread = ((weights * states.square()).sum(dim=1) - mean.square()).clamp(min=1e-5).sqrt()
        return self.head(torch.cat([mean, spread], dim=1))  # type: ignore[no-any-return]


class ClassifierEnsemble(nn.Module):
    """Classifiers of the branches of one encoder, which teach together: each hears its own branch's states."""

    def __init__(self, members: Sequence[EmotionClassifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def posterior(self, states: Tensor, mask: Tensor) -> Tensor:
        """States of all branches (B, T, D) and mask (B, T) to the mean of the members' posteriors (B, L)."""
        parts = states.chunk(len(self.members), dim=2)
        answers = [member.classify(part, mask) for member, part in zip(self.members, parts, strict=True)]  # type: ignore[operator]
        return torch.stack(answers).softmax(dim=2).mean(dim=0)


@dataclass(frozen=True, slots=True)
class ClassifierBatch:
    """inputs: padded, batch first, whatever the encoder takes; lengths (B,); targets (B, L): a distribution over letters."""

    inputs: Tensor
    lengths: Tensor
    targets: Tensor


class ClassifierInput(Protocol):
    """Where the classifier's input comes from, and how the encoder turns it into states."""

    def batch(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Padded inputs (B, ...) and lengths (B,), augmented."""

    def states(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, D) and mask (B, T), with gradients."""


class BalancedSampler:
    """Draws batches from several corpora in fixed shares, letters uniform inside each; outliers have a soft target."""

    def __init__(self, views: ClassifierInput, parts: Sequence[CorpusPart], letters: Sequence[Emotion], seed: int) -> None:
        self._views, self._letters = views, list(letters)
        self.rng = np.random.default_rng(seed)
        sources = [_Source(part, letters) for part in parts]
        self._sources = [source for source in sources if source.groups]

    def draw(self, size: int) -> ClassifierBatch:
        """A batch of `size` utterances."""
        shares = np.array([source.share for source in self._sources], dtype=float)
        drawn = [self._sources[i] for i in self.rng.choice(len(shares), size=size, p=shares / shares.sum())]
        chosen = [source.pick(self.rng) for source in drawn]
        inputs, lengths = self._views.batch(chosen, self.rng)
        targets = [source.target(utterance, self._letters) for source, utterance in zip(drawn, chosen, strict=True)]
        return ClassifierBatch(inputs, lengths, torch.tensor(targets))

    def mixed(self, batch: ClassifierBatch, alpha: float) -> ClassifierBatch:
        """Every utterance blended with another of the batch, see Mixup."""
        mixup = Mixup.drawn(len(batch.lengths), alpha, self.rng)
        return ClassifierBatch(mixup.blend(batch.inputs), mixup.longer(batch.lengths), mixup.blend(batch.targets))


class _Source:
    """One corpus to draw from: its usable utterances by letter, or outliers in one group."""

    def __init__(self, part: CorpusPart, letters: Sequence[Emotion]) -> None:
        self.share = part.share
        self._soft = part.soft_answer(letters)
        self.groups = _by_letter(part.utterances, letters) if self._soft is None else [part.utterances] * bool(part.utterances)

    def pick(self, rng: np.random.Generator) -> Utterance:
        group = self.groups[rng.integers(len(self.groups))]
        return group[rng.integers(len(group))]

    def target(self, utterance: Utterance, letters: Sequence[Emotion]) -> list[float]:
        return self._soft or [float(letter == utterance.emotion) for letter in letters]


def train_classifier(
    encoder: SpeechEncoder, views: ClassifierInput, sampler: BalancedSampler, letters: int, recipe: EncoderTraining
) -> EmotionClassifier:
    """Train for a fixed number of steps; returns the averaged weights in eval mode, frozen."""
    model = EmotionClassifier(encoder, letters, recipe.dropout)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    warmup = min(0.3, _WARMUP_STEPS / recipe.steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=warmup)
    with Progress("encoder", recipe.steps) as progress:
        for step in range(recipe.steps):
            batch = sampler.draw(recipe.batch)
            if sampler.rng.random() < MIXED_CHANCE:
                batch = sampler.mixed(batch, recipe.mixup)
            with fast_precision():
                logits = model.classify(*views.states(batch.inputs, batch.lengths)).float()
            loss = nn.functional.cross_entropy(logits, batch.targets, label_smoothing=recipe.label_smoothing)
            if not bool(torch.isfinite(loss)):
                raise TrainingError(
                    f"the encoder's loss is not a number at step {step + 1}; look at the corpora's files, or lower [encoder] learning_rate"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            progress.advance(step, loss.item())
    trained = average.module
    assert isinstance(trained, EmotionClassifier)
    trained.encoder.freeze()
    return trained.eval().requires_grad_(False)


def _by_letter(utterances: Sequence[Utterance], letters: Sequence[Emotion]) -> list[list[Utterance]]:
    groups: dict[Emotion, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.emotion is not None and utterance.emotion in letters:
            groups[utterance.emotion].append(utterance)
    return list(groups.values())
