"""One opening of a source, from its sound to closed segments and an account of time. It writes through a Recorder.

It knows wall time only through the clock it is given, which it moves when the wall clock is set or the sound card's has drifted.
"""

import logging
from collections.abc import Sequence

from model.audio import samples_to_s
from monitor.recorder import Recorder
from monitor.sound.clocks import ClockSet, Reading
from monitor.sound.drift import DriftTracker
from monitor.sound.mute import MuteWatch, Stretch
from monitor.sound.segmenter import Segmenter
from monitor.sound.sources import Delivery
from monitor.sound.types import AudioChunk, Segment, StreamClock
from monitor.status import Status
from monitor.store.ledger import Ledger
from monitor.store.records import Coverage

_logger = logging.getLogger(__name__)

_DRIFT_S = 0.3


class Hearing:
    """What one opening of a source delivers, on its way to the recorder.

    base: the stream position, in samples, at which this opening begins; clock: anchored there.
    """

    def __init__(self, base: int, clock: StreamClock, segmenter: Segmenter, ledger: Ledger, recorder: Recorder, status: Status) -> None:
        self._base = base
        self._clock = clock
        self._segmenter = segmenter
        self._ledger = ledger
        self._recorder = recorder
        self._status = status
        self._mute = MuteWatch()
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
            self._lost(placed.start)
        self._end = placed.end
        self._account(self._mute.push(placed))
        self._store(self._segmenter.push(placed))
        status = self._status
        status.level_dbfs, status.speaking = self._segmenter.level_dbfs, self._segmenter.speaking
        status.position, status.muted = self._clock.at(placed.end), self._mute.muted

    def progress(self, delivery: Delivery | None, clock_set: Sequence[ClockSet]) -> None:
        """To be called about once in a second of sound: account for what is certain by now, and keep the clock right.

        delivery: how far a microphone has delivered, and when. clock_set: what happened to the wall clock.
        """
        for stretch in self._mute.settled():
            self._ledger.become(_kind(stretch), self._clock.at(stretch.start))
            self._ledger.progress(self._clock.at(stretch.end))
        for event in clock_set:
            self._anchor_anew(event)
        if delivery is not None:
            self._follow(*delivery)

    def close(self) -> None:
        """The sound ends here: what is open is closed and accounted for."""
        self._store(self._segmenter.flush())
        self._account(self._mute.flush())
        self._ledger.reach(self._clock.at(self._end))
        self._status.speaking = self._status.muted = False

    def _anchor_anew(self, event: ClockSet) -> None:
        """What is open is closed by the old time, and what follows is told by the new one."""
        self._store(self._segmenter.flush())
        self._account(self._mute.flush())
        self._ledger.reach(self._clock.at(self._end))
        self._clock = self._clock.moved(event.by_s, self._end)
        self._ledger.clock_moved(self._clock.at(self._end))
        self._drift = DriftTracker()
        _logger.warning("the wall clock was set by %.1f s", event.by_s)

    def _follow(self, position: int, at: Reading) -> None:
        """Where the sound card runs fast or slow the stream's clock follows the wall clock.

        Only between segments, so that none begins before the one before it has ended.
        """
        self._drift.push(position, at.real_s)
        if abs(self._drift.drift_s) > _DRIFT_S and not self._segmenter.speaking:
            by_s = self._drift.rebase()
            self._clock = self._clock.moved(by_s, self._end)
            _logger.info("the stream was set by %.2f s: the sound card's clock differs from the wall clock", by_s)

    def _lost(self, until: int) -> None:
        self._account(self._mute.flush())
        self._ledger.become(Coverage.OVERFLOW, self._clock.at(self._end))
        self._ledger.reach(self._clock.at(until))
        _logger.warning("%.2f s of sound were lost because they were not taken in time", samples_to_s(until - self._end))

    def _account(self, stretches: list[Stretch]) -> None:
        for stretch in stretches:
            kind = _kind(stretch)
            self._ledger.become(kind, self._clock.at(stretch.start))
            self._ledger.reach(self._clock.at(stretch.end))

    def _store(self, segments: list[Segment]) -> None:
        for segment in segments:
            self._recorder.segment(segment.start, segment.pcm, self._clock.at(segment.start), self._clock.at(segment.end))


def _kind(stretch: Stretch) -> Coverage:
    return Coverage.MUTED if stretch.muted else Coverage.HEARD
