"""The gate: whether a night's bundle is shown to be better for its person, and no worse for everyone else. Figures in, verdict out.

Two tests on the person's held-out labels, both at ALPHA, guard against two ways of being fooled.

1. People correct what was wrong. A bundle that merely answers otherwise than the one in use gets some of these right by luck, and would
   pass for better. So what the new bundle says beyond a mere sharpening or blurring of the old one must go with the corrections more than
   with the same corrections dealt out anew among these segments: a permutation test over all deals in which no segment is corrected to
   what had been shown for it, drawn as Besag and Clifford (1989) do, which makes it exact for each round of learning.
2. It must answer more of the held-out labels as the person does than the bundle in use, and not by luck: McNemar's exact test, one-sided.

A bundle that learned from labels which say nothing passes the first in at most ALPHA of the nights, whatever else it does; one that is
no better passes the second in at most ALPHA of the nights, as far as corrections and confirmations were given alike. Both must be passed.
n segments, L letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from train.scoring.metrics import average_recall, confusion_matrix, recall, resample_pairs

ALPHA = 0.05
"""What both chances must not exceed."""

MARGIN = 0.03
"""By so much unweighted accuracy on the public set may have fallen, with 95 % certainty."""

CLASS_MARGIN = 0.1
"""By so much the recall of any emotion there may have fallen: two clips of the rarest."""

_DEALS = 999
_SWAPS_A_SEGMENT = 10
_DRAWS = 2000
_FLOOR = 1e-6

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def p_no_better(gained: int, lost: int) -> float:
    """Chance of at least so many gains among gains and losses, if either were as likely: McNemar's exact test, one-sided."""
    both = gained + lost
    return float(sum(comb(both, k) for k in range(gained, both + 1)) / 2**both)


def p_by_chance(before: Floats, after: Floats, said: Ints, shown: Ints, rounds: Ints, seed: int = 0) -> float:
    """Chance that corrections which say nothing about the sound go so well with what the new bundle says beyond the old one.

    before, after (n, L): posteriors of corrected segments. said (n,): what they were corrected to; shown (n,): what had been shown.
    rounds (n,): in which they were held out; they are dealt anew within it, because later rounds learned from the labels of earlier ones.
    """
    if len(said) < 2:
        return 1.0
    beyond = _beyond(before, after)
    rng = np.random.default_rng(seed)
    swaps = _SWAPS_A_SEGMENT * len(said)
    # From the true deal back to a common origin, and from there to as many others: all are then exchangeable with the true one.
    origin = _dealt(said[None, :], shown, rounds, swaps, rng)
    deals = _dealt(np.repeat(origin, _DEALS, axis=0), shown, rounds, swaps, rng)
    places = np.arange(len(said))
    true = beyond[places, said].sum()
    as_good = int((beyond[places, deals].sum(axis=1) >= true - 1e-9).sum())
    return (1 + as_good) / (1 + _DEALS)


def _beyond(before: Floats, after: Floats) -> Floats:
    """Log-posteriors (n, L) after, without what a line over those before explains: that is only sharper or blurrier."""
    x, y = (np.log(np.maximum(one, _FLOOR)) for one in (before, after))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    slope = float((x * y).sum() / max(float((x * x).sum()), _FLOOR))
    return np.asarray(y - slope * x)


def _dealt(said: Ints, shown: Ints, rounds: Ints, swaps: int, rng: np.random.Generator) -> Ints:
    """Deals (d, n) after so many tries to swap two segments' corrections; a swap that would correct one to what was shown is not made."""
    said, rows = said.copy(), np.arange(len(said))
    for _ in range(swaps):
        one, other = rng.integers(len(shown), size=(2, len(said)))
        first, second = said[rows, one], said[rows, other]
        allowed = (first != shown[other]) & (second != shown[one]) & (rounds[one] == rounds[other])
        said[rows, one], said[rows, other] = np.where(allowed, second, first), np.where(allowed, first, second)
    return said


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How the public set is answered. before, after: recall of each letter, NaN for those that do not occur. at_least: one-sided 95 % lower
    bound of the change of their mean, which is the unweighted accuracy."""

    before: Floats
    after: Floats
    at_least: float


def steadiness(before: Floats, after: Floats, acted: Ints, speakers: Sequence[str], seed: int = 0) -> Steadiness:
    """before, after (n, L): posteriors; acted (n,). The bound is bootstrapped over speakers, then over their clips, in pairs."""
    letters = before.shape[1]
    said = before.argmax(axis=1), after.argmax(axis=1)
    counts = [confusion_matrix(acted, one, letters) for one in said]
    drawn = resample_pairs(acted, *said, speakers, letters, draws=_DRAWS, seed=seed)
    changes = average_recall(drawn[1]) - average_recall(drawn[0])
    return Steadiness(recall(counts[0]), recall(counts[1]), float(np.quantile(changes, 0.05)))
