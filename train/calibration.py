"""Temperature and threshold from validation speakers: what makes a bundle's probabilities mean something, and `unsure` honest."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from model.bundle import Bundle
from model.errors import TrainingError
from model.predictor import Style
from model.request import LanguageModel
from model.types import Emotion
from train.corpora.splits import Part
from train.scoring.judging import judge
from train.scoring.metrics import calibrate, fit_temperature, threshold_for, unweighted_accuracy
from train.scoring.results import Judged

logger = logging.getLogger(__name__)

# Under it a probability counts as this; the logarithm of 0 has no use.
_FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class Calibration:
    """temperature divides log-probabilities; a highest probability under unsure_below is unsure; scores: seen on validation speakers."""

    temperature: float
    unsure_below: float
    scores: dict[str, float]

    @classmethod
    def fit(cls, bundle: Bundle, llm: LanguageModel, validation: Sequence[Part], trusted_accuracy: float) -> Self:
        """From labelled utterances nobody trained on, every corpus counting the same. `bundle` must have temperature 1.

        Raises TrainingError when there are none.
        """
        letters = bundle.manifest.letters
        judged = {part.corpus: _judged(bundle, llm, part, letters) for part in validation}
        if not any(judged.values()):
            raise TrainingError("no labelled utterance to calibrate on: name validation speakers or splits in the recipe")
        judged = {corpus: [one for one in answers if one.posterior is not None] for corpus, answers in judged.items()}
        judged = {corpus: answers for corpus, answers in judged.items() if answers}
        if not judged:
            raise TrainingError(
                "no answer to a validation utterance was in the grammar, so the model has not learned it: train longer, or release"
                f" another strategy than {bundle.manifest.strategy}; the training itself is kept"
            )
        scores = {corpus: _uar(answers, letters) for corpus, answers in judged.items()}
        size = min(len(answers) for answers in judged.values())
        rng = np.random.default_rng(0)
        kept = [answers[i] for answers in judged.values() for i in rng.permutation(len(answers))[:size]]
        logs = np.log(np.maximum([[one.posterior[letter] for letter in letters] for one in kept if one.posterior], _FLOOR))
        true = np.array([letters.index(one.utterance.emotion) for one in kept if one.utterance.emotion], dtype=np.int64)
        temperature = fit_temperature(logs, true)
        probabilities = calibrate(logs, temperature)
        confidence = probabilities.max(axis=1)
        threshold = threshold_for(confidence, probabilities.argmax(axis=1) == true, trusted_accuracy)
        scores["sure_share"] = float((confidence >= threshold).mean())
        logger.info("validation: %s", ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
        logger.info("temperature %.3f, unsure below %.3f", temperature, threshold)
        return cls(temperature, threshold, scores)

    @classmethod
    def stored(cls, path: Path) -> Self | None:
        """What an earlier, interrupted run left in `path`, if anything."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def store(self, path: Path) -> None:
        """Keep it for a later run."""
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        unfinished.rename(path)


def _judged(bundle: Bundle, llm: LanguageModel, part: Part, letters: Sequence[Emotion]) -> list[Judged]:
    labelled = [u for u in part.utterances if u.emotion in letters]
    return judge(bundle, llm, labelled, Style.of(bundle), f"validation {part.corpus}") if labelled else []


def _uar(judged: Sequence[Judged], letters: Sequence[Emotion]) -> float:
    true = np.array([letters.index(one.utterance.emotion) for one in judged if one.utterance.emotion], dtype=np.int64)
    found = np.array([letters.index(one.emotion) for one in judged if one.emotion], dtype=np.int64)
    return round(unweighted_accuracy(true, found, len(letters)), 4)
