"""The gate: whether a night's bundle is shown to be better for its person, and no worse for everyone else. Figures in, verdict out.

Two tests on the person's held-out labels, both at ALPHA, guard against two ways of being fooled.

1. People correct what was wrong. A bundle that merely answers otherwise than the one in use gets some of these right by luck, and would
   pass for better. So what the new bundle says beyond a mere sharpening or blurring of the old one must go with the corrections more than
   with the same corrections dealt out anew among these segments: a permutation test over all deals in which no segment is corrected to
   what had been shown for it, drawn as Besag and Clifford (1989) do, which makes it exact.
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

ALPHA = 0.05
MARGIN = 0.02
CLASS_MARGIN = 0.05
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


def p_by_chance(before: Floats, after: Floats, said: Ints, shown: Ints, seed: int = 0) -> float:
    """Chance that corrections which say nothing about the sound go so well with what the new bundle says beyond the old one.

    before, after (n, L): posteriors of corrected segments. said (n,): what they were corrected to; shown (n,): what had been shown.
    """
    if len(said) < 2:
        return 1.0
    beyond = _beyond(before, after)
    rng = np.random.default_rng(seed)
    swaps = _SWAPS_A_SEGMENT * len(said)
    # From the true deal back to a common origin, and from there to as many others: all are then exchangeable with the true one.
    origin = _dealt(said[None, :], shown, swaps, rng)
    deals = _dealt(np.repeat(origin, _DEALS, axis=0), shown, swaps, rng)
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


def _dealt(said: Ints, shown: Ints, swaps: int, rng: np.random.Generator) -> Ints:
    """Deals (d, n) after so many tries to swap two segments' corrections; a swap that would correct one to what was shown is not made."""
    said, rows = said.copy(), np.arange(len(said))
    for _ in range(swaps):
        one, other = rng.integers(len(shown), size=(2, len(said)))
        first, second = said[rows, one], said[rows, other]
        allowed = (first != shown[other]) & (second != shown[one])
        said[rows, one], said[rows, other] = np.where(allowed, second, first), np.where(allowed, first, second)
        same = one == other
        said[rows[same], one[same]] = first[same]
    return said


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How the public set is answered: mean over emotions of the change of the acted one's likelihood, its one-sided 95 % lower bound, and
    recall of each letter before and after (NaN for those that do not occur)."""

    change: float
    at_least: float
    before: Floats
    after: Floats

    @property
    def holds(self) -> bool:
        """No worse than the margins allow."""
        present = ~np.isnan(self.before)
        return self.at_least >= -MARGIN and bool(np.all((self.before - self.after)[present] <= CLASS_MARGIN))


def steadiness(before: Floats, after: Floats, acted: Ints, speakers: Sequence[str], seed: int = 0) -> Steadiness:
    """before, after (n, L): calibrated posteriors; acted (n,). Bootstrap over speakers, then over their clips."""
    letters = before.shape[1]
    change = (after - before)[np.arange(len(acted)), acted]
    recalls = [np.array([_share(one.argmax(axis=1)[acted == k] == k) for k in range(letters)]) for one in (before, after)]
    rng = np.random.default_rng(seed)
    voices = [np.flatnonzero(np.array(speakers) == voice) for voice in sorted(set(speakers))]
    drawn = [_mean_of_classes(change, acted, _resampled(voices, rng)) for _ in range(_DRAWS)]
    return Steadiness(_mean_of_classes(change, acted, np.arange(len(acted))), float(np.quantile(drawn, 0.05)), recalls[0], recalls[1])


def _resampled(voices: Sequence[Ints], rng: np.random.Generator) -> Ints:
    chosen = rng.integers(len(voices), size=len(voices))
    return np.concatenate([rng.choice(voices[i], size=len(voices[i])) for i in chosen])


def _mean_of_classes(values: Floats, classes: Ints, rows: Ints) -> float:
    counts = np.bincount(classes[rows])
    sums = np.bincount(classes[rows], weights=values[rows])
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else float("nan")
