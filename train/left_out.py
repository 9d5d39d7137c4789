"""Answers to labelled clips of voices, better of whole corpora, that a training left out: what calibration and confusion are made of.

n clips, L letters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from model.errors import TrainingError
from model.types import Emotion
from train.scoring.metrics import Bools, Floats, Ints, calibrate
from train.scoring.results import Judged

# Under it a probability counts as this; the logarithm of 0 has no use.
_FLOOR = 1e-9

Names = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """log_probs (n, L): at temperature 1, under the prior of the training. acted (n,): places among the letters.

    corpus, speaker (n,): names; a speaker is known within the corpus, "" where nobody knows who.
    """

    letters: tuple[Emotion, ...]
    log_probs: Floats
    acted: Ints
    corpus: Names
    speaker: Names

    @classmethod
    def of(cls, judged: Mapping[str, Sequence[Judged]], letters: Sequence[Emotion]) -> Self:
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

    def where(self, mask: Bools) -> "LeftOut":
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
