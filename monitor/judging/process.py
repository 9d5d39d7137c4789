"""One judging process as its parent sees it: started with a socket and a log of its own, asked, and ended with all it started."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from monitor.config import EngineConfig
from monitor.judging.messages import Ask, SetReference, Use
from monitor.large_pages import LARGE_PAGES
from monitor.store.key_places import VARIABLE as STORE_KEY_VARIABLE

# What its libraries read when they are loaded; what somebody has set stays.
LIBRARY_SETTINGS = {
    # Threads that wait spin by default, which on a machine with other work makes a batch take many times as long.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN would keep code for a thousand shapes, which takes 100 MB and saves nothing.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    **LARGE_PAGES,
}
_LOG_LINES = 12
_END_S = 5.0


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


class JudgingProcess:
    """One judging process: its socket, its log, its end."""

    def __init__(self, config: EngineConfig, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with theirs, os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "monitor.judging.worker", str(theirs.fileno()), json.dumps(config.model_dump())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                # The key of the timeline is none of its business.
                env={name: value for name, value in {**LIBRARY_SETTINGS, **os.environ}.items() if name != STORE_KEY_VARIABLE},
                start_new_session=True,
            )

    def send(self, message: Ask | SetReference | Use) -> None:
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


def with_last_words(reason: str, log: Path) -> str:
    """A reason with the end of what the process wrote to its log, as far as it can be read."""
    try:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
    except OSError:
        tail = ""
    return reason + (f"\nThe last lines of {log}:\n{tail}" if tail else "")
