"""How to talk to the sound system: PortAudio calls that may hang, and PulseAudio or PipeWire behind it.

PortAudio prints to the terminal, may hang and fails with numbers: its calls are bounded, silenced and translated here. libpulse is kept
from sharing memory with the sound server. `DefaultSourceWatcher` follows the server's default source through `pactl`. Does not import
PyAudio; that is `monitor/audio/microphone.py`.
"""

import contextlib
import functools
import os
import select
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Final, TypeVar

from model.errors import DeviceError
from monitor.audio.clock import Backoff

_Answer = TypeVar("_Answer")

_PORTAUDIO_TIMEOUT_S: Final = 10.0
_NO_ANSWER: Final = (
    f"the sound system did not answer within {_PORTAUDIO_TIMEOUT_S:.0f} s; restart the sound server, for example with "
    "systemctl --user restart pipewire pulseaudio, and where that does not help, this program"
)
# What a person can make of PortAudio's error numbers.
_ERROR_TEXTS: Final = {
    -9999: "the sound system cannot open it; it may have been unplugged, or be in use by another program",
    -9996: "it is not there, or the sound server does not run",
    -9993: "it is not there any more",
    -9985: "it is in use by another program, or was unplugged",
}

_portaudio_mutex = threading.Lock()
_stderr_mutex = threading.Lock()


def call_portaudio(thread: threading.Thread, answer: "SimpleQueue[_Answer | Exception]") -> _Answer:
    """Start a thread that talks to PortAudio and take its answer; raises the exception that it answered with.

    Raises DeviceError when nothing comes within 10 s; the thread is then left to itself.
    """
    try:
        with silence_stderr():
            thread.start()
            result = answer.get(timeout=_PORTAUDIO_TIMEOUT_S)
    except Empty:
        raise DeviceError(_NO_ANSWER) from None
    if isinstance(result, Exception):
        raise result
    return result


@contextlib.contextmanager
def portaudio_lock(timeout_s: float = _PORTAUDIO_TIMEOUT_S) -> Iterator[None]:
    """Whoever opens, lists or closes does it in here: PortAudio is not thread-safe.

    A second call beside one that hangs corrupts its memory as soon as the first comes back. Raises DeviceError when it
    is not one's turn within timeout_s; -1 waits without end.
    """
    if not _portaudio_mutex.acquire(timeout=timeout_s):
        raise DeviceError(_NO_ANSWER)
    try:
        yield
    finally:
        _portaudio_mutex.release()


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Keep what ALSA, JACK and PortAudio print on file descriptor 2 from the terminal; they have no switch for it.

    It holds for the whole process, so only while a device is opened or closed, and never longer than a timeout.
    """
    with _stderr_mutex, Path(os.devnull).open("wb") as nowhere:
        saved = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def to_device_error(what: str, error: OSError) -> DeviceError:
    """PyAudio's OSError as one that a person can act on."""
    meaning = _ERROR_TEXTS.get(error.errno or 0, "the sound system refuses it")
    return DeviceError(f"{what} cannot be used: {meaning} (PortAudio {error.errno}: {error.strerror})")


_CLIENT_CONFIG_VARIABLE: Final = "PULSE_CLIENTCONFIG"
_SYSTEM_CLIENT_CONFIG: Final = Path("/etc/pulse/client.conf")


@functools.cache
def disable_pulse_shared_memory() -> None:
    """From now on, in this process and its children, through its environment; once is enough. All else stays as this person set it."""
    if not hasattr(os, "memfd_create"):
        return  # not Linux: PortAudio does not speak to PulseAudio there
    # A file without a name, so that none is left behind; it lasts as long as this process.
    settings = os.memfd_create("client.conf")
    os.write(settings, _client_config().encode())
    os.environ[_CLIENT_CONFIG_VARIABLE] = f"/proc/{os.getpid()}/fd/{settings}"


def _client_config() -> str:
    return "".join(f".include {path}\n" for path in _config_files_read()) + "enable-shm = no\n"


def _config_files_read() -> list[Path]:
    """The settings files that libpulse reads when nobody tells it otherwise, in their order: one, and those of its folder."""
    main = next((path for path in _config_candidates() if path.is_file()), None)
    return [main, *sorted(main.with_name(f"{main.name}.d").glob("*.conf"))] if main else []


def _config_candidates() -> list[Path]:
    home, chosen, folder = Path.home(), os.environ.get(_CLIENT_CONFIG_VARIABLE), os.environ.get("PULSE_CONFIG_PATH")
    own = [Path(folder)] if folder else [home / ".pulse", home / ".config" / "pulse"]
    return [*([Path(chosen)] if chosen else []), *(path / _SYSTEM_CLIENT_CONFIG.name for path in own), _SYSTEM_CLIENT_CONFIG]


_PACTL_TIMEOUT_S: Final = 2.0
_CLOSE_S: Final = 2.0
_FIRST_S: Final = 1.0
_PIPE_BYTES: Final = 65_536
# How the servers name a source that records what a sink plays.
_MONITOR_SUFFIX: Final = ".monitor"


def query_default_source() -> str:
    """The name of the default source; empty when there is none or no answer within 2 s."""
    try:
        done = subprocess.run(
            ["pactl", "get-default-source"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PACTL_TIMEOUT_S,
            check=False,
            env=_english_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    name = done.stdout.decode(errors="replace").strip()
    return "" if done.returncode or name == "(null)" else name


class DefaultSourceWatcher:
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
        return self._now.endswith(_MONITOR_SUFFIX)

    @property
    def changed_to(self) -> str:
        """The default now when it is another one than at the start, else empty."""
        return self._now if self._now != self._name else ""

    def start(self) -> None:
        """Remember the default source and follow it."""
        self._name = self._now = query_default_source()
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
                _subscribe_command(),
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_english_environment(),
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
        if name := query_default_source():
            self._name = self._name or name
            self._now = name


def _subscribe_command() -> list[str]:
    """The child's command. It ends by itself at its next event when nobody reads; setpriv, where there is one, ends it at once."""
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    return [*guard, "pactl", "subscribe"]


def _english_environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
