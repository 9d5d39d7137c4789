"""The teacher against scikit-learn's logistic regression, and what its targets and weights mean."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from train.learning.teacher import Teacher

CLIPS, WIDTH, LETTERS = 150, 12, 3


def clips() -> tuple[Tensor, Tensor]:
    """Standardised states (n, D) around a centre for each letter, which overlap, and the letters (n,)."""
    random = torch.Generator().manual_seed(0)
    letters = torch.arange(CLIPS) % LETTERS
    centres = 0.7 * torch.randn(LETTERS, WIDTH, generator=random)
    return centres[letters] + torch.randn(CLIPS, WIDTH, generator=random), letters


def one_hot(letters: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(letters, LETTERS).float()


def regression(states: Tensor, letters: Tensor, weights: Tensor, l2: float) -> LogisticRegression:
    """scikit-learn minimises half of the squared weights plus C times the weighted sum of losses; here it is l2 of them plus a mean."""
    model = LogisticRegression(C=1 / (2 * l2), tol=1e-8, max_iter=5000)
    return model.fit(states.double().numpy(), letters.numpy(), (weights / weights.sum()).double().numpy())


@pytest.mark.parametrize("l2", [0.3, 0.025, 1e-3])
def test_it_is_multinomial_logistic_regression(l2: float) -> None:
    states, letters = clips()
    found = Teacher.fit(states, one_hot(letters), torch.ones(CLIPS), l2)
    wanted = regression(states, letters, torch.ones(CLIPS), l2)
    assert found.weight.numpy() == pytest.approx(wanted.coef_, abs=5e-3)
    assert found.posterior(states).numpy() == pytest.approx(wanted.predict_proba(states.numpy()), abs=2e-3)
    # Only differences of biases mean something.
    assert (found.bias - found.bias.mean()).numpy() == pytest.approx(wanted.intercept_ - wanted.intercept_.mean(), abs=5e-3)


def test_a_clip_counts_as_much_as_its_importance_says_whatever_it_adds_up_to() -> None:
    states, letters = clips()
    importance = torch.linspace(0.1, 2.0, CLIPS)
    found = Teacher.fit(states, one_hot(letters), importance, 0.025)
    wanted = regression(states, letters, importance, 0.025)
    assert found.posterior(states).numpy() == pytest.approx(wanted.predict_proba(states.numpy()), abs=2e-3)
    scaled = Teacher.fit(states, one_hot(letters), 50 * importance, 0.025)
    assert torch.allclose(scaled.posterior(states), found.posterior(states), atol=1e-4)
    even = Teacher.fit(states, one_hot(letters), torch.ones(CLIPS), 0.025)
    assert not torch.allclose(even.posterior(states), found.posterior(states), atol=0.02)


def test_a_soft_target_is_each_letter_as_often_as_it_says() -> None:
    states, letters = clips()
    targets = 0.6 * one_hot(letters) + 0.4 / LETTERS
    found = Teacher.fit(states, targets, torch.ones(CLIPS), 0.025)
    repeated = torch.arange(LETTERS).repeat_interleave(CLIPS)
    wanted = regression(states.repeat(LETTERS, 1), repeated, targets.T.reshape(-1), 0.025)
    assert found.posterior(states).numpy() == pytest.approx(wanted.predict_proba(states.numpy()), abs=2e-3)


def test_states_that_tell_nothing_are_answered_as_often_as_the_targets_say() -> None:
    target = torch.tensor([0.84, 0.1, 0.06])
    found = Teacher.fit(torch.zeros(40, WIDTH), target.repeat(40, 1), torch.ones(40), 0.025)
    assert found.posterior(torch.randn(5, WIDTH)).numpy() == pytest.approx(np.tile(target, (5, 1)), abs=1e-3)
