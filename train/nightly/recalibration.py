"""Fits temperature and threshold anew, so that the new bundle's probabilities mean as much as those of the one in use.

The released bundle was calibrated on voices it had never heard, which a night does not have. The public set is of voices that its training
knew, so a fit on it alone would be too sure; what it can tell is by how much a night changed the scale. So the temperature is changed by
the ratio of the best temperatures there, and the threshold so that as large a share of it is sure as was.
"""

from dataclasses import dataclass

import numpy as np

from model.manifest import BundleManifest
from model.priors import Prior
from train.scoring.metrics import Floats, Ints, calibrate, fit_temperature

_RANGE = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Fit:
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


def recalibrated(
    before: Floats, after: Floats, acted: Ints, temperature: float, unsure_below: float, shift: Floats | float = 0.0
) -> tuple[Fit, Fit]:
    """The calibration of the bundle in use as it is, and the new bundle's. before, after (n, L): log-probabilities; acted (n,).

    shift (L,): what corrects tempered log-probabilities to the prior that the threshold is for.
    """
    ratio = fit_temperature(after, acted) / fit_temperature(before, acted)
    fresh = temperature * float(np.clip(ratio, *_RANGE))
    sure_before, sure_after = (calibrate(logs / t + shift, 1.0).max(axis=1) for logs, t in ((before, temperature), (after, fresh)))
    share = float((sure_before >= unsure_below).mean())
    threshold = float(np.clip(np.quantile(sure_after, 1 - share), 0.0, 1.0))
    return Fit(temperature, unsure_below, share), Fit(fresh, threshold, float((sure_after >= threshold).mean()))
