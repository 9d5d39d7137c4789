"""The shares of a day, estimated from the posteriors of all its judged segments, and 95 % intervals of what they may be in truth.

To count answers repeats what a model confuses, and what it was told to expect. Where its bundle says how voices that it never heard were
answered (model/confusion.py), shares are inferred instead, over all judged segments, also those it was not sure of: see
model/quantification.py. The estimate is the mean of what they may be, and the interval holds the middle 95 % of it. What the person named
themselves is taken as it is.

A bundle released before says less: its shares are counted, of what it was sure about, and have intervals (counted.py). The same day always
gives the same figures.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.confusion import PosteriorConfusion, VoiceConfusion
from model.priors import EVERYDAY, Prior, balanced, unmarked
from model.types import Emotion, Prediction
from monitor.day.counted import CountedConfusion
from monitor.store.records import TimelineEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.quantification import Quantifier

    Floats = NDArray[np.float64]

LEVEL = 0.95

# An interval that begins below this begins at nothing.
_NOTHING = 0.005


class KnownPosteriors:
    """How one bundle answers, turned round. training_prior: what its posteriors are under where they were not corrected; None: even."""

    def __init__(self, confusion: PosteriorConfusion, training_prior: Mapping[Emotion, float] | None) -> None:
        self._confusion = confusion
        self._training_prior = training_prior or balanced(confusion.letters)
        self._quantifiers: dict[Prior, Quantifier] = {}

    def sample(self, judged: Sequence[tuple[Prediction, float]], prior: Prior | None) -> tuple[tuple[Emotion, ...], "Floats"] | None:
        """Letters, and what their shares may be (draws, letters), by predictions with their seconds.

        prior: what the posteriors were corrected to, if they were. None where they have other letters than are known.
        """
        import numpy as np

        letters = self._confusion.letters
        if any(set(prediction.posterior) != set(letters) for prediction, _ in judged):
            return None
        expected = self._training_prior if prior is None else prior.over(letters)
        posteriors = np.array([[prediction.posterior[letter] for letter in letters] for prediction, _ in judged])
        posteriors /= [expected[letter] for letter in letters]
        posteriors /= posteriors.sum(axis=1, keepdims=True)
        quantifier = self._quantifier(prior or EVERYDAY)
        return quantifier.letters, quantifier.shares(posteriors, np.array([seconds for _, seconds in judged]))

    def _quantifier(self, prior: Prior) -> "Quantifier":
        from model.quantification import Quantifier

        if prior not in self._quantifiers:
            self._quantifiers[prior] = Quantifier(self._confusion, prior.counted(self._confusion.letters))
        return self._quantifiers[prior]


Confusion = KnownPosteriors | CountedConfusion


def known_confusion(
    read: PosteriorConfusion | Sequence[VoiceConfusion], training_prior: Mapping[Emotion, float] | None
) -> Confusion | None:
    """What `read_confusion` found in a bundle, ready to estimate with; None where it found nothing."""
    if isinstance(read, PosteriorConfusion):
        return KnownPosteriors(read, training_prior)
    return CountedConfusion(read) if read else None


@dataclass(frozen=True, slots=True)
class Shares:
    """Of a day's speech, 0 to 1. estimated: sums to 1; empty where shares are counted. intervals: 95 %; empty where nothing is known."""

    estimated: Mapping[Emotion, float] = field(default_factory=dict)
    intervals: Mapping[Emotion, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one bundle makes of the segments it judged. seconds: of those that count. shares: sum to 1.

    sample: letters, and what their shares may be (draws, letters); None where that is not known.
    """

    seconds: float
    shares: Mapping[Emotion, float]
    sample: tuple[tuple[Emotion, ...], "Floats"] | None
    estimated: bool


def shares_of(pieces: Iterable[tuple[TimelineEntry, float]], confusions: Mapping[str, Confusion]) -> Shares:
    """The shares of segments, given with the seconds they count for. confusions: by the version of the bundle.

    There are no intervals where a bundle judged whose confusion is not known, and none where no bundle did.
    """
    said: defaultdict[Emotion, float] = defaultdict(float)
    judged: defaultdict[str, list[tuple[Prediction, float]]] = defaultdict(list)
    for entry, seconds in pieces:
        if entry.correction is not None:
            said[entry.correction.emotion] += seconds
        elif entry.prediction is not None:
            judged[entry.prediction.bundle_version].append((entry.prediction, seconds))
    parts = [part for version, its in judged.items() if (part := _part(version, its, confusions)) is not None]
    if not parts:
        return Shares()
    intervals = _intervals(said, parts) if all(part.sample for part in parts) else {}
    return Shares(_estimated(said, parts) if any(part.estimated for part in parts) else {}, intervals)


def _part(version: str, judged: Sequence[tuple[Prediction, float]], confusions: Mapping[str, Confusion]) -> _Part | None:
    """None where nothing counts: a bundle whose shares are counted was sure of nothing."""
    bare, prior = unmarked(version)
    known = confusions.get(bare)
    if isinstance(known, KnownPosteriors) and (sample := known.sample(judged, prior)) is not None:
        letters, drawn = sample
        return _Part(sum(s for _, s in judged), dict(zip(letters, drawn.mean(axis=0).tolist(), strict=True)), sample, True)
    sure = [(prediction, seconds) for prediction, seconds in judged if not prediction.unsure]
    if not sure:
        return None
    total = sum(seconds for _, seconds in sure)
    counted: defaultdict[Emotion, float] = defaultdict(float)
    for prediction, seconds in sure:
        counted[prediction.emotion] += seconds / total
    return _Part(total, counted, known.sample(sure) if isinstance(known, CountedConfusion) else None, False)


def _estimated(said: Mapping[Emotion, float], parts: Sequence[_Part]) -> dict[Emotion, float]:
    total = sum(said.values()) + sum(part.seconds for part in parts)
    shares: defaultdict[Emotion, float] = defaultdict(float)
    for emotion, seconds in said.items():
        shares[emotion] += seconds / total
    for part in parts:
        for emotion, share in part.shares.items():
            shares[emotion] += share * part.seconds / total
    return dict(shares)


def _intervals(said: Mapping[Emotion, float], parts: Sequence[_Part]) -> dict[Emotion, tuple[float, float]]:
    import numpy as np

    samples = [(part.seconds, *part.sample) for part in parts if part.sample]
    total = sum(said.values()) + sum(seconds for seconds, _, _ in samples)
    letters = [emotion for emotion in Emotion if emotion in said or any(emotion in found for _, found, _ in samples)]
    shares = np.tile([said.get(emotion, 0.0) / total for emotion in letters], (len(samples[0][2]), 1))
    for seconds, found, drawn in samples:
        shares[:, [letters.index(emotion) for emotion in found]] += drawn * seconds / total
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {e: (float(low[i]) if low[i] >= _NOTHING else 0.0, min(1.0, float(high[i]))) for i, e in enumerate(letters)}
