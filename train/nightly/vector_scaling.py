"""Fits a bias for each letter and a temperature to one person's labels: vector scaling (Guo et al., 2017), shrunk towards none.

People correct what was wrong and seldom confirm what was right, so their labels are no sample of their speech: a fit that takes them for
one learns above all not to say what was shown. Whether a segment is labelled depends on whether the letter shown was right. So that
letter gets a weight of its own while fitting, which takes up how much oftener people correct than confirm, and is left out afterwards.
n segments, L letters.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from train.nightly.labels import Labels
from train.scoring.metrics import Floats, Ints

_SHOWN_SPREAD = 2.0
_LEAST_SCALE = 0.1
_STEPS, _ENOUGH = 50, 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class VectorScaling:
    """scale: multiplies log-probabilities, over 0; 1 changes nothing. bias (L,): is added then, 0 in the mean. shown: what the letter shown
    weighs in labels, in log-odds; under 0 where people correct oftener than they confirm. prior (L,): is added too, and is no part of what
    was fitted."""

    scale: float
    bias: Floats
    shown: float
    prior: Floats

    @classmethod
    def fit(cls, log_probs: Floats, labels: Labels, bias_spread: float, scale_spread: float = 0.3, *, prior: Floats | None = None) -> Self:
        """The most probable one, given log-probabilities (n, L) of labelled segments. prior (L,): corrects them to how people speak.

        bias_spread, scale_spread: standard deviations among people, as far as is known beforehand; without bias_spread there are no biases.
        """
        rows, letters = log_probs.shape
        expected = np.zeros(letters) if prior is None else prior
        features = np.zeros((rows, letters, letters + 2))
        features[:, :, 0], features[:, :, -1] = log_probs, _at(labels.shown, letters)
        features[:, range(letters), range(1, letters + 1)] = float(bias_spread > 0)
        precision = np.array([scale_spread**-2, *[(bias_spread or 1.0) ** -2] * letters, _SHOWN_SPREAD**-2])
        start = np.array([1.0, *[0.0] * (letters + 1)])
        scale, *bias, shown = _newton(features, expected, _at(labels.said, letters), labels.weights, start, precision)
        return cls(max(float(scale), _LEAST_SCALE), np.array(bias) - np.mean(bias), float(shown), expected)

    def of_speech(self, log_probs: Floats) -> Floats:
        """Log-probabilities (n, L) for any of the person's segments."""
        return log_softmax(self.scale * log_probs + self.bias + self.prior)

    def of_labels(self, log_probs: Floats, shown: Ints) -> Floats:
        """Log-probabilities (n, L) of what the person says of segments that they say something of."""
        return log_softmax(self.scale * log_probs + self.bias + self.prior + self.shown * _at(shown, log_probs.shape[1]))

    def offsets(self, shown: Ints) -> Floats:
        """What `of_labels` adds to log-probabilities (n, L) that are not scaled."""
        return np.asarray((self.bias + self.prior + self.shown * _at(shown, len(self.bias))) / self.scale)


def log_softmax(logits: Floats) -> Floats:
    """Logits (n, L) to log-probabilities."""
    lifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(lifted - np.log(np.exp(lifted).sum(axis=-1, keepdims=True)))


def _at(places: Ints, letters: int) -> Floats:
    """Ones (n, L) at the places (n,); a row of zeros for NOT_SHOWN."""
    return np.asarray(places[:, None] == np.arange(letters), dtype=np.float64)


def _newton(features: Floats, known: Floats, targets: Floats, weights: Floats, start: Floats, precision: Floats) -> Floats:
    """The most probable parameters (P,) of a conditional logit: features (n, L, P), known logits beside them (L,), targets (n, L), a
    Gaussian prior around `start`.

    What is minimised is convex, so Newton's steps, of bounded length, lead to its one minimum.
    """
    found = start.copy()
    for _ in range(_STEPS):
        probs = np.exp(log_softmax(features @ found + known))
        means = np.einsum("nl,nlp->np", probs, features)
        slope = np.einsum("nl,nlp->p", (probs - targets) * weights[:, None], features) + precision * (found - start)
        curve = np.einsum("nl,nlp,nlq->pq", probs * weights[:, None], features, features, optimize=True)
        step = np.linalg.solve(curve - (means * weights[:, None]).T @ means + np.diag(precision), slope)
        longest = float(np.abs(step).max())
        found = found - step / max(1.0, longest)
        if longest < _ENOUGH:
            break
    return found
