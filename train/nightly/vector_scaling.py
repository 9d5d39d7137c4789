"""Vector scaling (Guo et al., 2017): a bias for each letter and a temperature, fitted to one person's labels; and recalibration.

People correct what was wrong and seldom confirm what was right, so their labels are no sample of their speech: a fit that took them for one
would learn above all not to predict what was shown. So the letter shown gets a weight of its own while fitting, which absorbs how much more
often people correct than confirm, and is left out afterwards. Biases are shrunk towards zero.

A bundle is calibrated on speakers it had never heard, which a night does not have. The rehearsal set holds speakers of its training, so a
fit on it alone would be too certain; it does tell by how much a night changed the scale. So `recalibrate` changes the temperature by the
ratio of the best temperatures there, and the threshold so that an equal share of it stays sure. n segments, L letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from model.bundle_format import BundleManifest
from model.emotions import Emotion, Prior
from model.labelled_segment import LabelKind, LabelledSegment
from train.evaluation.metrics import Bools, Floats, Ints, calibrate, fit_temperature

NOT_SHOWN = -1
"""In the place of the letter shown, where nothing was shown or the bundle has no such letter."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelArrays:
    """All of length n. said: what the person says. shown: what was shown to them, or NOT_SHOWN. corrected: the person said that it was
    wrong. weights: what each counts, over 0 to 1."""

    said: Ints
    shown: Ints
    corrected: Bools
    weights: Floats

    @classmethod
    def of(cls, pieces: Sequence[LabelledSegment], letters: Sequence[Emotion]) -> Self:
        """Of segments whose emotions are all among the letters."""
        shown = [NOT_SHOWN if one.kind is LabelKind.CHECKIN or one.shown not in letters else letters.index(one.shown) for one in pieces]
        return cls(
            said=np.array([letters.index(one.emotion) for one in pieces], dtype=np.int64),
            shown=np.array(shown, dtype=np.int64),
            corrected=np.array([one.kind is LabelKind.CORRECTION for one in pieces], dtype=np.bool_),
            weights=np.array([one.weight for one in pieces], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.said)

    def at(self, places: Ints | Bools) -> Self:
        """Some of them, by place or by mask."""
        return type(self)(self.said[places], self.shown[places], self.corrected[places], self.weights[places])


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
    def fit(
        cls, log_probs: Floats, labels: LabelArrays, bias_spread: float, scale_spread: float = 0.3, *, prior: Floats | None = None
    ) -> Self:
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


_RANGE = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class CalibrationFit:
    """temperature divides log-probabilities; a highest probability under unsure_below is unsure; sure_share: of the public set."""

    temperature: float
    unsure_below: float
    sure_share: float


def correction(manifest: BundleManifest, prior: Prior) -> Floats:
    """What corrects a bundle's tempered log-probabilities (L,) to a prior; zeros where it does not state that of its training."""
    heard = manifest.training_prior
    if heard is None:
        return np.zeros(len(manifest.letters))
    expected = prior.over(manifest.letters)
    return np.asarray(np.log([expected[letter] / heard[letter] for letter in manifest.letters]))


def recalibrate(
    before: Floats, after: Floats, acted: Ints, temperature: float, unsure_below: float, shift: Floats | float = 0.0
) -> tuple[CalibrationFit, CalibrationFit]:
    """The calibration of the bundle in use as it is, and the new bundle's. before, after (n, L): log-probabilities; acted (n,).

    shift (L,): what corrects tempered log-probabilities to the prior that the threshold is for.
    """
    ratio = fit_temperature(after, acted) / fit_temperature(before, acted)
    fresh = temperature * float(np.clip(ratio, *_RANGE))
    sure_before, sure_after = (calibrate(logs / t + shift, 1.0).max(axis=1) for logs, t in ((before, temperature), (after, fresh)))
    share = float((sure_before >= unsure_below).mean())
    threshold = float(np.clip(np.quantile(sure_after, 1 - share), 0.0, 1.0))
    return CalibrationFit(temperature, unsure_below, share), CalibrationFit(fresh, threshold, float((sure_after >= threshold).mean()))
