"""The daemon: sound from a source through the segmenter into the timeline, and the engine's answers beside it.

The thread that runs it listens and segments; the judge's thread stores answers. A segment is in the database when it closes, before
anyone judges it, so that whatever happens later its time is known.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.audio import s_to_samples
from model.errors import DeviceError
from model.types import Prediction
from monitor.config import Config
from monitor.judge import EngineState, Judge, Listener
from monitor.records import Coverage
from monitor.segmenter import Segmenter
from monitor.sources import Source
from monitor.timeline import Timeline
from monitor.types import AudioChunk, Segment, StreamClock
from monitor.view import Judged, Status, View

logger = logging.getLogger(__name__)

_COVERAGE_EVERY_S = 5.0
_POLL_S = 0.1
_REOPEN_S = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Where a stored segment lies, for the view."""

    start_at: datetime
    duration_s: float


class Daemon:
    """One run of the monitor. `open_source` gives a fresh source each time: a microphone that went away is opened again."""

    def __init__(
        self,
        config: Config,
        open_source: Callable[[], Source],
        anchor: datetime | None,
        timeline: Timeline,
        engine_log: Path,
        status: Status,
        view: View,
    ) -> None:
        self._config = config
        self._open_source = open_source
        self._anchor = anchor
        self._timeline = timeline
        self._status = status
        self._view = view
        self._segmenter = Segmenter(config.segmenter)
        self._judge = Judge(config.engine, engine_log, Listener(self._on_judged, self._on_dropped, self._on_engine))
        self._stretches: dict[int, _Stretch] = {}
        # Plain flags: a signal handler may set them at any moment, where a lock could be held already.
        self._stopping = False
        self._stopped_at = math.inf
        self._abandoned = False
        self._source: Source | None = None
        self._heard_from: int | None = None
        self._heard_until = 0

    def run(self) -> None:
        """Listen until the source ends or `stop` is called; then judge what waits. Raises EmosllmError when it cannot go on."""
        try:
            self._listen()
        finally:
            self._status.listening = False
            if self._judge.waiting:
                self._status.ending = "finishing what waits for the engine; Ctrl-C again leaves it unjudged"
                self._view.tell(self._status.ending)
            self._judge.finish(self._out_of_patience)
            self._status.ending = ""
        if self._judge.error is not None:
            raise self._judge.error

    def stop(self) -> None:
        """End in good order; called again, leave what waits unjudged. Safe in a signal handler."""
        if self._stopping:
            self._abandoned = True
        else:
            self._stopped_at = time.monotonic()
        self._stopping = True
        if self._source is not None:
            self._source.close()

    def _out_of_patience(self) -> bool:
        """A recording that ended is judged to its end; after `stop`, only for as long as the settings say."""
        return self._abandoned or time.monotonic() > self._stopped_at + self._config.engine.stop_timeout_s

    def _listen(self) -> None:
        attempt = 0
        clock: StreamClock | None = None
        while not self._stopping:
            try:
                with self._open_source() as source:
                    clock = self._begin(source, clock)
                    attempt = 0
                    self._consume(source, clock)
                return
            except DeviceError as error:
                if clock is None:
                    raise  # it never worked: that is for the person to mend
                self._device_lost(error, clock)
                self._pause(_REOPEN_S[min(attempt, len(_REOPEN_S) - 1)])
                attempt += 1
            finally:
                self._source = None

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(_POLL_S)

    def _begin(self, source: Source, clock: StreamClock | None) -> StreamClock:
        """Fix the stream's clock at the first opening; after a loss, continue its positions at the time that has passed."""
        self._source = source
        if self._stopping:
            source.close()
        self._status.source, self._status.listening, self._status.device_problem = source.description, True, ""
        if clock is None:
            self._view.tell(f"listening to {source.description}; what follows are estimates, not a diagnosis")
            self._judge.start()  # after the source, which comes at once or not at all
            return StreamClock(self._anchor or datetime.now(UTC))
        until = max(self._heard_until, s_to_samples((datetime.now(UTC) - clock.anchor).total_seconds()))
        self._cover(Coverage.DEVICE_LOST, self._heard_until, until, clock)
        self._heard_until = until
        self._view.tell("the microphone is back")
        return clock

    def _consume(self, source: Source, clock: StreamClock) -> None:
        base, covered_at = self._heard_until, time.monotonic()
        try:
            for chunk in source:
                placed = AudioChunk(base + chunk.start, chunk.pcm)
                if placed.start > self._heard_until:
                    self._lost(placed.start, clock)
                self._hear(placed, clock)
                if time.monotonic() - covered_at > _COVERAGE_EVERY_S:
                    covered_at = time.monotonic()
                    self._store_heard(clock)
                if not source.live:
                    self._judge.wait_for_room(max(1, self._config.engine.max_waiting // 2), lambda: self._stopping)
                if self._judge.error is not None:
                    return
        finally:
            self._store(self._segmenter.flush(), clock)
            self._store_heard(clock)

    def _hear(self, chunk: AudioChunk, clock: StreamClock) -> None:
        if self._heard_from is None:
            self._heard_from = chunk.start
        self._heard_until = chunk.end
        self._store(self._segmenter.push(chunk), clock)
        self._status.level_dbfs = self._segmenter.level_dbfs
        self._status.speaking = self._segmenter.speaking
        self._status.position = clock.at(chunk.end)

    def _store(self, segments: list[Segment], clock: StreamClock) -> None:
        for segment in segments:
            start_at = clock.at(segment.start)
            entry = self._timeline.add_segment(
                start_sample=segment.start, end_sample=segment.end, start_at=start_at, end_at=clock.at(segment.end)
            )
            self._stretches[entry] = _Stretch(start_at, segment.duration_s)
            self._status.segments += 1
            self._judge.submit(entry, segment.pcm)

    def _lost(self, until: int, clock: StreamClock) -> None:
        self._store_heard(clock)
        self._cover(Coverage.OVERFLOW, self._heard_until, until, clock)
        self._heard_until = until
        logger.warning("sound was lost because it was not taken in time")

    def _device_lost(self, error: DeviceError, clock: StreamClock) -> None:
        self._status.listening = False
        self._status.speaking = False
        self._status.device_problem = f"{error}; trying to open it again"
        self._view.tell(self._status.device_problem)
        logger.warning("the device was lost")

    def _store_heard(self, clock: StreamClock) -> None:
        if self._heard_from is not None:
            self._cover(Coverage.HEARD, self._heard_from, self._heard_until, clock)
            self._heard_from = None

    def _cover(self, kind: Coverage, start: int, end: int, clock: StreamClock) -> None:
        if end > start:
            self._timeline.cover(kind, clock.at(start), clock.at(end))

    def _on_judged(self, predictions: Mapping[int, Prediction]) -> None:
        self._timeline.judge(predictions)
        for entry, prediction in predictions.items():
            stretch = self._stretches.pop(entry)
            self._show(Judged(stretch.start_at, stretch.duration_s, prediction))
        self._status.judged += len(predictions)

    def _on_dropped(self, entry: int, reason: str) -> None:
        self._timeline.set_aside(entry, reason)
        stretch = self._stretches.pop(entry)
        self._status.unjudged += 1
        self._show(Judged(stretch.start_at, stretch.duration_s, None, reason))

    def _show(self, item: Judged) -> None:
        self._status.recent.append(item)
        self._view.judged(item)

    def _on_engine(self, state: EngineState, detail: str) -> None:
        if (state, detail) != (self._status.engine, self._status.engine_detail):
            self._view.tell(f"engine {state}: {detail}")
        self._status.engine, self._status.engine_detail = state, detail
        logger.info("engine %s", state)
