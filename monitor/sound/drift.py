"""How far a stream's sample count has run away from the wall clock.

A sound card's own clock is wrong by up to 100 ppm, some 8 s a day, and samples may be lost that nobody counted. Each delivery
of sound shows how late the sample count is; but it comes with a delay that differs from one to the next. As sound is delivered
late and never early, the least lateness within a window hardly depends on delays. It knows no microphone and reads no clock.
"""

from collections import deque
from typing import Final

from model.audio import samples_to_s

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
