"""Decides whether a microphone is still alive: when it last delivered, and whether the machine slept meanwhile.

It is told of every delivery and asked between them, by two threads. It knows neither devices nor sound.
"""

from collections.abc import Callable
from typing import Final

from monitor.sound.clocks import Reading, read_clocks

# A microphone that delivers nothing for this long has gone, whatever the sound system says about it.
STALL_S: Final = 3.0


class Watchdog:
    """From `start` on; before that nothing is wrong."""

    def __init__(self, read: Callable[[], Reading] = read_clocks) -> None:
        self._read = read
        self._started = self._last = read()

    def start(self) -> None:
        """Sound is expected from now on."""
        self._started = self._last = self._read()

    def delivered(self) -> Reading | None:
        """Something came: the moment, or None when it comes after a stall or a sleep.

        After such a hole stream positions tell nothing about time any more; the verdict then stays what it is.
        """
        now = self._read()
        if now.slept_since(self._started) or now.mono_s - self._last.mono_s > STALL_S:
            return None
        self._last = now
        return now

    @property
    def slept_s(self) -> float:
        """Seconds that the machine slept since the start; 0 when it did not."""
        return self._read().slept_since(self._started)

    @property
    def silent_s(self) -> float:
        """Seconds awake since the last delivery."""
        return self._read().mono_s - self._last.mono_s
