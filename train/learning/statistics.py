"""States of a frozen encoder that gives one state a clip, of every clip in several views, with voices known to any degree.

A person is a stranger at first and becomes known; the mapper must do well with both. So each example is heard as if its speaker were
known to a degree drawn anew: not at all, partly, or fully, with an error as large as such references have.
B examples, D encoder width, L letters.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.audio import Float32
from model.familiarity import Familiarity
from model.speech_encoder import SpeechEncoder
from model.types import Emotion
from model.voice_reference import ReferenceSettings
from model.whisper import WhisperEncoder
from train.corpora.manifest import Utterance
from train.corpora.splits import Corpora, Part, everyone
from train.learning.examples import Example
from train.learning.hearing import Heard
from train.learning.mixup import MIXED_CHANCE, Mixup
from train.learning.teacher import Teacher
from train.learning.views import Augmentation, Extract, Rows, ViewStore
from train.learning.voice_model import Clips, Speaker, VoiceModel
from train.recipe import NormalisationRecipe, WhisperRecipe

_STRANGERS, _KNOWN = 0.35, 0.3
"""Shares of examples whose speaker is not known at all, and fully; the rest is in between."""
_ERRORS = (0.0, 0.15, 0.3)
"""Of a reference, as parts of the standard deviation between speakers; one is drawn."""
_LEAST_SCALE = 1e-3
"""Added to the standard deviation of every channel: one that never changes must not divide by nothing."""


def statistics_store(recipe: WhisperRecipe, corpora: Corpora, work: Path) -> ViewStore:
    """States of all views of all clips that are trained on, not standardised, computed now or found in `work`."""
    augmentation = Augmentation.of(recipe.speeds, recipe.rooms, recipe.room_share, corpora.noises)
    # The store's own name tells of the views, and the teacher changes no state.
    heard = recipe.model_copy(update={"speeds": (), "rooms": 0, "room_share": 0, "teacher_l2": 1.0})
    name = f"states-{hashlib.sha256(repr(heard).encode()).hexdigest()[:12]}"
    return ViewStore(work, name, everyone(corpora.train), augmentation, partial(_make_extract, recipe))


def _make_extract(recipe: WhisperRecipe) -> Extract:
    encoder = WhisperEncoder.of(recipe.source, recipe.settings)

    def extract(audio: Float32) -> Rows:
        return encoder([torch.from_numpy(audio)])[0][0].numpy().astype(np.float16)  # type: ignore[no-any-return]

    return extract


class StatisticsHearing:
    """A Hearing over a ViewStore: an encoder whose states are standardised on `parts`, a model of their voices, and a teacher."""

    def __init__(
        self,
        recipe: WhisperRecipe,
        store: ViewStore,
        parts: Sequence[Part],
        letters: Sequence[Emotion],
        seed: int,
        normalisation: NormalisationRecipe | None,
    ) -> None:
        """parts: trained on, of what `store` holds. Without `normalisation` every speaker is a stranger, and nobody models voices.

        Raises BundleError for weights that cannot be loaded; TrainingError for too few voices to normalise.
        """
        encoder = WhisperEncoder.of(recipe.source, recipe.settings)
        self._store = store
        labelled = [u for part in parts for u in part.utterances if part.answer is None and u.emotion in letters]
        clean = torch.cat([store.rows(u) for u in labelled])
        encoder.standardise(clean.mean(dim=0), clean.std(dim=0) + _LEAST_SCALE)
        self.encoder: SpeechEncoder = encoder
        self._centre, self._scale = encoder.centre, encoder.scale
        self.voices: VoiceModel | None = None
        self._between = torch.zeros(encoder.width)
        self.reference_settings: ReferenceSettings | None = None
        if normalisation is not None:
            self.voices = VoiceModel.fit(self._clips(parts), letters)
            corpora = {u.corpus for u in labelled}
            acted = [offset for (corpus, _), offset in self.voices.speakers.items() if corpus in corpora]
            self._between = torch.stack(acted).std(dim=0)
            mean = np.zeros(encoder.width, np.float32)  # the encoder's states are standardised
            offsets, ratio = self.voices.emotion_offsets.numpy(), self.voices.ratio.numpy()
            self.reference_settings = ReferenceSettings(normalisation.prior_segments, mean, offsets, ratio)
        speech = [u for part in parts if part.answer is None or _is_neutral(part) for u in part.utterances]
        self.familiarity = Familiarity.fit(torch.stack([self._standardised(u) for u in speech]))
        self._teacher = self._taught(parts, letters, recipe.teacher_l2, seed)

    def length(self, utterance: Utterance) -> float:
        """Every clip is one state."""
        return 1.0

    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> Heard:
        """See Hearing; (B, 1, D)."""
        rows = []
        for example in examples:
            rng = np.random.default_rng((example.seed, 2))
            rows.append(self._state(example.utterance, self._store.augmentation.draw(rng), rng))
        states = torch.stack(rows)
        rng = np.random.default_rng([example.seed for example in examples])
        if mixup and rng.random() < MIXED_CHANCE:
            states = Mixup.drawn(len(examples), mixup, rng).blend(states)
        return Heard(states[:, None], torch.ones(len(states), 1, dtype=torch.bool), self._teacher.posterior(states))

    def _state(self, utterance: Utterance, view: int, rng: np.random.Generator) -> Tensor:
        """One standardised state (D,), its speaker known to a degree that is drawn."""
        state = self._standardised(utterance, view)
        speaker, drawn = _speaker(utterance), rng.random()
        offset = self.voices.speakers.get(speaker) if self.voices is not None and speaker is not None else None
        if offset is None or drawn < _STRANGERS:
            return state
        known = 1.0 if drawn < _STRANGERS + _KNOWN else float(rng.random())
        error = torch.from_numpy(rng.standard_normal(len(state)).astype(np.float32)) * self._between * float(rng.choice(_ERRORS))
        return state - known * offset + error

    def _standardised(self, utterance: Utterance, view: int = 0) -> Tensor:
        return (self._store.rows(utterance, view)[0] - self._centre) / self._scale

    def _clips(self, parts: Sequence[Part]) -> Clips:
        """Of all utterances; where a part has an answer, it goes before any label, as everywhere in training."""
        utterances = [(u, part) for part in parts for u in part.utterances]
        states = torch.stack([self._standardised(u) for u, _ in utterances])
        emotions = [u.emotion if part.answer is None else None for u, part in utterances]
        return Clips(states, emotions, [_speaker(u) for u, _ in utterances], [_is_neutral(part) for _, part in utterances])

    def _taught(self, parts: Sequence[Part], letters: Sequence[Emotion], l2: float, seed: int) -> Teacher:
        """Every corpus counts by its share, every letter in it the same; each view of each clip once, known to a degree."""
        rng = np.random.default_rng(seed)
        views = self._store.augmentation.count
        states, targets, importance = [], [], []
        for part in parts:
            soft = part.soft_answer(letters)
            chosen = [u for u in part.utterances if soft is not None or u.emotion in letters]
            counts = {letter: sum(u.emotion == letter for u in chosen) for letter in letters}
            occurring = sum(count > 0 for count in counts.values())
            for utterance in chosen:
                target = soft or [float(letter == utterance.emotion) for letter in letters]
                each = len(chosen) if soft is not None or utterance.emotion is None else counts[utterance.emotion] * occurring
                for view in range(views):
                    states.append(self._state(utterance, view, rng))
                    targets.append(target)
                    importance.append(part.share / each / views)
        return Teacher.fit(torch.stack(states), torch.tensor(targets), torch.tensor(importance), l2)


def _speaker(utterance: Utterance) -> Speaker | None:
    return (utterance.corpus, utterance.speaker) if utterance.speaker else None


def _is_neutral(part: Part) -> bool:
    """Whether it is calm speech without a label."""
    return (part.answer or {}).get(Emotion.NEUTRAL, 0.0) > 0.5
