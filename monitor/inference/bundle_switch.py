"""Switches to another bundle: the queue of requested switches, and waiting for the outcome of one.

`BundleSwitchQueue` is the supervisor's bookkeeping, one switch at a time; `BundleSwitchWaiters` waits for an outcome on behalf of another
terminal. Both know no process and no bundle.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

_SUPERSEDED = "another bundle was asked for since"


class BundleSwitchQueue:
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
                self._told(overtaken, "", _SUPERSEDED)
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


@dataclass(frozen=True, slots=True)
class BundleSwitchOutcome:
    """version: of the bundle that is in use now; empty where it is not, for a reason."""

    version: str
    reason: str


class BundleSwitchWaiters:
    """Outcomes come from one thread and are waited for in others."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._waiting: Counter[str] = Counter()
        self._outcomes: dict[str, BundleSwitchOutcome] = {}

    def tell(self, name: str, outcome: BundleSwitchOutcome) -> bool:
        """What became of the change to the bundle of this name. Returns whether somebody waits for that."""
        with self._change:
            self._outcomes[name] = outcome
            self._change.notify_all()
            return self._waiting[name] > 0

    def wait(self, name: str, ask: Callable[[], None], patience_s: float) -> BundleSwitchOutcome | None:
        """Ask for a change, and wait for what becomes of it; None where that takes longer. Raises what `ask` raises."""
        with self._change:
            self._outcomes.pop(name, None)
            self._waiting[name] += 1
        try:
            ask()
            with self._change:
                self._change.wait_for(lambda: name in self._outcomes, patience_s)
                return self._outcomes.get(name)
        finally:
            with self._change:
                self._waiting[name] -= 1
