"""Whose adapters there are, and which of them vLLM has been told of. A client sees and uses its own and the served bundle's, nobody else's.

vLLM knows an adapter by a name of ours, which holds client, version and a number drawn once: nobody can ask for another's, and what was
read with one adapter is never reused for another. vLLM itself keeps the recently used in memory and fetches others from the disk, so an
adapter's files stay as long as it may be asked for: taking them away under a request would end the engine.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from monitor.serving.adapter_files import AdapterFiles, erase
from monitor.serving.settings import ADAPTERS_OF_A_CLIENT

Ask = Callable[[str, dict[str, str]], Awaitable[tuple[int, str]]]
"""Asks vLLM: a path and what is sent there, to status and text."""


class NoSuchAdapter(Exception):
    """A client asked for an adapter that it has not."""


@dataclass
class _Adapter:
    name: str
    folder: Path
    users: int = 0
    told: bool = False
    gone: bool = False
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)


class Adapters:
    """files: on the disk. served: the version of the bundle that is served, which every client may use."""

    def __init__(self, files: AdapterFiles, served: str) -> None:
        self._files = files
        self._served = served
        self._kept = {
            client: {version: _Adapter(_name(folder), folder) for version, folder in versions.items()}
            for client, versions in files.kept().items()
        }

    def of(self, client: str) -> list[str]:
        """The versions that a client may ask for."""
        return [self._served, *self._kept.get(client, {})]

    @asynccontextmanager
    async def lent(self, client: str, version: str, ask: Ask) -> AsyncIterator[str]:
        """Within the block, vLLM has the adapter under the name that is given. Raises NoSuchAdapter."""
        if version == self._served:
            yield version
            return
        own = self._kept.get(client, {})
        adapter = own.pop(version, None)
        if adapter is None:
            raise NoSuchAdapter
        own[version] = adapter  # the last used stands last
        adapter.users += 1
        try:
            if await self._tell(adapter, ask):
                own.pop(version, None)
                adapter.gone = True
                raise NoSuchAdapter
            yield adapter.name
        finally:
            adapter.users -= 1
            await self._erase_if_over(adapter, ask)

    async def add(self, arrived: Path, client: str, version: str, ask: Ask) -> None:
        """Keep an adapter that has arrived as a file, and try it. Raises ValueError with what is wrong with it, OSError."""
        folder = await asyncio.to_thread(self._files.keep, arrived, client, version)
        adapter = _Adapter(_name(folder), folder)
        if reason := await self._tell(adapter, ask):
            erase(folder)
            raise ValueError(f"vLLM did not load it: {reason}")
        own = self._kept.setdefault(client, {})
        if (before := own.pop(version, None)) is not None:
            await self._give_up(before, ask)
        own[version] = adapter
        for oldest in list(own)[:-ADAPTERS_OF_A_CLIENT]:
            await self._give_up(own.pop(oldest), ask)

    async def keep_only(self, clients: Collection[str], ask: Ask) -> None:
        """Others may not ask any more, so their adapters go."""
        for client in set(self._kept) - set(clients):
            for adapter in self._kept.pop(client).values():
                await self._give_up(adapter, ask)

    async def _tell(self, adapter: _Adapter, ask: Ask) -> str:
        """Have vLLM load it, unless it has. Returns why it did not."""
        async with adapter.telling:
            if not adapter.told:
                status, text = await ask("/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.folder)})
                if status != 200:
                    return _reason(text)
                adapter.told = True
                with suppress(OSError):
                    os.utime(adapter.folder)
        return ""

    async def _give_up(self, adapter: _Adapter, ask: Ask) -> None:
        adapter.gone = True
        await self._erase_if_over(adapter, ask)

    async def _erase_if_over(self, adapter: _Adapter, ask: Ask) -> None:
        if adapter.gone and not adapter.users:
            if adapter.told:
                adapter.told = False
                await ask("/v1/unload_lora_adapter", {"lora_name": adapter.name})
            await asyncio.to_thread(erase, adapter.folder)


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return "it did not say why"
