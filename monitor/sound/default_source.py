"""Which source is the sound server's default, and whether it still is.

ALSA and PortAudio hide it: their device `default` stays the same, while PulseAudio and PipeWire silently move its stream to
another microphone or, when the last one is unplugged, to a monitor, which records what the loudspeakers play. Both servers tell
it to `pactl`, which is the only thing this file calls. Where there is no `pactl` or no server, nothing is known and nothing changes.
"""

import os
import select
import shutil
import subprocess
import threading
from typing import IO, Final

from monitor.sound.backoff import Backoff

_ANSWER_S: Final = 2.0
_CLOSE_S: Final = 2.0
_FIRST_S: Final = 1.0
_PIPE_BYTES: Final = 65_536
# How the servers name a source that records what a sink plays.
_MONITOR: Final = ".monitor"


def default_source() -> str:
    """The name of the default source; empty when there is none or no answer within 2 s."""
    try:
        done = subprocess.run(
            ["pactl", "get-default-source"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=False, env=_english()
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    name = done.stdout.decode(errors="replace").strip()
    return "" if done.returncode or name == "(null)" else name


class DefaultSource:
    """The default source as it is at `start`, followed by a child process until `close`.

    It never blocks for longer than 2 s and raises nothing. The child ends with the thread that started it, so also when this
    process is killed.
    """

    def __init__(self) -> None:
        self._name = self._now = ""
        self._closed = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._follow, name="default source", daemon=True)

    @property
    def name(self) -> str:
        """What it was at the start, or when it was first known; empty until then."""
        return self._name

    @property
    def is_monitor(self) -> bool:
        """Whether it records what this machine plays by now: no microphone is left."""
        return self._now.endswith(_MONITOR)

    @property
    def changed_to(self) -> str:
        """The default now when it is another one than at the start, else empty."""
        return self._now if self._now != self._name else ""

    def start(self) -> None:
        """Remember the default source and follow it."""
        self._name = self._now = default_source()
        if shutil.which("pactl"):
            self._thread.start()

    def close(self) -> None:
        """Follow it no longer; without `start`, and more than once, is fine."""
        self._closed.set()
        if self._child is not None:
            self._child.kill()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def _follow(self) -> None:
        backoff = Backoff()
        while not self._closed.is_set():
            with subprocess.Popen(
                _subscription(), bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_english()
            ) as self._child:
                if self._closed.is_set():
                    self._child.kill()
                if self._child.stdout is not None:
                    self._listen(self._child.stdout)
            self._closed.wait(backoff.next_s())

    def _listen(self, events: IO[bytes]) -> None:
        """Look when the server says that its settings changed, and at the first event: before it, nobody may have listened.

        Each look is an event itself, so that the first one comes soon.
        """
        listening = False
        while not self._closed.is_set():
            if not select.select([events], [], [], None if listening else _FIRST_S)[0]:
                self._look()
                continue
            lines = os.read(events.fileno(), _PIPE_BYTES)  # whole lines: each is written at once
            if not lines:
                return
            if not listening or b" on server" in lines:
                self._look()
            listening = True

    def _look(self) -> None:
        if name := default_source():
            self._name = self._name or name
            self._now = name


def _subscription() -> list[str]:
    """The child's command. It ends by itself at its next event when nobody reads; setpriv, where there is one, ends it at once."""
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    return [*guard, "pactl", "subscribe"]


def _english() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
