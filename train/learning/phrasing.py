"""Examples to tokens: the request in one of its wordings, and the answer that is to be learned. B examples, A answer length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.errors import TrainingError
from model.paralinguistics import FEATURES, INTRODUCTIONS, words
from model.prompts import Rendered, Shot, Task, emotion_prefix, format_answer, letter_ids, messages, render, shots_of
from model.types import Emotion
from train.learning.examples import Example
from train.learning.voices import Voices
from train.recipe import PhaseRecipe


@dataclass(frozen=True, slots=True)
class Asked:
    """One example for the language model. letter_at: where in the answer's ids the letter stands, -1 without one."""

    prompt: Rendered
    answer: tuple[int, ...]
    letter_at: int

    def weight(self, letter_weight: float) -> float:
        """Sum of the answer's tokens' weights in the loss."""
        return len(self.answer) + (letter_weight - 1 if self.letter_at >= 0 else 0)


class Phrasing:
    """How a phase words its requests, for one tokenizer."""

    def __init__(self, tokenizer: Any, letters: Sequence[Emotion], phase: PhaseRecipe, voices: Voices | None) -> None:
        """voices: what is known of the utterances' voices, needed where the phase asks for features."""
        self._tokenizer, self._phase = tokenizer, phase
        self._voices = voices if phase.features else None
        self._emotions = list(letters)
        self.letters = list(letter_ids(tokenizer, letters).values())
        self._shots = shots_of(letters)

    def asked(self, example: Example) -> Asked:
        """Tokens of one example; wording, order of features and choice of shots are drawn by the example's seed."""
        rng = np.random.default_rng((example.seed, 1))
        turns = messages(example.task, example.prompt, features=self._description(example, rng), shots=self._drawn_shots(rng))
        utterance = example.utterance
        transcript = utterance.transcript if example.task is not Task.SER else None
        emotion = self._letter(example, rng) if example.task is not Task.ASR else None
        # The end of the turn is part of the answer: a model that does not learn it never stops.
        answer = (*self._ids(format_answer(emotion, transcript)), self._tokenizer.eos_token_id)
        letter_at = -1 if emotion is None else len(self._ids(emotion_prefix(transcript)))
        if letter_at >= 0 and answer[letter_at] not in self.letters:
            raise TrainingError(f"this tokenizer joins the letter with the words before it in {utterance.path}; it cannot be trained on")
        return Asked(render(self._tokenizer, turns), answer, letter_at)

    def _letter(self, example: Example, rng: np.random.Generator) -> Emotion | None:
        """What stands in the answer; where any letter would do, one is drawn, so that what follows it is learned."""
        if example.outlier is None:
            return example.utterance.emotion
        return self._emotions[int(rng.choice(len(self._emotions), p=example.outlier))]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _drawn_shots(self, rng: np.random.Generator) -> list[Shot]:
        chosen = rng.choice(len(self._shots), size=min(self._phase.shots, len(self._shots)), replace=False)
        return [self._shots[i] for i in chosen]

    def _description(self, example: Example, rng: np.random.Generator) -> str:
        """The voice in words, in one of the introductions and in random order (paper, A.3)."""
        if self._voices is None:
            return ""
        levels = self._voices.levels(example.utterance)
        order = [FEATURES[i] for i in rng.permutation(len(FEATURES))]
        return words(levels, example.utterance.gender, int(rng.integers(len(INTRODUCTIONS))), order)
