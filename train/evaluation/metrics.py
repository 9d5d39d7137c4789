"""Metrics as pure functions over an explicit list of classes, which are numbered 0 to classes - 1.

It knows figures, not clips, files or emotions' names. A predicted class of NO_PREDICTION is an answer that names no class: it is wrong,
and the last column of a confusion matrix is its own. Counts have shape (..., classes, classes + 1), true class by predicted class, so that
every figure of counts also works on a stack of resampled matrices. Chance for unweighted accuracy is 1 / classes present.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

import jiwer
import numpy as np
import numpy.typing as npt

from model.emotions import Emotion

NO_PREDICTION = -1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Metric = Callable[[Ints], Floats]


def confusion_matrix(true: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts (classes, classes + 1) of true class by predicted class; the last column counts NONE."""
    cells = np.bincount(_cells(true, predicted, classes), minlength=classes * (classes + 1))
    return cells.reshape(classes, classes + 1).astype(np.int64)


def recall(counts: Ints) -> Floats:
    """Share of each class's examples that was found, (..., classes) in 0..1; NaN for a class without examples."""
    return _shares(_hits(counts), counts.sum(axis=-1))


def precision(counts: Ints) -> Floats:
    """Share of each class's predictions that was right, (..., classes) in 0..1; NaN for a class that was never predicted."""
    return _shares(_hits(counts), counts.sum(axis=-2)[..., :-1])


def f1(counts: Ints) -> Floats:
    """Harmonic mean of precision and recall, (..., classes) in 0..1; 0 for a class never predicted, NaN for one without examples."""
    examples = counts.sum(axis=-1)
    either = examples + counts.sum(axis=-2)[..., :-1]
    return _shares(2 * _hits(counts), np.where(examples > 0, either, 0))


def average_recall(counts: Ints) -> Floats:
    """Mean recall of the classes that have examples, (...) in 0..1: UAR, the unweighted accuracy of the paper (section 3.1)."""
    return _mean_of_present(recall(counts))


def weighted_accuracy(counts: Ints) -> Floats:
    """Share of all examples that is right, (...) in 0..1; "weighted" because a class counts as often as it occurs."""
    return _shares(_hits(counts).sum(axis=-1), counts.sum(axis=(-1, -2)))


def macro_f1(counts: Ints) -> Floats:
    """Mean F1 of the classes that have examples, (...) in 0..1; predicting any other class costs recall only."""
    return _mean_of_present(f1(counts))


def recalls(true: Ints, predicted: Ints, classes: int) -> Floats:
    """Share of each class's examples that was found, (classes,) in 0..1; NaN for a class without examples."""
    return recall(confusion_matrix(true, predicted, classes))


def unweighted_accuracy(true: Ints, predicted: Ints, classes: int) -> float:
    """Mean of the recalls of the classes that have examples, also called UAR: 0..1. Raises ValueError without examples."""
    if len(true) == 0:
        raise ValueError("unweighted accuracy of no examples is not defined")
    return float(average_recall(confusion_matrix(true, predicted, classes)))


def resample_speakers(
    true: Ints, predicted: Ints, speakers: Sequence[str], classes: int, *, draws: int = 2000, seed: int = 0, repeats: int = 1
) -> Ints:
    """Confusion matrices (draws, classes, classes + 1) of a bootstrap over speakers, then over each drawn speaker's clips.

    repeats: how often about the same clips are among the answers; a speaker counts as one repetition's clips, so that intervals do not
    shrink by asking again.
    """
    width = classes + 1
    return _resampled(_cells(true, predicted, classes), classes * width, speakers, draws, seed, repeats).reshape(draws, classes, width)


def resample_pairs(
    true: Ints, first: Ints, second: Ints, speakers: Sequence[str], classes: int, *, draws: int = 2000, seed: int = 0, repeats: int = 1
) -> tuple[Ints, Ints]:
    """As `resample_speakers`, of two answers to the same clips: both stacks hold the same drawn clips, so that they can be compared."""
    width = classes + 1
    cells = _cells(true, first, classes) * width + np.where(second == NO_PREDICTION, classes, second)
    drawn = _resampled(cells, classes * width * width, speakers, draws, seed, repeats).reshape(draws, classes, width, width)
    return drawn.sum(axis=3), drawn.sum(axis=2)


def interval_95(values: Floats) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of a bootstrap's values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def speaker_interval(
    true: Ints,
    predicted: Ints,
    speakers: Sequence[str],
    classes: int,
    *,
    metric: Metric = average_recall,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of a figure of counts, by default unweighted accuracy: bootstrap as in `resample_speakers`."""
    return interval_95(metric(resample_speakers(true, predicted, speakers, classes, draws=draws, seed=seed)))


def reliability_bins(confidence: Floats, correct: Bools, bins: int = 15) -> tuple[Ints, Floats, Floats]:
    """Count, mean confidence and accuracy, each (bins,), of answers in equal-width bins of confidence (0..1); NaN for an empty bin.

    Bin m of M holds the confidences in ((m - 1) / M, m / M]; 0 itself belongs to the first.
    """
    edges = np.arange(1, bins) / bins
    index = np.searchsorted(edges, confidence, side="left")
    counts = np.bincount(index, minlength=bins).astype(np.int64)
    mean_confidence = _shares(np.bincount(index, weights=confidence, minlength=bins), counts)
    return counts, mean_confidence, _shares(np.bincount(index, weights=correct, minlength=bins), counts)


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float:
    """ECE, 0..1: sum over bins of (answers in bin / answers) * |accuracy of bin - mean confidence of bin| (Guo et al., 2017).

    Bins as in `reliability_bins`. Raises ValueError without answers.
    """
    if len(confidence) == 0:
        raise ValueError("the calibration error of no answers is not defined")
    counts, mean_confidence, accuracy = reliability_bins(confidence, correct, bins)
    return float(np.nansum(counts * np.abs(accuracy - mean_confidence)) / counts.sum())


def calibration_error_by_chance(confidence: Floats, bins: int = 15, *, draws: int = 200, seed: int = 0) -> float:
    """The mean expected calibration error of as many answers that are right exactly as often as their confidence says: 0..1.

    What is measured on few clips lies this far from 0 even where nothing is wrong (Roelofs et al., 2022).
    """
    rng = np.random.default_rng(seed)
    return float(np.mean([expected_calibration_error(confidence, rng.random(len(confidence)) < confidence, bins) for _ in range(draws)]))


def risk_coverage(confidence: Floats, correct: Bools) -> tuple[Floats, Floats]:
    """Coverage 1/n..1 and risk 0..1, each (n,): the error rate among the k most confident answers, for every k (Geifman, El-Yaniv, 2017).

    Answers of equal confidence come in no order, so each of them counts with the mean error of all of them.
    """
    _, tie, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.repeat(np.bincount(tie, weights=~correct) / sizes, sizes)
    taken = np.arange(1, len(confidence) + 1)
    return taken / len(confidence), np.cumsum(errors) / taken


def area_under_risk_coverage(confidence: Floats, correct: Bools) -> float:
    """AURC, 0..1, lower is better: mean risk over all coverages (Geifman, Uziel, El-Yaniv, 2019). Raises ValueError without answers."""
    if len(confidence) == 0:
        raise ValueError("the risk of no answers is not defined")
    return float(risk_coverage(confidence, correct)[1].mean())


def normalise_transcript(text: str) -> str:
    """Lower case, no punctuation or symbols, single spaces; the same for every language, after Whisper's basic normaliser.

    Apostrophes vanish ("don't" is one word), all other punctuation separates words. Unlike with Whisper's, combining marks stay, which are
    parts of letters in many scripts.
    """
    folded = re.sub("['\u2019]", "", unicodedata.normalize("NFKC", text).lower())
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in folded).split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[float, int]:
    """Substituted, missing and added words per word of the references, 0 and up, and the number of those words, all normalised.

    Raises ValueError where the references have no word.
    """
    pairs = [(normalise_transcript(r), normalise_transcript(h)) for r, h in zip(references, hypotheses, strict=True)]
    spoken = [pair for pair in pairs if pair[0]]
    if not spoken:
        raise ValueError("the word error rate of no words is not defined")
    aligned = jiwer.process_words([r for r, _ in spoken], [h for _, h in spoken])
    words = aligned.hits + aligned.substitutions + aligned.deletions
    made_up = sum(len(h.split()) for r, h in pairs if not r)
    return (aligned.substitutions + aligned.deletions + aligned.insertions + made_up) / words, words


def fit_temperature(log_probs: Floats, true: Ints, weights: Floats | None = None, shift: Floats | float = 0.0) -> float:
    """The temperature in 0.25..4 that minimises the negative log-likelihood of (n, classes) log-probabilities (Guo et al., 2017).

    weights (n,): what each counts for; all the same by default. shift (classes,): what is added once they are tempered.
    """
    grid = np.exp(np.linspace(np.log(0.25), np.log(4.0), 200))
    return float(grid[np.argmin([_negative_log_likelihood(log_probs / t + shift, true, weights) for t in grid])])


def confidence_threshold(confidence: Floats, correct: Bools, wanted: float, weights: Floats | None = None) -> float:
    """The lowest confidence, 0..1, at and above which the share of correct answers reaches `wanted`; 1 where none does.

    weights (n,): what each answer counts for; all the same by default.
    """
    order = np.argsort(-confidence)
    counted = np.ones(len(order)) if weights is None else weights[order]
    accuracy = np.cumsum(correct[order] * counted) / np.cumsum(counted)
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


def _negative_log_likelihood(log_probs: Floats, true: Ints, weights: Floats | None) -> float:
    top = log_probs.max(axis=1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(log_probs - top).sum(axis=1))
    return float(np.average(normaliser - log_probs[np.arange(len(true)), true], weights=weights))


def _cells(true: Ints, predicted: Ints, classes: int) -> Ints:
    """The flat index of each clip's cell in a confusion matrix."""
    cells: Ints = true * (classes + 1) + np.where(predicted == NO_PREDICTION, classes, predicted)
    return cells


def _resampled(cells: Ints, size: int, speakers: Sequence[str], draws: int, seed: int, repeats: int) -> Ints:
    """How often each cell, numbered 0 to size - 1, occurs in each draw of speakers and then of clips: (draws, size).

    Clips of one speaker in one cell are interchangeable, so drawing n of them is a multinomial draw over that speaker's cells, and a
    speaker drawn k times is one draw of k * n. Time grows with the occupied cells of all speakers, not with clips.
    """
    rng = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(speakers), return_inverse=True)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    drawn = np.zeros((draws, size), dtype=np.int64)
    for speaker in range(len(names)):
        occupied, counts = np.unique(cells[owner == speaker], return_counts=True)
        drawn[:, occupied] += rng.multinomial(times[:, speaker] * max(1, counts.sum() // repeats), counts / counts.sum())
    return drawn


def _hits(counts: Ints) -> Ints:
    hits: Ints = np.diagonal(counts, axis1=-2, axis2=-1)
    return hits


def _shares(part: npt.NDArray[np.number], whole: npt.NDArray[np.number]) -> Floats:
    """part / whole, NaN where whole is 0."""
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
    return shares


def _mean_of_present(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    present = ~np.isnan(values)
    return _shares(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))
