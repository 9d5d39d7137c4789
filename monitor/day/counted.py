"""How far counted shares may lie from the truth, for bundles whose confusion is counts of answers: 95 % intervals of what was sure.

What is counted is what was answered. A model that hears fear in a third of all surprise finds fear on a day without any. How it answered
voices that it never heard is stored with the bundle (model/confusion.py), and turned round here:

1. Voices are drawn with replacement, and from what they share a voice is drawn that may answer differently, as much as voices were found to
   differ (a Dirichlet distribution, its concentration by the method of moments). That is the person, about whom nothing more is known.
2. The answers of the day are drawn again (multinomial), as many as they are worth: long segments count more, so they are worth fewer.
3. The shares that best explain these answers are found by expectation maximisation (Saerens, Latinne & Decaestecker 2002, Neural
   Computation 14, 21-41).

An interval can lie beside the counted share: then confusion alone explains some of it. What it cannot know: everyday voices may be confused
otherwise than the acted ones that were measured, so it is too narrow rather than too wide. The same day always gives the same interval.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from model.confusion import VoiceConfusion
from model.types import Emotion, Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_DRAWS = 400
_ROUNDS = 100
_SEED = 20020101
# How many clips a voice drawn with replacement is short of: rows are never empty.
_BORROWED_CLIPS = 2.0
# Bounds for how alike answers of one voice are (intraclass correlation), so that few voices cannot claim to be one, or all different.
_LEAST_ALIKE, _MOST_ALIKE = 0.005, 0.5


class CountedConfusion:
    """How one bundle answers, of which it was sure, as drawn for a person nobody has measured. voices: at least one, with clips."""

    def __init__(self, voices: Sequence[VoiceConfusion]) -> None:
        self._voices = voices
        found = {emotion for voice in voices for emotion, row in voice.sure.items() if sum(row.values())}
        self.truths = tuple(emotion for emotion in Emotion if emotion in found)
        answered = {emotion for voice in voices for row in voice.sure.values() for emotion, clips in row.items() if clips}
        self.answers = tuple(emotion for emotion in Emotion if emotion in answered | found)

    def sample(self, sure: Sequence[tuple[Prediction, float]]) -> tuple[tuple[Emotion, ...], "Floats"] | None:
        """Letters, and what their shares may be (draws, letters), by predictions of which the bundle was sure, with their seconds.

        None where something was answered whose confusion is not known.
        """
        seconds: dict[Emotion, float] = {}
        for prediction, length in sure:
            seconds[prediction.emotion] = seconds.get(prediction.emotion, 0.0) + length
        if not set(seconds) <= set(self.answers):
            return None
        total = sum(seconds.values())
        # As many segments of equal length tell as much.
        worth = max(1, round(total**2 / sum(length**2 for _, length in sure)))
        return self.truths, self._true_shares({emotion: length / total for emotion, length in seconds.items()}, worth)

    def _true_shares(self, observed: Mapping[Emotion, float], worth: int) -> "Floats":
        """(draws, truths): the shares that explain what was answered in so many segments."""
        import numpy as np

        random = np.random.default_rng(_SEED + 1)
        counted = random.multinomial(worth, [observed.get(emotion, 0.0) for emotion in self.answers], size=_DRAWS) / worth
        given = self.draws
        shares = np.full((_DRAWS, 1, len(self.truths)), 1 / len(self.truths))
        for _ in range(_ROUNDS):
            explained = shares @ given
            shares = shares * np.matmul(given, (counted[:, None, :] / explained).transpose(0, 2, 1)).transpose(0, 2, 1)
        flat: Floats = shares[:, 0, :]
        return flat

    @cached_property
    def draws(self) -> "Floats":
        """(draws, truths, answers): probability of an answer given the truth; rows sum to 1."""
        import numpy as np

        random = np.random.default_rng(_SEED)
        clips = np.array([[[voice.sure.get(t, {}).get(a, 0) for a in self.answers] for t in self.truths] for voice in self._voices], float)
        common = clips.sum(axis=0) + 1 / len(self.answers)
        common /= common.sum(axis=1, keepdims=True)
        chosen = random.integers(len(clips), size=(_DRAWS, len(clips)))
        # One voice at a time: all at once would take memory for every voice of every draw.
        pooled = sum(clips[chosen[:, i]] for i in range(len(clips))) + _BORROWED_CLIPS * common
        pooled /= pooled.sum(axis=2, keepdims=True)
        concentration = 1 / _alike(clips, common) - 1
        drawn = random.standard_gamma(np.maximum(concentration * pooled, 1e-3)) + 1e-9
        voices: Floats = drawn / drawn.sum(axis=2, keepdims=True)
        return voices


def _alike(clips: "Floats", common: "Floats") -> float:
    """The intraclass correlation of one voice's answers: how much voices (V, T, A) differ beyond chance from what is common (T, A)."""
    import numpy as np

    sizes = clips.sum(axis=2)
    heard = np.where(sizes > 0, sizes, 1.0)
    excess = ((clips - sizes[..., None] * common) ** 2).sum(axis=2) / heard
    chance = (common * (1 - common)).sum(axis=1) * (sizes > 0) * (1 - 1 / max(2, len(clips)))
    room = (chance * (sizes - 1)).sum()
    return float(np.clip((excess - chance).sum() / room if room > 0 else _MOST_ALIKE, _LEAST_ALIKE, _MOST_ALIKE))
