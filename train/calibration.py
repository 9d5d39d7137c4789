"""Temperature and threshold from voices that a training never heard: what makes probabilities mean something, and `unsure` honest."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from model.bundle import Bundle
from model.confusion import VoiceConfusion
from model.errors import TrainingError
from model.predictor import Style
from model.request import LanguageModel
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.scoring.judging import judge
from train.scoring.metrics import calibrate, fit_temperature, threshold_for
from train.scoring.personal import judge_strange_and_known
from train.scoring.results import Judged

logger = logging.getLogger(__name__)

KNOWN = ", voices known"

# Under it a probability counts as this; the logarithm of 0 has no use.
_FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class Calibration:
    """temperature divides log-probabilities; a highest probability under unsure_below is unsure."""

    temperature: float
    unsure_below: float

    @classmethod
    def fit(cls, judged: Mapping[str, Sequence[Judged]], letters: Sequence[Emotion], trusted_accuracy: float) -> Self:
        """From labelled utterances by corpus, judged at temperature 1 by a training without their speakers; every corpus counts the same.

        Raises TrainingError when there are none, or none was answered.
        """
        if not any(judged.values()):
            raise TrainingError("no labelled utterance to calibrate on: name validation speakers, splits or folds in the recipe")
        answered = {corpus: [one for one in answers if one.posterior is not None] for corpus, answers in judged.items()}
        answered = {corpus: answers for corpus, answers in answered.items() if answers}
        if not answered:
            raise TrainingError(
                "no answer to a validation utterance was in the grammar, so the model has not learned it: train longer, or release"
                " another strategy; the training itself is kept"
            )
        size = min(len(answers) for answers in answered.values())
        rng = np.random.default_rng(0)
        kept = [answers[i] for answers in answered.values() for i in rng.permutation(len(answers))[:size]]
        logs = np.log(np.maximum([[one.posterior[letter] for letter in letters] for one in kept if one.posterior], _FLOOR))
        true = np.array([letters.index(one.utterance.emotion) for one in kept if one.utterance.emotion], dtype=np.int64)
        temperature = fit_temperature(logs, true)
        probabilities = calibrate(logs, temperature)
        confidence = probabilities.max(axis=1)
        threshold = threshold_for(confidence, probabilities.argmax(axis=1) == true, trusted_accuracy)
        logger.info("temperature %.3f, unsure below %.3f, sure share %.3f", temperature, threshold, (confidence >= threshold).mean())
        return cls(temperature, threshold)

    def applied(self, judged: Sequence[Judged]) -> list[Judged]:
        """Answers given at temperature 1 as the calibrated bundle would have given them."""
        return [self._applied(one) for one in judged]

    def _applied(self, one: Judged) -> Judged:
        if one.posterior is None:
            return one
        logs = np.log(np.maximum([list(one.posterior.values())], _FLOOR))
        posterior = dict(zip(one.posterior, calibrate(logs, self.temperature)[0].tolist(), strict=True))
        return replace(one, posterior=posterior, unsure=max(posterior.values()) < self.unsure_below)


def confusion_of(judged: Mapping[str, Sequence[Judged]]) -> list[VoiceConfusion]:
    """What calibrated answers by corpus say about each voice; clips whose speaker is not known are one voice of their corpus."""
    by_voice: defaultdict[tuple[str, str | None], list[Judged]] = defaultdict(list)
    for corpus, answers in judged.items():
        for one in answers:
            by_voice[corpus, one.utterance.speaker].append(one)
    return [_voice_confusion(answers) for answers in by_voice.values()]


def _voice_confusion(answers: Sequence[Judged]) -> VoiceConfusion:
    sure: defaultdict[Emotion, Counter[Emotion]] = defaultdict(Counter)
    unsure: Counter[Emotion] = Counter()
    for one in answers:
        if one.utterance.emotion is None or one.emotion is None:
            continue
        if one.unsure:
            unsure[one.utterance.emotion] += 1
        else:
            sure[one.utterance.emotion][one.emotion] += 1
    return VoiceConfusion(sure=sure, unsure=unsure)


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
