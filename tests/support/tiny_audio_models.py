"""A tiny Whisper in CTranslate2's format that knows two sentences, and a tiny Qwen2-Audio with random weights, in real file formats."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from faster_whisper.audio import pad_or_trim
from faster_whisper.feature_extractor import FeatureExtractor
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.qwen2_audio.configuration_qwen2_audio import Qwen2AudioEncoderConfig

from model.audio import SAMPLE_RATE, Float32

LOW, HIGH = "Nobody told me that.", "Nikt mi tego nie powiedział."
"""What it writes for a low tone (LOW_HZ), in English, and for a high one (HIGH_HZ), in Polish."""

LOW_HZ, HIGH_HZ, LOOP_HZ = 150.0, 1500.0, 600.0
"""At LOOP_HZ it repeats itself until it is stopped, as a Whisper does now and then."""

_LANGUAGES = ("en", "pl")
_LOOP = "la la " * 36
_SECONDS = (1.0, 2.0, 4.0)
_STEPS = 150
_TIMESTAMPS = 1501


def tone(hz: float, seconds: float = 2.0) -> Float32:
    """A sound that it knows, or another."""
    moments = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * hz * moments)).astype(np.float32)


def tiny_whisper(folder: Path) -> Path:
    """The converted model, in a new folder; the one that it was made from is beside it."""
    source = folder.with_name(folder.name + "-source")
    tokenizer = _whisper_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    model = _taught(tokenizer, ids)
    model.generation_config = GenerationConfig(
        suppress_tokens=[],
        begin_suppress_tokens=[ids["<|endoftext|>"]],
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in _LANGUAGES},
    )
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    TransformersConverter(str(source), copy_files=["tokenizer.json"]).convert(str(folder))
    return folder


def _whisper_tokenizer() -> PreTrainedTokenizerFast:
    """Single bytes, and Whisper's own marks; CTranslate2 knows one for many languages by its empty token.

    faster_whisper lets no text begin with the first token of " -", " '" or " ♪", which must not be the plain space.
    """
    merges = [("Ġ", "-"), ("Ġ", "'"), ("Ġ", "â")]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges), ""]
    backend = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    marks = [
        "endoftext",
        "startoftranscript",
        *_LANGUAGES,
        "translate",
        "transcribe",
        "startoflm",
        "startofprev",
        "nospeech",
        "notimestamps",
    ]
    backend.add_special_tokens([f"<|{mark}|>" for mark in marks])
    return PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=[f"<|{mark}|>" for mark in marks])


def _taught(tokenizer: PreTrainedTokenizerFast, ids: Mapping[str, int]) -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    end = ids["<|endoftext|>"]
    marks = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end)
    config = WhisperConfig(
        vocab_size=len(tokenizer) + _TIMESTAMPS, d_model=64, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.1, **sizes, **marks
    )
    model = WhisperForConditionalGeneration(config)
    hear = FeatureExtractor()
    known = {LOW_HZ: _answer(tokenizer, ids, "en", f"{LOW}<|endoftext|>"), HIGH_HZ: _answer(tokenizer, ids, "pl", f"{HIGH}<|endoftext|>")}
    known[LOOP_HZ] = _answer(tokenizer, ids, "en", _LOOP)
    features = torch.stack([torch.tensor(pad_or_trim(hear(tone(hz, seconds))[:, :-1])) for hz in known for seconds in _SECONDS])
    answers = [answer for answer in known.values() for _ in _SECONDS]
    longest = max(map(len, answers))
    read = torch.tensor([answer + [end] * (longest - len(answer)) for answer in answers])
    wanted = torch.tensor([answer[1:] + [-100] * (longest - len(answer) + 1) for answer in answers])
    with torch.inference_mode():
        heard = model.model.encoder(features).last_hidden_state
    optimizer = torch.optim.Adam(model.model.decoder.parameters(), lr=1e-2)
    for _ in range(_STEPS):  # the decoder alone: an encoder of random weights hears enough to tell the two apart
        loss = model(encoder_outputs=(heard.clone(),), decoder_input_ids=read, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01, "it has not learned them"
    return model.eval()


def _answer(tokenizer: PreTrainedTokenizerFast, ids: Mapping[str, int], code: str, words: str) -> list[int]:
    marks = [ids[f"<|{mark}|>"] for mark in ("startoftranscript", code, "transcribe", "notimestamps")]
    return [*marks, *tokenizer.encode(f" {words}", add_special_tokens=False)]


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
    tokenizer = _qwen_tokenizer()
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(_config(tokenizer))
    save_file(_published(model.state_dict()), without_weights(folder, model.config) / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_weights(folder: Path, config: Qwen2AudioConfig | None = None) -> Path:
    """The same folder without weights, of any size, by default the published one's, for vLLM to make them up itself."""
    tokenizer = _qwen_tokenizer()
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


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
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
