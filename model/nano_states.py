"""What NanoEncoder says once it is frozen, in fewer and larger steps: half to a third of the time for one utterance.

B batch, F feature frames, T encoder frames, N branches, W a branch's width, H half of it, D = N * W. The branches' weights are stacked and
batch norms are folded into their convolutions, so all branches are one network; both directions of all GRUs are one loop over time.
tests/test_encoder.py holds it equal to the branches, within rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.features import N_MELS


class StackedBranches:
    """Branches of one NanoEncoder, in eval mode; their weights are copied and must not change any more."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        self._branches = len(branches)
        self._bands = [_folded(stages) for stages in zip(*(_stages(branch, "bands") for branch in branches), strict=True)]
        self._prosody = [_folded(stages) for stages in zip(*(_stages(branch, "prosody") for branch in branches), strict=True)]
        self._strides = [conv.stride for conv, *_ in _stages(branches[0], "bands")]
        self._join = _stacked(branches, "join.weight").transpose(1, 2)
        self._join_bias = _stacked(branches, "join.bias")[:, None]
        self._join_norm = [_stacked(branches, f"join_norm.{name}")[:, None] for name in ("weight", "bias")]
        self._context_norm = [_stacked(branches, f"context_norm.{name}")[:, None, None] for name in ("weight", "bias")]
        self._enter, self._again = (_both_ways(branches, f"weight_{which}_l0").transpose(1, 2).contiguous() for which in ("ih", "hh"))
        self._enter_bias, self._again_bias = (_both_ways(branches, f"bias_{which}_l0")[:, None] for which in ("ih", "hh"))

    def __call__(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As NanoEncoder.states: features (B, F, N_FEATURES), of which `lengths` (B,) are real, to states (B, T, D) and mask (B, T)."""
        bands, frames = self._heard_in_bands(features, lengths)
        line = self._heard_in_prosody(features, lengths)
        batch, time = len(features), bands.shape[3]
        parts = [part.reshape(batch, self._branches, -1, time) for part in (bands, line)]
        joined = torch.cat(parts, dim=2).permute(1, 0, 3, 2).reshape(self._branches, batch * time, -1)
        states = _normalised(torch.baddbmm(self._join_bias, joined, self._join), self._join_norm)
        states = states.view(self._branches, batch, time, -1)  # (N, B, T, W)
        mask = torch.arange(time) < frames[:, None]
        context = _normalised(states + self._context(states, frames, mask), self._context_norm) * mask[:, :, None]
        return context.permute(1, 2, 0, 3).reshape(batch, time, -1), mask

    def _heard_in_bands(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N * C, bands, T), and how many of T are real."""
        heard = features[:, :, : 2 * N_MELS].reshape(*features.shape[:2], 2, N_MELS).permute(0, 2, 3, 1).contiguous()
        for i, ((weight, bias), stride) in enumerate(zip(self._bands, self._strides, strict=True)):
            heard = functional.conv2d(heard, weight, bias, stride, 1, 1, self._groups(i)).relu_()
            frames = torch.div(frames + stride[1] - 1, stride[1], rounding_mode="floor")
            heard = _without_padding(heard, frames)
        return heard, frames

    def _heard_in_prosody(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, N * C, T)."""
        heard = features[:, :, 2 * N_MELS :].transpose(1, 2)
        for i, (weight, bias) in enumerate(self._prosody):
            heard = functional.conv1d(heard, weight, bias, 2, 2, 1, self._groups(i)).relu_()
            frames = torch.div(frames + 1, 2, rounding_mode="floor")
            heard = _without_padding(heard, frames)
        return heard

    def _groups(self, stage: int) -> int:
        """All branches hear the same features, and each what it made of them itself."""
        return 1 if stage == 0 else self._branches

    def _context(self, states: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """States (N, B, T, W) to what the GRUs make of them; backwards, an utterance begins at its own last frame."""
        branches, batch, time, width = states.shape
        forwards = torch.arange(time)
        backwards = torch.where(mask, (frames[:, None] - 1 - forwards).clamp(min=0), forwards)[None, :, :, None]  # (1, B, T, 1)
        mirrored = states.gather(2, backwards.expand_as(states))
        both = torch.cat([states, mirrored]).transpose(1, 2).reshape(2 * branches, time * batch, width)
        entering = torch.baddbmm(self._enter_bias, both, self._enter).view(2 * branches, time, batch, -1)
        context = torch.stack(self._over_time(entering), dim=2).view(2, branches, batch, time, -1)
        mirrored_back = context[1].gather(2, backwards.expand_as(context[1]))
        return torch.cat([context[0], mirrored_back], dim=3)

    def _over_time(self, entering: Tensor) -> list[Tensor]:
        """T states (2 N, B, H) of all GRUs, from what enters their gates (2 N, T, B, 3 H): reset, update, new, as torch orders them."""
        half = self._again.shape[1]
        state = entering.new_zeros(len(entering), entering.shape[2], half)
        states = []
        for now in entering.unbind(1):
            before = torch.baddbmm(self._again_bias, state, self._again)
            gates = (now[:, :, : 2 * half] + before[:, :, : 2 * half]).sigmoid_()
            new = torch.addcmul(now[:, :, 2 * half :], gates[:, :, :half], before[:, :, 2 * half :]).tanh_()
            state = torch.lerp(new, state, gates[:, :, half:])
            states.append(state)
        return states


def _stages(branch: nn.Module, name: str) -> list[Any]:
    """Each is a convolution, its batch norm and what follows."""
    return list(branch.get_submodule(name).children())


def _folded(stages: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Convolution weights and biases with the batch norm that follows in them, for all branches."""
    weights, biases = [], []
    for conv, norm, _ in stages:
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weights.append(conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1)))
        biases.append(norm.bias - norm.running_mean * scale)
    return torch.cat(weights), torch.cat(biases)


def _stacked(branches: Sequence[nn.Module], name: str) -> Tensor:
    return torch.stack([branch.get_parameter(name) for branch in branches])


def _both_ways(branches: Sequence[nn.Module], name: str) -> Tensor:
    """Of the GRUs of all branches, forwards and then backwards."""
    return torch.cat([_stacked(branches, f"context.{name}{direction}") for direction in ("", "_reverse")])


def _normalised(states: Tensor, norm: Sequence[Tensor]) -> Tensor:
    weight, bias = norm
    return torch.addcmul(bias, functional.layer_norm(states, states.shape[-1:]), weight)


def _without_padding(heard: Tensor, frames: Tensor) -> Tensor:
    """Zeros, in place, where time (the last axis) is not real."""
    time = heard.shape[-1]
    if int(frames.min()) < time:
        heard *= (torch.arange(time) < frames[:, None]).view(len(heard), *[1] * (heard.dim() - 2), time)
    return heard
