"""The main loop: opens the source, again and again when a microphone goes away; pauses, resumes and stops.

Each opening of the source is one `CaptureSession`. Commands come from other threads and only set flags here: the main thread acts on
them. It knows database, engine and terminal only through the objects it is given.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from model.errors import DeviceError, DeviceFault, EmosllmError
from monitor.analysis.days import TimeRange
from monitor.audio.clock import Backoff, ClockStepped, ClockWatch, Suspended
from monitor.audio.segmenter import Segmenter
from monitor.audio.sources import AudioSource
from monitor.audio.stream import StreamClock
from monitor.config import Config
from monitor.daemon.capture_session import CaptureSession
from monitor.daemon.live_view import View
from monitor.daemon.pause import PauseFile
from monitor.daemon.recorder import Recorder
from monitor.daemon.status import DaemonStatus
from monitor.daemon.systemd import SystemdNotifier
from monitor.storage.coverage import CoverageTracker
from monitor.storage.records import Coverage

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_POLL_S = 0.1
_SUSPENDED_REASON = "the machine slept"


class Daemon:
    """Listens from `run` to `stop`.

    open_source: gives a fresh source each time. anchor: aware UTC moment at which a recording began, else None. unattended: nobody is
    there to mend a microphone that is missing at the start, so it is waited for. clocks: to be looked at about once a second.
    """

    def __init__(
        self,
        config: Config,
        open_source: Callable[[], AudioSource],
        anchor: datetime | None,
        recorder: Recorder,
        pause: PauseFile,
        status: DaemonStatus,
        view: View,
        notifier: SystemdNotifier,
        unattended: bool,
        clocks: ClockWatch | None = None,
    ) -> None:
        self._config = config
        self._open_source = open_source
        self._anchor = anchor
        self._recorder = recorder
        self._pause = pause
        self._status = status
        self._view = view
        self._notifier = notifier
        self._unattended = unattended
        self._clocks = clocks or ClockWatch()
        self._segmenter = Segmenter(config.segmenter)
        self._coverage_tracker = CoverageTracker(recorder.cover)
        self._backoff = Backoff()
        # Plain flags: a signal handler may set them at any moment, where a lock could be held already.
        self._stopping = False
        self._stopped_at = math.inf
        self._abandoned = False
        self._source: AudioSource | None = None
        self._position = 0
        self._ticked_at = 0.0
        self._judging = False
        self._told_muted = False

    def run(self) -> None:
        """Listen until the source ends or `stop` is called; then judge what waits. Raises EmosllmError when it cannot go on."""
        supervisor = self._recorder.supervisor
        try:
            self._listen()
        finally:
            self._status.listening = False
            self._notifier.stopping()
            if supervisor.waiting and self._judging:
                self._status.ending = "finishing what waits for the engine; Ctrl-C again leaves it for the next start"
                self._view.tell(self._status.ending)
            self._recorder.finish(self._should_give_up)
            if supervisor.waiting:
                self._view.tell(f"{supervisor.waiting} segments wait, encrypted, to be judged at the next start")
            self._status.ending = ""
        if supervisor.error is not None:
            raise supervisor.error

    def stop(self) -> None:
        """End in good order; called again, leave what waits unjudged. Safe in a signal handler."""
        if self._stopping:
            self._abandoned = True
            self._recorder.stop_retrying()
        else:
            self._stopped_at = time.monotonic()
        self._stopping = True
        self._close_source()

    def pause(self, until: datetime | None) -> None:
        """Close the microphone from any thread, until then or until `resume`. Raises EmosllmError for a recording."""
        if not self._status.live:
            raise EmosllmError("a recording cannot be paused; `emosllm-monitor stop` ends it")
        self._pause.begin(until)
        self._status.paused_until = until
        self._close_source()

    def resume(self) -> None:
        """End a pause, from any thread."""
        self._pause.end()

    def forget(self, time_range: TimeRange) -> None:
        """Write nothing of a stretch from now on, from any thread."""
        self._recorder.forget(time_range)
        logger.info("a stretch of time is forgotten")

    def use_bundle(self, name: str, patience_s: float) -> str:
        """See Recorder, from any thread."""
        return self._recorder.use_bundle(name, patience_s)

    def voice_changed(self) -> None:
        """See Recorder, from any thread."""
        self._recorder.voice_changed()

    def _close_source(self) -> None:
        if (source := self._source) is not None:
            source.close()

    def _should_give_up(self) -> bool:
        """A recording that ended is judged to its end; after `stop`, only for as long as the settings say."""
        self._notifier.alive()
        return self._abandoned or time.monotonic() > self._stopped_at + self._config.engine.stop_timeout_s

    def _listen(self) -> None:
        while not self._stopping:
            if self._is_paused():
                self._wait_while_paused()
                continue
            try:
                self._hear()
            except DeviceError as error:
                if self._coverage_tracker.kind is None and not self._unattended:
                    raise  # it never worked: that is for the person to mend
                self._device_lost(error)
            if not self._status.live or self._recorder.supervisor.error is not None:
                return

    def _hear(self) -> None:
        """One opening of the source, until it ends or is closed."""
        try:
            with self._open_source() as source:
                hearing = self._begin(source)
                try:
                    self._consume_chunks(source, hearing)
                finally:
                    hearing.close()
                    self._position = hearing.end
        finally:
            self._source = None
            self._status.listening = False

    def _begin(self, source: AudioSource) -> CaptureSession:
        self._source = source
        if self._stopping or self._is_paused():
            source.close()
        back = "the microphone is back: " if self._status.device_problem else ""
        self._view.tell(f"{back}listening to {source.description}; what follows are estimates, not a diagnosis")
        self._status.source, self._status.listening, self._status.device_problem = source.description, True, ""
        self._recorder.microphone = source.microphone
        clock = StreamClock(self._anchor if self._anchor and not self._judging else datetime.now(UTC), self._position)
        self._coverage_tracker.become(Coverage.HEARD, clock.anchor)
        self._start_inference()
        self._notifier.ready()
        self._notifier.status(f"listening to {source.description}")
        return CaptureSession(self._position, clock, self._segmenter, self._coverage_tracker, self._recorder, self._status)

    def _start_inference(self) -> None:
        """After the source was opened, which works at once or not at all."""
        if not self._judging:
            self._judging = True
            self._recorder.resume()
            self._recorder.start()

    def _consume_chunks(self, source: AudioSource, hearing: CaptureSession) -> None:
        supervisor = self._recorder.supervisor
        for chunk in source:
            self._backoff.reset()
            hearing.take(chunk)
            events = self._tick()
            if not source.live:
                # Its time is its own, and may pass a hundred times as fast as the clock's.
                hearing.progress(None, [])
                supervisor.wait_for_capacity(lambda: self._stopping)
            elif events is not None:
                hearing.progress(source.delivered, [event for event in events if isinstance(event, ClockStepped)])
                self._report_mute()
            if supervisor.error is not None:
                return

    def _report_mute(self) -> None:
        if self._status.muted != self._told_muted:
            self._told_muted = self._status.muted
            self._view.tell(
                "the microphone is muted: it delivers nothing but zeros" if self._told_muted else "the microphone is not muted any more"
            )

    def _device_lost(self, error: DeviceError) -> None:
        slept = error.fault is DeviceFault.SLEPT
        self._set_coverage(*((Coverage.NOT_RUNNING, _SUSPENDED_REASON) if slept else (Coverage.DEVICE_LOST, error.fault.value)))
        self._status.device_problem = f"{error}; trying to open it again"
        self._view.tell(self._status.device_problem)
        self._notify(f"no sound: {error.fault}")
        logger.warning("the microphone is not heard: %s", error.fault)
        self._start_inference()
        self._wait(self._backoff.next_s(), self._is_paused)

    def _wait_while_paused(self) -> None:
        self._status.paused, self._status.paused_until = True, self._pause.until
        self._set_coverage(Coverage.PAUSED, "")
        until, zone = self._pause.until, self._config.timeline.zone_info()
        self._view.tell("paused" + (f" until {until.astimezone(zone):%Y-%m-%d %H:%M}" if until else "") + "; the microphone is closed")
        self._notify("paused")
        logger.info("paused")
        self._start_inference()
        self._wait(math.inf, lambda: not self._is_paused())
        self._status.paused, self._status.paused_until = False, None
        if not self._stopping:
            self._view.tell("listening again")
            logger.info("resumed")

    def _is_paused(self) -> bool:
        return self._status.live and self._pause.holds(datetime.now(UTC))

    def _set_coverage(self, kind: Coverage, reason: str) -> None:
        """Nothing is heard, for this reason, since sound ended; before any was, since now."""
        self._coverage_tracker.become(kind, self._coverage_tracker.reached or datetime.now(UTC), reason)

    def _notify(self, text: str) -> None:
        # Ready too: whoever started it shall not wait for a microphone that is closed or away.
        self._notifier.ready()
        self._notifier.status(text)

    def _wait(self, seconds: float, over: Callable[[], bool]) -> None:
        """Let time pass without sound, accounted for."""
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until and not over():
            for event in self._tick() or ():
                self._handle_clock_event(event)
            self._coverage_tracker.progress(datetime.now(UTC))
            time.sleep(_POLL_S)
        self._coverage_tracker.reach(datetime.now(UTC))

    def _handle_clock_event(self, event: Suspended | ClockStepped) -> None:
        """While nothing is heard: a machine that sleeps is no monitor, and a clock that was set leaves a hole or an overlap."""
        match event:
            case ClockStepped():
                self._coverage_tracker.reach(event.expected)
                self._coverage_tracker.clock_changed(event.shows)
            case Suspended():
                kind, reason = self._coverage_tracker.present
                self._coverage_tracker.become(Coverage.NOT_RUNNING, event.from_at, _SUSPENDED_REASON)
                self._coverage_tracker.become(kind, event.until_at, reason)

    def _tick(self) -> Sequence[Suspended | ClockStepped] | None:
        """About once a second, None in between: what the clocks say; and what has to be done now and then is done."""
        if time.monotonic() - self._ticked_at < _TICK_S:
            return None
        self._ticked_at = time.monotonic()
        self._notifier.alive()
        self._recorder.flush()
        return self._clocks.look()
