"""A tiny Whisper in CTranslate2's format that has learned two sentences by heart: real files, a real converter, real transcripts."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from faster_whisper.audio import pad_or_trim
from faster_whisper.feature_extractor import FeatureExtractor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

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
    tokenizer = _tokenizer()
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


def _tokenizer() -> PreTrainedTokenizerFast:
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
