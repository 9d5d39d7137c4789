"""LoRA adapters of the clients: their files on the disk, and which of them vLLM has loaded. A client sees only its own and the served one.

On the disk: `FOLDER/CLIENT/VERSION.TOKEN/`, each as PEFT writes it, each whole or not there. What arrives is one safetensors file whose
metadata hold the settings. Before it is kept, it is compared with the adapter of the served bundle: the same tensors, up to the rank, and
the same settings, up to rank and scale. So whatever vLLM loads fits.

vLLM knows an adapter by a name of ours, which holds client, version and a token drawn once: nobody can ask for another's, and what was read
with one adapter is never reused for another. An adapter's files stay as long as it may be asked for: taking them away under a request
would end the engine.
"""

import asyncio
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from monitor.fileio import fsync_path, make_private_folder
from monitor.inference.engines.server import ADAPTER_SETTINGS
from monitor.server.limits import MAX_ADAPTERS_PER_CLIENT

ADAPTER_SETTINGS_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", re.ASCII)

_TOKEN_BYTES = 8
_DTYPES = {"F32", "F16", "BF16"}
# Settings that change what an adapter does; those of rank and scale are an adapter's own.
_FIXED_SETTINGS = (
    *("peft_type", "target_modules", "use_rslora", "use_dora", "bias", "lora_bias", "alpha_pattern", "rank_pattern", "modules_to_save"),
    *("layers_to_transform", "layer_replication", "fan_in_fan_out", "trainable_token_indices", "target_parameters", "use_qalora"),
)


class AdapterFiles:
    """folder: for all clients. model: the adapter's folder in the bundle that is served. rank: the highest that is kept."""

    def __init__(self, folder: Path, model: Path, rank: int) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = json.loads((model / ADAPTER_SETTINGS_FILE).read_text(encoding="utf-8"))
        self._rank = rank
        with safe_open(model / ADAPTER_WEIGHTS_FILE, "pt") as file:
            self._shapes: dict[str, tuple[int, ...]] = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 it is no mapping
        make_private_folder(folder)

    @property
    def hidden(self) -> int:
        """The width of the language model that the adapters are for."""
        return next(shape[1] for name, shape in self._shapes.items() if name.endswith("q_proj.lora_A.weight"))

    @property
    def max_bytes(self) -> int:
        """No adapter that fits is larger."""
        return 4 * sum(math.prod(_at_rank(name, shape, self._rank)) for name, shape in self._shapes.items()) + 2**20

    def kept(self) -> dict[str, dict[str, Path]]:
        """The folders of all adapters, by client and version, the least recently used of each client first. Leftovers are erased."""
        found: dict[str, dict[str, Path]] = {}
        for client in (path for path in self._folder.iterdir() if path.is_dir()):
            folders = [folder for folder in client.iterdir() if _is_complete(folder)]
            for leftover in set(client.iterdir()) - set(folders):
                remove_path(leftover)
            by_use = sorted(folders, key=lambda folder: folder.stat().st_mtime_ns)
            found[client.name] = {folder.name.rpartition(".")[0]: folder for folder in by_use}
        return found

    def new_file(self, client: str) -> Path:
        """Where an adapter that arrives is written to, before it is known whether it is one."""
        make_private_folder(self._folder / client)
        return self._folder / client / f"new-{secrets.token_hex(_TOKEN_BYTES)}"

    def keep(self, arrived: Path, client: str, version: str) -> Path:
        """The folder of an adapter that has arrived as a file, which goes. Raises ValueError with what does not fit, OSError."""
        try:
            settings = self._examined(arrived)
            # A new place each time: what vLLM was told of an earlier one says nothing about this one.
            folder = self._folder / client / f"{version}.{secrets.token_hex(_TOKEN_BYTES)}"
            self._place(arrived, settings, folder)
            return folder
        finally:
            arrived.unlink(missing_ok=True)

    def _place(self, arrived: Path, settings: dict[str, Any], folder: Path) -> None:
        fresh = arrived.with_name(f"{arrived.name}.folder")
        fresh.mkdir(mode=0o700)
        try:
            (fresh / ADAPTER_SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
            arrived.replace(fresh / ADAPTER_WEIGHTS_FILE)
            for path in (fresh / ADAPTER_SETTINGS_FILE, fresh / ADAPTER_WEIGHTS_FILE, fresh):
                fsync_path(path)
            fresh.rename(folder)
            fsync_path(folder.parent)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _examined(self, path: Path) -> dict[str, Any]:
        """The settings with which vLLM may load the file: those of the served bundle, with the file's own rank and scale."""
        try:
            with safe_open(path, "pt") as file:
                rank, scale = self._examined_settings((file.metadata() or {}).get(ADAPTER_SETTINGS, ""))
                names = set(file.keys())
                if names != set(self._shapes):
                    raise ValueError("its tensors are not those of an adapter for this language model")
                for name in names:
                    part = file.get_slice(name)
                    if tuple(part.get_shape()) != _at_rank(name, self._shapes[name], rank) or part.get_dtype() not in _DTYPES:
                        raise ValueError(f"{name} has another shape or type than an adapter of rank {rank} for this language model")
                    if not torch.isfinite(file.get_tensor(name)).all():
                        raise ValueError(f"{name} holds something that is no number")
        except SafetensorError as error:
            raise ValueError("it is no safetensors file") from error
        return {**self._settings, "r": rank, "lora_alpha": scale}

    def _examined_settings(self, text: str) -> tuple[int, float]:
        try:
            told = json.loads(text)
            rank, scale = told["r"], told["lora_alpha"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("its metadata do not hold the settings of a LoRA adapter") from error
        if not isinstance(rank, int) or not 1 <= rank <= self._rank:
            raise ValueError(f"its rank is not between 1 and {self._rank}")
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError("its lora_alpha is no positive number")
        for key in _FIXED_SETTINGS:
            if _normalized(told.get(key)) != _normalized(self._settings.get(key)):
                raise ValueError(f"its {key} is not that of the adapter that is served")
        return rank, scale


def remove_path(path: Path) -> None:
    """A folder or a file; what cannot be erased is erased at the next start."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_complete(folder: Path) -> bool:
    version, _, token = folder.name.rpartition(".")
    named = bool(ADAPTER_VERSION.fullmatch(version)) and len(token) == 2 * _TOKEN_BYTES
    return named and (folder / ADAPTER_SETTINGS_FILE).is_file() and (folder / ADAPTER_WEIGHTS_FILE).is_file()


def _at_rank(name: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (rank, *shape[1:]) if "lora_A" in name else (*shape[:-1], rank)


def _normalized(value: Any) -> object:
    """PEFT writes sets as lists in any order; false, empty and missing are the same to it."""
    return sorted(map(str, value)) if isinstance(value, list) else value or None


PostToVllm = Callable[[str, dict[str, str]], Awaitable[tuple[int, str]]]
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


class AdapterRegistry:
    """files: on the disk. served: the version of the bundle that is served, which every client may use."""

    def __init__(self, files: AdapterFiles, served: str) -> None:
        self._files = files
        self._served = served
        self._kept = {
            client: {version: _Adapter(_adapter_name(folder), folder) for version, folder in versions.items()}
            for client, versions in files.kept().items()
        }

    def of(self, client: str) -> list[str]:
        """The versions that a client may ask for."""
        return [self._served, *self._kept.get(client, {})]

    @asynccontextmanager
    async def leased(self, client: str, version: str, ask: PostToVllm) -> AsyncIterator[str]:
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

    async def add(self, arrived: Path, client: str, version: str, ask: PostToVllm) -> None:
        """Keep an adapter that has arrived as a file, and try it. Raises ValueError with what is wrong with it, OSError."""
        folder = await asyncio.to_thread(self._files.keep, arrived, client, version)
        adapter = _Adapter(_adapter_name(folder), folder)
        if reason := await self._tell(adapter, ask):
            remove_path(folder)
            raise ValueError(f"vLLM did not load it: {reason}")
        own = self._kept.setdefault(client, {})
        if (before := own.pop(version, None)) is not None:
            await self._give_up(before, ask)
        own[version] = adapter
        for oldest in list(own)[:-MAX_ADAPTERS_PER_CLIENT]:
            await self._give_up(own.pop(oldest), ask)

    async def retain_clients(self, clients: Collection[str], ask: PostToVllm) -> None:
        """Others may not ask any more, so their adapters go."""
        for client in set(self._kept) - set(clients):
            for adapter in self._kept.pop(client).values():
                await self._give_up(adapter, ask)

    async def _tell(self, adapter: _Adapter, ask: PostToVllm) -> str:
        """Have vLLM load it, unless it has. Returns why it did not."""
        async with adapter.telling:
            if not adapter.told:
                status, text = await ask("/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.folder)})
                if status != 200:
                    return _error_message(text)
                adapter.told = True
                with suppress(OSError):
                    os.utime(adapter.folder)
        return ""

    async def _give_up(self, adapter: _Adapter, ask: PostToVllm) -> None:
        adapter.gone = True
        await self._erase_if_over(adapter, ask)

    async def _erase_if_over(self, adapter: _Adapter, ask: PostToVllm) -> None:
        if adapter.gone and not adapter.users:
            if adapter.told:
                adapter.told = False
                await ask("/v1/unload_lora_adapter", {"lora_name": adapter.name})
            await asyncio.to_thread(remove_path, adapter.folder)


def _adapter_name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _error_message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return "it did not say why"
