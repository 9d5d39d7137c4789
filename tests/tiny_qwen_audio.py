"""A tiny Qwen2-Audio from random weights, in a folder like the published one's: what vLLM serves here in place of the seven billions.

Real are the classes, the file formats, the tensors' names, the chat template and the 30 s log-mel window; sizes and weights are not.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_audio.configuration_qwen2_audio import Qwen2AudioEncoderConfig

_MEL_BINS = 16
_END_OF_TURN = "<|im_end|>"
_SPECIAL = ["<|endoftext|>", "<|im_start|>", _END_OF_TURN, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
# The published tensors' names, which vLLM reads; newer transformers nest the modules differently.
_PUBLISHED = {
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def qwen_audio(folder: Path) -> Path:
    """Weights (float32, 0.2 million), configuration, tokenizer, feature extractor and chat template."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(_config(tokenizer))
    save_file(_published(model.state_dict()), without_weights(folder, model.config) / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_weights(folder: Path, config: Qwen2AudioConfig | None = None) -> Path:
    """The same folder without weights, of any size, by default the published one's, for vLLM to make them up itself."""
    tokenizer = _tokenizer()
    config = config or _published_size(tokenizer)
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.save_pretrained(folder)
    bins = config.audio_config.num_mel_bins
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=bins), tokenizer).save_pretrained(folder)
    return folder


def _published_size(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioConfig:
    """Qwen2-Audio-7B: 8.4 billion parameters with its audio tower."""
    text = Qwen2Config(
        vocab_size=156_032,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
    )
    audio = Qwen2AudioEncoderConfig()
    return Qwen2AudioConfig(
        audio_config=audio.to_dict(),
        text_config=text.to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        dtype="bfloat16",
    )


def _published(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in tensors.items():
        prefix = next(prefix for prefix in _PUBLISHED if name.startswith(prefix))
        named[_PUBLISHED[prefix] + name.removeprefix(prefix)] = tensor.contiguous()
    return named


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as Qwen's, but without merges: every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END_OF_TURN, pad_token=_SPECIAL[0])


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioConfig:
    # As small as weights begin otherwise, sound would hardly change an answer: these spreads let it decide.
    audio = Qwen2AudioEncoderConfig(
        num_mel_bins=_MEL_BINS, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, d_model=32, initializer_range=0.5
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
    )
    audio_token = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    return Qwen2AudioConfig(
        audio_config=audio.to_dict(),
        text_config=text.to_dict(),
        audio_token_index=audio_token,
        initializer_range=0.5,
        dtype="float32",
    )
