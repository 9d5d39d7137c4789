"""Small encoders and language models that start from random weights: nano's own, and those of the paper's comparisons (A.5)."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
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
)

from model.audio import read_audio
from model.emotions import Emotion
from model.encoders import NanoEncoder, TransformersEncoder
from model.prompts import PROMPTS, SYSTEM_PROMPT, clean_transcript, emotion_prefix, format_answer
from model.speech_encoder import SpeechEncoder
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart, CorpusSplits, all_utterances, content_hash
from train.learning.classifier import BalancedSampler, ClassifierEnsemble, ClassifierInput, EmotionClassifier, train_classifier
from train.learning.encoder_states import FrameStates, NanoStates, StateSource
from train.learning.views import Augmentation, FeatureStore
from train.recipe import EncoderTraining, SmallLlm

_END = "<|end|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# Content is a plain string, as in Llama's and Qwen's own templates; a turn's end closes every message.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_MAX_POSITIONS = 1024


def build_tokenizer(recipe: SmallLlm, transcripts: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Byte-level BPE learned from prompts, answers and transcripts; any other text falls back to bytes, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        min_frequency=1,
        special_tokens=[_END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [SYSTEM_PROMPT, *(prompt for prompts in PROMPTS.values() for prompt in prompts)]
    texts += [clean_transcript(transcript) for transcript in transcripts]
    texts += [format_answer(emotion) for emotion in Emotion] * 20 + [emotion_prefix("")] * 20
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        pad_token=_END,
        chat_template=_CHAT_TEMPLATE,
        model_max_length=_MAX_POSITIONS,
    )


def build_small_llm(recipe: SmallLlm, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A language model of the recipe's architecture and size with random float32 weights."""
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "head_dim": recipe.hidden // recipe.heads,
        "max_position_embeddings": _MAX_POSITIONS,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if recipe.architecture == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**settings))
    return LlamaForCausalLM(LlamaConfig(**settings))


logger = logging.getLogger(__name__)

# A hundredth of base+, with its strides: 50 states per second.
_SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "conv_dim": (48,) * 7,
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "num_feat_extract_layers": 7,
    "num_conv_pos_embeddings": 64,
    "num_conv_pos_embedding_groups": 8,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


def train_state_source(
    recipe: EncoderTraining, corpora: CorpusSplits, parts: Sequence[CorpusPart], letters: Sequence[Emotion], work: Path, seed: int
) -> StateSource:
    """A frozen encoder trained on `parts` as classifiers, one a branch, or taken from `work` where an earlier run left them.

    corpora: of which `parts` is all that is trained on, or a fold's rest; features are computed once for both.
    """
    heard = [(noise.name, noise.second_half, [path.name for path in noise.paths]) for noise in corpora.noises]
    key = hashlib.sha256(repr((recipe, list(letters), seed, heard, content_hash(parts))).encode()).hexdigest()[:16]
    store = feature_store(recipe, corpora, work) if recipe.kind == "nano" else None
    members = [
        _ensemble_member(
            recipe, store, parts, letters, seed * recipe.branches + branch, work / f"encoder-{recipe.kind}-{key}-{branch}.safetensors"
        )
        for branch in range(recipe.branches)
    ]
    teacher = ClassifierEnsemble(members).eval().requires_grad_(False)
    if store is None:
        return FrameStates(members[0].encoder, work / f"states-{key}", teacher)
    branches = [member.encoder for member in members]
    encoder = NanoEncoder.of([branch for branch in branches if isinstance(branch, NanoEncoder)])
    encoder.freeze()
    return NanoStates(store, encoder, teacher)


def _ensemble_member(
    recipe: EncoderTraining, store: FeatureStore | None, parts: Sequence[CorpusPart], letters: Sequence[Emotion], seed: int, kept: Path
) -> EmotionClassifier:
    """One encoder with its classifier, trained now or found at `kept`."""
    encoder = untrained_encoder(recipe, seed)
    if kept.exists():
        member = EmotionClassifier(encoder, len(letters), recipe.dropout)
        member.load_state_dict(load_file(kept))
        member.encoder.freeze()
        return member
    views: ClassifierInput = (
        _FeatureInput(encoder, store) if isinstance(encoder, NanoEncoder) and store is not None else _WaveformInput(encoder)
    )
    member = train_classifier(encoder, views, BalancedSampler(views, parts, letters, seed), len(letters), recipe)
    unfinished = kept.with_suffix(".unfinished")
    save_file(member.state_dict(), unfinished)
    unfinished.rename(kept)
    return member


def feature_store(recipe: EncoderTraining, corpora: CorpusSplits, work: Path) -> FeatureStore:
    """All views of all clips that are trained on, computed now or found in `work`."""
    augmentation = Augmentation.of(recipe.speeds, recipe.rooms, recipe.room_share, corpora.noises)
    return FeatureStore(work, all_utterances(corpora.train), augmentation)


def untrained_encoder(recipe: EncoderTraining, seed: int, branches: int = 1) -> SpeechEncoder:
    """An encoder of the recipe's kind with random weights; branches: of nano's."""
    torch.manual_seed(seed)
    if recipe.kind == "nano":
        return NanoEncoder(branches, recipe.channels, recipe.width)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    model = WavLMModel(WavLMConfig(**_SMALL)) if recipe.kind == "wavlm" else Wav2Vec2Model(Wav2Vec2Config(**_SMALL))
    return TransformersEncoder(model, extractor)


class _FeatureInput:
    """Augmented feature views through nano's encoder; inputs (B, F, N_FEATURES)."""

    def __init__(self, encoder: NanoEncoder, store: FeatureStore) -> None:
        # Not kept: training works on an encoder that the classifier owns, and this is the same object.
        self._encoder, self._store = encoder, store

    def batch(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See Views."""
        views = [self._store.view(utterance, rng) for utterance in utterances]
        return pad_sequence(views, batch_first=True), torch.tensor([len(view) for view in views])

    def states(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See Views."""
        return self._encoder.states(inputs, lengths)


class _WaveformInput:
    """Cropped sound, normalised as the extractor does, through a transformers encoder; inputs (B, N)."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        assert isinstance(encoder, TransformersEncoder)
        self._model = encoder.model
        self._audio: dict[Path, np.ndarray] = {}

    def batch(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See Views."""
        clips = [self._cropped(utterance.path, rng) for utterance in utterances]
        return pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])

    def states(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See Views."""
        mask = (torch.arange(inputs.shape[1]) < lengths[:, None]).long()
        states: Tensor = self._model(inputs, attention_mask=mask).last_hidden_state
        real = self._model._get_feature_vector_attention_mask(states.shape[1], mask, add_adapter=False)  # type: ignore[operator]
        return states, real.bool()

    def _cropped(self, path: Path, rng: np.random.Generator) -> Tensor:
        if path not in self._audio:
            self._audio[path] = read_audio(path)
        audio = self._audio[path]
        kept = int(len(audio) * rng.uniform(0.5, 0.9))
        start = int(rng.integers(max(1, len(audio) - kept + 1)))
        clip = torch.from_numpy(audio[start : start + kept])
        return (clip - clip.mean()) / (clip.var(correction=0) + 1e-7).sqrt()
