"""One opening of a source: from its audio to closed segments and to coverage of time, written through a Recorder.

It knows wall time only through the stream's clock, which it moves when the wall clock is set or the sound card's clock has drifted.
"""

import logging
from collections.abc import Sequence

from model.audio import samples_to_s
from monitor.audio.clock import ClockReading, ClockStepped, DriftTracker
from monitor.audio.mute import MuteDetector, SampleRange
from monitor.audio.segmenter import Segmenter
from monitor.audio.sources import Delivery
from monitor.audio.stream import AudioChunk, SpeechSegment, StreamClock
from monitor.daemon.recorder import Recorder
from monitor.daemon.status import DaemonStatus
from monitor.storage.coverage import CoverageTracker
from monitor.storage.records import Coverage

_logger = logging.getLogger(__name__)

_MAX_DRIFT_S = 0.3


class CaptureSession:
    """What one opening of a source delivers, on its way to the recorder.

    base: the stream position, in samples, at which this opening begins; clock: anchored there.
    """

    def __init__(
        self,
        base: int,
        clock: StreamClock,
        segmenter: Segmenter,
        coverage_tracker: CoverageTracker,
        recorder: Recorder,
        status: DaemonStatus,
    ) -> None:
        self._base = base
        self._clock = clock
        self._segmenter = segmenter
        self._coverage_tracker = coverage_tracker
        self._recorder = recorder
        self._status = status
        self._mute = MuteDetector()
        self._drift = DriftTracker()
        self._end = base

    @property
    def end(self) -> int:
        """The stream position up to which sound has come."""
        return self._end

    def take(self, chunk: AudioChunk) -> None:
        """The next sound; its positions count from the opening."""
        placed = AudioChunk(self._base + chunk.start, chunk.pcm)
        if placed.start > self._end:
            self._record_overflow(placed.start)
        self._end = placed.end
        self._record_coverage(self._mute.push(placed))
        self._store(self._segmenter.push(placed))
        status = self._status
        status.level_dbfs, status.speaking = self._segmenter.level_dbfs, self._segmenter.speaking
        status.position, status.muted = self._clock.at(placed.end), self._mute.muted

    def progress(self, delivery: Delivery | None, clock_set: Sequence[ClockStepped]) -> None:
        """To be called about once in a second of sound: account for what is certain by now, and keep the clock right.

        delivery: how far a microphone has delivered, and when. clock_set: what happened to the wall clock.
        """
        for time_range in self._mute.settled():
            self._coverage_tracker.become(_coverage_of(time_range), self._clock.at(time_range.start))
            self._coverage_tracker.progress(self._clock.at(time_range.end))
        for event in clock_set:
            self._reanchor(event)
        if delivery is not None:
            self._follow(*delivery)

    def close(self) -> None:
        """The sound ends here: what is open is closed and accounted for."""
        self._store(self._segmenter.flush())
        self._record_coverage(self._mute.flush())
        self._coverage_tracker.reach(self._clock.at(self._end))
        self._status.speaking = self._status.muted = False

    def _reanchor(self, event: ClockStepped) -> None:
        """What is open is closed by the old time, and what follows is told by the new one."""
        self._store(self._segmenter.flush())
        self._record_coverage(self._mute.flush())
        self._coverage_tracker.reach(self._clock.at(self._end))
        self._clock = self._clock.moved(event.by_s, self._end)
        self._coverage_tracker.clock_changed(self._clock.at(self._end))
        self._drift = DriftTracker()
        _logger.warning("the wall clock was set by %.1f s", event.by_s)

    def _follow(self, position: int, at: ClockReading) -> None:
        """Where the sound card runs fast or slow the stream's clock follows the wall clock.

        Only between segments, so that none begins before the one before it has ended.
        """
        self._drift.push(position, at.real_s)
        if abs(self._drift.drift_s) > _MAX_DRIFT_S and not self._segmenter.speaking:
            by_s = self._drift.rebase()
            self._clock = self._clock.moved(by_s, self._end)
            _logger.info("the stream was set by %.2f s: the sound card's clock differs from the wall clock", by_s)

    def _record_overflow(self, until: int) -> None:
        self._record_coverage(self._mute.flush())
        self._coverage_tracker.become(Coverage.OVERFLOW, self._clock.at(self._end))
        self._coverage_tracker.reach(self._clock.at(until))
        _logger.warning("%.2f s of sound were lost because they were not taken in time", samples_to_s(until - self._end))

    def _record_coverage(self, time_ranges: list[SampleRange]) -> None:
        for time_range in time_ranges:
            kind = _coverage_of(time_range)
            self._coverage_tracker.become(kind, self._clock.at(time_range.start))
            self._coverage_tracker.reach(self._clock.at(time_range.end))

    def _store(self, segments: list[SpeechSegment]) -> None:
        for segment in segments:
            self._recorder.segment(segment.start, segment.pcm, self._clock.at(segment.start), self._clock.at(segment.end))


def _coverage_of(time_range: SampleRange) -> Coverage:
    return Coverage.MUTED if time_range.muted else Coverage.HEARD
