"""Switches to other bundles that were asked for, one at a time: which is under way, which come after it, and what became of each.

Pure bookkeeping. `ask` is for any thread, all else for the one that judges. Knows no process and no bundle.
"""

from collections import deque
from collections.abc import Callable

_OVERTAKEN = "another bundle was asked for since"


class Switch:
    """told: called with name, version and reason of each switch that has come to an end; one of the last two is empty.

    now: the name of what is being switched to; None between switches. in_place: whether a running process was told to do it.
    """

    def __init__(self, told: Callable[[str, str, str], None]) -> None:
        self._told = told
        self._asked: deque[str] = deque()
        self.now: str | None = None
        self.in_place = False

    @property
    def wanted(self) -> bool:
        """Whether one that was asked for has not begun."""
        return bool(self._asked)

    def ask(self, name: str) -> None:
        """A switch is wanted, after the one that is under way. The one that was asked for last counts."""
        self._asked.append(name)

    def begin(self, *, in_place: bool) -> str | None:
        """The name of the switch that begins now; None when none was asked for. What was overtaken is told.

        While a running process does what it was told, none begins; one that waits for a process to be started can be overtaken.
        """
        if not self._asked or (self.now is not None and self.in_place):
            return None
        before, asked = self.now, [] if self.now is None else [self.now]
        while self._asked:
            asked.append(self._asked.popleft())
        name = asked[-1]
        self.now, self.in_place = name, in_place
        for overtaken in dict.fromkeys(asked):
            if overtaken != name:
                self._told(overtaken, "", _OVERTAKEN)
        return None if name == before else name

    def done(self, version: str) -> None:
        """The bundle of the switch that is under way, if any, is in use."""
        self._end(version, "")

    def refused(self, reason: str) -> None:
        """The switch that is under way, if any, does not happen."""
        self._end("", reason)

    def _end(self, version: str, reason: str) -> None:
        if self.now is not None:
            name, self.now = self.now, None
            self._told(name, version, reason)
