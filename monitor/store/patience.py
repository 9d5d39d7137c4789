"""Writes that must happen in order and may have to wait: while a disk is full or a database locked, listening goes on.

Knows no database: a write is a function that raises TimelineError when it cannot be done now. One thread uses it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from model.errors import TimelineError

_logger = logging.getLogger(__name__)

_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Write:
    """do: the write. lost: what to write instead when there is no room to let it wait any longer; size: bytes that it keeps alive."""

    do: Callable[[], object]
    lost: Callable[[], object] | None = None
    size: int = 0


class PatientWriter:
    """limit_bytes: how much may wait in memory; beyond it the oldest that may be lost is, and that is written down in its place."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._waiting: deque[Write] = deque()
        self._retry_at = 0.0
        self.problem = ""
        """Why the last write was not possible; empty when all is written."""

    @property
    def waiting(self) -> int:
        """Writes that have not been possible yet."""
        return len(self._waiting)

    def add(self, write: Write) -> None:
        """Write now, after all that waits; never raises TimelineError."""
        self._waiting.append(write)
        self._make_room()
        self.flush()

    def flush(self, now: bool = False) -> bool:
        """Write what waits; after a failure not before some seconds have passed, except `now`. True when nothing waits any more."""
        if not now and time.monotonic() < self._retry_at:
            return False
        while self._waiting:
            try:
                self._waiting[0].do()
            except TimelineError as error:
                if not self.problem:
                    _logger.error("writes wait: %s", error)
                self.problem = str(error)
                self._retry_at = time.monotonic() + _RETRY_S
                return False
            self._waiting.popleft()
        if self.problem:
            _logger.warning("all that waited is written")
        self.problem, self._retry_at = "", 0.0
        return True

    def _make_room(self) -> None:
        excess = sum(write.size for write in self._waiting) - self._limit
        for place, write in enumerate(list(self._waiting)):
            if excess <= 0:
                return
            if write.size and write.lost is not None:
                excess -= write.size
                self._waiting[place] = Write(write.lost)
