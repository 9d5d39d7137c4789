"""Keeps the judging process alive and its questions answered: what is asked is answered once, across crashes and restarts.

Segments wait here while the process loads. Knows nothing of the timeline: answers go to the callbacks of a Listener, from one thread.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path

from model.audio import Int16
from model.errors import EmosllmError, EngineRejected, EngineUnavailable
from model.types import Prediction
from monitor.config import EngineConfig
from monitor.messages import Ask, Failed, Failure, Ready, Told

logger = logging.getLogger(__name__)

_BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
_STARTS_BEFORE_GIVING_UP = 3
_LOG_LINES = 12
_END_S = 5.0
_POLL_S = 0.2


class EngineState(StrEnum):
    """What the live view says about the engine."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(frozen=True)
class Listener:
    """Where answers go. All are called from the judge's own thread.

    judged: predictions by entry. dropped: an entry that will not be judged, and why. changed: a new state, in words.
    """

    judged: Callable[[Mapping[int, Prediction]], None]
    dropped: Callable[[int, str], None]
    changed: Callable[[EngineState, str], None]


class Judge:
    """The daemon's side of one judging process after another."""

    def __init__(self, config: EngineConfig, log: Path, listener: Listener) -> None:
        self._config = config
        self._log = log
        self._listener = listener
        # In the order of arrival; an entry leaves when its answer is there, so a restarted process is asked again.
        self._waiting: OrderedDict[int, Int16] = OrderedDict()
        self._overdue: deque[int] = deque()
        self._asked: set[int] = set()
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

    def submit(self, entry: int, pcm: Int16) -> None:
        """Ask for an entry; never blocks. Beyond `max_waiting` the oldest is given up and reported as dropped."""
        with self._change:
            self._waiting[entry] = pcm
            if len(self._waiting) > self._config.max_waiting:
                oldest, _ = self._waiting.popitem(last=False)
                self._asked.discard(oldest)
                self._overdue.append(oldest)
            self._change.notify_all()

    def wait_for_room(self, most: int, give_up: Callable[[], bool]) -> None:
        """Block until fewer than `most` segments wait, `give_up` says so or judging has ended: for sources that can wait."""
        with self._change:
            while len(self._waiting) >= most and not give_up() and self._error is None:
                self._change.wait(_POLL_S)

    def finish(self, give_up: Callable[[], bool]) -> None:
        """Wait until nothing waits any more or `give_up` says so; then end the process and give up the rest."""
        with self._change:
            while self._waiting and self._error is None and not give_up():
                self._change.wait(_POLL_S)
        self._stopping.set()
        with self._change:
            self._change.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        reason = "the engine failed" if self._error else "the monitor was stopped before the engine got to it"
        self._give_up(reason)

    def _work(self) -> None:
        try:
            self._supervise()
        except EmosllmError as error:
            # A callback could not do its part, such as a full disk under the timeline.
            self._end_with(error)

    def _supervise(self) -> None:
        starts_in_vain = 0
        while not self._stopping.is_set():
            self._listener.changed(EngineState.LOADING, "segments wait until it answers")
            child = _Child(self._config, self._log)
            try:
                failed, was_ready = self._serve(child)
            finally:
                child.end()
            if failed is None:
                return
            starts_in_vain = 0 if was_ready else starts_in_vain + 1
            logger.error("the judging process ended: %s", failed.reason)
            if failed.failure is Failure.LASTING or starts_in_vain >= _STARTS_BEFORE_GIVING_UP:
                self._fail(failed)
                return
            pause = _BACKOFF_S[min(starts_in_vain, len(_BACKOFF_S) - 1)]
            self._listener.changed(EngineState.RESTARTING, f"{failed.reason}; starting it again in {pause:.0f} s")
            self._stopping.wait(pause)

    def _serve(self, child: "_Child") -> tuple[Failed | None, bool]:
        """Talk to one process until it ends or we stop. Returns why it ended (None: we stopped) and whether it ever was ready."""
        deadline = time.monotonic() + self._config.start_timeout_s
        ready = False
        self._asked.clear()
        while not self._stopping.is_set():
            self._report_overdue()
            if not ready and time.monotonic() > deadline:
                return Failed(f"the engine was not ready after {self._config.start_timeout_s} s", Failure.PASSING), ready
            try:
                if ready:
                    self._ask(child)
                message = child.receive(_POLL_S)
            except (EOFError, OSError):
                return Failed(f"the judging process died ({child.epitaph()})", Failure.PASSING), ready
            match message:
                case Ready():
                    ready = True
                    self._listener.changed(EngineState.READY, f"{message.engine}, {message.bundle_version}")
                case Told():
                    self._settle(message.predictions)
                case Failed():
                    return message, ready
        return None, ready

    def _ask(self, child: "_Child") -> None:
        """Hand over what has not been asked yet, at most two batches ahead: more would only fill the socket."""
        with self._change:
            room = 2 * self._config.max_batch - len(self._asked)
            fresh = [(entry, pcm) for entry, pcm in self._waiting.items() if entry not in self._asked][: max(0, room)]
            self._asked.update(entry for entry, _ in fresh)
        for entry, pcm in fresh:
            child.send(Ask(entry, pcm))

    def _settle(self, predictions: Mapping[int, Prediction]) -> None:
        with self._change:
            due = {entry: prediction for entry, prediction in predictions.items() if entry in self._waiting}
        if due:
            self._listener.judged(due)
        with self._change:
            for entry in due:
                self._waiting.pop(entry, None)
                self._asked.discard(entry)
            self._change.notify_all()

    def _report_overdue(self) -> None:
        while self._overdue:
            self._listener.dropped(self._overdue.popleft(), f"more than {self._config.max_waiting} segments were waiting for the engine")

    def _fail(self, failed: Failed) -> None:
        tail = last_lines(self._log, _LOG_LINES)
        kind = EngineRejected if failed.failure is Failure.LASTING else EngineUnavailable
        detail = f"\nThe last lines of {self._log}:\n{tail}" if tail else ""
        self._end_with(kind(f"the engine cannot be used: {failed.reason}{detail}"))
        self._listener.changed(EngineState.FAILED, failed.reason)

    def _end_with(self, error: EmosllmError) -> None:
        with self._change:
            self._error = error
            self._change.notify_all()

    def _give_up(self, reason: str) -> None:
        self._report_overdue()
        with self._change:
            left = list(self._waiting)
            self._waiting.clear()
        for entry in left:
            self._listener.dropped(entry, reason)


class _Child:
    """One judging process: its socket, its log, its end."""

    def __init__(self, config: EngineConfig, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with theirs, os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "monitor.worker", str(theirs.fileno()), json.dumps(config.model_dump())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def send(self, message: Ask) -> None:
        self._connection.send(message)

    def receive(self, timeout_s: float) -> object:
        """The next message, or None when there is none in time. Raises EOFError or OSError when the process is gone."""
        return self._connection.recv() if self._connection.poll(timeout_s) else None

    def epitaph(self) -> str:
        """How the process ended, in words."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def end(self) -> None:
        """End the process and what it started."""
        self._connection.close()
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(_END_S)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def last_lines(path: Path, count: int) -> str:
    """The last lines of a text file; empty when it cannot be read."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
    except OSError:
        return ""
