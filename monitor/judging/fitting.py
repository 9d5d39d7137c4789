"""Which bundles an engine that runs can take up in place of its own, and what an adapter must be to be served. Knows no engine."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.errors import BundleError, NeedsRestart
from model.manifest import BundleManifest

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def adapter_rank(folder: Path) -> int:
    """The LoRA rank of a bundle's adapter, rounded up to what vLLM has kernels for. Raises BundleError."""
    try:
        rank = int(json.loads((folder / "adapter/adapter_config.json").read_text(encoding="utf-8"))["r"])
        return next(size for size in _LORA_RANKS if size >= rank)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise BundleError(f"the adapter of {folder} has no rank that can be served (at most {_LORA_RANKS[-1]})") from error


def check_fit(own: BundleManifest, other: BundleManifest) -> None:
    """Raises NeedsRestart unless the other bundle differs from the engine's own in mapper, adapter and calibration only."""
    for what, source, other_source in (("speech encoder", own.encoder, other.encoder), ("language model", own.llm, other.llm)):
        if own.part(source) != other.part(other_source):
            raise NeedsRestart(f"{other.version} has another {what} than {own.version}")
    if own.letters != other.letters:
        raise NeedsRestart(f"{other.version} answers with the letters {''.join(other.letters)}, not {''.join(own.letters)}")


def check_numbers(folder: Path) -> None:
    """Raises BundleError for weights that cannot be read or are no numbers: an engine that is given those may die of them."""
    for path in (folder / "mapper.safetensors", folder / "adapter/adapter_model.safetensors"):
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise BundleError(f"{path} holds weights that are no numbers ({name}); make the bundle again")
