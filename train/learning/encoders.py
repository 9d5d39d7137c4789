"""Encoders that start from random weights: nano's own, and small ones of the architectures that the paper compares (A.5).

B batch, F feature frames, N samples, T encoder frames, D encoder width.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model, WavLMConfig, WavLMModel

from model.audio import read_audio
from model.encoder import NanoEncoder, SpeechEncoder, TransformersEncoder
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Corpora, Part, content_hash, everyone
from train.learning.classifier import Classifier, Ensemble, Sampler, Views, train_classifier
from train.learning.features import FeatureStore
from train.learning.hearing import Hearing, NanoHearing, WholeHearing
from train.learning.views import Augmentation
from train.recipe import EncoderTraining

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


def trained_hearing(
    recipe: EncoderTraining, corpora: Corpora, parts: Sequence[Part], letters: Sequence[Emotion], work: Path, seed: int
) -> Hearing:
    """A frozen encoder trained on `parts` as classifiers, one a branch, or taken from `work` where an earlier run left them.

    corpora: of which `parts` is all that is trained on, or a fold's rest; features are computed once for both.
    """
    heard = [(noise.name, noise.second_half, [path.name for path in noise.paths]) for noise in corpora.noises]
    key = hashlib.sha256(repr((recipe, list(letters), seed, heard, content_hash(parts))).encode()).hexdigest()[:16]
    store = feature_store(recipe, corpora, work) if recipe.kind == "nano" else None
    members = [
        _member(recipe, store, parts, letters, seed * recipe.branches + branch, work / f"encoder-{recipe.kind}-{key}-{branch}.safetensors")
        for branch in range(recipe.branches)
    ]
    teacher = Ensemble(members).eval().requires_grad_(False)
    if store is None:
        return WholeHearing(members[0].encoder, work / f"states-{key}", teacher)
    branches = [member.encoder for member in members]
    encoder = NanoEncoder.of([branch for branch in branches if isinstance(branch, NanoEncoder)])
    encoder.freeze()
    return NanoHearing(store, encoder, teacher)


def _member(
    recipe: EncoderTraining, store: FeatureStore | None, parts: Sequence[Part], letters: Sequence[Emotion], seed: int, kept: Path
) -> Classifier:
    """One encoder with its classifier, trained now or found at `kept`."""
    encoder = fresh_encoder(recipe, seed)
    if kept.exists():
        member = Classifier(encoder, len(letters), recipe.dropout)
        member.load_state_dict(load_file(kept))
        member.encoder.freeze()
        return member
    views: Views = _NanoViews(encoder, store) if isinstance(encoder, NanoEncoder) and store is not None else _WholeViews(encoder)
    member = train_classifier(encoder, views, Sampler(views, parts, letters, seed), len(letters), recipe)
    unfinished = kept.with_suffix(".unfinished")
    save_file(member.state_dict(), unfinished)
    unfinished.rename(kept)
    return member


def feature_store(recipe: EncoderTraining, corpora: Corpora, work: Path) -> FeatureStore:
    """All views of all clips that are trained on, computed now or found in `work`."""
    augmentation = Augmentation.of(recipe.speeds, recipe.rooms, recipe.room_share, corpora.noises)
    return FeatureStore(work, everyone(corpora.train), augmentation)


def fresh_encoder(recipe: EncoderTraining, seed: int, branches: int = 1) -> SpeechEncoder:
    """An encoder of the recipe's kind with random weights; branches: of nano's."""
    torch.manual_seed(seed)
    if recipe.kind == "nano":
        return NanoEncoder(branches, recipe.channels, recipe.width)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    model = WavLMModel(WavLMConfig(**_SMALL)) if recipe.kind == "wavlm" else Wav2Vec2Model(Wav2Vec2Config(**_SMALL))
    return TransformersEncoder(model, extractor)


class _NanoViews:
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


class _WholeViews:
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
