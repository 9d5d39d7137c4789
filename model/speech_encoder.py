"""The interface of frozen speech encoders, and how their input is batched and their output padded.

B batch, N samples, T encoder frames, D encoder width.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class SpeechEncoder(nn.Module):
    """What every encoder offers. Once frozen, parameters take no gradient and `train()` leaves it in eval mode."""

    width: int
    """D: values of a state."""
    states_per_s: float
    """T for a second of sound."""
    gains_from_gpu = False
    """Whether it is quicker on a GPU; one that is not stays on the CPU."""
    _frozen = False

    @property
    def origins(self) -> Sequence[str]:
        """Which weights of others its folder holds, each with its licence, for the model card."""
        return ()

    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """B float32 tensors (N,) in [-1, 1), of any lengths, to states (B, T, D) and a bool mask (B, T), True where real."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the encoder to a folder that `load_encoder` reads."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in eval mode: dropout or batch statistics would change what the mapper is trained on."""
        return super().train(mode and not self._frozen)

    def freeze(self) -> Self:
        """Take all parameters out of training, for good."""
        self._frozen = True
        self.requires_grad_(False)
        return self.eval()


def pad_states(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B states (T, D) of any lengths to (B, T, D), zeros after the end, and a bool mask (B, T), True where real."""
    lengths = torch.tensor([len(state) for state in states])
    padded = pad_sequence(list(states), batch_first=True)
    return padded, length_mask(lengths, padded.shape[1]).to(padded.device)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """A bool mask (B, size), True in the first `lengths` (B,) places of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def group_by_length(lengths: Sequence[int], limit: int, ratio: float = math.inf) -> list[list[int]]:
    """Places of `lengths`, shortest first, in groups whose padded size (longest x count) is at most `limit`, or single.

    ratio: how many times as long as the shortest of its group the longest may be.
    """
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and lengths[place] * (len(groups[-1]) + 1) <= limit and lengths[place] <= ratio * lengths[groups[-1][0]]:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
