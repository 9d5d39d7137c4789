"""Temperature and threshold from voices that a training never heard: what makes probabilities mean something, and `unsure` honest."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from model.bundle import Bundle
from model.predictor import Style
from model.priors import BALANCED, EVERYDAY
from model.request import LanguageModel
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.left_out import LeftOut
from train.scoring.evaluation import KNOWN
from train.scoring.judging import judge
from train.scoring.metrics import calibrate, fit_temperature, threshold_for
from train.scoring.personal import judge_strange_and_known
from train.scoring.results import Judged

logger = logging.getLogger(__name__)

_TOO_FEW = 0.02

# Under it a probability counts as this; the logarithm of 0 has no use.
_FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class Calibration:
    """temperature divides log-probabilities; a highest probability under unsure_below is unsure."""

    temperature: float
    unsure_below: float

    @classmethod
    def fit(cls, left_out: LeftOut, training_prior: Mapping[Emotion, float], trusted_accuracy: float) -> Self:
        """The temperature is for posteriors corrected to the prior of everyday speech, as the monitor shows them; corpora count the same.

        trusted_accuracy: how often a sure answer must be right on every single corpus, for strangers and for known voices, where letters
        are as frequent as in everyday speech and where all are alike, posteriors corrected to the same. A corpus of which under 2 %
        would be sure says nothing about a threshold.
        """
        everyday, even = (prior.over(left_out.letters) for prior in (EVERYDAY, BALANCED))
        shift = np.log([everyday[letter] / training_prior[letter] for letter in left_out.letters])
        temperature = fit_temperature(left_out.log_probs, left_out.acted, left_out.weights(everyday), shift)
        threshold = 0.0
        for prior in (everyday, even):
            posteriors, weights = left_out.posteriors(temperature, training_prior, prior), left_out.weights(prior)
            confidence, right = posteriors.max(axis=1), posteriors.argmax(axis=1) == left_out.acted
            for name in left_out.corpora:
                here = left_out.corpus == name
                needed = threshold_for(confidence[here], right[here], trusted_accuracy, weights[here])
                needed = min(needed, float(np.quantile(confidence[here], 1 - _TOO_FEW)))
                logger.info("%s: sure from %.3f", name, needed)
                threshold = max(threshold, needed)
        logger.info("temperature %.3f, unsure below %.3f", temperature, threshold)
        return cls(temperature, threshold)

    def applied(self, judged: Sequence[Judged]) -> list[Judged]:
        """Answers given at temperature 1 as the calibrated bundle would give them under the prior of its training."""
        return [self._applied(one) for one in judged]

    def _applied(self, one: Judged) -> Judged:
        if one.posterior is None:
            return one
        logs = np.log(np.maximum([list(one.posterior.values())], _FLOOR))
        posterior = dict(zip(one.posterior, calibrate(logs, self.temperature)[0].tolist(), strict=True))
        return replace(one, posterior=posterior, unsure=max(posterior.values()) < self.unsure_below)


def training_prior(parts: Sequence[Part], letters: Sequence[Emotion], balanced: bool) -> dict[Emotion, float]:
    """How often a training on these parts hears each letter, 0 to 1.

    balanced: a corpus is drawn by its share, then each of its letters alike; otherwise every utterance comes equally often. A letter that
    no corpus has is never answered, and counts as one in a thousand, so that the prior has all of them.
    """
    heard = dict.fromkeys(letters, 0.0)
    for part in parts:
        counts = Counter(utterance.emotion for utterance in part.utterances if utterance.emotion in heard)
        for letter, count in counts.items():
            heard[letter] += part.share / len(counts) if balanced else count
    total = sum(heard.values()) or 1.0
    return {letter: round(max(amount / total, 1e-3), 4) for letter, amount in heard.items()}


def judged_by_corpus(bundle: Bundle, llm: LanguageModel, parts: Sequence[Part]) -> dict[str, list[Judged]]:
    """Answers to the labelled utterances of parts that the bundle, which must have temperature 1, was not trained on.

    By corpus; of a bundle that normalises, each corpus once more as CORPUS + KNOWN, its speakers' voices being known.
    """
    clips, style = labelled(parts, bundle.manifest.letters), Style.of(bundle)
    if bundle.reference_settings is None:
        return {corpus: judge(bundle, llm, of_it, style, f"validation {corpus}") for corpus, of_it in clips.items()}
    judged: dict[str, list[Judged]] = {}
    for corpus, of_it in clips.items():
        judged[corpus], judged[corpus + KNOWN] = judge_strange_and_known(bundle, llm, of_it, style)
    return {corpus: answers for corpus, answers in judged.items() if answers}


def labelled(parts: Sequence[Part], letters: Sequence[Emotion]) -> dict[str, list[Utterance]]:
    """What there is to calibrate on: utterances with one of the letters, by corpus."""
    found = {part.corpus: [u for u in part.utterances if u.emotion in letters] for part in parts}
    return {corpus: clips for corpus, clips in found.items() if clips}
