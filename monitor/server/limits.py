"""The settings of the gateway, and a fair share for each client: how many requests run at a time, and whose is next.

vLLM makes the gateway in a process of its own, so its settings come through one variable of the environment. Only a bounded number of
requests is handed on at once; waiting ones are taken in turn, one of each client that has any. So whoever asks for much waits for
themselves: another's request has at most one of each client before it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

GATEWAY_VARIABLE = "EMOSLLM_DOOR"

MAX_ADAPTERS_PER_CLIENT = 4
"""So many adapters of one client are kept; the least recently used goes first. A monitor needs the one in use and one to go back to."""


class GatewaySettings(BaseModel):
    """bundle: folder of the one that is served. clients: the file of those who may ask; None: whoever reaches the server.

    adapters: the folder for those of the clients. rank: the highest they may have. at_a_time: requests that vLLM is handed at once.
    of_each: requests that one client may have open, waiting ones included.
    """

    model_config = ConfigDict(frozen=True)

    bundle: Path
    clients: Path | None
    adapters: Path
    rank: int
    at_a_time: Annotated[int, Field(ge=1)] = 64
    of_each: Annotated[int, Field(ge=1)] = 128


class TooManyRequests(Exception):
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
        """Within the block, one more request of a client is open. Raises TooManyRequests."""
        if self._open.get(client, 0) >= self._of_each:
            raise TooManyRequests
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
