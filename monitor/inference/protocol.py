"""The messages between daemon and inference worker, the state of the engine, and the events that the supervisor reports.

Messages are plain records, pickled between two processes of our own.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from model.audio import Int16
from monitor.storage.records import InferenceResult, VoiceReferenceSums


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Daemon: judge this segment; mono int16 (N,) at SAMPLE_RATE."""

    segment_id: int
    pcm: Int16


@dataclass(frozen=True, slots=True)
class SetReference:
    """Daemon: hear what is asked from here on against this reference of the voice; None: against none, as a stranger's.

    A bundle of another voice space takes it for none.
    """

    reference: VoiceReferenceSums | None


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """Process: the bundle is loaded and the engine answers.

    voice_space: of the bundle; None where it does not normalise. transcriber: what writes down the words; empty where it needs none.
    """

    bundle_version: str
    engine: str
    voice_space: str | None = None
    transcriber: str = ""


@dataclass(frozen=True, slots=True)
class LoadBundle:
    """Daemon: judge with this bundle (a name or a folder) what is asked from now on."""

    bundle: str


@dataclass(frozen=True, slots=True)
class BundleLoaded:
    """Process: it judges with the bundle that it was told to use, and has tried it.

    voice_space: as in Ready; where it is another one than before, no reference is held any more. transcriber: as in Ready.
    """

    bundle_version: str
    voice_space: str | None = None
    transcriber: str = ""


@dataclass(frozen=True, slots=True)
class BundleNotLoaded:
    """Process: it judges with the same bundle as before. needs_restart: one that is started for the other bundle can use it."""

    reason: str
    needs_restart: bool


@dataclass(frozen=True, slots=True)
class PredictResponse:
    """Process: predictions by segment id. untranscribed: for how many of them the transcriber failed."""

    results: Mapping[int, InferenceResult]
    untranscribed: int = 0


@dataclass(frozen=True, slots=True)
class EngineUnreachable:
    """Process: the engine is elsewhere and does not answer since then (aware UTC). It goes on trying, and what it was asked stays asked."""

    since: datetime
    reason: str


class FailureKind(enum.Enum):
    """Whether starting again can help. Absent: no bundle is to blame, because an engine elsewhere does not let us have it, or a transcriber
    is not there."""

    LASTING = "lasting"
    PASSING = "passing"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """Process: it cannot go on and ends after this message."""

    reason: str
    failure: FailureKind


class EngineState(StrEnum):
    """What the live view says about the engine."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    AWAY = "away"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Predicted:
    """Supervisor: predictions by segment id, only for segments that still wait for one."""

    results: Mapping[int, InferenceResult]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Supervisor: this segment gets no prediction."""

    segment_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class EngineChanged:
    """Supervisor: the engine is in another state; `detail` says which and why, in words."""

    state: EngineState
    detail: str


@dataclass(frozen=True, slots=True)
class BundleSwitched:
    """Supervisor: a requested switch is over.

    name: as it was requested. version: of the bundle, which is in use now; empty where it is not. reason: why it is not, else empty.
    """

    name: str
    version: str
    reason: str


SupervisorEvent = Predicted | Dropped | EngineChanged | BundleSwitched
