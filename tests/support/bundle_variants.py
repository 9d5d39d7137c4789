"""Whole bundles that differ from the built-in one a little, or in what a running engine cannot take up."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bundle_format import MANIFEST_FILE, NORMALISER_FILE, compute_version, file_checksums, find_bundle, read_bundle_manifest

ADAPTER, MAPPER = "adapter/adapter_model.safetensors", "mapper.safetensors"


def variant_of_packaged(
    folder: Path, seed: int = 1, about: Mapping[str, object] | None = None, rank: int = 8, llm: float = 1.0, base: Path | None = None
) -> Path:
    """A copy of compact in a new folder, with adapter and mapper changed by a seed, entries of bundle.json by `about`.

    rank: of the adapter, at least 8. llm: its weights times this.
    """
    shutil.copytree(base or find_bundle("compact"), folder)
    torch.manual_seed(seed)
    _change(folder / ADAPTER, lambda tensor: tensor + tensor.std() * torch.randn_like(tensor))
    _change(folder / MAPPER, lambda tensor: tensor * (1 + 0.01 * torch.randn_like(tensor)))
    if rank != 8:
        _raise_rank(folder, rank)
    if llm != 1.0:
        _change(folder / "llm/model.safetensors", lambda tensor: tensor * llm)
    return sign(folder, about)


def normalising(
    folder: Path,
    seed: int = 0,
    prior_segments: float = 10.0,
    adapter: int | None = None,
    about: Mapping[str, object] | None = None,
    base: Path | None = None,
) -> Path:
    """A copy in a new folder that wants the reference of a voice subtracted; its population mean, of any size, is drawn by a seed.

    adapter: the seed of other weights of mapper and adapter, as a night makes them. about: other entries of bundle.json.
    """
    if adapter is None:
        shutil.copytree(base or find_bundle("compact"), folder)
    else:
        variant_of_packaged(folder, adapter)
    width = len(load_file(folder / MAPPER)["enter.weight"][0])
    mean = torch.randn(width, generator=torch.Generator().manual_seed(seed)) * 0.1
    letters = len(read_bundle_manifest(folder).letters)
    offsets = torch.randn(letters, width, generator=torch.Generator().manual_seed(seed)) * 0.05
    save_file({"population_mean": mean, "emotion_offsets": offsets, "ratio": torch.ones(width)}, folder / NORMALISER_FILE)
    return sign(folder, {"normalisation": {"prior_segments": prior_segments}, **(about or {})})


def sign(folder: Path, about: Mapping[str, object] | None = None) -> Path:
    """Write digests and version as releasing does."""
    path = folder / MANIFEST_FILE
    told = json.loads(path.read_text())
    files = file_checksums(folder)
    told.update({"files": files, "version": compute_version(told["name"], files), **(about or {})})
    path.write_text(json.dumps(told))
    return folder


def _change(path: Path, change: "object") -> None:
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})  # type: ignore[operator]


def _raise_rank(folder: Path, rank: int) -> None:
    """More rows and columns, of noise."""

    def wider(name: str, tensor: Tensor) -> Tensor:
        side = 0 if "lora_A" in name else 1
        shape = [size if axis != side else rank for axis, size in enumerate(tensor.shape)]
        wide = 0.01 * torch.randn(shape)
        wide[tuple(slice(size) for size in tensor.shape)] = tensor
        return wide

    save_file({name: wider(name, tensor) for name, tensor in load_file(folder / ADAPTER).items()}, folder / ADAPTER, {"format": "pt"})
    settings = folder / "adapter/adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "r": rank}))
