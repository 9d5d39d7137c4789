"""Days of known composition, put together from voices that were left out: do the estimated shares and their 95 % intervals hold?

A day is one voice's. Its segments are drawn, with replacement, from that voice's clips, letters as its composition says. What the
intervals rest on comes from other corpora, so a day tests them on people and recordings that nothing is known about. n clips, L letters.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.bundle_format import PosteriorConfusion, SpeakerPosteriors
from model.emotions import EVERYDAY, Emotion, balanced
from model.quantification import ShareEstimator
from train.calibration import LeftOutPredictions
from train.evaluation.figures import KNOWN
from train.evaluation.metrics import Floats, Ints

logger = logging.getLogger(__name__)

DAY_KINDS = ("everyday", "low", "even", "single")
"""everyday: as that prior says. low: half of it is sad. even: anything. single: three quarters are one emotion."""

SEGMENTS_PER_DAY = (40, 150, 400)
"""How many segments days have, in turn."""

SPREADS, BLURS = (0.1, 0.25, 0.5, 1.0), (0.0, 0.5, 1.0)
"""What is tried for a confusion's spread and blur."""

UNKNOWN = (0.5, 1.0)
"""Spread and blur where a bundle was measured on one corpus only, so that how much corpora differ is not known."""

LEVEL = 0.95

_FEW_CLIPS = 2
_AROUND = 20.0
_SEED = 7


@dataclass(frozen=True, slots=True, eq=False)
class PosteriorTable:
    """Calibrated posteriors (n, L), under an even prior, of left-out clips."""

    clips: LeftOutPredictions
    posteriors: Floats

    @classmethod
    def of(cls, clips: LeftOutPredictions, temperature: float, training_prior: Mapping[Emotion, float]) -> "PosteriorTable":
        """Calibrated, and corrected from the prior of the training."""
        return cls(clips, clips.posteriors(temperature, training_prior, balanced(clips.letters)))

    def corpora(self, names: Sequence[str]) -> "PosteriorTable":
        """The clips of some corpora."""
        mask = np.isin(self.clips.corpus, names)
        return PosteriorTable(self.clips.where(mask), self.posteriors[mask])


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedDay:
    """clips: places in the table, one a segment. shares (L,): of each letter; known (L,): those that this voice could have spoken."""

    kind: str
    clips: Ints
    shares: Floats
    known: Ints


@dataclass(frozen=True, slots=True, eq=False)
class EstimatedDay:
    """What became of one simulated day, each (L,): counted, the most probable letters under an even prior; shown, those under the prior of
    everyday speech, as single segments are shown; estimated, with low and high, the ends of the interval."""

    corpus: str
    day: SimulatedDay
    counted: Floats
    shown: Floats
    estimated: Floats
    low: Floats
    high: Floats

    @property
    def held(self) -> float:
        """Part of the voice's letters whose share lies in its interval."""
        inside = (self.low <= self.day.shares + 1e-9) & (self.day.shares <= self.high + 1e-9)
        return float(inside[self.day.known].mean())

    @property
    def width(self) -> float:
        """Mean width of the intervals of the voice's letters."""
        return float((self.high - self.low)[self.day.known].mean())

    @property
    def interval_score(self) -> float:
        """Mean interval score (Gneiting & Raftery 2007, JASA 102, 359-378): the width, and 2 / 0.05 times what the truth lies outside."""
        outside = np.maximum(self.low - self.day.shares, 0) + np.maximum(self.day.shares - self.high, 0)
        return self.width + 2 / (1 - LEVEL) * float(outside[self.day.known].mean())


def posterior_confusion(table: PosteriorTable, beyond: tuple[float, float] | None = None) -> PosteriorConfusion:
    """What a bundle carries. beyond: spread and blur; by default fitted, see `fit_spread_and_blur`."""
    letters, clips = table.clips.letters, table.clips
    voices = []
    for corpus, speaker in dict.fromkeys(zip(clips.corpus.tolist(), clips.speaker.tolist(), strict=True)):
        its = (clips.corpus == corpus) & (clips.speaker == speaker)
        places, counts = np.unique(clips.acted[its], return_counts=True)
        means = {letters[place]: table.posteriors[its & (clips.acted == place)].mean(axis=0).round(4) for place in places}
        voices.append(
            SpeakerPosteriors(
                corpus=corpus,
                clips={letters[place]: int(count) for place, count in zip(places, counts, strict=True)},
                posterior={letter: tuple(mean.tolist()) for letter, mean in means.items()},
            )
        )
    spread, blur = beyond or fit_spread_and_blur(table)
    return PosteriorConfusion(letters=letters, spread=spread, blur=blur, voices=tuple(voices))


def fit_spread_and_blur(table: PosteriorTable, days: int = 60) -> tuple[float, float]:
    """The spread and blur with the best interval score on simulated days of each corpus, left out in turn. days: of each corpus."""
    if not other_corpora(table.clips, table.clips.corpora[0]):
        return UNKNOWN
    tried = [(spread, blur) for blur in BLURS for spread in SPREADS]
    scores = [mean_by_corpus(cross_validate(table, days, beyond), lambda one: one.interval_score) for beyond in tried]
    best = tried[int(np.argmin(scores))] if not np.isnan(scores).all() else UNKNOWN
    logger.info("a new voice: spread %.2f, blur %.1f", *best)
    return best


def cross_validate(table: PosteriorTable, days: int, beyond: tuple[float, float] | None) -> list[EstimatedDay]:
    """Days of each corpus, estimated by what the other corpora tell. beyond: None to fit it to these others, as a release does."""
    return [
        checked
        for name in table.clips.corpora
        for checked in estimate_days(
            table.corpora([name]), posterior_confusion(table.corpora(other_corpora(table.clips, name)), beyond), days
        )
    ]


def other_corpora(clips: LeftOutPredictions, name: str) -> list[str]:
    """The corpora of other people: a corpus whose voices were known is heard twice, and is no other one."""
    return [other for other in clips.corpora if other.removesuffix(KNOWN) != name.removesuffix(KNOWN)]


def mean_by_corpus(checked: Sequence[EstimatedDay], figure: Callable[[EstimatedDay], float]) -> float:
    """The mean of a figure, each corpus counting the same; NaN without days."""
    names = sorted({one.corpus for one in checked})
    return float(np.mean([np.mean([figure(one) for one in checked if one.corpus == name]) for name in names])) if names else float("nan")


def estimate_days(table: PosteriorTable, confusion: PosteriorConfusion, days: int, seed: int = _SEED) -> Iterator[EstimatedDay]:
    """Simulated days of one corpus, estimated."""
    quantifier = ShareEstimator(confusion, EVERYDAY.counted(confusion.letters))
    places = [confusion.letters.index(letter) for letter in quantifier.letters]
    corpus, everyday = table.clips.corpora[0], np.array(list(EVERYDAY.over(confusion.letters).values()))
    for day in simulate_days(table.clips, days, seed):
        posteriors = table.posteriors[day.clips]
        drawn = quantifier.shares(posteriors, np.ones(len(day.clips)))
        estimated, low, high = np.zeros((3, len(confusion.letters)))
        estimated[places] = drawn.mean(axis=0)
        low[places], high[places] = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        # As a day's summary has it: an interval that begins so low begins at nothing.
        low[low < 0.005] = 0.0
        counted, shown = (_counted(posteriors * expected) for expected in (1.0, everyday))
        yield EstimatedDay(corpus, day, counted, shown, estimated, low, high)


def _counted(likely: Floats) -> Floats:
    """The part of segments (n, L) of which each letter is the most likely one."""
    counted: Floats = np.bincount(likely.argmax(axis=1), minlength=likely.shape[1]) / len(likely)
    return counted


def simulate_days(clips: LeftOutPredictions, days: int, seed: int = _SEED) -> Iterator[SimulatedDay]:
    """Days of the voices that have at least two letters with two clips each; kinds and numbers of segments in turn."""
    random = np.random.default_rng(seed)
    voices = [v for v in _voices(clips) if len(v) > 1]
    for number in range(days if voices else 0):
        voice = voices[int(random.integers(len(voices)))]
        kind, segments = DAY_KINDS[number % len(DAY_KINDS)], SEGMENTS_PER_DAY[number // len(DAY_KINDS) % len(SEGMENTS_PER_DAY)]
        letters = [clips.letters[place] for place in voice]
        counts = random.multinomial(segments, _composition(random, kind, letters))
        drawn = np.concatenate([random.choice(voice[place], count) for place, count in zip(voice, counts, strict=True)])
        shares = np.zeros(len(clips.letters))
        shares[list(voice)] = counts / segments
        yield SimulatedDay(kind, drawn, shares, np.array(list(voice)))


def _voices(clips: LeftOutPredictions) -> Iterator[dict[int, Ints]]:
    """Of each voice its clips by letter, where there are a few."""
    for speaker in np.unique(clips.speaker):
        its = {place: np.flatnonzero((clips.speaker == speaker) & (clips.acted == place)) for place in range(len(clips.letters))}
        yield {place: found for place, found in its.items() if len(found) >= _FEW_CLIPS}


def _composition(random: np.random.Generator, kind: str, letters: Sequence[Emotion]) -> Floats:
    """Shares of the letters, drawn for a day of a kind; they sum to 1."""
    if kind == "even":
        return random.dirichlet(np.ones(len(letters)))
    everyday = np.array(list(EVERYDAY.counted(letters).values()))
    mostly = letters.index(Emotion.SAD) if kind == "low" and Emotion.SAD in letters else int(random.integers(len(letters)))
    part = {"everyday": 0.0, "low": 0.5, "single": 0.75}[kind]
    return random.dirichlet(_AROUND * ((1 - part) * everyday + part * np.eye(len(letters))[mostly]))
