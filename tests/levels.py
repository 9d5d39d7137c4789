"""People whose recordings are one level throughout, and a predictor that hears nothing else: what a reference of a voice does, by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from model.audio import SAMPLE_RATE, Float32
from model.predictor import Answered, Sound
from model.types import Emotion, Prediction
from model.voice_reference import VoiceSums
from train.corpora.manifest import Utterance

A, S, N, H = Emotion.ANGRY, Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY
LETTERS = [A, S, N, H]
LEVELS = {N: 0.0, A: 0.2, S: -0.2, H: 0.4}
SECONDS = 2.0


def level_of(emotion: Emotion | None) -> float:
    """How far an emotion lies above the voice; speech without one is neutral."""
    return LEVELS[emotion or N]


def clip(folder: Path, corpus: str, speaker: str, emotion: Emotion | None, number: int, level: float) -> Utterance:
    """A recording that is one level throughout, which is all that the predictor below hears of it."""
    path = folder / f"{corpus}-{speaker}-{emotion}-{number}.wav"
    soundfile.write(path, np.full(int(SECONDS * SAMPLE_RATE), level), SAMPLE_RATE, subtype="FLOAT")
    gender = {"f": "female", "m": "male"}.get(speaker[:1])
    return Utterance(path, corpus, speaker, gender, emotion, None, None, "en", "CC0")


def person(folder: Path, corpus: str, speaker: str, voice: float, counts: dict[Emotion | None, int]) -> list[Utterance]:
    """Clips of one person, whose voice lies `voice` above that of everybody."""
    return [
        clip(folder, corpus, speaker, emotion, number, voice + level_of(emotion))
        for emotion, count in counts.items()
        for number in range(count)
    ]


class OfLevels:
    """Takes the nearest emotion by level above the reference; a stranger's reference is nothing.

    asked: for every call, the levels and the shift.
    """

    def __init__(self, prior: float = 0.0) -> None:
        self.asked: list[tuple[list[float], float | None]] = []
        self.cleared = 0
        self._prior = prior

    def predict(self, sounds: Sequence[Sound], shift: Float32 | None = None) -> list[Answered]:
        """See SpeakerPredictor."""
        levels = [float(sound.audio.mean()) for sound in sounds]
        self.asked.append((levels, None if shift is None else float(shift[0])))
        return [self._answer(level, 0.0 if shift is None else float(shift[0])) for level in levels]

    def _answer(self, level: float, shift: float) -> Answered:
        nearest = min(LETTERS, key=lambda letter: abs(level - shift - level_of(letter)))
        posterior = {letter: 0.7 if letter is nearest else 0.1 for letter in LETTERS}
        return Answered(Prediction(posterior, False, "levels"), None, VoiceSums(1.0, SECONDS, np.array([level], np.float32)))

    def shift_of(self, sums: VoiceSums | None) -> Float32:
        """See SpeakerPredictor."""
        return np.zeros(1, np.float32) if sums is None else sums.sums / np.float32(sums.segments + self._prior)

    def clear(self) -> None:
        """See SpeakerPredictor."""
        self.cleared += 1
