"""Waits for what becomes of a change to another bundle, on behalf of somebody who asked for it from another terminal."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Switched:
    """version: of the bundle that is in use now; empty where it is not, for a reason."""

    version: str
    reason: str


class Switching:
    """Outcomes come from one thread and are waited for in others."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._waiting: Counter[str] = Counter()
        self._outcomes: dict[str, Switched] = {}

    def tell(self, name: str, outcome: Switched) -> bool:
        """What became of the change to the bundle of this name. Returns whether somebody waits for that."""
        with self._change:
            self._outcomes[name] = outcome
            self._change.notify_all()
            return self._waiting[name] > 0

    def wait(self, name: str, ask: Callable[[], None], patience_s: float) -> Switched | None:
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
