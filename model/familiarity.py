"""How unlike training speech an utterance is, so that a model is as unsure about what it never learned as it should be.

Training states fill a subspace of few dimensions; what lies outside of it is another language, room, voice or no speech at all. The mean
square of that part, against what it is for training speech, multiplies the temperature. On corpora left out, confidence then fits accuracy
where one temperature for all is far off (train/LOG.md). The residual of a principal subspace as a sign of the unknown: Jackson and
Mudholkar (1979), Technometrics 21, 341-349; Wang et al. (2022), "ViM", CVPR.
B batch, D encoder width, K dimensions of the subspace.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import BundleError

FAMILIARITY = "familiarity.safetensors"

_LEAST, _MOST = 0.5, 20.0
"""Bounds of the distance: silence and clipped noise must neither be certain nor overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """basis (K, D): orthonormal rows, in half precision; centre (D,): mean of training states; usual: their mean squared residual."""

    basis: Tensor
    centre: Tensor
    usual: float

    @classmethod
    def fit(cls, states: Tensor, dimensions: int = 64) -> Self:
        """The principal subspace of training states (n, D); of fewer dimensions where there are few states."""
        centre = states.mean(dim=0)
        apart = states - centre
        _, _, rows = torch.linalg.svd(apart, full_matrices=False)
        basis = rows[: min(dimensions, max(1, len(states) // 4))].half().contiguous()
        return cls(basis, centre, float(_residual(apart, basis.float()).mean().clamp(min=1e-6)))

    @torch.inference_mode()
    def distance(self, states: Tensor) -> Tensor:
        """Mean states of utterances (B, D), the reference of the voice subtracted, to (B,): 1 for training speech, more for others."""
        return (_residual(states.float() - self.centre, self.basis.float()) / self.usual).clamp(_LEAST, _MOST)

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        tensors = {"basis": self.basis, "centre": self.centre, "usual": torch.tensor([self.usual])}
        save_file(tensors, folder / FAMILIARITY)

    @classmethod
    def load(cls, folder: Path, width: int) -> Self | None:
        """Of a bundle whose encoder is `width` wide; None where it has none. Raises BundleError for a damaged one."""
        path = folder / FAMILIARITY
        if not path.exists():
            return None
        try:
            known = load_file(path)
            basis, centre, usual = known["basis"], known["centre"].float(), float(known["usual"])
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise BundleError(f"{path} is damaged: {error}; get the bundle again") from error
        finite = bool(torch.isfinite(basis).all() and torch.isfinite(centre).all()) and 0 < usual < float("inf")
        if basis.ndim != 2 or basis.shape[1] != width or centre.shape != (width,) or not finite:
            raise BundleError(f"{path} must hold finite numbers, {width} wide, as its encoder's states are; get the bundle again")
        return cls(basis, centre, usual)


def _residual(apart: Tensor, basis: Tensor) -> Tensor:
    """Mean square (B,) of what of (B, D) lies outside the span of `basis` (K, D)."""
    return (apart - (apart @ basis.T) @ basis).square().mean(dim=1)
