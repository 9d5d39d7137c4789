"""How large a model is and what memory its training takes, before any weights are there; and plain text tables of such figures.

It knows the published sizes of the encoders and language models that the paper names, and of some smaller ones. Models are built on torch's
meta device, which has shapes but no memory, by the classes that are trained. Memory is an estimate; nothing here measures a device.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig

from model.bundle_format import MapperSettings
from model.errors import TrainingError
from model.language_model import SpeechLLM
from model.mapper import QPMapper


def text_table(title: str, rows: Sequence[Sequence[str]], note: str) -> str:
    """A table with its first column to the left and all others to the right, under a title and over a note."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in rows
    ]
    return "\n".join([title, *(f"  {line}" for line in lines), *(f"  {line}" for line in note.splitlines())])


TRAINABLE = frozenset({"mapper", "lora", "llm"})

_LARGE_ENCODER: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
# Of these only the encoder is used, so the decoder's sizes do not stand here.
_WHISPER: dict[str, Any] = {"model_type": "whisper"}
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "intermediate_size": 8192,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
_QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
# Where a family's base model is transformers' default, only what differs from it stands here.
_KNOWN: dict[str, dict[str, Any]] = {
    "microsoft/wavlm-base-plus": {"model_type": "wavlm"},
    "microsoft/wavlm-large": {"model_type": "wavlm", **_LARGE_ENCODER},
    "facebook/wav2vec2-large-robust": {"model_type": "wav2vec2", "conv_bias": True, **_LARGE_ENCODER},
    "openai/whisper-tiny": _WHISPER,
    "openai/whisper-base": _WHISPER | {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
    "openai/whisper-small": _WHISPER | {"d_model": 768, "encoder_layers": 12, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072},
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24},
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32},
    "Qwen/Qwen3-4B": _QWEN3 | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "Qwen/Qwen3-1.7B": _QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "Qwen/Qwen3-0.6B": _QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
}

# What learns is kept in float32, as PEFT keeps adapters, whatever the frozen weights are kept in.
_TRAINED_BYTES = 4
# Per token, layer and unit of hidden size. Counted from what autograd keeps of one layer with LoRA, less the attention scores, which
# fused attention does not keep: 71 bytes (Llama 3.2 3B, 16 bits) to 111 (Qwen3 4B, 32 bits); adapters and norms read float32 in both.
_KEPT_BYTES = 88


@dataclass(frozen=True, slots=True)
class PartSize:
    """One part of the model. total: its parameters; trainable: those that learn, all or none."""

    name: str
    total: int
    trainable: int


@dataclass(frozen=True, slots=True)
class Memory:
    """An estimate of what training keeps on one device, bytes each."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def known_config(name: str) -> PretrainedConfig | None:
    """The architecture behind a hub name; None for a name that is not known here.

    It holds what determines sizes and nothing else (no rotary scaling, no token ids): published weights need their own config.
    """
    settings = _KNOWN.get(name)
    return None if settings is None else AutoConfig.for_model(**settings)


def count_parts(
    encoder_config: PretrainedConfig,
    llm_config: PretrainedConfig,
    mapper: MapperSettings,
    trainable: Collection[str],
    *,
    rank: int = 8,
) -> list[PartSize]:
    """Parameters of encoder, mapper, llm and lora, in this order; `trainable` (of TRAINABLE) says which learn in a phase. rank: of LoRA.

    The adapter is counted whether it learns or not: the finished model has it. Raises TrainingError for a part that cannot learn and
    for sizes of which no model can be made.
    """
    unknown = set(trainable) - TRAINABLE
    if unknown:
        raise TrainingError(f"{', '.join(sorted(unknown))} cannot learn; name some of {', '.join(sorted(TRAINABLE))}")
    try:
        totals = _totals(encoder_config, llm_config, mapper, rank)
    except (ValueError, AttributeError) as error:
        raise TrainingError(f"these sizes do not make a model: {error}") from error
    return [PartSize(name, total, total if name in trainable else 0) for name, total in totals.items()]


def memory_estimate(
    parts: Sequence[PartSize],
    *,
    weight_bytes: int,
    optimizer_bytes_per_trainable: int,
    micro_batch: int,
    sequence_length: int,
    layers: int,
    hidden: int,
    vocabulary: int,
    gradient_checkpointing: bool,
) -> Memory:
    """Estimate the memory of one training step. AdamW keeps 8 optimizer bytes per parameter that learns.

    With b = micro_batch, s = sequence_length in tokens (speech embeds included), l, h, V of the language model, w = weight_bytes:
        weights      frozen parameters * w + trainable parameters * 4
        gradients    trainable parameters * 4
        optimizer    trainable parameters * optimizer_bytes_per_trainable
        activations  88 * b * s * h * l; with gradient checkpointing w * b * s * h * l + 88 * b * s * h, which is
                     the input of every layer and the inside of the one that is computed again
        logits       (2 * w + 4) * b * s * V: logits, their gradient and a float32 log-softmax, as if every position had a loss
    88 is right within a quarter for the models known here if attention is fused; attention that is not keeps 4 * b * s * s bytes
    more per head and layer. Left out: what the mapper keeps, what the frozen encoder needs for a moment, the allocator's
    fragments and the device's own library; leave room for them.
    """
    total, learning = sum(part.total for part in parts), sum(part.trainable for part in parts)
    units = micro_batch * sequence_length * hidden
    return Memory(
        weights=(total - learning) * weight_bytes + learning * _TRAINED_BYTES,
        gradients=learning * _TRAINED_BYTES,
        optimizer=learning * optimizer_bytes_per_trainable,
        activations=units * (weight_bytes * layers + _KEPT_BYTES if gradient_checkpointing else _KEPT_BYTES * layers),
        logits=(2 * weight_bytes + 4) * micro_batch * sequence_length * vocabulary,
    )


def _totals(encoder_config: PretrainedConfig, llm_config: PretrainedConfig, mapper: MapperSettings, rank: int) -> dict[str, int]:
    with torch.device("meta"):
        encoder = AutoModel.from_config(encoder_config)
        between = QPMapper(encoder_config.hidden_size, llm_config.hidden_size, **mapper.model_dump())
        llm = SpeechLLM(AutoModelForCausalLM.from_config(llm_config), tokenizer=None)
        bare = _parameters(llm)
        llm.add_lora(rank)
    return {"encoder": _parameters(encoder), "mapper": _parameters(between), "llm": bare, "lora": _parameters(llm) - bare}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
