"""Stores segments, queues them for inference, and stores their predictions.

Two threads meet here. The main thread hands in segments and coverage; a closed segment is stored with its audio. The inference thread
takes stored segments through the engine: `Recorder._predict_waiting` is its loop, with all steps in order. Neither thread is stopped by a
timeline that cannot be written for a while: the main thread's writes wait in a `RetryQueue`, the inference thread tries again.
`VoiceReferenceCache` holds the voice references that segments are compared with. Knows no microphone and no clock of a stream.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from model.audio import Int16
from model.errors import BundleError, EmosllmError, TimelineError
from monitor.analysis.days import TimeRange
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config
from monitor.daemon.live_view import View
from monitor.daemon.status import RECENT_SEGMENTS, DaemonStatus, RecentSegment
from monitor.inference.bundle_switch import BundleSwitchOutcome, BundleSwitchWaiters
from monitor.inference.protocol import BundleSwitched, Dropped, EngineChanged, EngineState, Predicted
from monitor.inference.supervisor import InferenceSupervisor
from monitor.storage.records import Coverage, InferenceResult, VoiceReferenceSums
from monitor.storage.writer import TimelineWriter

_logger = logging.getLogger(__name__)

_WRITE_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class QueuedWrite:
    """do: the write. lost: what to write instead when there is no room to let it wait any longer; size: bytes that it keeps alive."""

    do: Callable[[], object]
    lost: Callable[[], object] | None = None
    size: int = 0


class RetryQueue:
    """limit_bytes: how much may wait in memory; beyond it the oldest that may be lost is, and that is written down in its place."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._waiting: deque[QueuedWrite] = deque()
        self._retry_at = 0.0
        self.problem = ""
        """Why the last write was not possible; empty when all is written."""

    @property
    def waiting(self) -> int:
        """Writes that have not been possible yet."""
        return len(self._waiting)

    def add(self, write: QueuedWrite) -> None:
        """Write now, after all that waits; never raises TimelineError."""
        self._waiting.append(write)
        self._make_room()
        self.flush()

    def flush(self, now: bool = False) -> bool:
        """Write what waits; after a failure not before some seconds have passed, except `now`. True when nothing waits any more."""
        if not now and time.monotonic() < self._retry_at:
            return False
        while self._waiting:
            try:
                self._waiting[0].do()
            except TimelineError as error:
                if not self.problem:
                    _logger.error("writes wait: %s", error)
                self.problem = str(error)
                self._retry_at = time.monotonic() + _WRITE_RETRY_S
                return False
            self._waiting.popleft()
        if self.problem:
            _logger.warning("all that waited is written")
        self.problem, self._retry_at = "", 0.0
        return True

    def _make_room(self) -> None:
        excess = sum(write.size for write in self._waiting) - self._limit
        for place, write in enumerate(list(self._waiting)):
            if excess <= 0:
                return
            if write.size and write.lost is not None:
                excess -= write.size
                self._waiting[place] = QueuedWrite(write.lost)


REFRESH_AFTER_SEGMENTS = 10
"""After so many judged segments a reference is read anew."""

REFRESH_AFTER_S = 300.0
"""And after so many seconds."""


@dataclass(frozen=True, slots=True)
class _CachedReference:
    """reference: as it was at the moment `at` of the clock, when so many segments had been judged."""

    reference: VoiceReferenceSums | None
    at: float
    judged: int


class VoiceReferenceCache:
    """Use it in one thread, but for `forget`. Raises TimelineError where it reads."""

    def __init__(self, timeline: TimelineWriter, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeline = timeline
        self._clock = clock
        self._judged = 0
        self._read: dict[str, _CachedReference] = {}

    def reference(self, segment_id: int, voice_space: str) -> VoiceReferenceSums | None:
        """What a segment is to be heard against by bundles of a voice space; None where nothing is known of its microphone's voice."""
        version = self._timeline.voice_version(segment_id, voice_space)
        if version is None:
            return None
        read = self._read.get(version)
        if read is None or self._judged - read.judged >= REFRESH_AFTER_SEGMENTS or self._clock() - read.at >= REFRESH_AFTER_S:
            read = _CachedReference(self._held_reference(version), self._clock(), self._judged)
            # Of one that was learned to the end, renewed or erased in part, the version before is of no more use.
            self._read = {known: other for known, other in self._read.items() if other.at > read.at - REFRESH_AFTER_S} | {version: read}
        return read.reference

    def _held_reference(self, version: str) -> VoiceReferenceSums | None:
        try:
            return self._timeline.reference_sums(version)
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


_T = TypeVar("_T")

_MAX_UNWRITTEN_BYTES = 64 * 2**20
_READ_RETRY_S = 2.0
# How late it may be noticed that a worker or a server took too long.
_EVENT_TIMEOUT_S = 1.0
_TRIM_EVERY_S = 60.0
_UNWRITABLE_REASON = "the timeline could not be written for too long"
_SPOOL_FULL_REASON = "too much speech was waiting for the engine"
_SPOOL_OLD_REASON = "it had waited too long for the engine"


@dataclass(frozen=True, slots=True)
class _SegmentRange:
    """Where a stored segment lies, for the view."""

    start_at: datetime
    duration_s: float

    @property
    def end_at(self) -> datetime:
        """Aware UTC, as `start_at`."""
        return self.start_at + timedelta(seconds=self.duration_s)


class Recorder:
    """Everything that one run of the monitor writes.

    microphone: which one what comes is heard through; None for a recording.
    """

    microphone: str | None = None

    def __init__(
        self, config: Config, timeline: TimelineWriter, registry: BundleRegistry, engine_log: Path, status: DaemonStatus, view: View
    ) -> None:
        self._spool, self._privacy = config.spool, config.privacy
        self._timeline = timeline
        self._registry = registry
        self._status = status
        self._view = view
        self._writer = RetryQueue(_MAX_UNWRITTEN_BYTES)
        self._ranges: dict[int, _SegmentRange] = {}
        self._trimmed_at = time.monotonic()
        self._closing = threading.Event()
        # Held while something is written, so that what is forgotten is not written between its being looked at and erased.
        self._writing = threading.Lock()
        self._forgotten: list[TimeRange] = []
        self._switch_waiters = BundleSwitchWaiters()
        self._voices = VoiceReferenceCache(timeline)
        self.supervisor = InferenceSupervisor(config.engine, registry, engine_log, retry_forever=status.live)
        self._thread = threading.Thread(target=self._infer, name="inference", daemon=True)

    def start(self) -> None:
        """Begin to load the engine; from then on what is stored is predicted. Returns at once."""
        self._thread.start()

    def resume(self) -> None:
        """Take up what earlier runs left waiting, oldest first, before anything new."""
        self.trim()
        for segment_id, start_at, duration_s in self._timeline.recover():
            self._submit(segment_id, _SegmentRange(start_at, duration_s))

    def segment(self, start_sample: int, pcm: Int16, start_at: datetime, end_at: datetime) -> None:
        """Store a closed segment with its audio, and queue it for inference."""
        self._status.segments += 1
        microphone = self.microphone

        def store() -> None:
            with self._writing:
                if self._is_forgotten(start_at, end_at):
                    return
                segment_id = self._timeline.add_segment(
                    start_sample=start_sample,
                    end_sample=start_sample + len(pcm),
                    start_at=start_at,
                    end_at=end_at,
                    sound=pcm.tobytes(),
                    microphone=microphone,
                )
                self._submit(segment_id, _SegmentRange(start_at, (end_at - start_at).total_seconds()))

        def lose() -> None:
            self._status.unjudged += 1
            self._cover(Coverage.ENGINE_DOWN, start_at, end_at, _UNWRITABLE_REASON)

        self._writer.add(QueuedWrite(store, lose, pcm.nbytes))
        self.trim()

    def cover(self, kind: Coverage, start_at: datetime, end_at: datetime, reason: str) -> None:
        """Store what became of a stretch of time."""
        self._writer.add(QueuedWrite(lambda: self._cover(kind, start_at, end_at, reason)))

    def forget(self, time_range: TimeRange) -> None:
        """From any thread: from now on nothing of the stretch is written, and what waits of it is not judged.

        What is stored already is for the caller to erase. An open piece of speech that reaches into the stretch goes as a whole.
        """
        with self._writing:
            self._forgotten.append(time_range)
        segment_ids = [segment_id for segment_id, known in list(self._ranges.items()) if time_range.overlaps(known.start_at, known.end_at)]
        self.supervisor.withdraw(segment_ids)
        for segment_id in segment_ids:
            self._ranges.pop(segment_id, None)
        kept = [item for item in list(self._status.recent) if not time_range.overlaps(item.start_at, item.end_at)]
        self._status.recent = deque(kept, RECENT_SEGMENTS)

    def voice_changed(self) -> None:
        """From any thread: something of what is known of the voice was erased. What is judged next is heard against what is left."""
        self._voices.forget()
        self._status.voice = None
        self.supervisor.drop_reference()

    def use_bundle(self, name: str, patience_s: float) -> str:
        """From any thread: have another bundle judge what comes. Its version once it is in use; empty where that takes longer.

        Raises BundleError with the reason where it is not used, EngineUnavailable once nothing is judged any more.
        """

        before = self._status.next_bundle

        def ask() -> None:
            # Before the supervisor knows: the outcome may be there at once.
            self._status.next_bundle, self._status.bundle_problem = name, ""
            try:
                self.supervisor.use(name)
            except EmosllmError:
                self._status.next_bundle = before
                raise

        outcome = self._switch_waiters.wait(name, ask, patience_s)
        if outcome is not None and outcome.reason:
            raise BundleError(f"{name} is not used: {outcome.reason}")
        return outcome.version if outcome else ""

    def flush(self) -> None:
        """To be called about once a second: write what waits, and say whether something does; see to the spool's limits."""
        if time.monotonic() - self._trimmed_at > _TRIM_EVERY_S:
            self.trim()
        self._writer.flush()
        self._status.waiting, self._status.unwritten = self.supervisor.waiting, self._writer.waiting
        self._status.untranscribed = self.supervisor.untranscribed
        self._status.store_problem = self._writer.problem

    def trim(self) -> None:
        """Give up what the spool has no room or no time for, oldest first; later, while the timeline cannot be written."""
        self._trimmed_at = time.monotonic()
        if self._writer.waiting:
            return
        too_old = datetime.now(UTC) - timedelta(hours=self._spool.max_hours)
        self._writer.add(QueuedWrite(lambda: self._give_up(self._timeline.waiting_stored_before(too_old), _SPOOL_OLD_REASON)))
        self._writer.add(QueuedWrite(lambda: self._give_up(self._timeline.beyond(self._spool.max_mib * 2**20), _SPOOL_FULL_REASON)))

    def finish(self, should_give_up: Callable[[], bool]) -> None:
        """Wait for answers as long as somebody has patience, end the engine, and write what waits. What is unjudged stays in the spool.

        Raises TimelineError when something could not be written.
        """
        self.supervisor.stop(should_give_up)
        if self._thread.is_alive():
            self._thread.join()
        self._closing.set()
        if not self._writer.flush(now=True):
            raise TimelineError(f"{self._writer.problem}; {self._writer.waiting} things that were heard could not be stored")

    def stop_retrying(self) -> None:
        """Let the inference thread not insist on a write any longer."""
        self._closing.set()

    def _cover(self, kind: Coverage, start_at: datetime, end_at: datetime, reason: str) -> None:
        with self._writing:
            pieces = [(start_at, end_at)]
            for time_range in self._forgotten:
                pieces = [rest for piece in pieces for rest in time_range.left_of(*piece)]
            for piece in pieces:
                self._timeline.cover(kind, *piece, reason)

    def _is_forgotten(self, start_at: datetime, end_at: datetime) -> bool:
        return any(time_range.overlaps(start_at, end_at) for time_range in self._forgotten)

    def _submit(self, segment_id: int, time_range: _SegmentRange) -> None:
        self._ranges[segment_id] = time_range
        self.supervisor.submit(segment_id)

    def _give_up(self, segment_ids: list[int], reason: str) -> None:
        if segment_ids:
            self._timeline.give_up(segment_ids, reason)
            self.supervisor.withdraw(segment_ids)
            _logger.warning("%d segments were given up: %s", len(segment_ids), reason)
            for segment_id in segment_ids:
                self._show(segment_id, None, reason)

    def _infer(self) -> None:
        """The inference thread."""
        try:
            self._predict_waiting()
        except EmosllmError as error:  # the timeline could not be used until the end
            self.supervisor.fail(error)
        finally:
            for refused in self.supervisor.close():
                self._show_switch(refused)

    def _predict_waiting(self) -> None:
        """Take segments from the timeline through the engine and back, one step after the other, until the supervisor has ended."""
        supervisor = self.supervisor
        while supervisor.running:
            for segment_id in supervisor.next_to_send():
                audio = self._load_audio(segment_id)
                if audio is None:  # erased or given up meanwhile
                    supervisor.withdraw([segment_id])
                else:
                    supervisor.send(segment_id, audio, self._load_reference(segment_id))
            match supervisor.poll(_EVENT_TIMEOUT_S):
                case Predicted(results):
                    stored = self._store_predictions(results)  # erases the audio in the same transaction
                    supervisor.settle(results)
                    for segment_id in stored:
                        self._show(segment_id, results[segment_id], "")
                    self._show_voice()
                case Dropped(segment_id, reason):
                    self._retry_until_closed(partial(self._timeline.give_up, [segment_id], reason))
                    supervisor.settle([segment_id])
                    self._show(segment_id, None, reason)
                case EngineChanged() as change:
                    self._show_engine(change)
                case BundleSwitched() as outcome:
                    self._show_switch(outcome)

    def _load_audio(self, segment_id: int) -> Int16 | None:
        sound = self._retry_until_closed(lambda: self._timeline.sound(segment_id))
        return None if sound is None else np.frombuffer(sound, np.int16)

    def _load_reference(self, segment_id: int) -> VoiceReferenceSums | None:
        """Of the voice that the segment is compared with, where the bundle has use for one."""
        space = self.supervisor.voice_space
        return None if space is None else self._retry_until_closed(lambda: self._voices.reference(segment_id, space))

    def _store_predictions(self, results: Mapping[int, InferenceResult]) -> list[int]:
        """The ids of the segments that were still waiting for it; what was settled before stays as it is."""
        kept = results
        if not self._privacy.keep_transcripts:
            kept = {segment_id: replace(result, transcript=None) for segment_id, result in results.items()}
        stored = self._retry_until_closed(partial(self._timeline.judge, kept, self._privacy.keep_audio))
        self._voices.learned(len(stored))
        return stored

    def _show(self, segment_id: int, result: InferenceResult | None, reason: str) -> None:
        if result is None:
            self._status.unjudged += 1
        else:
            self._status.judged += 1
        time_range = self._ranges.pop(segment_id, None)
        if time_range is not None and not self._is_forgotten(time_range.start_at, time_range.end_at):
            item = RecentSegment(time_range.start_at, time_range.duration_s, result.prediction if result else None, reason)
            self._status.recent.append(item)
            self._view.judged(item)

    def _show_voice(self) -> None:
        """How well the voice is known, where the bundle has use for that. One that is known stays as it is."""
        space, microphone, shown = self.supervisor.voice_space, self.microphone, self._status.voice
        self._status.uses_voice_reference = space is not None and microphone is not None
        if space is None or microphone is None:
            self._status.voice = None
        elif shown is None or not shown.frozen or (shown.voice_space, shown.microphone) != (space, microphone):
            self._status.voice = self._retry_until_closed(lambda: self._timeline.voice_reference(microphone, space))

    def _show_engine(self, change: EngineChanged) -> None:
        state, detail = change.state, change.detail
        if state is EngineState.READY and (why := self._registry.fallback_reason()):
            detail += f"; the bundle that should be in use is set aside: {why}"
        if (state, detail) != (self._status.engine, self._status.engine_detail):
            self._view.tell(f"engine {state}: {detail}")
        self._status.engine, self._status.engine_detail = state, detail
        self._status.bundle, self._status.transcriber = self.supervisor.in_use, self.supervisor.transcriber
        self._status.away_since = self.supervisor.away_since
        if state is EngineState.READY:
            self._show_voice()
        _logger.info("engine %s", state)

    def _show_switch(self, switch: BundleSwitched) -> None:
        name, version, reason = switch.name, switch.version, switch.reason
        if self._status.next_bundle == name:
            self._status.next_bundle = ""
        told = f"the bundle {name} is not used: {reason}" if reason else f"{version} is in use now"
        self._view.tell(told)
        waited_for = self._switch_waiters.tell(name, BundleSwitchOutcome(version, reason))
        self._status.bundle_problem = told if reason and not waited_for else ""
        _logger.info("a bundle is %s: %s", "not used" if reason else "in use", version or name)

    def _retry_until_closed(self, do: Callable[[], _T]) -> _T:
        """In the inference thread, which may wait: try until it works or the end has come."""
        while True:
            try:
                return do()
            except TimelineError as error:
                self._status.store_problem = str(error)
                if self._closing.wait(_READ_RETRY_S):
                    raise
