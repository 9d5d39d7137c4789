"""confusion.json of a bundle: how it answered voices that its training never heard. No torch here.

What a monitor counts is what was answered, not what was felt. These counts, kept apart by voice, say how far the two may lie from each
other, and how much that differs from one person to the next.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from model.errors import BundleError
from model.types import Emotion

CONFUSION = "confusion.json"


class VoiceConfusion(BaseModel):
    """One voice, in clips. sure: by the emotion that was acted, what was answered; unsure: by it, how often that was no answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sure: Mapping[Emotion, Mapping[Emotion, NonNegativeInt]]
    unsure: Mapping[Emotion, NonNegativeInt]


_Voices = TypeAdapter(list[VoiceConfusion])


def read_confusion(folder: Path) -> list[VoiceConfusion]:
    """Voice by voice; empty where the bundle was not measured so. Raises BundleError for a damaged file."""
    path = folder / CONFUSION
    if not path.exists():
        return []
    try:
        return _Voices.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path} is damaged: {error}; get the bundle again") from error


def write_confusion(voices: list[VoiceConfusion], folder: Path) -> None:
    """Write what `read_confusion` reads."""
    (folder / CONFUSION).write_bytes(_Voices.dump_json(voices) + b"\n")
