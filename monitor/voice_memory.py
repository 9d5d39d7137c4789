"""The references of the voice that a running monitor has its segments judged against, read from the timeline when there is news.

While one is learned it grows with every segment; it is read anew after some segments or minutes, because each reading is a little work and
changes little. Knows no engine.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from monitor.store.timeline import Timeline
from monitor.store.voice_reference import HeldReference

_logger = logging.getLogger(__name__)

NEWS_SEGMENTS = 10
"""After so many judged segments a reference is read anew."""

NEWS_S = 300.0
"""And after so many seconds."""


@dataclass(frozen=True, slots=True)
class _Read:
    """reference: as it was at the moment `at` of the clock, when so many segments had been judged."""

    reference: HeldReference | None
    at: float
    judged: int


class VoiceMemory:
    """Use it in one thread, but for `forget`. Raises TimelineError where it reads."""

    def __init__(self, timeline: Timeline, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeline = timeline
        self._clock = clock
        self._judged = 0
        self._read: dict[str, _Read] = {}

    def reference(self, segment_id: int, voice_space: str) -> HeldReference | None:
        """What a segment is to be heard against by bundles of a voice space; None where nothing is known of its microphone's voice."""
        version = self._timeline.voice_version(segment_id, voice_space)
        if version is None:
            return None
        read = self._read.get(version)
        if read is None or self._judged - read.judged >= NEWS_SEGMENTS or self._clock() - read.at >= NEWS_S:
            read = _Read(self._held(version), self._clock(), self._judged)
            # Of one that was learned to the end, renewed or erased in part, the version before is of no more use.
            self._read = {known: other for known, other in self._read.items() if other.at > read.at - NEWS_S} | {version: read}
        return read.reference

    def _held(self, version: str) -> HeldReference | None:
        try:
            return self._timeline.held_reference(version)
        except ValueError as error:
            # Without it people are heard less exactly, which is better than not at all.
            _logger.error("the reference of the voice cannot be used: %s", error)
            return None

    def learned(self, segments: int) -> None:
        """So many segments were judged."""
        self._judged += segments

    def forget(self) -> None:
        """Read everything anew: some of it may be erased."""
        self._read = {}
