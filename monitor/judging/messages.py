"""What the daemon and its judging process say to each other. Plain records, pickled between two processes of our own."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from model.audio import Int16
from monitor.store.records import Judgement
from monitor.store.voice_reference import HeldReference


@dataclass(frozen=True, slots=True)
class Ask:
    """Daemon: judge this segment; mono int16 (N,) at SAMPLE_RATE."""

    entry: int
    pcm: Int16


@dataclass(frozen=True, slots=True)
class SetReference:
    """Daemon: hear what is asked from here on against this reference of the voice; None: against none, as a stranger's.

    A bundle of another voice space takes it for none.
    """

    reference: HeldReference | None


@dataclass(frozen=True, slots=True)
class Ready:
    """Process: the bundle is loaded and the engine answers.

    voice_space: of the bundle; None where it does not normalise. transcriber: what writes down the words; empty where it needs none.
    """

    bundle_version: str
    engine: str
    voice_space: str | None = None
    transcriber: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """Daemon: judge with this bundle (a name or a folder) what is asked from now on."""

    bundle: str


@dataclass(frozen=True, slots=True)
class Using:
    """Process: it judges with the bundle that it was told to use, and has tried it.

    voice_space: as in Ready; where it is another one than before, no reference is held any more. transcriber: as in Ready.
    """

    bundle_version: str
    voice_space: str | None = None
    transcriber: str = ""


@dataclass(frozen=True, slots=True)
class NotUsed:
    """Process: it judges with the same bundle as before. needs_restart: one that is started for the other bundle can use it."""

    reason: str
    needs_restart: bool


@dataclass(frozen=True, slots=True)
class Told:
    """Process: what became of some segments, by entry. untranscribed: for how many of them the transcriber failed."""

    judgements: Mapping[int, Judgement]
    untranscribed: int = 0


@dataclass(frozen=True, slots=True)
class Away:
    """Process: the engine is elsewhere and does not answer since then (aware UTC). It goes on trying, and what it was asked stays asked."""

    since: datetime
    reason: str


class Failure(enum.Enum):
    """Whether starting again can help. Absent: no bundle is to blame, because an engine elsewhere does not let us have it, or a transcriber
    is not there."""

    LASTING = "lasting"
    PASSING = "passing"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Failed:
    """Process: it cannot go on and ends after this message."""

    reason: str
    failure: Failure
