"""The machine's clocks, and what follows from them: suspends, clock steps, drift of a stream, stalled microphones, retry delays.

A clock that stops while the machine is suspended, compared with one that does not, shows suspends; the wall clock compared with both
shows steps. `DriftTracker` measures how far a stream's sample count runs away from the wall clock. `StreamWatchdog` decides whether a
microphone still delivers. `Backoff` says how long to wait before the next try.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from model.audio import samples_to_s

# Below this, a difference between two clocks may as well come from reading one a little after the other.
_SLEPT_S: Final = 0.5
_SET_S: Final = 1.0
# NTP corrects small errors by letting the wall clock run at most 500 ppm wrong; that sets nothing.
_SLEW: Final = 0.001
_READ_TOGETHER_S: Final = 0.01
_READ_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The three clocks at one moment, in seconds."""

    real_s: float
    boot_s: float
    mono_s: float

    @property
    def real_at(self) -> datetime:
        """The wall clock as an aware UTC moment."""
        return datetime.fromtimestamp(self.real_s, UTC)

    def suspended_since_s(self, earlier: "ClockReading") -> float:
        """Seconds that the machine slept in between; 0 when it did not."""
        slept_s = (self.boot_s - earlier.boot_s) - (self.mono_s - earlier.mono_s)
        return slept_s if slept_s > _SLEPT_S else 0.0


@dataclass(frozen=True, slots=True)
class Suspended:
    """The machine slept for slept_s between two moments that it was seen awake, by the wall clock as it went before."""

    from_at: datetime
    until_at: datetime
    slept_s: float


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """The wall clock was set: it shows `shows` where it would have shown `expected`; by_s is negative when it was set back."""

    expected: datetime
    shows: datetime
    by_s: float


def read_clocks() -> ClockReading:
    """All three clocks, read within 10 ms of each other unless the machine is too busy for that ten times in a row."""
    for _ in range(_READ_TRIES):
        begun_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        real_s = time.clock_gettime(time.CLOCK_REALTIME)
        boot_s = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        mono_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        if mono_s - begun_s < _READ_TOGETHER_S:
            break
    return ClockReading(real_s, boot_s, mono_s)


class ClockWatch:
    """Compares the clocks with what they were at the last look. To be asked about once a second; later is no harm."""

    def __init__(self, read: Callable[[], ClockReading] = read_clocks) -> None:
        self._read = read
        self._last = read()

    def look(self) -> list[Suspended | ClockStepped]:
        """What happened since the last look: nothing, a sleep, a set clock, or both, in this order."""
        last, now = self._last, self._read()
        self._last = now
        passed_s = now.boot_s - last.boot_s
        expected = last.real_at + timedelta(seconds=passed_s)
        events: list[Suspended | ClockStepped] = []
        if slept_s := now.suspended_since_s(last):
            events.append(Suspended(last.real_at, expected, slept_s))
        by_s = now.real_s - last.real_s - passed_s
        if abs(by_s) > _SET_S + _SLEW * passed_s:
            events.append(ClockStepped(expected, now.real_at, by_s))
        return events


_WINDOW_S: Final = 60.0


class DriftTracker:
    """Fed with pairs of stream position and wall time about once a second, for one opening of one microphone."""

    def __init__(self) -> None:
        self._first_s = 0.0
        self._base_s = 0.0
        self._full = False
        # Lateness in growing order, each later than the one before: the first is the least of the window.
        self._least: deque[tuple[float, float]] = deque()
        self._started = False

    def push(self, position: int, at_s: float) -> None:
        """Sound up to `position` (samples since the opening) was there when the wall clock showed `at_s` seconds."""
        if not self._started:
            self._started, self._first_s = True, at_s
        late_s = at_s - self._first_s - samples_to_s(position)
        while self._least and self._least[-1][1] >= late_s:
            self._least.pop()
        self._least.append((at_s, late_s))
        while self._least[0][0] < at_s - _WINDOW_S:
            self._least.popleft()
        if not self._full:
            self._base_s = self._least[0][1]
            self._full = at_s - self._first_s >= _WINDOW_S

    @property
    def drift_s(self) -> float:
        """Seconds that the stream has fallen behind the wall clock since the opening or the last `rebase`; negative: it is ahead.

        0 in the first minute after the opening. It lags what is true by up to a minute's drift.
        """
        return self._least[0][1] - self._base_s if self._least else 0.0

    def rebase(self) -> float:
        """Take the stream as it is now for right: returns `drift_s`, by which its anchor is to be moved, and starts again from 0."""
        drift_s = self.drift_s
        self._base_s += drift_s
        return drift_s


# A microphone that delivers nothing for this long has gone, whatever the sound system says about it.
STALL_S: Final = 3.0


class StreamWatchdog:
    """From `start` on; before that nothing is wrong."""

    def __init__(self, read: Callable[[], ClockReading] = read_clocks) -> None:
        self._read = read
        self._started = self._last = read()

    def start(self) -> None:
        """Sound is expected from now on."""
        self._started = self._last = self._read()

    def delivered(self) -> ClockReading | None:
        """Something came: the moment, or None when it comes after a stall or a sleep.

        After such a hole stream positions tell nothing about time any more; the verdict then stays what it is.
        """
        now = self._read()
        if now.suspended_since_s(self._started) or now.mono_s - self._last.mono_s > STALL_S:
            return None
        self._last = now
        return now

    @property
    def slept_s(self) -> float:
        """Seconds that the machine slept since the start; 0 when it did not."""
        return self._read().suspended_since_s(self._started)

    @property
    def silent_s(self) -> float:
        """Seconds awake since the last delivery."""
        return self._read().mono_s - self._last.mono_s


_RETRY_DELAYS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)


class Backoff:
    """Pauses of 0.5, 1, 2, 5 and 10 s, then 10 s each time until something worked."""

    def __init__(self) -> None:
        self.reset()

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        return next(self._pauses)

    def reset(self) -> None:
        """It worked: the next failure is a first one again. To be called once sound has come, not when opening succeeded."""
        self._pauses = itertools.chain(_RETRY_DELAYS_S, itertools.repeat(_RETRY_DELAYS_S[-1]))
