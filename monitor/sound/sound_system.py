"""How to call PortAudio, which may hang, prints to the terminal, and fails with numbers.

It knows nothing of devices or sound, and does not import PyAudio: it bounds, silences and translates the calls that
`monitor.sound.capture` makes.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from model.errors import DeviceError

_Answer = TypeVar("_Answer")

_TIMEOUT_S: Final = 10.0
_HANGS: Final = (
    f"the sound system did not answer within {_TIMEOUT_S:.0f} s; restart the sound server, for example with "
    "systemctl --user restart pipewire pulseaudio, and where that does not help, this program"
)
# What a person can make of PortAudio's error numbers.
_MEANING: Final = {
    -9999: "the sound system cannot open it; it may have been unplugged, or be in use by another program",
    -9996: "it is not there, or the sound server does not run",
    -9993: "it is not there any more",
    -9985: "it is in use by another program, or was unplugged",
}

_portaudio_lock = threading.Lock()
_stderr_lock = threading.Lock()


def ask(thread: threading.Thread, answer: "SimpleQueue[_Answer | Exception]") -> _Answer:
    """Start a thread that talks to PortAudio and take its answer; raises the exception that it answered with.

    Raises DeviceError when nothing comes within 10 s; the thread is then left to itself.
    """
    try:
        with quiet_stderr():
            thread.start()
            result = answer.get(timeout=_TIMEOUT_S)
    except Empty:
        raise DeviceError(_HANGS) from None
    if isinstance(result, Exception):
        raise result
    return result


@contextlib.contextmanager
def portaudio_turn(timeout_s: float = _TIMEOUT_S) -> Iterator[None]:
    """Whoever opens, lists or closes does it in here: PortAudio is not thread-safe.

    A second call beside one that hangs corrupts its memory as soon as the first comes back. Raises DeviceError when it
    is not one's turn within timeout_s; -1 waits without end.
    """
    if not _portaudio_lock.acquire(timeout=timeout_s):
        raise DeviceError(_HANGS)
    try:
        yield
    finally:
        _portaudio_lock.release()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what ALSA, JACK and PortAudio print on file descriptor 2 from the terminal; they have no switch for it.

    It holds for the whole process, so only while a device is opened or closed, and never longer than a timeout.
    """
    with _stderr_lock, Path(os.devnull).open("wb") as nowhere:
        saved = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def as_device_error(what: str, error: OSError) -> DeviceError:
    """PyAudio's OSError as one that a person can act on."""
    meaning = _MEANING.get(error.errno or 0, "the sound system refuses it")
    return DeviceError(f"{what} cannot be used: {meaning} (PortAudio {error.errno}: {error.strerror})")
