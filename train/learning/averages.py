"""The mean of weights over the last steps of a phase, which judges better than the last ones alone (Izmailov et al., 2018)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn, zeros_like


class Averages:
    """The mean of some parameters over the last steps of a phase; part of checkpoints."""

    def __init__(self, parameters: Sequence[nn.Parameter], first_step: int) -> None:
        self._parameters, self._first, self._count = list(parameters), first_step, 0
        self._sums: list[Tensor] = []

    def add(self, step: int) -> None:
        """Take this step's weights in, if it is one of the last."""
        if step < self._first:
            return
        if not self._sums:
            self._sums = [zeros_like(p) for p in self._parameters]
        self._count += 1
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            total.add_(parameter.detach())

    def apply(self) -> None:
        """Put the mean in the parameters' place, if there is one."""
        for total, parameter in zip(self._sums, self._parameters, strict=False):
            parameter.data.copy_(total / self._count)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"count": self._count, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._count, self._sums = state["count"], [total.to(p.device) for total, p in zip(state["sums"], self._parameters, strict=False)]
