"""A LoRA adapter laid into the weights that it changes, so that what answers has nothing to work out beside them.

A layer's weight (out, in) becomes W + scale * B A with B (out, R) and A (R, in), R the adapter's rank. It is always made from the
language model's own weights, never from what another adapter made of them, so going back gives the very same numbers.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.errors import BundleError

_PREFIX = "base_model.model."
_THIN, _WIDE = ".lora_A.weight", ".lora_B.weight"
# What PEFT can do and this project's training never does; each is off where it is empty.
_FOREIGN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias")


@dataclass(frozen=True, eq=False)
class Adapter:
    """scale: of the products. pairs: A and B by the name that the layer's weight has in the language model's files."""

    folder: Path
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder in PEFT's format. Raises BundleError."""
        try:
            told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "adapter_model.safetensors")
            names = [name.removesuffix(_THIN) for name in weights if name.endswith(_THIN)]
            pairs = {f"{name.removeprefix(_PREFIX)}.weight": (weights[name + _THIN], weights[name + _WIDE]) for name in names}
            scale = float(told["lora_alpha"]) / int(told["r"])
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
            raise _unfit(folder, repr(error)) from error
        if foreign := [key for key in _FOREIGN if told.get(key)]:
            raise _unfit(folder, f"it uses {', '.join(foreign)}, which only a vLLM server or PEFT may know")
        if 2 * len(pairs) != len(weights):
            raise _unfit(folder, "it holds more than pairs of LoRA matrices")
        return cls(folder, scale, pairs)

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """Raises BundleError unless all of it fits a language model whose weights have these shapes."""
        for name, (thin, wide) in self.pairs.items():
            if name not in shapes:
                raise _unfit(self.folder, f"the language model has no {name}")
            if (len(wide), thin.shape[1]) != tuple(shapes[name]) or wide.shape[1] != len(thin):
                raise _unfit(
                    self.folder, f"its matrices {tuple(wide.shape)} and {tuple(thin.shape)} do not make {name} {tuple(shapes[name])}"
                )

    def merged(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The language model's own weights, by name, with this adapter in them: those it changes in float32, the others as they are."""
        for name, weight in weights:
            pair = self.pairs.get(name)
            if pair is None:
                yield name, weight
            else:
                thin, wide = (matrix.float().to(weight.device) for matrix in pair)
                yield name, weight.float() + self.scale * (wide @ thin)


def _unfit(folder: Path, reason: str) -> BundleError:
    return BundleError(f"the adapter in {folder} cannot be loaded: {reason}")
