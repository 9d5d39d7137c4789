"""The teacher: multinomial logistic regression on encoder states, which transfers to corpora never heard better than richer classifiers.

The mapper and the language model learn to answer as it does. n clips, D encoder width, L letters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_ITERATIONS = 150
_HISTORY = 10


@dataclass(frozen=True, slots=True)
class Teacher:
    """weight (L, D), bias (L,)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, states: Tensor, targets: Tensor, importance: Tensor, l2: float) -> "Teacher":
        """Minimise the cross-entropy, and l2 times the sum of squared weights; biases are not penalised.

        states (n, D). targets (n, L): the probabilities that should be answered. importance (n,): how much each clip counts, over 0; only
        ratios matter. l2: scikit-learn's C is 1 / (2 l2) where the importance adds up to 1.
        """
        weight = torch.zeros(targets.shape[1], states.shape[1], requires_grad=True)
        bias = torch.zeros(targets.shape[1], requires_grad=True)
        share = importance / importance.sum()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, history_size=_HISTORY, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            log_probs = (states @ weight.T + bias).log_softmax(dim=1)
            value = -(share * (targets * log_probs).sum(dim=1)).sum() + l2 * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        return cls(weight.detach(), bias.detach())

    def posterior(self, states: Tensor) -> Tensor:
        """States (B, D) to probabilities (B, L)."""
        return (states @ self.weight.T + self.bias).softmax(dim=1)
