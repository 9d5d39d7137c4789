"""How far the shares of a day may lie from the truth: 95 % intervals that reflect how the model confuses emotions.

What is counted is what was answered. A model that hears fear in a third of all surprise finds fear on a day without any. How it answered
voices that it never heard is stored with the bundle (model/confusion.py), and turned round here:

1. Voices are drawn with replacement, and from what they share a voice is drawn that may answer differently, as much as voices were found to
   differ (a Dirichlet distribution, its concentration by the method of moments). That is the person, about whom nothing more is known.
2. The answers of the day are drawn again (multinomial), as many as they are worth: long segments count more, so they are worth fewer.
3. The shares that best explain these answers are found by expectation maximisation (Saerens, Latinne & Decaestecker 2002, Neural
   Computation 14, 21-41).

The interval holds the middle 95 % of such draws. It can lie beside the observed share: then confusion alone explains some of it. What it
cannot know: everyday voices may be confused otherwise than the acted ones that were measured, so it is too narrow rather than too wide.
What the person named themselves is taken as it is. The same day always gives the same interval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from model.confusion import VoiceConfusion
from model.types import Emotion
from monitor.store.records import TimelineEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVEL = 0.95

_DRAWS = 400
_ROUNDS = 100
_SEED = 20020101
# How many clips a voice drawn with replacement is short of: rows are never empty.
_BORROWED_CLIPS = 2.0
# Bounds for how alike answers of one voice are (intraclass correlation), so that few voices cannot claim to be one, or all different.
_LEAST_ALIKE, _MOST_ALIKE = 0.005, 0.5
# An interval that begins below this begins at nothing.
_NOTHING = 0.005


class Confusion:
    """How one bundle answers, of which it was sure, as drawn for a person nobody has measured. voices: at least one, with clips."""

    def __init__(self, voices: Sequence[VoiceConfusion]) -> None:
        self._voices = voices
        found = {emotion for voice in voices for emotion, row in voice.sure.items() if sum(row.values())}
        self.truths = tuple(emotion for emotion in Emotion if emotion in found)
        answered = {emotion for voice in voices for row in voice.sure.values() for emotion, clips in row.items() if clips}
        self.answers = tuple(emotion for emotion in Emotion if emotion in answered | found)

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


@dataclass
class _Answers:
    """What one bundle was sure of: seconds by emotion, and the sum of their squares, by segment."""

    seconds: dict[Emotion, float] = field(default_factory=dict)
    squares: float = 0.0

    def add(self, emotion: Emotion, seconds: float) -> None:
        self.seconds[emotion] = self.seconds.get(emotion, 0.0) + seconds
        self.squares += seconds**2

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def worth(self) -> int:
        """As many segments of equal length tell as much."""
        return max(1, round(self.total_s**2 / self.squares))


def intervals_of(pieces: Iterable[tuple[TimelineEntry, float]], confusions: Mapping[str, Confusion]) -> dict[Emotion, tuple[float, float]]:
    """What each emotion's share of the segments' named time may be in truth, 0 to 1.

    pieces: segments with the seconds they count for. Empty where nothing is named, and where a bundle was sure about something whose
    confusion is not known.
    """
    said: dict[Emotion, float] = {}
    answered: dict[str, _Answers] = {}
    for entry, seconds in pieces:
        emotion = entry.named
        if emotion is None:
            continue
        if entry.correction is not None:
            said[emotion] = said.get(emotion, 0.0) + seconds
        elif entry.prediction is not None:
            answered.setdefault(entry.prediction.bundle_version, _Answers()).add(emotion, seconds)
    known = all(version in confusions and set(of.seconds) <= set(confusions[version].answers) for version, of in answered.items())
    if not known or not answered:
        return {}
    return _intervals(said, [(confusions[version], of) for version, of in answered.items()])


def _intervals(said: Mapping[Emotion, float], answered: Sequence[tuple[Confusion, _Answers]]) -> dict[Emotion, tuple[float, float]]:
    import numpy as np

    total_s = sum(said.values()) + sum(of.total_s for _, of in answered)
    letters = [e for e in Emotion if e in said or any(e in (*confusion.truths, *confusion.answers) for confusion, _ in answered)]
    shares: Any = np.tile([said.get(emotion, 0.0) / total_s for emotion in letters], (_DRAWS, 1))
    for confusion, of in answered:
        columns = [letters.index(emotion) for emotion in confusion.truths]
        shares[:, columns] += _true_shares(confusion, of) * of.total_s / total_s
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {e: (float(low[i]) if low[i] >= _NOTHING else 0.0, min(1.0, float(high[i]))) for i, e in enumerate(letters)}


def _true_shares(confusion: Confusion, answered: _Answers) -> "Floats":
    """(draws, truths): the shares that explain what was answered."""
    import numpy as np

    random = np.random.default_rng(_SEED + 1)
    observed = np.array([answered.seconds.get(emotion, 0.0) for emotion in confusion.answers]) / answered.total_s
    counted = random.multinomial(answered.worth, observed, size=_DRAWS) / answered.worth
    given = confusion.draws
    shares = np.full((_DRAWS, 1, len(confusion.truths)), 1 / len(confusion.truths))
    for _ in range(_ROUNDS):
        explained = shares @ given
        shares = shares * np.matmul(given, (counted[:, None, :] / explained).transpose(0, 2, 1)).transpose(0, 2, 1)
    flat: Floats = shares[:, 0, :]
    return flat
