"""How well the person's voice is known through a microphone, and when it is known well enough. Knows no database and no numpy.

A reference is learned from the first speech there is, and then frozen for good: one that followed the voice would follow a low mood too,
and a person who is sad for a month would be heard as neutral. So it needs several days, not only much speech.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.voice_reference import VoiceSums

ENOUGH_DAYS = 5
"""Local days with speech that a reference is made of at least; a single day has a single mood."""

ENOUGH_SEGMENTS = 200
"""Segments that a reference is made of at least."""

ENOUGH_SPEECH_S = 20 * 60.0
"""Seconds of speech that a reference is made of at least."""

DAY_SPEECH_S = 60.0
"""With fewer seconds of speech a day is none of the five."""


@dataclass(frozen=True, slots=True)
class VoiceReference:
    """What is known of the person's voice through one microphone, without the sums themselves.

    version: another one whenever the reference is another: begun, frozen, or a part of it erased. voice_space: of the bundles that it fits.
    frozen: it is known, and does not change any more. begun_at, last_at: of the speech it is made of, aware UTC. segments, speech_s: how
    much that is. days: local days with enough of it.
    """

    version: str
    voice_space: str
    microphone: str
    frozen: bool
    begun_at: datetime
    last_at: datetime
    segments: int
    speech_s: float
    days: int

    @property
    def is_enough(self) -> bool:
        """Whether it is made of as much speech as a reference needs."""
        return self.days >= ENOUGH_DAYS and self.segments >= ENOUGH_SEGMENTS and self.speech_s >= ENOUGH_SPEECH_S


@dataclass(frozen=True, slots=True)
class HeldReference:
    """A reference as a judging process holds it. sums: of all its speech, `VoiceSums` as bytes."""

    voice_space: str
    version: str
    sums: bytes


@dataclass(frozen=True, slots=True)
class HeardAgainst:
    """How a judged segment stands to the reference of the voice, where the bundle normalises.

    voice_space: of the bundle. sums: what the segment itself adds to a reference. version: of the one that was subtracted; None: of none.
    """

    voice_space: str
    sums: "VoiceSums"
    version: str | None


def new_version() -> str:
    """A version that no reference has, on no machine: timelines are brought together."""
    return os.urandom(4).hex()
