"""A fair share for everyone: how many requests are worked on at a time, and whose is next. Knows no HTTP.

Only a bounded number is handed on at once; what waits is taken in turn, one of each client that has something waiting. So whoever asks for
much waits for themselves: another's request has at most one of each client before it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TooMany(Exception):
    """A client has as many requests open as it may."""


class FairShare:
    """at_a_time: requests worked on at once, of everyone. of_each: open requests of one client, worked on or waiting."""

    def __init__(self, at_a_time: int, of_each: int) -> None:
        self._free = at_a_time
        self._of_each = of_each
        self._open: dict[str, int] = {}
        # A client is here while something of it waits; whose turn is next stands first.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def admitted(self, client: str) -> AsyncIterator[None]:
        """Within the block, one more request of a client is open. Raises TooMany."""
        if self._open.get(client, 0) >= self._of_each:
            raise TooMany
        self._open[client] = self._open.get(client, 0) + 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Within the block, a request of a client is worked on; before it, it waits for its turn."""
        await self._wait(client)
        try:
            yield
        finally:
            self._free += 1
            self._call_next()

    async def _wait(self, client: str) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        self._call_next()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                # It was its turn already.
                self._free += 1
                self._call_next()
            raise

    def _call_next(self) -> None:
        while self._free and self._waiting:
            client = next(iter(self._waiting))
            places = self._waiting.pop(client)
            place = places.popleft()
            if places:
                self._waiting[client] = places  # last again
            if not place.done():
                self._free -= 1
                place.set_result(None)
