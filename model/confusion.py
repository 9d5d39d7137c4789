"""confusion.json of a bundle: how it answered voices that its training never heard. No torch here.

What a monitor counts is what was answered, not what was felt. This file says how far the two may lie from each other, and how much that
differs from one person and one recording to the next. Bundles released before had counts of answers, voice by voice, which still read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, model_validator

from model.errors import BundleError
from model.types import Emotion

CONFUSION = "confusion.json"

_Probability = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VoiceConfusion(_Record):
    """One voice, in clips. sure: by the emotion that was acted, what was answered; unsure: by it, how often that was no answer."""

    sure: Mapping[Emotion, Mapping[Emotion, NonNegativeInt]]
    unsure: Mapping[Emotion, NonNegativeInt]


class VoicePosteriors(_Record):
    """One voice of a corpus: by the emotion that was acted, how many clips, and their mean posterior over the confusion's letters."""

    corpus: str
    clips: Mapping[Emotion, PositiveInt]
    posterior: Mapping[Emotion, tuple[_Probability, ...]]


class PosteriorConfusion(_Record):
    """Mean posteriors of voices that were left out, calibrated, and under an even prior.

    letters: those of the bundle, in the order of the posteriors. What a new person or recording may have that these voices have not, as
    much as it takes for intervals to hold: spread, how far their posteriors lean to some letters whatever is said, as the standard
    deviation of what is added to the logarithms; blur, up to which part of what sets the letters apart is lost.
    """

    format: Literal[2] = 2
    letters: Annotated[tuple[Emotion, ...], Field(min_length=2)]
    spread: Annotated[float, Field(ge=0, le=5)]
    blur: _Probability
    voices: Annotated[tuple[VoicePosteriors, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for voice in self.voices:
            if set(voice.clips) != set(voice.posterior) or not set(voice.clips) <= set(self.letters):
                raise ValueError("clips and posteriors of a voice must be of the same letters")
            if any(len(row) != len(self.letters) or sum(row) <= 0 for row in voice.posterior.values()):
                raise ValueError("a posterior must have one probability for each letter, not all of them 0")
        return self


_Voices = TypeAdapter(list[VoiceConfusion])


def read_confusion(folder: Path) -> PosteriorConfusion | list[VoiceConfusion]:
    """What is known; an empty list where the bundle was not measured so. Raises BundleError for a damaged file."""
    path = folder / CONFUSION
    if not path.exists():
        return []
    try:
        text = path.read_bytes()
        return _Voices.validate_json(text) if text.lstrip().startswith(b"[") else PosteriorConfusion.model_validate_json(text)
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path} is damaged: {error}; get the bundle again") from error


def write_confusion(confusion: PosteriorConfusion, folder: Path) -> None:
    """Write what `read_confusion` reads."""
    (folder / CONFUSION).write_text(confusion.model_dump_json() + "\n", encoding="utf-8")
