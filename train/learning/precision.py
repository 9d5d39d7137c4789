"""Half precision where the processor computes it natively; elsewhere it would be emulated, and slower than single precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def has_fast_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_precision() -> AbstractContextManager[object]:
    """Autocast to bfloat16 on a CPU that is faster with it; otherwise nothing. Weights, gradients and sums stay in single precision."""
    return torch.autocast("cpu", torch.bfloat16) if has_fast_bfloat16() else nullcontext()
