"""Keeps an inference worker alive and its segments answered: each gets one prediction, across crashes, restarts and bundle switches.

It holds the ids of the segments that wait and the worker process; it knows neither audio nor timeline. One thread owns it and does in
turn what is to be done: it takes ids from `next_to_send`, hands their audio to `send`, takes the next event from `poll`, and calls
`settle` once a prediction is stored. Until then the segment waits and is sent again to the next worker if this one dies.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from model.audio import Int16
from model.bundle_format import find_bundle, read_bundle_manifest
from model.errors import EmosllmError, EngineRejected, EngineUnavailable
from monitor.bundles.registry import BundleRegistry, require_transcriber
from monitor.config import EngineConfig
from monitor.inference.bundle_switch import BundleSwitchQueue
from monitor.inference.crash_attribution import CrashAttribution
from monitor.inference.protocol import (
    BundleLoaded,
    BundleNotLoaded,
    BundleSwitched,
    Dropped,
    EngineChanged,
    EngineState,
    EngineUnreachable,
    FailureKind,
    LoadBundle,
    Predicted,
    PredictRequest,
    PredictResponse,
    SetReference,
    SupervisorEvent,
    WorkerFailed,
    WorkerReady,
)
from monitor.inference.worker_process import Wakeup, WorkerProcess, with_log_tail
from monitor.storage.records import InferenceResult, VoiceReferenceSums

logger = logging.getLogger(__name__)

_RESTART_DELAYS_S = (1.0, 2.0, 5.0, 15.0, 60.0)
# A server that does not let us in may do so later, when somebody has mended that; to look takes loading the bundle.
_REFUSED_DELAY_S = 60.0
_BATCHES_AHEAD = 2
_POLL_S = 0.2


class InferenceSupervisor:
    """The daemon's side of one inference worker after another.

    `next_to_send`, `send`, `poll`, `settle` and `close` belong to the thread that owns it; everything else may be called from any thread.

    Args:
        retry_forever: go on where no worker lives for long or a server does not answer, as a live microphone needs it. Otherwise
            inference ends with an error after the third death in a row, or when the server was away for `start_timeout_s`.
    """

    def __init__(self, config: EngineConfig, registry: BundleRegistry, log: Path, retry_forever: bool) -> None:
        self._config = config
        self._registry = registry
        self._log = log
        self._retry_forever = retry_forever
        self._events: deque[SupervisorEvent] = deque()  # what `poll` has not returned yet
        self._crashes = CrashAttribution()
        self._switch = BundleSwitchQueue(lambda *outcome: self._events.append(BundleSwitched(*outcome)))
        self._loaded = ""  # name of the bundle that the last worker was to load
        self._before_switch = ""  # what to go back to where a bundle that a worker was started for cannot be used
        # In the order of arrival; a segment leaves when it is settled, so a restarted worker is asked again.
        self._waiting: dict[int, None] = {}
        self._asked: set[int] = set()
        self._worker: WorkerProcess | None = None
        self._start_at = 0.0  # of the monotonic clock: when the next worker is to be started
        self._started_at = 0.0
        self._deadline = 0.0  # until when it has to be ready, or to have switched
        self._proven = False  # whether the worker that runs has answered
        self._change = threading.Condition()
        self._wakeup = Wakeup()
        self._stopping = False
        self._error: EmosllmError | None = None
        self._ended = False
        self._in_use = ""
        self._voice_space: str | None = None
        self._held_reference: VoiceReferenceSums | None = None  # the reference of a voice that the worker holds
        self._drop_held_reference = False
        self._engine = ""
        self._transcriber = ""
        self._untranscribed = 0
        self._away: EngineUnreachable | None = None

    @property
    def running(self) -> bool:
        """Whether `poll` has something to report yet."""
        return bool(self._events) or not (self._stopping or self._error is not None)

    @property
    def waiting(self) -> int:
        """Segments without a stored prediction."""
        return len(self._waiting)

    @property
    def error(self) -> EmosllmError | None:
        """Why inference ended for good, if it did."""
        return self._error

    @property
    def in_use(self) -> str:
        """The version of the bundle in use; empty while no worker is ready."""
        return self._in_use

    @property
    def voice_space(self) -> str | None:
        """Of the bundle in use; None while no worker is ready, and where the bundle has no use for a voice reference."""
        return self._voice_space

    @property
    def transcriber(self) -> str:
        """What transcribes segments for the bundle in use, in words; empty while nothing does."""
        return self._transcriber

    @property
    def untranscribed(self) -> int:
        """How many segments were predicted without their words because the transcriber failed."""
        return self._untranscribed

    @property
    def away_since(self) -> datetime | None:
        """Since when an engine that is elsewhere does not answer, aware UTC; None while it does."""
        return self._away.since if self._away else None

    def use(self, name: str) -> None:
        """Switch to another bundle, by name or folder, for the segments that have not been sent yet. Returns at once.

        A `BundleSwitched` event tells what became of it.

        Raises:
            BundleError: it is no bundle, is retired, or needs a transcriber that is not set.
            EngineUnavailable: inference has ended.
        """
        self._registry.check(name)
        require_transcriber(self._config, read_bundle_manifest(find_bundle(name)))
        with self._change:
            if self._ended:
                raise EngineUnavailable("nothing is judged any more, so no other bundle can be used; start the monitor again")
            self._switch.ask(name)
            self._notify_all()

    def drop_reference(self) -> None:
        """Have the worker let go of the voice reference that it holds, at once: it has changed."""
        with self._change:
            self._drop_held_reference = True
            self._notify_all()

    def submit(self, segment_id: int) -> None:
        """Queue a segment; never blocks."""
        with self._change:
            self._waiting[segment_id] = None
            self._notify_all()

    def withdraw(self, segment_ids: Collection[int]) -> None:
        """These need no prediction any more; one that is on its way is not reported."""
        self._remove(segment_ids)

    def wait_for_capacity(self, give_up: Callable[[], bool]) -> None:
        """Block while there is enough to do for a while, unless `give_up` or the end of inference says so: for sources that can wait."""
        with self._change:
            while len(self._waiting) >= 2 * _BATCHES_AHEAD * self._config.max_batch and not give_up() and self._error is None:
                self._change.wait(_POLL_S)

    def stop(self, give_up: Callable[[], bool]) -> None:
        """Wait until nothing waits any more or `give_up` says so; then let the owning thread come to its end."""
        with self._change:
            while self._waiting and self._error is None and not give_up():
                self._change.wait(_POLL_S)
            self._stopping = True
            self._notify_all()

    def next_to_send(self) -> list[int]:
        """The segments to send now, in order: at most two batches ahead, as more would only fill the socket.

        None while no worker is ready and while one switches bundles.
        """
        if not self._in_use or self._switch.now is not None or self._switch.wanted:
            return []
        with self._change:
            room = _BATCHES_AHEAD * self._config.max_batch - len(self._asked)
            return self._crashes.next_to_send(self._waiting, self._asked, max(0, room))

    def send(self, segment_id: int, audio: Int16, reference: VoiceReferenceSums | None) -> None:
        """Have the worker predict a segment, mono int16 (N,), against a voice reference, or against none."""
        self._asked.add(segment_id)
        self._hold(reference)
        self._post(PredictRequest(segment_id, audio))

    def poll(self, timeout_s: float) -> SupervisorEvent | None:
        """The next event; None where nothing is to be told within that time or there is something else to do.

        Between events it starts, watches and ends workers. An event is returned before anything that comes after it is done.
        """
        if not self._events:
            if self._worker is None:
                self._start_when_due(timeout_s)
            else:
                self._receive(self._worker, timeout_s)
        return self._events.popleft() if self._events else None

    def settle(self, segment_ids: Iterable[int]) -> None:
        """What was reported of these segments is stored: they do not wait any more."""
        segment_ids = list(segment_ids)
        self._asked.difference_update(segment_ids)
        self._remove(segment_ids)

    def fail(self, error: EmosllmError) -> None:
        """End inference for good: the owning thread cannot go on."""
        with self._change:
            self._error = error
            self._change.notify_all()

    def close(self) -> list[BundleSwitched]:
        """End the worker. Returns the switches that nobody has been told about: none happens any more. Segments that wait stay."""
        self._end_worker()
        with self._change:
            self._ended = True
        self._refuse_switches("judging ended before")
        return [event for event in self._events if isinstance(event, BundleSwitched)]

    def _remove(self, segment_ids: Collection[int]) -> None:
        with self._change:
            for segment_id in segment_ids:
                self._waiting.pop(segment_id, None)
            self._change.notify_all()

    def _notify_all(self) -> None:
        """To whoever waits, the thread that talks to the worker among them."""
        self._change.notify_all()
        self._wakeup.wake()

    def _tell_state(self, state: EngineState, detail: str) -> None:
        self._events.append(EngineChanged(state, detail))

    def _start_when_due(self, timeout_s: float) -> None:
        """Wait for the moment at which the next worker is to be started, and start it; at once where another bundle is wanted."""
        left_s = self._start_at - time.monotonic()
        with self._change:
            self._change.wait_for(lambda: self._stopping or self._switch.wanted, max(0.0, min(left_s, timeout_s)))
            if self._stopping or (left_s > timeout_s and not self._switch.wanted):
                return
        self._begin_switch()
        self._tell_state(EngineState.LOADING, "segments wait until it answers")
        self._started_at = time.monotonic()
        self._deadline = self._started_at + self._config.start_timeout_s
        self._proven = False
        self._loaded = self._registry.to_load()
        self._worker = WorkerProcess(self._config.model_copy(update={"bundle": self._loaded}), self._log)

    def _receive(self, worker: WorkerProcess, timeout_s: float) -> None:
        """Take the worker's next message, or draw the consequences of its end."""
        end = self._overdue()
        if end is None:
            self._post_changes()
            try:
                message = worker.receive(timeout_s, self._wakeup)
            except (EOFError, OSError):
                end = WorkerFailed(f"the judging process died ({worker.epitaph()})", FailureKind.PASSING)
            else:
                end = self._handle(message)
        if end is not None:
            self._worker_ended(end)

    def _overdue(self) -> WorkerFailed | BundleNotLoaded | None:
        """Whether to wait for this worker no longer, and why."""
        ready = bool(self._in_use)
        if (away := self._away) is not None:
            if not ready and self._switch.wanted:
                return BundleNotLoaded("the engine does not answer, so another process may as well wait for it", needs_restart=True)
            if not self._retry_forever and (datetime.now(UTC) - away.since).total_seconds() > self._config.start_timeout_s:
                return WorkerFailed(away.reason, FailureKind.ABSENT)
        elif (not ready or self._switch.now is not None) and time.monotonic() > self._deadline:
            return WorkerFailed(f"the engine was not ready after {self._config.start_timeout_s} s", FailureKind.PASSING)
        return None

    def _post_changes(self) -> None:
        """Tell a worker that is ready what other threads have asked for: to drop the voice reference, to load another bundle."""
        if not self._in_use or self._switch.now is not None:
            return
        with self._change:
            changed, self._drop_held_reference = self._drop_held_reference, False
        if changed:
            self._hold(None)
        if (name := self._switch.begin(in_place=True)) is not None:
            self._deadline = time.monotonic() + self._config.start_timeout_s
            self._post(LoadBundle(name))

    def _hold(self, reference: VoiceReferenceSums | None) -> None:
        """What is sent next is heard against this reference."""
        if reference != self._held_reference:
            self._post(SetReference(reference))
            self._held_reference = reference

    def _post(self, message: PredictRequest | SetReference | LoadBundle) -> None:
        # A worker that is gone: `poll` takes what it has said before, and then its end.
        with suppress(OSError):
            if self._worker is not None:
                self._worker.send(message)

    def _handle(self, message: object) -> WorkerFailed | BundleNotLoaded | None:
        """Draw the consequences of a worker's message; returns it where the worker has to end."""
        match message:
            case WorkerReady():
                self._away = None
                self._engine = message.engine
                self._bundle_in_use(message, f", ready after {time.monotonic() - self._started_at:.0f} s")
            case PredictResponse():
                self._engine_back()
                self._untranscribed += message.untranscribed
                self._predicted(message.results)
            case EngineUnreachable():
                self._away = message
                self._tell_state(EngineState.AWAY, message.reason)
            case BundleLoaded():
                self._bundle_loaded(message)
            case BundleNotLoaded(needs_restart=True) | WorkerFailed():
                return message
            case BundleNotLoaded():
                self._switch.refused(message.reason)
        return None

    def _predicted(self, results: Mapping[int, InferenceResult]) -> None:
        if not self._proven:
            self._proven = True
            self._registry.mark_answered(self._loaded)
        self._crashes.answered(results)
        with self._change:
            due = {segment_id: result for segment_id, result in results.items() if segment_id in self._waiting}
        # Those that are due count as asked until they are settled, or they would be sent again.
        self._asked.difference_update(results.keys() - due.keys())
        if due:
            self._events.append(Predicted(due))

    def _engine_back(self) -> None:
        if self._away is not None:
            self._away = None
            self._tell_state(EngineState.READY, f"{self._engine}, {self._in_use}")

    def _bundle_loaded(self, using: BundleLoaded) -> None:
        """The worker has switched bundles; the new one has to prove itself as one that was loaded at the start."""
        if self._switch.now is not None:
            self._loaded = self._switch.now
            self._registry.request(self._loaded)
        self._proven = False
        self._crashes.reset_for_bundle()
        self._bundle_in_use(using)

    def _bundle_in_use(self, message: WorkerReady | BundleLoaded, how_soon: str = "") -> None:
        version = message.bundle_version
        self._in_use, self._transcriber = version, message.transcriber
        if message.voice_space != self._voice_space:
            self._voice_space, self._held_reference = message.voice_space, None
        self._tell_state(EngineState.READY, f"{self._engine}, {version}{how_soon}")
        self._switch.done(version)

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
        self._worker = None
        self._in_use, self._transcriber, self._voice_space, self._held_reference, self._away = "", "", None, None, None

    def _worker_ended(self, end: WorkerFailed | BundleNotLoaded) -> None:
        """Decide what follows on the end of a worker: the next one at once or after a while, with this bundle or another, or none."""
        self._end_worker()
        self._start_at = 0.0
        if self._switch.now is not None and self._switch.in_place:
            logger.info("the judging process is started anew for another bundle: %s", end.reason)
            self._restart_with(self._switch.now)
        elif isinstance(end, WorkerFailed):
            logger.error("the judging process ended: %s", end.reason)
            self._handle_exit(end)

    def _begin_switch(self) -> None:
        """While no worker runs that could be told."""
        overtaken = self._switch.now
        if (name := self._switch.begin(in_place=False)) is not None:
            if overtaken is not None:
                self._registry.request(self._before_switch)
            self._restart_with(name)

    def _restart_with(self, name: str) -> None:
        """The next worker is to load another bundle. How the last one ended counts against nobody; what it was asked is asked again."""
        self._switch.in_place = False
        self._before_switch = self._registry.to_load()
        self._registry.request(name)
        self._crashes.reset_for_bundle()
        self._asked.clear()
        if self._registry.to_load() != name:
            self._revert_switch("it is not there any more")

    def _revert_switch(self, reason: str) -> None:
        """Where the last worker was started for a bundle that cannot be used, the next is for the one before."""
        if self._switch.now is not None:
            self._registry.request(self._before_switch)
            self._switch.refused(reason)

    def _refuse_switches(self, reason: str) -> None:
        self._switch.refused(reason)
        if self._switch.begin(in_place=False) is not None:
            self._switch.refused(reason)

    def _handle_exit(self, failed: WorkerFailed) -> None:
        absent = failed.failure is FailureKind.ABSENT
        # What was asked says nothing about a server that is elsewhere, and is asked again.
        guilty = None if absent else self._crashes.died(self._asked)
        self._asked.clear()
        if guilty is not None:
            self._events.append(Dropped(guilty, "the engine died on it several times"))
        hopeless = absent or failed.failure is FailureKind.LASTING or self._crashes.bundle_failed
        others = hopeless and not absent and self._registry.disable(self._loaded, failed.reason)
        if hopeless:
            self._revert_switch(failed.reason)
        if others:
            self._crashes.reset_for_bundle()
            self._tell_state(EngineState.RESTARTING, f"the bundle is set aside ({failed.reason}); the one before it is loaded")
        elif hopeless and not self._retry_forever:
            kind = EngineRejected if failed.failure is FailureKind.LASTING else EngineUnavailable
            self.fail(kind(with_log_tail(f"the engine cannot be used: {failed.reason}", self._log)))
            self._tell_state(EngineState.FAILED, failed.reason)
        else:
            pause = _REFUSED_DELAY_S if absent else _RESTART_DELAYS_S[min(self._crashes.deaths, len(_RESTART_DELAYS_S) - 1)]
            self._start_at = time.monotonic() + pause
            self._tell_state(EngineState.RESTARTING, f"{failed.reason}; starting it again in {pause:.0f} s")
