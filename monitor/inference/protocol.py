"""The messages between daemon and inference worker, the state of the engine, and what the supervisor calls back.

Messages are plain records, pickled between two processes of our own.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from model.audio import Int16
from monitor.storage.records import InferenceResult, VoiceReferenceSums


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Daemon: judge this segment; mono int16 (N,) at SAMPLE_RATE."""

    entry: int
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
    """Process: what became of some segments, by entry. untranscribed: for how many of them the transcriber failed."""

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


@dataclass(frozen=True)
class SupervisorCallbacks:
    """Where sound comes from and answers go. All are called from the judge's own thread.

    sound: mono int16 (N,) of an entry; None when it is not to be judged any more. judged: what was said, by entry. dropped: an entry
    that will not be judged, and why. changed: a new state, in words. switched: a bundle that was asked for by its name is in use, in this
    version; or, where there is a reason, it is not, and another is. reference: of the voice, which an entry is to be heard against by
    bundles of a voice space; None for none.
    """

    sound: Callable[[int], Int16 | None]
    judged: Callable[[Mapping[int, InferenceResult]], None]
    dropped: Callable[[int, str], None]
    changed: Callable[[EngineState, str], None]
    switched: Callable[[str, str, str], None] = lambda _name, _version, _reason: None
    reference: Callable[[int, str], VoiceReferenceSums | None] = lambda _entry, _voice_space: None
