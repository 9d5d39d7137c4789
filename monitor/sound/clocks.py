"""What the machine's clocks say about the machine: that it slept, and that its wall clock was set.

Three clocks of the kernel are compared: CLOCK_REALTIME, the wall clock, which a person or NTP may set at any moment;
CLOCK_BOOTTIME, which nobody sets; and CLOCK_MONOTONIC, which is the same but stands still while the machine sleeps. Time
zones and daylight saving change none of them. It knows nothing of sound.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

# Below this, a difference between two clocks may as well come from reading one a little after the other.
_SLEPT_S: Final = 0.5
_SET_S: Final = 1.0
# NTP corrects small errors by letting the wall clock run at most 500 ppm wrong; that sets nothing.
_SLEW: Final = 0.001
_READ_TOGETHER_S: Final = 0.01
_READ_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """The three clocks at one moment, in seconds."""

    real_s: float
    boot_s: float
    mono_s: float

    @property
    def real_at(self) -> datetime:
        """The wall clock as an aware UTC moment."""
        return datetime.fromtimestamp(self.real_s, UTC)

    def slept_since(self, earlier: "Reading") -> float:
        """Seconds that the machine slept in between; 0 when it did not."""
        slept_s = (self.boot_s - earlier.boot_s) - (self.mono_s - earlier.mono_s)
        return slept_s if slept_s > _SLEPT_S else 0.0


@dataclass(frozen=True, slots=True)
class Slept:
    """The machine slept for slept_s between two moments that it was seen awake, by the wall clock as it went before."""

    from_at: datetime
    until_at: datetime
    slept_s: float


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The wall clock was set: it shows `shows` where it would have shown `expected`; by_s is negative when it was set back."""

    expected: datetime
    shows: datetime
    by_s: float


def read_clocks() -> Reading:
    """All three clocks, read within 10 ms of each other unless the machine is too busy for that ten times in a row."""
    for _ in range(_READ_TRIES):
        begun_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        real_s = time.clock_gettime(time.CLOCK_REALTIME)
        boot_s = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        mono_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        if mono_s - begun_s < _READ_TOGETHER_S:
            break
    return Reading(real_s, boot_s, mono_s)


class ClockWatch:
    """Compares the clocks with what they were at the last look. To be asked about once a second; later is no harm."""

    def __init__(self, read: Callable[[], Reading] = read_clocks) -> None:
        self._read = read
        self._last = read()

    def look(self) -> list[Slept | ClockSet]:
        """What happened since the last look: nothing, a sleep, a set clock, or both, in this order."""
        last, now = self._last, self._read()
        self._last = now
        passed_s = now.boot_s - last.boot_s
        expected = last.real_at + timedelta(seconds=passed_s)
        events: list[Slept | ClockSet] = []
        if slept_s := now.slept_since(last):
            events.append(Slept(last.real_at, expected, slept_s))
        by_s = now.real_s - last.real_s - passed_s
        if abs(by_s) > _SET_S + _SLEW * passed_s:
            events.append(ClockSet(expected, now.real_at, by_s))
        return events
