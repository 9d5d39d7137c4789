"""Temperature and confidence threshold, fitted on predictions for speakers, better whole corpora, left out of training.

n clips, L letters. `LeftOutPredictions` holds those predictions; it also gives the confusion that estimated shares rest on.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from model.bundle import Bundle
from model.emotions import BALANCED, EVERYDAY, Emotion
from model.errors import TrainingError
from model.language_model import LanguageModel
from model.predictor import PromptStyle
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart
from train.evaluation.figures import KNOWN as KNOWN_SPEAKERS_SUFFIX
from train.evaluation.inference import predict_utterances
from train.evaluation.metrics import Bools, Floats, Ints, calibrate, confidence_threshold, fit_temperature
from train.evaluation.personalization import predict_unknown_and_known
from train.evaluation.results import UtterancePrediction

# Under it a probability counts as this; the logarithm of 0 has no use.
_FLOOR = 1e-9

Names = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class LeftOutPredictions:
    """log_probs (n, L): at temperature 1, under the prior of the training. acted (n,): places among the letters.

    corpus, speaker (n,): names; a speaker is known within the corpus, "" where nobody knows who.
    """

    letters: tuple[Emotion, ...]
    log_probs: Floats
    acted: Ints
    corpus: Names
    speaker: Names

    @classmethod
    def of(cls, judged: Mapping[str, Sequence[UtterancePrediction]], letters: Sequence[Emotion]) -> Self:
        """From utterances by corpus, judged at temperature 1. Raises TrainingError when none is labelled, or none was answered."""
        if not any(judged.values()):
            raise TrainingError("no labelled utterance to calibrate on: name validation speakers, splits or folds in the recipe")
        answered = [(corpus, one) for corpus, answers in judged.items() for one in answers if one.posterior and one.utterance.emotion]
        if not answered:
            raise TrainingError(
                "no answer to a validation utterance was in the grammar, so the model has not learned it: train longer, or release"
                " another strategy; the training itself is kept"
            )
        return cls(
            tuple(letters),
            np.log(np.maximum([[one.posterior[letter] for letter in letters] for _, one in answered if one.posterior], _FLOOR)),
            np.array([letters.index(one.utterance.emotion) for _, one in answered if one.utterance.emotion], dtype=np.int64),
            np.array([corpus for corpus, _ in answered]),
            np.array([one.utterance.speaker for _, one in answered]),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote. Raises TrainingError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                letters = tuple(Emotion(letter) for letter in str(file["letters"]))
                table = cls(letters, file["log_probs"].astype(float), file["acted"].astype(np.int64), file["corpus"], file["speaker"])
        except (OSError, ValueError, KeyError) as error:
            raise TrainingError(f"{path} is no table of left-out posteriors: {error}") from error
        count = len(table.acted)
        fits = table.log_probs.shape == (count, len(letters)) and len(table.corpus) == len(table.speaker) == count > 0
        if not fits or not 0 <= table.acted.min() <= table.acted.max() < len(letters):
            raise TrainingError(f"{path} is no table of left-out posteriors: its columns do not fit each other")
        return table

    def save(self, path: Path) -> None:
        """Write an .npz: letters (one string, such as "ASHUFDN"), log_probs, acted, corpus, speaker."""
        letters = "".join(letter.value for letter in self.letters)
        np.savez_compressed(
            path, letters=letters, log_probs=self.log_probs.astype(np.float32), acted=self.acted, corpus=self.corpus, speaker=self.speaker
        )

    @property
    def corpora(self) -> list[str]:
        """Names, in alphabetical order."""
        return [str(name) for name in np.unique(self.corpus)]

    def where(self, mask: Bools) -> "LeftOutPredictions":
        """The clips that a mask (n,) keeps."""
        return replace(self, log_probs=self.log_probs[mask], acted=self.acted[mask], corpus=self.corpus[mask], speaker=self.speaker[mask])

    def posteriors(self, temperature: float, training_prior: Mapping[Emotion, float], prior: Mapping[Emotion, float]) -> Floats:
        """Posteriors (n, L), tempered and then corrected to a prior."""
        shift = np.log([prior[letter] / training_prior[letter] for letter in self.letters])
        return calibrate(self.log_probs / temperature + shift, 1.0)

    def weights(self, prior: Mapping[Emotion, float]) -> Floats:
        """What each clip counts for (n,), so that every corpus counts the same, and within it letters as often as a prior says."""
        weights = np.zeros(len(self.acted))
        for name in np.unique(self.corpus):
            here = self.corpus == name
            places, counts = np.unique(self.acted[here], return_counts=True)
            expected = np.array([prior[self.letters[place]] for place in places])
            each = np.zeros(len(self.letters))
            each[places] = expected / expected.sum() / counts
            weights[here] = each[self.acted[here]]
        return weights


logger = logging.getLogger(__name__)

_TOO_FEW = 0.02


@dataclass(frozen=True, slots=True)
class Calibration:
    """temperature divides log-probabilities; a highest probability under unsure_below is unsure."""

    temperature: float
    unsure_below: float

    @classmethod
    def fit(cls, left_out: LeftOutPredictions, training_prior: Mapping[Emotion, float], trusted_accuracy: float) -> Self:
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
                needed = confidence_threshold(confidence[here], right[here], trusted_accuracy, weights[here])
                needed = min(needed, float(np.quantile(confidence[here], 1 - _TOO_FEW)))
                logger.info("%s: sure from %.3f", name, needed)
                threshold = max(threshold, needed)
        logger.info("temperature %.3f, unsure below %.3f", temperature, threshold)
        return cls(temperature, threshold)

    def applied(self, judged: Sequence[UtterancePrediction]) -> list[UtterancePrediction]:
        """Answers given at temperature 1 as the calibrated bundle would give them under the prior of its training."""
        return [self._applied(one) for one in judged]

    def _applied(self, one: UtterancePrediction) -> UtterancePrediction:
        if one.posterior is None:
            return one
        logs = np.log(np.maximum([list(one.posterior.values())], _FLOOR))
        posterior = dict(zip(one.posterior, calibrate(logs, self.temperature)[0].tolist(), strict=True))
        return replace(one, posterior=posterior, unsure=max(posterior.values()) < self.unsure_below)


def training_prior(parts: Sequence[CorpusPart], letters: Sequence[Emotion], balanced: bool) -> dict[Emotion, float]:
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


def predict_by_corpus(bundle: Bundle, llm: LanguageModel, parts: Sequence[CorpusPart]) -> dict[str, list[UtterancePrediction]]:
    """Answers to the labelled utterances of parts that the bundle, which must have temperature 1, was not trained on.

    By corpus; of a bundle that normalises, each corpus once more as CORPUS + KNOWN, its speakers' voices being known.
    """
    clips, style = labelled_by_corpus(parts, bundle.manifest.letters), PromptStyle.of(bundle)
    if bundle.reference_settings is None:
        return {corpus: predict_utterances(bundle, llm, of_it, style, f"validation {corpus}") for corpus, of_it in clips.items()}
    judged: dict[str, list[UtterancePrediction]] = {}
    for corpus, of_it in clips.items():
        judged[corpus], judged[corpus + KNOWN_SPEAKERS_SUFFIX] = predict_unknown_and_known(bundle, llm, of_it, style)
    return {corpus: answers for corpus, answers in judged.items() if answers}


def labelled_by_corpus(parts: Sequence[CorpusPart], letters: Sequence[Emotion]) -> dict[str, list[Utterance]]:
    """What there is to calibrate on: utterances with one of the letters, by corpus."""
    found = {part.corpus: [u for u in part.utterances if u.emotion in letters] for part in parts}
    return {corpus: clips for corpus, clips in found.items() if clips}
