"""Who a judge tells what it does, and in which words the engine's state is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from model.audio import Int16
from monitor.store.records import Judgement
from monitor.store.voice_reference import HeldReference


class EngineState(StrEnum):
    """What the live view says about the engine."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    AWAY = "away"
    FAILED = "failed"


@dataclass(frozen=True)
class Listener:
    """Where sound comes from and answers go. All are called from the judge's own thread.

    sound: mono int16 (N,) of an entry; None when it is not to be judged any more. judged: what was said, by entry. dropped: an entry
    that will not be judged, and why. changed: a new state, in words. switched: a bundle that was asked for by its name is in use, in this
    version; or, where there is a reason, it is not, and another is. reference: of the voice, which an entry is to be heard against by
    bundles of a voice space; None for none.
    """

    sound: Callable[[int], Int16 | None]
    judged: Callable[[Mapping[int, Judgement]], None]
    dropped: Callable[[int, str], None]
    changed: Callable[[EngineState, str], None]
    switched: Callable[[str, str, str], None] = lambda _name, _version, _reason: None
    reference: Callable[[int, str], HeldReference | None] = lambda _entry, _voice_space: None
