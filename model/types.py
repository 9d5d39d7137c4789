"""The words shared by every part: emotions and what the model says about one stretch of speech. No torch here."""

from collections.abc import Mapping
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


def most_probable(posterior: Mapping[Emotion, float]) -> Emotion:
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
        return most_probable(self.posterior)

    @property
    def confidence(self) -> float:
        """The probability of `emotion`, 0 to 1."""
        return self.posterior[self.emotion]
