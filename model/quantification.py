"""Quantification: estimates the shares of emotions in many segments from their posteriors, for a person nobody has measured.

Counting the most probable letters, or adding up posteriors, repeats what the model confuses and what its prior expects, as often as it is
asked. Here the shares are inferred, including the uncertainty of who speaks (approximate Bayesian computation with regression adjustment:
Beaumont, Zhang & Balding 2002, Genetics 162, 2025-2035). Prior, simulation and adjustment:

1. A day may be anything from the speech that the prior describes to one emotion all day: a mixture of both in even parts, all emotions
   alike, and a Dirichlet distribution around it.
2. A person is predicted like one of the speakers left out of training: a corpus, then a speaker of it, each drawn evenly; what a few clips
   do not tell is taken from the corpus. Beyond these corpora, predictions may lean to some letters whatever is said, and letters may
   differ less, as far as the confusion's spread and blur say.
3. The mean posterior of such a day varies by chance as much as that of the segments at hand; long ones count more.

Of SIMULATED_DAYS days, the NEAREST_DAYS nearest to the mean posterior at hand (Hellinger distance) are kept; a weighted linear regression
of the square roots of their shares on those of their mean posteriors moves them to it. They are a sample of what the shares may be. The
same segments give the same sample. D days, T letters that were acted, A letters of the bundle, n segments.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.bundle_format import PosteriorConfusion
from model.emotions import Emotion

Floats = NDArray[np.float64]

SIMULATED_DAYS, NEAREST_DAYS = 8000, 400

_SEED = 20020101
# Dirichlet parameters of a day: so much around the mixture, and so much for each letter, so that days without one are common.
_AROUND, _ANYTHING = 8.0, 0.15
# A voice's mean posterior is worth its clips, against so many of its corpus's; of one voice a corpus's mean takes at most so many.
_CORPUS_CLIPS, _MOST_CLIPS = 5.0, 10.0
# Segments vary at least as if so many of them were all or nothing: few that agree by chance do not make sure.
_WILD_SEGMENTS = 5.0
# A mean posterior is at least this: square roots below it are noise.
_FLOOR = 1e-3


class ShareEstimator:
    """One bundle's confusion turned round. prior: how often each of its letters occurs in the speech that a day is a mixture of."""

    def __init__(self, confusion: PosteriorConfusion, prior: Mapping[Emotion, float]) -> None:
        self._confusion = confusion
        acted = {letter for voice in confusion.voices for letter in voice.clips}
        self.letters = tuple(letter for letter in confusion.letters if letter in acted)
        """The letters that shares are estimated of: those that were acted where the bundle was measured."""
        self._prior = np.array([prior[letter] for letter in self.letters])

    def shares(self, posteriors: Floats, seconds: Floats) -> Floats:
        """A sample (NEAREST, T) of what the shares of the letters may be; rows sum to 1.

        posteriors (n, A): of at least one segment, calibrated, under an even prior. seconds (n,): what each counts for, above 0.
        """
        weights = seconds / seconds.sum()
        mean = weights @ posteriors
        shares, means = self._simulated
        by_chance = means + self._chance @ _deviation(posteriors, weights, mean).T
        heard = np.sqrt(np.maximum(by_chance, _FLOOR)) - np.sqrt(np.maximum(mean, _FLOOR))
        distances = (heard * heard).sum(axis=1)
        near = np.argpartition(distances, NEAREST_DAYS)[:NEAREST_DAYS]
        return _moved(np.sqrt(shares[near]), heard[near], 1 - distances[near] / distances[near].max())

    @cached_property
    def _simulated(self) -> tuple[Floats, Floats]:
        """Shares (D, T) of simulated days, and their mean posteriors (D, A)."""
        random = np.random.default_rng(_SEED)
        count = len(self.letters)
        emotional = random.random((SIMULATED_DAYS, 1))
        centre = (1 - emotional) * self._prior / self._prior.sum() + emotional * np.eye(count)[random.integers(count, size=SIMULATED_DAYS)]
        drawn = random.standard_gamma(_AROUND * centre + _ANYTHING) + 1e-12
        shares = drawn / drawn.sum(axis=1, keepdims=True)
        answers = self._persons(random)
        blur = self._confusion.blur * random.random((SIMULATED_DAYS, 1, 1))
        answers = (1 - blur) * answers + blur * answers.mean(axis=1, keepdims=True)
        answers *= np.exp(self._confusion.spread * random.standard_normal((SIMULATED_DAYS, 1, len(self._confusion.letters))))
        answers /= answers.sum(axis=2, keepdims=True)
        means: Floats = np.einsum("dt,dta->da", shares, answers)
        return shares, means

    def _persons(self, random: np.random.Generator) -> Floats:
        """Mean posteriors (D, T, A) of hypothetical persons, by the letter that is meant."""
        profiles, known, corpus = _profiles(self._confusion, self.letters)
        chosen = _drawn_voices(random, corpus, np.ones(len(corpus), dtype=bool), SIMULATED_DAYS)
        persons = np.empty((SIMULATED_DAYS, *profiles.shape[1:]))
        for place in range(len(self.letters)):
            voices = chosen.copy()
            lacking = ~known[chosen, place]
            # Nobody of that corpus acted this emotion: as a voice of another one answers.
            voices[lacking] = _drawn_voices(random, corpus, known[:, place], int(lacking.sum()))
            persons[:, place] = profiles[voices, place]
        return persons

    @cached_property
    def _chance(self) -> Floats:
        return np.random.default_rng(_SEED + 1).standard_normal((SIMULATED_DAYS, len(self._confusion.letters)))


def _deviation(posteriors: Floats, weights: Floats, mean: Floats) -> Floats:
    """The square root (A, A) of the covariance of segments' mean posterior."""
    worth = 1 / (weights * weights).sum()
    apart = posteriors - mean
    wild = np.diag(mean) - np.outer(mean, mean)
    covariance = (worth * (apart.T * weights) @ apart + _WILD_SEGMENTS * wild) / (worth + _WILD_SEGMENTS) / worth
    root: Floats = np.linalg.cholesky(covariance + 1e-8 * np.eye(len(mean)))
    return root


def _moved(roots: Floats, heard: Floats, weights: Floats) -> Floats:
    """Shares whose square roots are `roots`, less what their distance from what was heard explains. heard (n, A): that distance."""
    design = np.column_stack([np.ones(len(heard)), heard])
    weighted = design * weights[:, None]
    slopes = np.linalg.solve(design.T @ weighted + 1e-6 * np.eye(design.shape[1]), weighted.T @ roots)[1:]
    shares = np.maximum(roots - heard @ slopes, 0.0) ** 2 + 1e-12
    moved: Floats = shares / shares.sum(axis=1, keepdims=True)
    return moved


def _profiles(confusion: PosteriorConfusion, letters: tuple[Emotion, ...]) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Of voices V mean posteriors (V, T, A), as far as clips tell, whether their corpus has the letter (V, T), and their corpus (V,)."""
    clips = np.array([[voice.clips.get(letter, 0) for letter in letters] for voice in confusion.voices], dtype=float)
    nothing = (0.0,) * len(confusion.letters)
    means = np.array([[voice.posterior.get(letter, nothing) for letter in letters] for voice in confusion.voices])
    means /= np.maximum(means.sum(axis=2, keepdims=True), 1e-9)
    names = sorted({voice.corpus for voice in confusion.voices})
    corpus = np.array([names.index(voice.corpus) for voice in confusion.voices])
    profiles, known = np.zeros_like(means), np.zeros(clips.shape, dtype=bool)
    for number in range(len(names)):
        here = corpus == number
        worth = np.minimum(clips[here], _MOST_CLIPS)
        common = (means[here] * worth[..., None]).sum(axis=0) / np.maximum(worth.sum(axis=0), 1.0)[:, None]
        own = clips[here][..., None]
        profiles[here] = (own * means[here] + _CORPUS_CLIPS * common) / (own + _CORPUS_CLIPS)
        known[here] = worth.sum(axis=0) > 0
    return np.maximum(profiles, 1e-4), known, corpus


def _drawn_voices(random: np.random.Generator, corpus: NDArray[np.int64], among: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Places of `count` voices out of those `among`: a corpus that has any, then one of its voices, each with the same probability."""
    groups = [np.flatnonzero(among & (corpus == number)) for number in np.unique(corpus[among])]
    sizes = np.array([len(group) for group in groups])
    starts = np.cumsum(sizes) - sizes
    group = random.integers(len(groups), size=count)
    drawn: NDArray[np.int64] = np.concatenate(groups)[starts[group] + (random.random(count) * sizes[group]).astype(np.int64)]
    return drawn
