"""Sends to the clinic while the monitor runs, in a thread of its own: listening and judging never wait for it.

While the clinic does not answer, what is to be sent waits in the timeline, and is tried again after pauses that grow, each of a length
of its own, so that many monitors do not come back all at once.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from model.errors import ClinicError, TimelineError
from monitor.clinic.address import Address
from monitor.sharing.delivering import BATCH, Delivery
from monitor.sharing.notes import Notes
from monitor.status import SharingState
from monitor.store.outbox import Outbox

_logger = logging.getLogger(__name__)

_EVERY_S = 5.0
_PAUSES_S = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
_AT_LEAST = 0.5
# At the end: what has not arrived by then waits for the next start.
_LAST_S = 20.0

Tell = Callable[[SharingState | None, str], None]


class Sender:
    """Sends while the block runs, and once more when it ends.

    tell: gets how things stand, and what is wrong; empty for nothing.
    """

    def __init__(self, address: Address, outbox: Outbox, database: Path, tell: Tell) -> None:
        self._address = address
        self._outbox, self._notes = outbox, Notes(database)
        self._delivery = Delivery(address, outbox, self._notes)
        self._tell = tell
        self._sent_at: datetime | None = None
        self._problem = ""
        self._failures = 0
        self._over = threading.Event()
        self._ended_at = float("inf")
        self._thread = threading.Thread(target=self._work, name="sharing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._ended_at = time.monotonic()
        self._over.set()
        self._thread.join(_LAST_S + 10.0)

    def turn(self) -> float:
        """Send what there is; returns for how long to wait before the next turn, in seconds."""
        try:
            while (waiting := self._outbox.waiting()[0]) or self._notes.read():
                self._delivery.deliver()
                self._sent_at = datetime.now(UTC)
                if waiting <= BATCH or time.monotonic() > self._ended_at + _LAST_S:
                    break
        except (ClinicError, TimelineError) as error:
            self._failures += 1
            self._report(str(error))
            return _PAUSES_S[min(self._failures, len(_PAUSES_S)) - 1]
        self._failures = 0
        self._report("")
        return _EVERY_S

    def _work(self) -> None:
        pause = 0.0
        while not self._over.wait(pause * random.uniform(_AT_LEAST, 1.0)):
            pause = self.turn()
        if not self._failures:
            self.turn()
        self._delivery.close()
        self._outbox.close()

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            _logger.warning("sharing with the clinic: %s", problem or "it works again")
            self._problem = problem
        try:
            waiting, since = self._outbox.waiting()
        except TimelineError as error:
            self._tell(None, problem or str(error))
        else:
            told = f"not everything has reached the clinic: {problem}" if problem else ""
            self._tell(SharingState(str(self._address), waiting, since, self._sent_at), told)
