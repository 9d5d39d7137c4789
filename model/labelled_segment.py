"""A person's labelled segments on their way from the monitor to a nightly retraining, through a pipe. No torch here.

Audio is never written to disk in clear text, so segments are streamed. Each one is a line of JSON followed by its samples; a line `null`
ends the stream, so that a broken stream is not taken for a complete one. The person's voice reference, if there is one, comes first in the
same way: a line, then its bytes.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import BinaryIO

import numpy as np

from model.audio import Int16
from model.emotions import EVERYDAY, Emotion, Prior
from model.errors import FormatError

_BYTES_A_SAMPLE = 2
_LONGEST_SAMPLES = 60 * 16_000
_LONGEST_REFERENCE = 2**20


class LabelKind(StrEnum):
    """correction: the person said that it was another emotion. confirmation: that the estimate is right. checkin: how they felt nearby."""

    CORRECTION = "correction"
    CONFIRMATION = "confirmation"
    CHECKIN = "checkin"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSegment:
    """One segment and what is known of it.

    segment: its number in the timeline. at: when it began, aware UTC. pcm: mono int16 (N,) at SAMPLE_RATE. emotion: what it was.
    shown: the estimate that the person saw when they said so. weight: how much it counts, over 0 to 1.
    """

    segment: int
    at: datetime
    pcm: Int16
    emotion: Emotion
    kind: LabelKind
    shown: Emotion
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class HeardWith:
    """How the monitor hears the person. reference: `VoiceSums` of their voice as bytes; None where nothing is known of it. prior: the name
    of what posteriors are corrected to, see Prior."""

    reference: bytes | None = None
    prior: str = EVERYDAY.name


def write_labelled_segments(file: BinaryIO, pieces: Iterable[LabelledSegment], heard_with: HeardWith | None = None) -> None:
    """Write what `read_labelled_segments` reads. heard_with: a stranger's by default. Raises OSError when nobody reads it any more."""
    heard_with = heard_with or HeardWith()
    reference = heard_with.reference
    head = {"prior": heard_with.prior, "reference": None if reference is None else len(reference)}
    file.write(json.dumps(head).encode() + b"\n" + (reference or b""))
    for one in pieces:
        told = {
            "segment": one.segment,
            "at": one.at.isoformat(),
            "samples": len(one.pcm),
            "emotion": one.emotion,
            "kind": one.kind,
            "shown": one.shown,
            "weight": one.weight,
        }
        file.write(json.dumps(told).encode() + b"\n" + one.pcm.astype("<i2").tobytes())
    file.write(b"null\n")
    file.flush()


def read_labelled_segments(file: BinaryIO) -> Iterator[LabelledSegment]:
    """Piece by piece, in the order written. Raises FormatError for what broke off or is no evidence."""
    return (one for one in _read(file) if isinstance(one, LabelledSegment))


def read_all(file: BinaryIO) -> tuple[HeardWith, list[LabelledSegment]]:
    """How the monitor hears the person, and all pieces. Raises FormatError as `read_labelled_segments` does."""
    read = list(_read(file))
    return next((one for one in read if isinstance(one, HeardWith)), HeardWith()), [one for one in read if isinstance(one, LabelledSegment)]


def _read(file: BinaryIO) -> Iterator[LabelledSegment | HeardWith]:
    while True:
        try:
            told = json.loads(file.readline(10_000))
            if told is None:
                return
            yield _heard_with(told, file) if "reference" in told else _read_segment(told, file)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"the evidence to learn from is incomplete or damaged ({error}); nothing was learned") from error


def _heard_with(told: dict[str, object], file: BinaryIO) -> HeardWith:
    prior = Prior.named(str(told["prior"])).name
    if told["reference"] is None:
        return HeardWith(None, prior)
    size = int(str(told["reference"]))
    reference = file.read(size) if 0 <= size <= _LONGEST_REFERENCE else b""
    if len(reference) != size:
        raise ValueError("the reference of the voice broke off")
    return HeardWith(reference, prior)


def _read_segment(told: dict[str, object], file: BinaryIO) -> LabelledSegment:
    samples, weight = int(str(told["samples"])), float(str(told["weight"]))
    if not 0 < samples <= _LONGEST_SAMPLES or not 0 < weight <= 1:
        raise ValueError(f"{samples} samples of weight {weight}")
    sound = file.read(samples * _BYTES_A_SAMPLE)
    if len(sound) != samples * _BYTES_A_SAMPLE:
        raise ValueError("its sound broke off")
    return LabelledSegment(
        segment=int(str(told["segment"])),
        at=datetime.fromisoformat(str(told["at"])).astimezone(UTC),
        pcm=np.frombuffer(sound, "<i2").astype(np.int16),
        emotion=Emotion(str(told["emotion"])),
        kind=LabelKind(str(told["kind"])),
        shown=Emotion(str(told["shown"])),
        weight=weight,
    )
