"""Mixup: every example of a batch blended with another of it (Zhang et al., 2018).

B examples; inputs are padded, batch first.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
