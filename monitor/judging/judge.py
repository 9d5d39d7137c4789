"""Keeps the judging process alive and its questions answered: what is asked is answered once, across crashes and restarts.

It holds the numbers of the segments that wait, not their sound, which comes from a function when it is needed. Knows nothing of the
timeline: answers go to the callbacks of a Listener, from one thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from model.audio import Int16
from model.errors import EmosllmError, EngineRejected, EngineUnavailable
from monitor.config import EngineConfig
from monitor.judging.blame import Blame
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.messages import Ask, Failed, Failure, Ready, Told
from monitor.judging.process import JudgingProcess, with_last_words
from monitor.store.records import Judgement

logger = logging.getLogger(__name__)

_BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
_BATCHES_AHEAD = 2
_POLL_S = 0.2


class EngineState(StrEnum):
    """What the live view says about the engine."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(frozen=True)
class Listener:
    """Where sound comes from and answers go. All are called from the judge's own thread.

    sound: mono int16 (N,) of an entry; None when it is not to be judged any more. judged: what was said, by entry. dropped: an entry
    that will not be judged, and why. changed: a new state, in words.
    """

    sound: Callable[[int], Int16 | None]
    judged: Callable[[Mapping[int, Judgement]], None]
    dropped: Callable[[int, str], None]
    changed: Callable[[EngineState, str], None]


class Judge:
    """The daemon's side of one judging process after another.

    tireless: whether to go on for ever where no process lives for long, as a live microphone needs it; otherwise judging ends with
    an error after the third in a row.
    """

    def __init__(self, config: EngineConfig, choice: BundleChoice, log: Path, listener: Listener, tireless: bool) -> None:
        self._config = config
        self._choice = choice
        self._log = log
        self._listener = listener
        self._tireless = tireless
        self._blame = Blame()
        # In the order of arrival; an entry leaves when its answer is there, so a restarted process is asked again.
        self._waiting: dict[int, None] = {}
        self._asked: set[int] = set()
        self._proven = False  # whether the process that runs has answered
        self._change = threading.Condition()
        self._stopping = threading.Event()
        self._error: EmosllmError | None = None
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

    def submit(self, entry: int) -> None:
        """Ask for an entry; never blocks."""
        with self._change:
            self._waiting[entry] = None
            self._change.notify_all()

    def withdraw(self, entries: Collection[int]) -> None:
        """These are not to be judged any more; an answer that is on its way is not told."""
        with self._change:
            for entry in entries:
                self._waiting.pop(entry, None)
            self._change.notify_all()

    def wait_for_room(self, give_up: Callable[[], bool]) -> None:
        """Block while there is enough to do for a while, unless `give_up` or the end of judging says so: for sources that can wait."""
        with self._change:
            while len(self._waiting) >= 2 * _BATCHES_AHEAD * self._config.max_batch and not give_up() and self._error is None:
                self._change.wait(_POLL_S)

    def finish(self, give_up: Callable[[], bool]) -> None:
        """Wait until nothing waits any more or `give_up` says so; then end the process. What is left has no answer."""
        with self._change:
            while self._waiting and self._error is None and not give_up():
                self._change.wait(_POLL_S)
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        try:
            self._supervise()
        except EmosllmError as error:
            # A callback could not do its part.
            self._end_with(error)

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            self._listener.changed(EngineState.LOADING, "segments wait until it answers")
            child = JudgingProcess(self._config.model_copy(update={"bundle": self._choice.current}), self._log)
            try:
                failed = self._serve(child)
            finally:
                child.end()
            if failed is None:
                return
            logger.error("the judging process ended: %s", failed.reason)
            if not self._go_on(failed):
                self._fail(failed)
                return

    def _go_on(self, failed: Failed) -> bool:
        """Draw the consequences of a process's end; False when there is nothing left to try."""
        guilty = self._blame.died(self._asked)
        self._asked.clear()
        if guilty is not None:
            self.withdraw([guilty])
            self._listener.dropped(guilty, "the engine died on it several times")
        hopeless = failed.failure is Failure.LASTING or self._blame.bundle_failed
        if hopeless and self._choice.set_aside(failed.reason):
            self._blame.another_bundle()
            self._listener.changed(EngineState.RESTARTING, f"the bundle is set aside ({failed.reason}); the one before it is loaded")
            return True
        if hopeless and not self._tireless:
            return False
        pause = _BACKOFF_S[min(self._blame.deaths, len(_BACKOFF_S) - 1)]
        self._listener.changed(EngineState.RESTARTING, f"{failed.reason}; starting it again in {pause:.0f} s")
        self._stopping.wait(pause)
        return True

    def _serve(self, child: JudgingProcess) -> Failed | None:
        """Talk to one process until it ends or we stop. Returns why it ended (None: we stopped)."""
        deadline = time.monotonic() + self._config.start_timeout_s
        ready = False
        self._proven = False
        while not self._stopping.is_set():
            if not ready and time.monotonic() > deadline:
                return Failed(f"the engine was not ready after {self._config.start_timeout_s} s", Failure.PASSING)
            try:
                if ready:
                    self._ask(child)
                message = child.receive(_POLL_S)
            except (EOFError, OSError):
                return Failed(f"the judging process died ({child.epitaph()})", Failure.PASSING)
            match message:
                case Ready():
                    ready = True
                    self._listener.changed(EngineState.READY, f"{message.engine}, {message.bundle_version}")
                case Told():
                    self._settle(message.judgements)
                case Failed():
                    return message
        return None

    def _ask(self, child: JudgingProcess) -> None:
        """Hand over what has not been asked yet, at most two batches ahead: more would only fill the socket."""
        with self._change:
            room = _BATCHES_AHEAD * self._config.max_batch - len(self._asked)
            fresh = self._blame.may_ask(self._waiting, self._asked, max(0, room))
        for entry in fresh:
            pcm = self._listener.sound(entry)
            if pcm is None:
                self.withdraw([entry])
                continue
            self._asked.add(entry)
            child.send(Ask(entry, pcm))

    def _settle(self, judgements: Mapping[int, Judgement]) -> None:
        with self._change:
            due = {entry: judgement for entry, judgement in judgements.items() if entry in self._waiting}
        if not self._proven:
            self._proven = True
            self._choice.answered()
        self._blame.answered(judgements)
        if due:
            self._listener.judged(due)
        with self._change:
            self._asked.difference_update(judgements)
            for entry in due:
                self._waiting.pop(entry, None)
            self._change.notify_all()

    def _fail(self, failed: Failed) -> None:
        kind = EngineRejected if failed.failure is Failure.LASTING else EngineUnavailable
        self._end_with(kind(with_last_words(f"the engine cannot be used: {failed.reason}", self._log)))
        self._listener.changed(EngineState.FAILED, failed.reason)

    def _end_with(self, error: EmosllmError) -> None:
        with self._change:
            self._error = error
            self._change.notify_all()
