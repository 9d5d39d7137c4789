"""In which numbers vLLM keeps and multiplies a language model's weights: its own arguments for that, in this process or for a server."""

import torch

from model.errors import EngineRejected
from monitor.config import Precision


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
