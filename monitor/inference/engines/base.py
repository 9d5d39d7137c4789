"""The engine protocol, the engine of the configured kind, and what engines check of a bundle and a machine.

An engine answers requests with the adapter of one bundle at a time. It knows nothing of audio, strategies, calibration or the timeline.
Each kind has a file of its own, which is imported only where it is used.
"""

import json
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.bundle import Bundle
from model.bundle_format import BundleManifest
from model.errors import BundleError, EngineRejected, NeedsRestart
from model.language_model import LanguageModel
from model.remote import read_api_key
from monitor.config import EngineConfig, Precision

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class Engine(LanguageModel, Protocol):
    """A language model with the adapter of one bundle, and something to let go of."""

    def switch_to(self, bundle: Bundle) -> None:
        """Answer with this bundle's adapter from now on, and let go of the one before.

        Raises NeedsRestart for a bundle that only an engine started for it can serve; BundleError, EngineRejected or EngineUnavailable
        where its adapter cannot be loaded. The adapter that was there then stays.
        """

    def close(self) -> None:
        """Let go of memory, processes and connections."""


def open_engine(config: EngineConfig, bundle: Bundle) -> Engine:
    """The engine of the configured kind, ready to answer."""
    match config.kind:
        case "embedded":
            from monitor.inference.engines.vllm import open_embedded

            return open_embedded(bundle, config.kv_cache_mib, config.precision)
        case "server":
            from monitor.inference.engines.server import ServerConnection, ServerEngine

            return ServerEngine(bundle, ServerConnection(config.url, read_api_key(config.key_file), config.ca_file))
        case "transformers":
            from monitor.inference.engines.transformers import TransformersEngine

            return TransformersEngine(bundle)


def adapter_rank(folder: Path) -> int:
    """The LoRA rank of a bundle's adapter, rounded up to what vLLM has kernels for. Raises BundleError."""
    try:
        rank = int(json.loads((folder / "adapter/adapter_config.json").read_text(encoding="utf-8"))["r"])
        return next(size for size in _LORA_RANKS if size >= rank)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise BundleError(f"the adapter of {folder} has no rank that can be served (at most {_LORA_RANKS[-1]})") from error


def check_compatible(own: BundleManifest, other: BundleManifest) -> None:
    """Raises NeedsRestart unless the other bundle differs from the engine's own in mapper, adapter and calibration only."""
    for what, source, other_source in (("speech encoder", own.encoder, other.encoder), ("language model", own.llm, other.llm)):
        if own.part(source) != other.part(other_source):
            raise NeedsRestart(f"{other.version} has another {what} than {own.version}")
    if own.letters != other.letters:
        raise NeedsRestart(f"{other.version} answers with the letters {''.join(other.letters)}, not {''.join(own.letters)}")


def check_finite(folder: Path) -> None:
    """Raises BundleError for weights that cannot be read or are no numbers: an engine that is given those may die of them."""
    for path in (folder / "mapper.safetensors", folder / "adapter/adapter_model.safetensors"):
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise BundleError(f"{path} holds weights that are no numbers ({name}); make the bundle again")


def precision_arguments(precision: Precision) -> dict[str, str]:
    """vLLM's arguments by name. Raises EngineRejected for numbers that this machine cannot multiply.

    auto: as the weights are stored on a GPU, and float32 on a CPU, where bfloat16 takes several times as long without AMX.
    fp8: weights as 8-bit floats (E4M3), each block of 128 x 128 with a scale, made when they are loaded, after an adapter was laid into
    them; activations in 8 bits too on GPUs and processors that multiply those, else in bfloat16.
    """
    if precision == "auto":
        return {} if has_gpu() else {"dtype": "float32"}
    if precision == "fp8":
        if not (has_gpu() or has_amx()):
            raise EngineRejected('precision "fp8" needs an NVIDIA GPU, or a processor with AMX (Intel Sapphire Rapids on); use "auto"')
        return {"dtype": "bfloat16", "quantization": "fp8_per_block"}
    return {"dtype": precision}


def has_gpu() -> bool:
    """Whether there is a GPU that torch can use."""
    return torch.cuda.is_available()


def has_amx() -> bool:
    """Whether this processor has AMX, whose tiles vLLM multiplies bfloat16 and 8-bit floats with."""
    return torch.cpu._is_amx_tile_supported()
