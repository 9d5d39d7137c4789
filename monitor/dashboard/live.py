"""News for open pages, as server-sent events: that the microphone's state changed, and that something was stored.

An event says that there is something new, not what: pages fetch themselves again, so that there is one way to draw them. Knows no
timeline but as files that change, and no sessions but a function that says whether this one still lasts.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from zoneinfo import ZoneInfo

from monitor.dashboard.microphone import Microphone, look

_POLL_S = 1.0
_STORED_EVERY_S = 3.0
_BEAT_S = 15.0

Stamp = tuple[tuple[int, int], ...]


class Live:
    """What all open pages listen to. `end` lets go of them."""

    def __init__(self, database: Path, zone: ZoneInfo) -> None:
        self._database = database
        self._zone = zone
        self._ended = False

    def end(self) -> None:
        """Nothing more will be told."""
        self._ended = True

    async def events(self, lasts: Callable[[], bool]) -> AsyncIterator[str]:
        """The stream of one page, until `lasts` says no; that too is told, so that the page goes away."""
        microphone, stamp = await self._look()
        sent_at = stored_at = time.monotonic()
        yield ": there\n\n"
        while not self._ended:
            if not lasts():
                yield _event("over", "")
                return
            await asyncio.sleep(_POLL_S)
            now = time.monotonic()
            microphone_now, stamp_now = await self._look()
            if microphone_now != microphone:
                microphone, sent_at = microphone_now, now
                yield _event("microphone", f"{microphone.title}. {microphone.detail}")
            if stamp_now != stamp and now - stored_at >= _STORED_EVERY_S:
                stamp, stored_at, sent_at = stamp_now, now, now
                yield _event("stored", "")
            if now - sent_at >= _BEAT_S:
                sent_at = now
                yield ": still there\n\n"

    async def _look(self) -> tuple[Microphone, Stamp]:
        # In a thread: a monitor that does not answer takes seconds not to.
        return await asyncio.to_thread(lambda: (look(self._database, self._zone), _stamp(self._database)))


def _stamp(database: Path) -> Stamp:
    """Something that differs after every write, whichever program wrote."""
    return tuple(_state_of(path) for path in (database, database.with_name(database.name + "-wal")))


def _state_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _event(name: str, say: str) -> str:
    return f"event: {name}\ndata: {json.dumps(say)}\n\n"
