"""Tiny models: random weights in the paper's classes and file formats, and a predictor that hears nothing but the level."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperModel,
)

from model.audio import SAMPLE_RATE, Float32
from model.bundle import Bundle, open_bundle
from model.bundle_format import MANIFEST_FILE, BundleManifest, MapperSettings, file_checksums
from model.emotions import Emotion, Prediction
from model.encoders import NanoEncoder
from model.language_model import SpeechLLM
from model.mapper import QPMapper
from model.predictor import PredictorOutput, SpeechInput
from model.prompts import PROMPTS, SYSTEM_PROMPT, Strategy, emotion_prefix, format_answer
from model.voice_reference import VoiceSums
from tests.support.bundles import NANO
from train.corpora.manifest import Utterance
from train.learning.small_models import build_tokenizer
from train.recipe import SmallLlm

SMALL_ENCODER = {
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
LLM = SmallLlm(architecture="llama", vocabulary=600, hidden=64, layers=2, heads=2, intermediate=96)
# Eight seconds at most, so that a test can go beyond it.
SMALL_WHISPER = {
    "d_model": 48,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_source_positions": 400,
    "vocab_size": 100,
    "pad_token_id": 0,
    "init_std": 0.2,
}
_SIZES = {
    "vocab_size": LLM.vocabulary,
    "hidden_size": LLM.hidden,
    "intermediate_size": LLM.intermediate,
    "num_hidden_layers": LLM.layers,
    "num_attention_heads": LLM.heads,
    "max_position_embeddings": 2048,
}

# What the published templates of Llama 3.2 and Qwen3 make of plain chats; their tools and past thoughts are left out.
LLAMA_TEMPLATE = """\
{%- if date_string is not defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{{- bos_token }}
{%- if messages[0].role == "system" %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: " }}
{{- date_string + "\n\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\n\n" + message.content | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start_header_id|>assistant<|end_header_id|>\n\n" }}{% endif %}"""
QWEN3_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role != "assistant" %}
        {{- "<|im_start|>" + message.role + "\n" + message.content }}
    {%- else %}
        {%- set thought = "" %}
        {%- set content = message.content %}
        {%- if "</think>" in content %}
            {%- set thought = content.split("</think>")[0].split("<think>")[-1].strip("\n") %}
            {%- set content = content.split("</think>")[-1].lstrip("\n") %}
        {%- endif %}
        {{- "<|im_start|>assistant\n" }}
        {%- if loop.last %}{{- "<think>\n" + thought + "\n</think>\n\n" }}{% endif %}
        {{- content.lstrip("\n") if loop.last else content }}
    {%- endif %}
    {{- "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\n" }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- "<think>\n\n</think>\n\n" }}{% endif %}
{%- endif %}"""
# How both families cut text before byte pairs are joined; only the longest run of digits, {}, differs.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# What both families are published with: answers are drawn unless somebody asks for greedy ones.
_SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}


def wavlm(folder: Path, norm: str = "layer") -> Path:
    """A WavLMModel of the large model's kind (`layer`) or the base model's (`group`)."""
    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**SMALL_ENCODER, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=norm == "layer", return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


def wav2vec2(folder: Path) -> Path:
    """A Wav2Vec2Model of the robust large model's kind."""
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**SMALL_ENCODER, feat_extract_norm="layer", do_stable_layer_norm=True)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


def whisper(folder: Path, encoder_layers: int = 3) -> Path:
    """A whole WhisperModel, with its decoder."""
    torch.manual_seed(0)
    WhisperModel(WhisperConfig(**SMALL_WHISPER, encoder_layers=encoder_layers)).save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """nano's tokenizer."""
    return build_tokenizer(LLM)


def llama() -> LlamaForCausalLM:
    """A Llama with grouped keys and values and its own output layer, as Llama 3.2 3B has the first."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**_SIZES, num_key_value_heads=1, tie_word_embeddings=False)).eval()


def qwen3() -> Qwen3ForCausalLM:
    """A Qwen3: normalised queries and keys, heads wider than their share of the hidden size, tied embeddings, as Qwen3 1.7B."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**_SIZES, num_key_value_heads=1, head_dim=48, tie_word_embeddings=True)).eval()


def llama_folder(folder: Path) -> Path:
    """Llama 3.2's instruct version as it is published: weights, tokenizer with its chat template, sampling as its default."""
    return _publish(llama(), llama_tokenizer(), folder)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Of Llama's kind, with its marks and its chat template, in few tokens."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend = _byte_pairs(special, digits="{1,3}")
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=LLAMA_TEMPLATE
    )


def qwen3_folder(folder: Path) -> Path:
    """Qwen3 as it is published; the marks of thoughts and tools are tokens of their own, but not special ones."""
    backend = _byte_pairs(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], digits="")
    backend.normalizer = normalizers.NFC()
    backend.add_tokens([AddedToken(mark, normalized=False) for mark in ("<tool_call>", "</tool_call>", "<think>", "</think>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=QWEN3_TEMPLATE
    )
    return _publish(qwen3(), tokenizer, folder)


def bundle(llm: SpeechLLM, strategy: Literal[Strategy.SER, Strategy.JOINT] = Strategy.SER) -> Bundle:
    """nano's encoder, and a mapper from random weights, before a language model; in memory, never calibrated, all nine letters."""
    torch.manual_seed(0)
    settings = MapperSettings(queries=4, layers=1, heads=4, width=48)
    encoder = NanoEncoder.load(NANO / "encoder")
    manifest = BundleManifest(
        name="tiny",
        version="tiny-00000000",
        created="2026-01-01",
        strategy=strategy,
        letters=list(Emotion),
        temperature=1.0,
        unsure_below=0.0,
        encoder="encoder",
        llm="llm",
        mapper=settings,
        prompt=0,
        license="CC0-1.0",
        trained_on=[],
        limits=[],
        scores=[],
        files={},
    )
    return Bundle(Path(), manifest, encoder, QPMapper(encoder.width, llm.hidden_size, **settings.model_dump()).eval())


def release(bundle: Bundle, llm: SpeechLLM, source: Path, folder: Path) -> Bundle:
    """Write a bundle whose language model stays at `source`, as a laboratory's does, and open it. The model must have an adapter."""
    bundle.encoder.save(folder / "encoder")
    save_file(bundle.mapper.state_dict(), folder / "mapper.safetensors")
    llm.save(None, folder / "adapter")
    manifest = bundle.manifest.model_copy(update={"llm": str(source), "files": file_checksums(folder)})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(), encoding="utf-8")
    return open_bundle(folder)


def _byte_pairs(special: list[str], digits: str) -> Tokenizer:
    """Byte-level pairs learned from prompts and answers, in as many tokens as the models leave room for."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORDS.format(digits)), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=LLM.vocabulary - 10, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    texts = [SYSTEM_PROMPT, *(prompt for prompts in PROMPTS.values() for prompt in prompts)]
    tokenizer.train_from_iterator([*texts, *[format_answer(emotion) for emotion in Emotion] * 20, *[emotion_prefix("")] * 20], trainer)
    return tokenizer


def _publish(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    llm.config.eos_token_id = tokenizer.eos_token_id
    llm.generation_config = GenerationConfig(**_SAMPLING, eos_token_id=tokenizer.eos_token_id)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


A, S, N, H = Emotion.ANGRY, Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY
LETTERS = [A, S, N, H]
LEVELS = {N: 0.0, A: 0.2, S: -0.2, H: 0.4}
SECONDS = 2.0


def level_of(emotion: Emotion | None) -> float:
    """How far an emotion lies above the voice; speech without one is neutral."""
    return LEVELS[emotion or N]


def clip(folder: Path, corpus: str, speaker: str, emotion: Emotion | None, number: int, level: float) -> Utterance:
    """A recording that is one level throughout, which is all that the predictor below hears of it."""
    path = folder / f"{corpus}-{speaker}-{emotion}-{number}.wav"
    soundfile.write(path, np.full(int(SECONDS * SAMPLE_RATE), level), SAMPLE_RATE, subtype="FLOAT")
    gender = {"f": "female", "m": "male"}.get(speaker[:1])
    return Utterance(path, corpus, speaker, gender, emotion, None, None, "en", "CC0")


def person(folder: Path, corpus: str, speaker: str, voice: float, counts: dict[Emotion | None, int]) -> list[Utterance]:
    """Clips of one person, whose voice lies `voice` above that of everybody."""
    return [
        clip(folder, corpus, speaker, emotion, number, voice + level_of(emotion))
        for emotion, count in counts.items()
        for number in range(count)
    ]


class OfLevels:
    """Takes the nearest emotion by level above the reference; a stranger's reference is nothing.

    asked: for every call, the levels and the shift.
    """

    def __init__(self, prior: float = 0.0) -> None:
        self.asked: list[tuple[list[float], float | None]] = []
        self.cleared = 0
        self._prior = prior

    def predict(self, sounds: Sequence[SpeechInput], shift: Float32 | None = None) -> list[PredictorOutput]:
        """See SpeakerPredictor."""
        levels = [float(sound.audio.mean()) for sound in sounds]
        self.asked.append((levels, None if shift is None else float(shift[0])))
        return [self._answer(level, 0.0 if shift is None else float(shift[0])) for level in levels]

    def _answer(self, level: float, shift: float) -> PredictorOutput:
        nearest = min(LETTERS, key=lambda letter: abs(level - shift - level_of(letter)))
        posterior = {letter: 0.7 if letter is nearest else 0.1 for letter in LETTERS}
        return PredictorOutput(Prediction(posterior, False, "levels"), None, VoiceSums(1.0, SECONDS, np.array([level], np.float32)))

    def shift_of(self, sums: VoiceSums | None) -> Float32:
        """See SpeakerPredictor."""
        return np.zeros(1, np.float32) if sums is None else sums.sums / np.float32(sums.segments + self._prior)

    def clear(self) -> None:
        """See SpeakerPredictor."""
        self.cleared += 1
