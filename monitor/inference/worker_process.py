"""One inference worker as its parent sees it: started with a socket and a log of its own, asked, and ended with all it started.

`try_engine` starts one for a single segment, as `doctor` does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import TypeVar

from model.audio import Int16
from model.emotions import Prediction
from model.errors import EmosllmError, EngineRejected, EngineUnavailable
from monitor.config import LARGE_PAGES_ENVIRONMENT, EngineConfig
from monitor.inference.protocol import (
    EngineUnreachable,
    FailureKind,
    LoadBundle,
    PredictRequest,
    PredictResponse,
    SetReference,
    WorkerFailed,
    WorkerReady,
)
from monitor.storage.keys import STORE_KEY_VARIABLE

# What its libraries read when they are loaded; what somebody has set stays.
LIBRARY_ENVIRONMENT = {
    # Threads that wait spin by default, which on a machine with other work makes a batch take many times as long.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN would keep code for a thousand shapes, which takes 100 MB and saves nothing.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    **LARGE_PAGES_ENVIRONMENT,
}
_LOG_LINES = 12
_TERMINATE_TIMEOUT_S = 5.0


class Wakeup:
    """Wakes the one thread that waits for a judging process's messages when there is something else to do (self-pipe trick)."""

    def __init__(self) -> None:
        self.reader, self._writer = Pipe(duplex=False)
        self._woken = threading.Event()

    def wake(self) -> None:
        """From any thread, after there is something to do; never blocks."""
        if not self._woken.is_set():
            self._woken.set()
            self._writer.send_bytes(b"!")

    def clear(self) -> None:
        """The thread is awake, and will look at everything that there is to do from here on."""
        while self.reader.poll():
            self.reader.recv_bytes()
        self._woken.clear()


class WorkerProcess:
    """One judging process: its socket, its log, its end."""

    def __init__(self, config: EngineConfig, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with theirs, os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "monitor.inference.worker", str(theirs.fileno()), json.dumps(config.model_dump())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                # The key of the timeline is none of its business.
                env={name: value for name, value in {**LIBRARY_ENVIRONMENT, **os.environ}.items() if name != STORE_KEY_VARIABLE},
                start_new_session=True,
            )

    def send(self, message: PredictRequest | SetReference | LoadBundle) -> None:
        """Hand over a question, or what to answer it with. Raises OSError when the process is gone."""
        self._connection.send(message)

    def receive(self, timeout_s: float, wakeup: Wakeup | None = None) -> object:
        """The next message, or None when there is none in time or it is woken. Raises EOFError or OSError when the process is gone."""
        ready = wait([self._connection, *([wakeup.reader] if wakeup else [])], timeout_s)
        if wakeup and wakeup.reader in ready:
            wakeup.clear()
        return self._connection.recv() if self._connection in ready else None

    def epitaph(self) -> str:
        """How the process ended, in words."""
        try:
            code = self._process.wait(_TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def end(self) -> None:
        """End the process and what it started."""
        self._connection.close()
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(_TERMINATE_TIMEOUT_S)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def with_log_tail(reason: str, log: Path) -> str:
    """A reason with the end of what the process wrote to its log, as far as it can be read."""
    try:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
    except OSError:
        tail = ""
    return reason + (f"\nThe last lines of {log}:\n{tail}" if tail else "")


_Message = TypeVar("_Message")


@dataclass(frozen=True, slots=True)
class EngineTrial:
    """What came of trying the engine out: its answer, and the seconds until it was ready and from there to the answer.

    transcriber: what writes down the words; empty where the bundle needs none.
    """

    prediction: Prediction
    transcriber: str
    ready_s: float
    answer_s: float


def try_engine(config: EngineConfig, log: Path, pcm: Int16) -> EngineTrial:
    """Start a judging process as the daemon does, have it judge one segment (N,) and end it.

    Raises EngineUnavailable or EngineRejected with its last words.
    """
    child = WorkerProcess(config, log)
    try:
        began = time.monotonic()
        ready = _expect(child, WorkerReady, config.start_timeout_s)
        ready_s = time.monotonic() - began
        child.send(PredictRequest(0, pcm))
        told = _expect(child, PredictResponse, config.start_timeout_s)
        return EngineTrial(told.results[0].prediction, ready.transcriber, ready_s, time.monotonic() - began - ready_s)
    except (EOFError, OSError) as error:
        raise EngineUnavailable(with_log_tail(f"the judging process died ({child.epitaph()})", log)) from error
    except EmosllmError as error:
        raise type(error)(with_log_tail(str(error), log)) from error
    finally:
        child.end()


def _expect(child: WorkerProcess, kind: type[_Message], patience_s: float) -> _Message:
    """The next message of a kind. Raises EngineUnavailable, EngineRejected, and EOFError or OSError when the process is gone."""
    message = child.receive(patience_s)
    if isinstance(message, kind):
        return message
    if isinstance(message, EngineUnreachable):
        raise EngineUnavailable(message.reason)
    if isinstance(message, WorkerFailed):
        raise (EngineRejected if message.failure is FailureKind.LASTING else EngineUnavailable)(message.reason)
    raise EngineUnavailable(f"the engine did not answer within {patience_s:.0f} s")
