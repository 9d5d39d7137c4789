"""Trains nano's encoder as an emotion classifier. The classifier stays behind as a teacher; the encoder is frozen and released."""

import logging

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.encoder import NanoEncoder
from train.dataset import Sampler
from train.recipe import EncoderRecipe

logger = logging.getLogger(__name__)

_BATCH = 16
_WARMUP_STEPS = 100
_GRADIENT_NORM = 2.0


class Classifier(nn.Module):
    """Encoder, four-head attentive statistics pooling (Okabe et al., 2018), linear layer: letter logits."""

    def __init__(self, encoder: NanoEncoder, letters: int, dropout: float, heads: int = 4) -> None:
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

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, F, N_FEATURES) and lengths (B,) to logits (B, letters)."""
        return self.classify(*self.encoder.states(features, lengths))

    def classify(self, states: Tensor, mask: Tensor) -> Tensor:
        """Encoder states (B, T, D) and mask (B, T) to logits (B, letters)."""
        weights = self.attend(states).masked_fill(~mask[:, :, None], float("-inf")).softmax(dim=1)  # (B, T, heads)
        weights = weights.repeat_interleave(states.shape[2] // weights.shape[2], dim=2)  # (B, T, D)
        mean = (weights * states).sum(dim=1)
        spread = ((weights * states.square()).sum(dim=1) - mean.square()).clamp(min=1e-5).sqrt()
        return self.head(torch.cat([mean, spread], dim=1))  # type: ignore[no-any-return]


def train_classifier(sampler: Sampler, letters: int, recipe: EncoderRecipe) -> Classifier:
    """Train from random weights for a fixed number of steps; returns the averaged weights in eval mode, frozen."""
    model = Classifier(NanoEncoder(), letters, recipe.dropout)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.steps, pct_start=min(0.3, _WARMUP_STEPS / recipe.steps)
    )
    for step in range(recipe.steps):
        batch = sampler.draw(_BATCH)
        if sampler.chance(0.5):
            batch = sampler.mixup(batch, recipe.mixup)
        loss = nn.functional.cross_entropy(model(batch.features, batch.lengths), batch.targets, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        if step % 200 == 0:
            logger.info("encoder: step %d of %d, loss %.3f", step, recipe.steps, loss.item())
    trained = average.module
    assert isinstance(trained, Classifier)
    trained.encoder.freeze()
    return trained.eval().requires_grad_(False)
