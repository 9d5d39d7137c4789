"""Emotions, the model's prediction for one segment, and the prior that its posterior is corrected to. No torch here.

A bundle is trained with its letters about equally often; most everyday speech is neutral. By Bayes' rule a posterior p(y|x) that was
learned under a training prior t(y) becomes, under another prior q(y), proportional to p(y|x) q(y) / t(y) (Saerens, Latinne & Decaestecker
2002, Neural Computation 14, 21-41, section 2.2).

The counts of everyday speech are those of MSP-Podcast 2.0, test set 2: every speaking turn of 117 podcasts, taken without the retrieval of
emotional ones that shaped the corpus's other sets (Busso et al. 2025, arXiv:2509.09791, Table VI; without the 2,877 turns that annotators
did not agree on). A person's day may differ from all of them, above all a bad one, so EVERYDAY is half these counts and half an even prior.
That is the mean of what `model.quantification` assumes of a day; of the shares that were tried it loses least where it fits worst
(bench/STUDIES.md).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Emotion(StrEnum):
    """The nine categorical emotions of MSP-Podcast; the value is the letter the language model answers with."""

    ANGRY = "A"
    SAD = "S"
    HAPPY = "H"
    SURPRISE = "U"
    FEAR = "F"
    DISGUST = "D"
    CONTEMPT = "C"
    NEUTRAL = "N"
    OTHER = "O"

    @property
    def word(self) -> str:
        """The English word shown to people, in lower case."""
        return self.name.lower()


def most_probable_emotion(posterior: Mapping[Emotion, float]) -> Emotion:
    """The emotion with the highest probability; of equals the first. Raises ValueError for an empty posterior."""
    return max(posterior, key=lambda emotion: posterior[emotion])


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a bundle says about one segment.

    posterior: calibrated probability of each letter the bundle can answer with; sums to 1 (within 1e-3).
    unsure: True when the highest probability lies under the bundle's threshold; such a segment stays out of shares.
    bundle_version: the bundle that judged it.
    """

    posterior: Mapping[Emotion, float]
    unsure: bool
    bundle_version: str

    def __post_init__(self) -> None:
        total = sum(self.posterior.values())
        if not self.posterior or abs(total - 1.0) > 1e-3:
            raise ValueError(f"a posterior must sum to 1, this one sums to {total:.4f}")

    @property
    def emotion(self) -> Emotion:
        """The most probable emotion."""
        return most_probable_emotion(self.posterior)

    @property
    def confidence(self) -> float:
        """The probability of `emotion`, 0 to 1."""
        return self.posterior[self.emotion]


LETTER_COUNTS: Mapping[Emotion, int] = {
    Emotion.ANGRY: 538,
    Emotion.SAD: 581,
    Emotion.HAPPY: 2801,
    Emotion.SURPRISE: 394,
    Emotion.FEAR: 116,
    Emotion.DISGUST: 141,
    Emotion.CONTEMPT: 304,
    Emotion.NEUTRAL: 6793,
    Emotion.OTHER: 277,
}
"""Speaking turns of MSP-Podcast's test set 2 by emotion."""

COUNTED_SHARE = 0.5
"""Of EVERYDAY, so much are those counts; the rest is even."""

LetterWeights = Mapping[Emotion, float]

_MARK = "+"
_PARTS = 1000
_WEIGHT = re.compile(r"([A-Z])(\d+)")


@dataclass(frozen=True, slots=True)
class Prior:
    """name: "everyday", "balanced", or letters with their weights, such as "A45S50", from which `named` makes the same prior again."""

    name: str

    @classmethod
    def of(cls, setting: str | LetterWeights) -> "Prior":
        """The prior of a setting: a name, or a positive weight for each of the nine letters. Raises ValueError."""
        if isinstance(setting, str):
            return cls.named(setting)
        missing = [letter.value for letter in Emotion if not setting.get(letter, 0) > 0]
        if missing:
            raise ValueError(f"must give every letter a weight above 0; missing: {', '.join(missing)}")
        total = sum(setting.values())
        return cls("".join(f"{letter.value}{max(1, round(_PARTS * setting[letter] / total))}" for letter in Emotion))

    @classmethod
    def named(cls, name: str) -> "Prior":
        """Raises ValueError for what is no name of a prior."""
        known = [letter.value for letter in Emotion]
        if name not in ("everyday", "balanced") and [letter for letter, _ in _WEIGHT.findall(name)] != known:
            raise ValueError(f'must be "everyday", "balanced" or a table of the letters {", ".join(known)}')
        return cls(name)

    def over(self, letters: Sequence[Emotion]) -> dict[Emotion, float]:
        """The probability of each of these letters, before anything is heard; sums to 1."""
        counted, even = self.counted(letters), balanced(letters)
        part = COUNTED_SHARE if self.name == "everyday" else 1.0
        return {letter: part * counted[letter] + (1 - part) * even[letter] for letter in letters}

    def counted(self, letters: Sequence[Emotion]) -> dict[Emotion, float]:
        """How often each of these letters occurs in the speech that the prior is about; sums to 1."""
        if self.name == "balanced":
            return balanced(letters)
        told: LetterWeights = (
            LETTER_COUNTS if self.name == "everyday" else {Emotion(letter): int(n) for letter, n in _WEIGHT.findall(self.name)}
        )
        total = sum(told[letter] for letter in letters)
        return {letter: told[letter] / total for letter in letters}


def balanced(letters: Sequence[Emotion]) -> dict[Emotion, float]:
    """The same probability for each letter."""
    return dict.fromkeys(letters, 1 / len(letters))


EVERYDAY, BALANCED = Prior("everyday"), Prior("balanced")


def correct_posterior(posterior: LetterWeights, prior: LetterWeights, was: LetterWeights) -> dict[Emotion, float]:
    """A posterior under the prior `was`, as it is under `prior`; sums to 1. Both priors have its letters, each above 0."""
    weights = {letter: p * prior[letter] / was[letter] for letter, p in posterior.items()}
    total = sum(weights.values())
    return {letter: weight / total for letter, weight in weights.items()}


def version_with_prior(version: str, prior: Prior | None) -> str:
    """The version that a stored prediction names: the bundle's, with the prior its posterior was corrected to, if any."""
    return version if prior is None else f"{version}{_MARK}{prior.name}"


def version_without_prior(version: str) -> tuple[str, Prior | None]:
    """The bundle's version and the prior out of what `version_with_prior` made; a version without such a mark is taken as it is."""
    bare, mark, name = version.rpartition(_MARK)
    try:
        return (bare, Prior.named(name)) if mark else (version, None)
    except ValueError:
        return version, None
