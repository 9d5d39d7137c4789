"""What the daemon and its judging process say to each other. Plain records, pickled between two processes of our own."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from model.audio import Int16
from monitor.store.records import Judgement


@dataclass(frozen=True, slots=True)
class Ask:
    """Daemon: judge this segment; mono int16 (N,) at SAMPLE_RATE."""

    entry: int
    pcm: Int16


@dataclass(frozen=True, slots=True)
class Ready:
    """Process: the bundle is loaded and the engine answers."""

    bundle_version: str
    engine: str


@dataclass(frozen=True, slots=True)
class Told:
    """Process: what became of some segments, by entry."""

    judgements: Mapping[int, Judgement]


class Failure(enum.Enum):
    """Whether starting again can help."""

    LASTING = "lasting"
    PASSING = "passing"


@dataclass(frozen=True, slots=True)
class Failed:
    """Process: it cannot go on and ends after this message."""

    reason: str
    failure: Failure
