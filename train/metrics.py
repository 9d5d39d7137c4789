"""Metrics as pure functions over an explicit list of letters. Chance for unweighted accuracy is 1 / classes present."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.types import Emotion

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def recalls(true: Ints, predicted: Ints, classes: int) -> Floats:
    """Share of each class's examples that was found, (classes,) in 0..1; NaN for a class without examples."""
    counts = np.bincount(true, minlength=classes).astype(float)
    hits = np.bincount(true[true == predicted], minlength=classes).astype(float)
    shares: Floats = np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
    return shares


def unweighted_accuracy(true: Ints, predicted: Ints, classes: int) -> float:
    """Mean of the recalls of the classes that have examples, also called UAR: 0..1. Raises ValueError without examples."""
    if len(true) == 0:
        raise ValueError("unweighted accuracy of no examples is not defined")
    return float(np.nanmean(recalls(true, predicted, classes)))


def speaker_interval(
    true: Ints, predicted: Ints, speakers: Sequence[str], classes: int, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of unweighted accuracy: bootstrap over speakers, then over each drawn speaker's clips."""
    rng = np.random.default_rng(seed)
    names = np.array(speakers)
    clips = [np.flatnonzero(names == name) for name in sorted(set(speakers))]
    values = []
    for _ in range(draws):
        drawn = rng.integers(len(clips), size=len(clips))
        chosen = np.concatenate([rng.choice(clips[i], size=len(clips[i])) for i in drawn])
        values.append(unweighted_accuracy(true[chosen], predicted[chosen], classes))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def fit_temperature(log_probs: Floats, true: Ints) -> float:
    """The temperature in 0.25..4 that minimises the negative log-likelihood of (n, classes) log-probabilities (Guo et al., 2017)."""
    grid = np.exp(np.linspace(np.log(0.25), np.log(4.0), 200))
    return float(grid[np.argmin([_negative_log_likelihood(log_probs / t, true) for t in grid])])


def threshold_for(confidence: Floats, correct: npt.NDArray[np.bool_], wanted: float) -> float:
    """The lowest confidence, 0..1, at and above which the share of correct answers reaches `wanted`; 1 where none does."""
    order = np.argsort(-confidence)
    accuracy = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(accuracy >= wanted)
    return float(confidence[order[reached[-1]]]) if len(reached) else 1.0


def calibrate(log_probs: Floats, temperature: float) -> Floats:
    """Probabilities (n, classes) of tempered log-probabilities."""
    scaled = log_probs / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    powers = np.exp(scaled)
    probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def per_letter(values: Floats, letters: Sequence[Emotion]) -> dict[Emotion, float]:
    """Name the classes that have a value."""
    return {letter: round(float(value), 4) for letter, value in zip(letters, values, strict=True) if not np.isnan(value)}


def _negative_log_likelihood(log_probs: Floats, true: Ints) -> float:
    top = log_probs.max(axis=1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(log_probs - top).sum(axis=1))
    return float((normaliser - log_probs[np.arange(len(true)), true]).mean())
