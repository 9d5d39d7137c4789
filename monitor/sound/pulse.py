"""Keeps libpulse, through which ALSA reaches PulseAudio, from sharing memory with the sound server.

A server that ends while a recording program is late with reading leaves libpulse waiting, its lock held, for a piece of shared
memory to be given back, which takes that lock: the stream can be neither read nor closed again, and nothing else in the process
records any more (PulseAudio 16.1). A microphone is 32 KB a second, for which a socket is as good. Only a settings file tells
libpulse so (man pulse-client.conf); it is given one that takes in what it would have read.
"""

import functools
import os
from pathlib import Path
from typing import Final

_VARIABLE: Final = "PULSE_CLIENTCONFIG"
_SYSTEM: Final = Path("/etc/pulse/client.conf")


@functools.cache
def share_no_memory() -> None:
    """From now on, in this process and its children, through its environment; once is enough. All else stays as this person set it."""
    if not hasattr(os, "memfd_create"):
        return  # not Linux: PortAudio does not speak to PulseAudio there
    # A file without a name, so that none is left behind; it lasts as long as this process.
    settings = os.memfd_create("client.conf")
    os.write(settings, _settings().encode())
    os.environ[_VARIABLE] = f"/proc/{os.getpid()}/fd/{settings}"


def _settings() -> str:
    return "".join(f".include {path}\n" for path in _read_so_far()) + "enable-shm = no\n"


def _read_so_far() -> list[Path]:
    """The settings files that libpulse reads when nobody tells it otherwise, in their order: one, and those of its folder."""
    main = next((path for path in _candidates() if path.is_file()), None)
    return [main, *sorted(main.with_name(f"{main.name}.d").glob("*.conf"))] if main else []


def _candidates() -> list[Path]:
    home, chosen, folder = Path.home(), os.environ.get(_VARIABLE), os.environ.get("PULSE_CONFIG_PATH")
    own = [Path(folder)] if folder else [home / ".pulse", home / ".config" / "pulse"]
    return [*([Path(chosen)] if chosen else []), *(path / _SYSTEM.name for path in own), _SYSTEM]
