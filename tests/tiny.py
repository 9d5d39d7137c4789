"""Tiny folders of the same classes and file formats as the paper's: made from random weights, loaded by the same code."""

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from train.nano_llm import build_tokenizer
from train.recipe import LlmRecipe

_SMALL_ENCODER = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LLM = LlmRecipe(vocabulary=600, hidden=64, layers=2, heads=2, intermediate=96)


def wavlm(folder: Path, norm: str = "layer") -> Path:
    """A WavLMModel of the large model's kind (`layer`) or the base model's (`group`)."""
    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**_SMALL_ENCODER, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=norm == "layer", return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


def wav2vec2(folder: Path) -> Path:
    """A Wav2Vec2Model of the robust large model's kind."""
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**_SMALL_ENCODER, feat_extract_norm="layer", do_stable_layer_norm=True)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """nano's tokenizer."""
    return build_tokenizer(LLM)


def llama() -> LlamaForCausalLM:
    """A Llama with grouped keys and values and its own output layer, as Llama 3.2 3B has the first."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=LLM.hidden,
        intermediate_size=LLM.intermediate,
        num_hidden_layers=LLM.layers,
        num_attention_heads=LLM.heads,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()
