"""The least time that operations and bytes allow for judging a batch: a floor no program gets under, from shapes alone. Runs nothing.

With P parameters of the language model's layers and its output, l layers, h hidden size, k keys' and values' width, T tokens that are
computed for a request (those in the prefix cache are not), C tokens that they look at, B requests together, w bytes of a weight:
    operations  B (2 P T + 4 l h T C / 2)      a token looks at half of its context on average, two products of h each
    bytes       P w + B (2 l k C w)            weights once a batch, keys and values of each request once
Encoder and mapper: 2 operations for each weight and frame; convolutions 2 for each weight and output. Time is at least the larger of
operations / peak and bytes / bandwidth.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Operations and bytes in a second; peaks as they are known or measured."""

    operations_s: float
    bytes_s: float

    def least_s(self, work: "Work") -> float:
        """Seconds that the work takes at least."""
        return max(work.operations / self.operations_s, work.bytes / self.bytes_s)


@dataclass(frozen=True, slots=True)
class Work:
    """Of one batch."""

    operations: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Llm:
    """Shapes of a language model. parameters: of layers and output layer; kv_width: of keys, and of values."""

    parameters: int
    layers: int
    hidden: int
    kv_width: int
    weight_bytes: int


def llm_work(llm: Llm, requests: int, computed: int, context: int) -> Work:
    """Of requests that compute so many tokens each and look at `context` in all."""
    attention = 2 * llm.layers * llm.hidden * computed * context
    kept = 2 * llm.layers * llm.kv_width * context * llm.weight_bytes
    return Work(requests * (2.0 * llm.parameters * computed + attention), llm.parameters * llm.weight_bytes + float(requests * kept))


def frames_work(parameters: int, frames: int, requests: int, weight_bytes: int) -> Work:
    """Of layers that all frames of all requests pass."""
    return Work(2.0 * parameters * frames * requests, float(parameters * weight_bytes))


def convolutions_work(dims: Sequence[int], kernels: Sequence[int], strides: Sequence[int], samples: int, requests: int) -> Work:
    """Of the convolutions over raw sound with which speech encoders begin; their weights are few, so only operations count."""
    operations, width, length = 0, 1, samples
    for dim, kernel, stride in zip(dims, kernels, strides, strict=True):
        length = (length - kernel) // stride + 1
        operations += 2 * kernel * width * dim * length
        width = dim
    return Work(float(operations * requests), 0.0)
