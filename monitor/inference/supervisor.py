"""Keeps an inference worker alive and its requests answered: each segment gets one prediction, across crashes and restarts.

It holds the numbers of the segments that wait, not their audio, which it fetches when it is needed. Knows nothing of the timeline:
predictions go to `SupervisorCallbacks`, from one thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

from model.bundle_format import find_bundle, read_bundle_manifest
from model.errors import EmosllmError, EngineRejected, EngineUnavailable
from monitor.bundles.registry import BundleRegistry, require_transcriber
from monitor.config import EngineConfig
from monitor.inference.bundle_switch import BundleSwitchQueue
from monitor.inference.crash_attribution import CrashAttribution
from monitor.inference.protocol import (
    BundleLoaded,
    BundleNotLoaded,
    EngineState,
    EngineUnreachable,
    FailureKind,
    LoadBundle,
    PredictRequest,
    PredictResponse,
    SetReference,
    SupervisorCallbacks,
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
# How late it may be noticed that a process or a server took too long.
_RECEIVE_TIMEOUT_S = 1.0


class InferenceSupervisor:
    """The daemon's side of one judging process after another.

    tireless: whether to go on for ever where no process lives for long or a server does not answer, as a live microphone needs it;
    otherwise judging ends with an error after the third in a row, or when the server was away for `start_timeout_s`.
    """

    def __init__(
        self, config: EngineConfig, registry: BundleRegistry, log: Path, listener: SupervisorCallbacks, retry_forever: bool
    ) -> None:
        self._config = config
        self._registry = registry
        self._log = log
        self._listener = listener
        self._tireless = retry_forever
        self._crashes = CrashAttribution()
        self._switch = BundleSwitchQueue(listener.switched)
        self._loaded = ""  # name of the bundle that the last process was to load
        self._before_switch = ""  # what to go back to where a bundle that a process was started for cannot be used
        # In the order of arrival; an entry leaves when its answer is there, so a restarted process is asked again.
        self._waiting: dict[int, None] = {}
        self._asked: set[int] = set()
        self._proven = False  # whether the process that runs has answered
        self._change = threading.Condition()
        self._wakeup = Wakeup()
        self._stopping = threading.Event()
        self._error: EmosllmError | None = None
        self._ended = False
        self._in_use = ""
        self._voice_space: str | None = None
        self._held_reference: VoiceReferenceSums | None = None  # the reference of a voice that the process holds
        self._drop_held_reference = False
        self._engine = ""
        self._transcriber = ""
        self._untranscribed = 0
        self._away: EngineUnreachable | None = None
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)

    def start(self) -> None:
        """Begin loading; returns at once."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Segments without an answer yet."""
        return len(self._waiting)

    @property
    def error(self) -> EmosllmError | None:
        """Why judging ended for good, if it did."""
        return self._error

    @property
    def in_use(self) -> str:
        """The version of the bundle that judges; empty while none is ready."""
        return self._in_use

    @property
    def voice_space(self) -> str | None:
        """Of the bundle that judges; None while none is ready, and where it has no use for a reference of a voice."""
        return self._voice_space

    @property
    def transcriber(self) -> str:
        """What writes down the words for the bundle that judges, in words; empty while nothing does."""
        return self._transcriber

    @property
    def untranscribed(self) -> int:
        """How many segments were judged without their words because the transcriber failed."""
        return self._untranscribed

    @property
    def away_since(self) -> datetime | None:
        """Since when an engine that is elsewhere does not answer, aware UTC; None while it does."""
        return self._away.since if self._away else None

    def use(self, name: str) -> None:
        """From any thread: have another bundle, by name or folder, judge what has not been asked yet. Returns at once.

        What came of it goes to `switched`. Raises BundleError for what is none, is retired or needs a transcriber that is not set,
        EngineUnavailable once judging has ended.
        """
        self._registry.check(name)
        require_transcriber(self._config, read_bundle_manifest(find_bundle(name)))
        with self._change:
            if self._ended:
                raise EngineUnavailable("nothing is judged any more, so no other bundle can be used; start the monitor again")
            self._switch.ask(name)
            self._notify_all()

    def drop_reference(self) -> None:
        """From any thread: the reference of the voice has changed, so the process is to let go of the one it holds, at once."""
        with self._change:
            self._drop_held_reference = True
            self._notify_all()

    def submit(self, entry: int) -> None:
        """Ask for an entry; never blocks."""
        with self._change:
            self._waiting[entry] = None
            self._notify_all()

    def withdraw(self, entries: Collection[int]) -> None:
        """These are not to be judged any more; an answer that is on its way is not told."""
        with self._change:
            for entry in entries:
                self._waiting.pop(entry, None)
            self._change.notify_all()

    def wait_for_capacity(self, give_up: Callable[[], bool]) -> None:
        """Block while there is enough to do for a while, unless `give_up` or the end of judging says so: for sources that can wait."""
        with self._change:
            while len(self._waiting) >= 2 * _BATCHES_AHEAD * self._config.max_batch and not give_up() and self._error is None:
                self._change.wait(_POLL_S)

    def finish(self, give_up: Callable[[], bool]) -> None:
        """Wait until nothing waits any more or `give_up` says so; then end the process. What is left has no answer."""
        with self._change:
            while self._waiting and self._error is None and not give_up():
                self._change.wait(_POLL_S)
        with self._change:
            self._stopping.set()
            self._notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _notify_all(self) -> None:
        """To whoever waits, the thread that talks to the process among them."""
        self._change.notify_all()
        self._wakeup.wake()

    def _work(self) -> None:
        try:
            self._supervise()
        except EmosllmError as error:
            # A callback could not do its part.
            self._end_with_error(error)
        finally:
            with self._change:
                self._ended = True
            self._refuse_switches("judging ended before")

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            self._begin_switch()
            self._listener.changed(EngineState.LOADING, "segments wait until it answers")
            self._loaded = self._registry.to_load()
            child = WorkerProcess(self._config.model_copy(update={"bundle": self._loaded}), self._log)
            try:
                end = self._serve(child)
            finally:
                child.end()
                self._in_use, self._transcriber, self._voice_space, self._held_reference, self._away = "", "", None, None, None
            if end is None:
                return
            if self._switch.now is not None and self._switch.in_place:
                logger.info("the judging process is started anew for another bundle: %s", end.reason)
                self._restart_with(self._switch.now)
            elif isinstance(end, WorkerFailed) and not self._survived(end):
                return

    def _survived(self, failed: WorkerFailed) -> bool:
        logger.error("the judging process ended: %s", failed.reason)
        if self._handle_exit(failed):
            return True
        self._fail(failed)
        return False

    def _begin_switch(self) -> None:
        """While no process runs that could be told."""
        overtaken = self._switch.now
        if (name := self._switch.begin(in_place=False)) is not None:
            if overtaken is not None:
                self._registry.request(self._before_switch)
            self._restart_with(name)

    def _restart_with(self, name: str) -> None:
        """The next process is to load another bundle. How the last one ended counts against nobody; what it was asked is asked again."""
        self._switch.in_place = False
        self._before_switch = self._registry.to_load()
        self._registry.request(name)
        self._crashes.reset_for_bundle()
        self._asked.clear()
        if self._registry.to_load() != name:
            self._revert_switch("it is not there any more")

    def _revert_switch(self, reason: str) -> None:
        """Where the last process was started for a bundle that cannot be used, the next is for the one before."""
        if self._switch.now is not None:
            self._registry.request(self._before_switch)
            self._switch.refused(reason)

    def _refuse_switches(self, reason: str) -> None:
        self._switch.refused(reason)
        if self._switch.begin(in_place=False) is not None:
            self._switch.refused(reason)

    def _handle_exit(self, failed: WorkerFailed) -> bool:
        """Draw the consequences of a process's end; False when there is nothing left to try."""
        absent = failed.failure is FailureKind.ABSENT
        # What was asked says nothing about a server that is elsewhere, and is asked again.
        guilty = None if absent else self._crashes.died(self._asked)
        self._asked.clear()
        if guilty is not None:
            self.withdraw([guilty])
            self._listener.dropped(guilty, "the engine died on it several times")
        hopeless = absent or failed.failure is FailureKind.LASTING or self._crashes.bundle_failed
        others = hopeless and not absent and self._registry.disable(self._loaded, failed.reason)
        if hopeless:
            self._revert_switch(failed.reason)
        if others:
            self._crashes.reset_for_bundle()
            self._listener.changed(EngineState.RESTARTING, f"the bundle is set aside ({failed.reason}); the one before it is loaded")
            return True
        if hopeless and not self._tireless:
            return False
        pause = _REFUSED_DELAY_S if absent else _RESTART_DELAYS_S[min(self._crashes.deaths, len(_RESTART_DELAYS_S) - 1)]
        self._listener.changed(EngineState.RESTARTING, f"{failed.reason}; starting it again in {pause:.0f} s")
        with self._change:
            self._change.wait_for(lambda: self._stopping.is_set() or self._switch.wanted, pause)
        return True

    def _serve(self, child: WorkerProcess) -> WorkerFailed | BundleNotLoaded | None:
        """Talk to one process until it ends, must be ended for another bundle, or we stop. Returns why (None: we stopped)."""
        began = time.monotonic()
        deadline = began + self._config.start_timeout_s
        ready = False
        self._proven = False
        while not self._stopping.is_set():
            if self._away is not None and (given_up := self._give_up(self._away, ready)) is not None:
                return given_up
            if self._away is None and (not ready or self._switch.now is not None) and time.monotonic() > deadline:
                return WorkerFailed(f"the engine was not ready after {self._config.start_timeout_s} s", FailureKind.PASSING)
            try:
                if ready and self._switch.now is None:
                    self._drop_if_changed(child)
                    if (name := self._switch.begin(in_place=True)) is not None:
                        deadline = time.monotonic() + self._config.start_timeout_s
                        child.send(LoadBundle(name))
                    else:
                        self._ask(child)
                message = child.receive(_RECEIVE_TIMEOUT_S, self._wakeup)
            except (EOFError, OSError):
                return WorkerFailed(f"the judging process died ({child.epitaph()})", FailureKind.PASSING)
            match message:
                case WorkerReady():
                    ready, self._away = True, None
                    self._engine = message.engine
                    self._bundle_in_use(message, f", ready after {time.monotonic() - began:.0f} s")
                case PredictResponse():
                    self._engine_back()
                    self._untranscribed += message.untranscribed
                    self._settle(message.results)
                case EngineUnreachable():
                    self._away = message
                    self._listener.changed(EngineState.AWAY, message.reason)
                case BundleLoaded():
                    self._bundle_loaded(message)
                case BundleNotLoaded(needs_restart=True) | WorkerFailed():
                    return message
                case BundleNotLoaded():
                    self._switch.refused(message.reason)
        return None

    def _give_up(self, away: EngineUnreachable, ready: bool) -> WorkerFailed | BundleNotLoaded | None:
        """Whether to wait no longer for an engine that is elsewhere, and why."""
        if not ready and self._switch.wanted:
            return BundleNotLoaded("the engine does not answer, so another process may as well wait for it", needs_restart=True)
        if not self._tireless and (datetime.now(UTC) - away.since).total_seconds() > self._config.start_timeout_s:
            return WorkerFailed(away.reason, FailureKind.ABSENT)
        return None

    def _engine_back(self) -> None:
        if self._away is not None:
            self._away = None
            self._listener.changed(EngineState.READY, f"{self._engine}, {self._in_use}")

    def _bundle_loaded(self, using: BundleLoaded) -> None:
        """The process that runs judges with another bundle, which has to prove itself as one that was loaded at its start."""
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
        self._listener.changed(EngineState.READY, f"{self._engine}, {version}{how_soon}")
        self._switch.done(version)

    def _ask(self, child: WorkerProcess) -> None:
        """Hand over what has not been asked yet, at most two batches ahead: more would only fill the socket."""
        with self._change:
            room = _BATCHES_AHEAD * self._config.max_batch - len(self._asked)
            fresh = self._crashes.next_to_send(self._waiting, self._asked, max(0, room))
        for entry in fresh:
            pcm = self._listener.sound(entry)
            if pcm is None:
                self.withdraw([entry])
                continue
            reference = None if self._voice_space is None else self._listener.reference(entry, self._voice_space)
            self._asked.add(entry)
            self._hold(child, reference)
            child.send(PredictRequest(entry, pcm))

    def _hold(self, child: WorkerProcess, reference: VoiceReferenceSums | None) -> None:
        """What is asked next is heard against this reference."""
        if reference != self._held_reference:
            child.send(SetReference(reference))
            self._held_reference = reference

    def _drop_if_changed(self, child: WorkerProcess) -> None:
        with self._change:
            changed, self._drop_held_reference = self._drop_held_reference, False
        if changed:
            self._hold(child, None)

    def _settle(self, results: Mapping[int, InferenceResult]) -> None:
        with self._change:
            due = {entry: result for entry, result in results.items() if entry in self._waiting}
        if not self._proven:
            self._proven = True
            self._registry.mark_answered(self._loaded)
        self._crashes.answered(results)
        if due:
            self._listener.judged(due)
        with self._change:
            self._asked.difference_update(results)
            for entry in due:
                self._waiting.pop(entry, None)
            self._change.notify_all()

    def _fail(self, failed: WorkerFailed) -> None:
        kind = EngineRejected if failed.failure is FailureKind.LASTING else EngineUnavailable
        self._end_with_error(kind(with_log_tail(f"the engine cannot be used: {failed.reason}", self._log)))
        self._listener.changed(EngineState.FAILED, failed.reason)

    def _end_with_error(self, error: EmosllmError) -> None:
        with self._change:
            self._error = error
            self._change.notify_all()
