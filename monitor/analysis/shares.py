"""Estimates the emotion shares of a day, with 95 % intervals, correcting for how the model confuses emotions.

Counting answers repeats what a model confuses and which prior it was trained with. Where the bundle holds posteriors of unseen voices
(model/confusion.py), shares are inferred over all judged segments, unsure ones included (see model/quantification.py); the estimate is
the mean of the draws and the interval holds the middle 95 %. Segments that the person labelled count as labelled.

Older bundles hold counts of answers only. Then shares are counted over sure segments, and only the intervals are estimated:

1. Voices are drawn with replacement, and a voice that may answer differently is drawn around their common confusion (a Dirichlet
   distribution, its concentration by the method of moments). This stands for the person, whose own confusion is unknown.
2. The answers of the day are drawn again (multinomial) with their effective sample size: long segments count more, so there are fewer.
3. The shares that best explain these answers are found by expectation maximisation (Saerens, Latinne & Decaestecker 2002, Neural
   Computation 14, 21-41).

Such an interval need not contain the counted share: then confusion alone explains part of it. Everyday voices may be confused differently
from the acted ones that were measured, so intervals are too narrow rather than too wide. The same day always gives the same figures.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from model.bundle_format import PosteriorConfusion, SpeakerConfusion
from model.emotions import EVERYDAY, Emotion, Prediction, Prior, balanced, version_without_prior
from monitor.storage.records import SegmentRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.quantification import ShareEstimator

    Floats = NDArray[np.float64]
    FloatsShares = NDArray[np.float64]


_COUNTED_DRAWS = 400
_EM_ROUNDS = 100
_SEED = 20020101
# How many clips a voice drawn with replacement is short of: rows are never empty.
_BORROWED_CLIPS = 2.0
# Bounds for how alike answers of one voice are (intraclass correlation), so that few voices cannot claim to be one, or all different.
_LEAST_ALIKE, _MOST_ALIKE = 0.005, 0.5


class CountedModel:
    """How one bundle answers, of which it was sure, as drawn for a person nobody has measured. voices: at least one, with clips."""

    def __init__(self, voices: Sequence[SpeakerConfusion]) -> None:
        self._voices = voices
        found = {emotion for voice in voices for emotion, row in voice.sure.items() if sum(row.values())}
        self.truths = tuple(emotion for emotion in Emotion if emotion in found)
        answered = {emotion for voice in voices for row in voice.sure.values() for emotion, clips in row.items() if clips}
        self.answers = tuple(emotion for emotion in Emotion if emotion in answered | found)

    def sample(self, sure: Sequence[tuple[Prediction, float]]) -> tuple[tuple[Emotion, ...], "Floats"] | None:
        """Letters, and what their shares may be (draws, letters), by predictions of which the bundle was sure, with their seconds.

        None where something was answered whose confusion is not known.
        """
        seconds: dict[Emotion, float] = {}
        for prediction, length in sure:
            seconds[prediction.emotion] = seconds.get(prediction.emotion, 0.0) + length
        if not set(seconds) <= set(self.answers):
            return None
        total = sum(seconds.values())
        # As many segments of equal length tell as much.
        worth = max(1, round(total**2 / sum(length**2 for _, length in sure)))
        return self.truths, self._true_shares({emotion: length / total for emotion, length in seconds.items()}, worth)

    def _true_shares(self, observed: Mapping[Emotion, float], worth: int) -> "Floats":
        """(draws, truths): the shares that explain what was answered in so many segments."""
        import numpy as np

        random = np.random.default_rng(_SEED + 1)
        counted = random.multinomial(worth, [observed.get(emotion, 0.0) for emotion in self.answers], size=_COUNTED_DRAWS) / worth
        given = self.draws
        shares = np.full((_COUNTED_DRAWS, 1, len(self.truths)), 1 / len(self.truths))
        for _ in range(_EM_ROUNDS):
            explained = shares @ given
            shares = shares * np.matmul(given, (counted[:, None, :] / explained).transpose(0, 2, 1)).transpose(0, 2, 1)
        flat: Floats = shares[:, 0, :]
        return flat

    @cached_property
    def draws(self) -> "Floats":
        """(draws, truths, answers): probability of an answer given the truth; rows sum to 1."""
        import numpy as np

        random = np.random.default_rng(_SEED)
        clips = np.array([[[voice.sure.get(t, {}).get(a, 0) for a in self.answers] for t in self.truths] for voice in self._voices], float)
        common = clips.sum(axis=0) + 1 / len(self.answers)
        common /= common.sum(axis=1, keepdims=True)
        chosen = random.integers(len(clips), size=(_COUNTED_DRAWS, len(clips)))
        # One voice at a time: all at once would take memory for every voice of every draw.
        pooled = sum(clips[chosen[:, i]] for i in range(len(clips))) + _BORROWED_CLIPS * common
        pooled /= pooled.sum(axis=2, keepdims=True)
        concentration = 1 / _intraclass_correlation(clips, common) - 1
        drawn = random.standard_gamma(np.maximum(concentration * pooled, 1e-3)) + 1e-9
        voices: Floats = drawn / drawn.sum(axis=2, keepdims=True)
        return voices


def _intraclass_correlation(clips: "Floats", common: "Floats") -> float:
    """The intraclass correlation of one voice's answers: how much voices (V, T, A) differ beyond chance from what is common (T, A)."""
    import numpy as np

    sizes = clips.sum(axis=2)
    heard = np.where(sizes > 0, sizes, 1.0)
    excess = ((clips - sizes[..., None] * common) ** 2).sum(axis=2) / heard
    chance = (common * (1 - common)).sum(axis=1) * (sizes > 0) * (1 - 1 / max(2, len(clips)))
    room = (chance * (sizes - 1)).sum()
    return float(np.clip((excess - chance).sum() / room if room > 0 else _MOST_ALIKE, _LEAST_ALIKE, _MOST_ALIKE))


LEVEL = 0.95

# An interval that begins below this begins at nothing.
_NOTHING = 0.005


class PosteriorModel:
    """How one bundle answers, turned round. training_prior: what its posteriors are under where they were not corrected; None: even."""

    def __init__(self, confusion: PosteriorConfusion, training_prior: Mapping[Emotion, float] | None) -> None:
        self._confusion = confusion
        self._training_prior = training_prior or balanced(confusion.letters)
        self._quantifiers: dict[Prior, ShareEstimator] = {}

    def sample(self, judged: Sequence[tuple[Prediction, float]], prior: Prior | None) -> tuple[tuple[Emotion, ...], "FloatsShares"] | None:
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

    def _quantifier(self, prior: Prior) -> "ShareEstimator":
        from model.quantification import ShareEstimator

        if prior not in self._quantifiers:
            self._quantifiers[prior] = ShareEstimator(self._confusion, prior.counted(self._confusion.letters))
        return self._quantifiers[prior]


ConfusionModel = PosteriorModel | CountedModel


def confusion_model(
    read: PosteriorConfusion | Sequence[SpeakerConfusion], training_prior: Mapping[Emotion, float] | None
) -> ConfusionModel | None:
    """What `read_confusion` found in a bundle, ready to estimate with; None where it found nothing."""
    if isinstance(read, PosteriorConfusion):
        return PosteriorModel(read, training_prior)
    return CountedModel(read) if read else None


@dataclass(frozen=True, slots=True)
class EmotionShares:
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
    sample: tuple[tuple[Emotion, ...], "FloatsShares"] | None
    estimated: bool


def estimate_shares(pieces: Iterable[tuple[SegmentRecord, float]], confusions: Mapping[str, ConfusionModel]) -> EmotionShares:
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
        return EmotionShares()
    intervals = _intervals(said, parts) if all(part.sample for part in parts) else {}
    return EmotionShares(_mean_shares(said, parts) if any(part.estimated for part in parts) else {}, intervals)


def _part(version: str, judged: Sequence[tuple[Prediction, float]], confusions: Mapping[str, ConfusionModel]) -> _Part | None:
    """None where nothing counts: a bundle whose shares are counted was sure of nothing."""
    bare, prior = version_without_prior(version)
    known = confusions.get(bare)
    if isinstance(known, PosteriorModel) and (sample := known.sample(judged, prior)) is not None:
        letters, drawn = sample
        return _Part(sum(s for _, s in judged), dict(zip(letters, drawn.mean(axis=0).tolist(), strict=True)), sample, True)
    sure = [(prediction, seconds) for prediction, seconds in judged if not prediction.unsure]
    if not sure:
        return None
    total = sum(seconds for _, seconds in sure)
    counted: defaultdict[Emotion, float] = defaultdict(float)
    for prediction, seconds in sure:
        counted[prediction.emotion] += seconds / total
    return _Part(total, counted, known.sample(sure) if isinstance(known, CountedModel) else None, False)


def _mean_shares(said: Mapping[Emotion, float], parts: Sequence[_Part]) -> dict[Emotion, float]:
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
