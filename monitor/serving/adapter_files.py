"""The adapters of the clients on the disk: `FOLDER/CLIENT/VERSION.TOKEN/`, each as PEFT writes it, each whole or not there.

What arrives is one safetensors file whose metadata hold the settings. Before it is kept, it is compared with the adapter of the bundle
that is served: the same tensors, up to the rank, and the same settings, up to rank and scale. So whatever vLLM loads fits. Knows no vLLM.
"""

import json
import math
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from monitor.judging.served_engine import ADAPTER_SETTINGS
from monitor.store.lock import make_folder_private, sync

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", re.ASCII)

_TOKEN_BYTES = 8
_DTYPES = {"F32", "F16", "BF16"}
# Settings that change what an adapter does; those of rank and scale are an adapter's own.
_SAME = (
    *("peft_type", "target_modules", "use_rslora", "use_dora", "bias", "lora_bias", "alpha_pattern", "rank_pattern", "modules_to_save"),
    *("layers_to_transform", "layer_replication", "fan_in_fan_out", "trainable_token_indices", "target_parameters", "use_qalora"),
)


class AdapterFiles:
    """folder: for all clients. model: the adapter's folder in the bundle that is served. rank: the highest that is kept."""

    def __init__(self, folder: Path, model: Path, rank: int) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = json.loads((model / SETTINGS).read_text(encoding="utf-8"))
        self._rank = rank
        with safe_open(model / WEIGHTS, "pt") as file:
            self._shapes: dict[str, tuple[int, ...]] = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 it is no mapping
        make_folder_private(folder)

    @property
    def hidden(self) -> int:
        """The width of the language model that the adapters are for."""
        return next(shape[1] for name, shape in self._shapes.items() if name.endswith("q_proj.lora_A.weight"))

    @property
    def most_bytes(self) -> int:
        """No adapter that fits is larger."""
        return 4 * sum(math.prod(_at_rank(name, shape, self._rank)) for name, shape in self._shapes.items()) + 2**20

    def kept(self) -> dict[str, dict[str, Path]]:
        """The folders of all adapters, by client and version, the least recently used of each client first. Leftovers are erased."""
        found: dict[str, dict[str, Path]] = {}
        for client in (path for path in self._folder.iterdir() if path.is_dir()):
            folders = [folder for folder in client.iterdir() if _is_whole(folder)]
            for leftover in set(client.iterdir()) - set(folders):
                erase(leftover)
            by_use = sorted(folders, key=lambda folder: folder.stat().st_mtime_ns)
            found[client.name] = {folder.name.rpartition(".")[0]: folder for folder in by_use}
        return found

    def new_file(self, client: str) -> Path:
        """Where an adapter that arrives is written to, before it is known whether it is one."""
        make_folder_private(self._folder / client)
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
            (fresh / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
            arrived.replace(fresh / WEIGHTS)
            for path in (fresh / SETTINGS, fresh / WEIGHTS, fresh):
                sync(path)
            fresh.rename(folder)
            sync(folder.parent)
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
        for key in _SAME:
            if _plain(told.get(key)) != _plain(self._settings.get(key)):
                raise ValueError(f"its {key} is not that of the adapter that is served")
        return rank, scale


def erase(path: Path) -> None:
    """A folder or a file; what cannot be erased is erased at the next start."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_whole(folder: Path) -> bool:
    version, _, token = folder.name.rpartition(".")
    named = bool(VERSION.fullmatch(version)) and len(token) == 2 * _TOKEN_BYTES
    return named and (folder / SETTINGS).is_file() and (folder / WEIGHTS).is_file()


def _at_rank(name: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (rank, *shape[1:]) if "lora_A" in name else (*shape[:-1], rank)


def _plain(value: Any) -> object:
    """PEFT writes sets as lists in any order; false, empty and missing are the same to it."""
    return sorted(map(str, value)) if isinstance(value, list) else value or None
