"""What the mapper is trained on: states of the frozen encoder for every example, kept on disk where that pays.

`NanoStates` and `FrameStates` give a sequence of states. `StatisticStates` gives one state a clip, of every clip in several views: a person
is unknown to the monitor at first and becomes known, and the mapper must do well with both, so each example's speaker is known to a degree
drawn anew: not at all, partly, or fully, with an error as large as voice references have.
B examples, D encoder width, L letters.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.audio import Float32, audio_length_s, read_audio
from model.bundle import Familiarity
from model.emotions import Emotion
from model.encoders import NanoEncoder
from model.errors import TrainingError
from model.speech_encoder import SpeechEncoder
from model.voice_reference import ReferenceSettings
from model.whisper_encoder import WhisperEncoder
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart, CorpusSplits, all_utterances
from train.learning.classifier import MIXED_CHANCE, ClassifierEnsemble, Mixup
from train.learning.examples import Example
from train.learning.views import Augmentation, Extract, FeatureStore, Rows, ViewStore
from train.learning.voice_model import ClipStates, LinearTeacher, Speaker, VoiceModel
from train.recipe import NormalisationRecipe, WhisperRecipe


@dataclass(frozen=True, slots=True)
class StateBatch:
    """states (B, T, D) and mask (B, T), True where real; letters (B, L): what the encoder's own classifier hears, if it has one.

    offsets (B, L): what the letters' log-probabilities are known to lack in each example, if anything; learned is what is left.
    """

    states: Tensor
    mask: Tensor
    letters: Tensor | None
    offsets: Tensor | None = None


class StateSource(Protocol):
    """A frozen encoder and where its input comes from."""

    encoder: SpeechEncoder

    def length(self, utterance: Utterance) -> float:
        """How long an utterance is, in any unit that is the same for all; examples of like length are put together."""

    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> StateBatch:
        """States of B examples, on the encoder's device. Raises FormatError for a file that cannot be read.

        mixup: where it is not 0, half of the time each example is blended with another (classifier.py), share from Beta(mixup, mixup). What
        is heard then has no label; only the encoder's classifiers can say what it is.
        """


class NanoStates:
    """nano's encoder over augmented views of stored features; a view is a function of the example's seed."""

    def __init__(self, store: FeatureStore, encoder: NanoEncoder, teacher: ClassifierEnsemble) -> None:
        self.encoder: SpeechEncoder = encoder
        self._nano, self._teacher, self._store = encoder, teacher, store

    def length(self, utterance: Utterance) -> float:
        """Feature frames."""
        return self._store.length(utterance)

    @torch.no_grad()
    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> StateBatch:
        """See Hearing."""
        views = [self._store.view(e.utterance, np.random.default_rng((e.seed, 2))) for e in examples]
        inputs, lengths = pad_sequence(views, batch_first=True), torch.tensor([len(view) for view in views])
        rng = np.random.default_rng([e.seed for e in examples])
        if mixup and rng.random() < MIXED_CHANCE:
            blend = Mixup.drawn(len(examples), mixup, rng)
            inputs, lengths = blend.blend(inputs), blend.longer(lengths)
        states, mask = self._nano.states(inputs, lengths)
        return StateBatch(states, mask, self._teacher.posterior(states, mask))


class FrameStates:
    """Any encoder over whole utterances as they are. With a folder, states are kept there in half precision and made once.

    Half precision halves the disk space; its rounding (1e-3 of a value) is far below what the encoder's layer norms pass on.
    """

    def __init__(self, encoder: SpeechEncoder, kept: Path | None, teacher: ClassifierEnsemble | None = None) -> None:
        self.encoder = encoder
        self._kept, self._teacher = kept, teacher

    def length(self, utterance: Utterance) -> float:
        """Seconds."""
        return _seconds(utterance.path)

    @torch.no_grad()
    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> StateBatch:
        """See Hearing. Utterances are heard as they are, so there is nothing to blend."""
        assert not mixup
        known = [self._stored(example.utterance) for example in examples]
        missing = [i for i, states in enumerate(known) if states is None]
        if missing:
            made, mask = self.encoder([torch.from_numpy(read_audio(examples[i].utterance.path)) for i in missing])
            for i, states, real in zip(missing, made, mask, strict=True):
                known[i] = self._keep(examples[i].utterance, states[real])
        rows = [states.float() for states in known if states is not None]
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        states = pad_sequence(rows, batch_first=True)
        letters = self._teacher.posterior(states, mask) if self._teacher is not None else None
        return StateBatch(states, mask, letters)

    def _stored(self, utterance: Utterance) -> Tensor | None:
        if self._kept is None:
            return None
        try:
            device = next(self.encoder.parameters()).device
            states: Tensor = load_file(self._place(utterance), device=str(device))["states"]
            return states
        except (FileNotFoundError, SafetensorError):
            return None

    def _keep(self, utterance: Utterance, states: Tensor) -> Tensor:
        """The states as the next call will find them: rounded from the first use on, so that a resumed run sees the same."""
        if self._kept is None:
            return states
        place = self._place(utterance)
        rounded = states.half().contiguous()
        # Several processes may make the same file; each writes its own and the last one in stays.
        unfinished = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            save_file({"states": rounded}, unfinished)
            unfinished.replace(place)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise TrainingError(
                f"the encoder's states cannot be kept in {self._kept} ({error}); free some room, or switch cache_states off,"
                " and run the same command again"
            ) from error
        return rounded

    def _place(self, utterance: Utterance) -> Path:
        assert self._kept is not None
        name = hashlib.sha256(f"{utterance.path.absolute()} {utterance.path.stat().st_size}".encode()).hexdigest()[:32]
        return self._kept / name[:2] / f"{name}.safetensors"


@cache
def _seconds(path: Path) -> float:
    return audio_length_s(path)


_STRANGERS, _KNOWN = 0.35, 0.3
"""Shares of examples whose speaker is not known at all, and fully; the rest is in between."""
_ERRORS = (0.0, 0.15, 0.3)
"""Of a reference, as parts of the standard deviation between speakers; one is drawn."""
_LEAST_SCALE = 1e-3
"""Added to the standard deviation of every channel: one that never changes must not divide by nothing."""


def statistic_store(recipe: WhisperRecipe, corpora: CorpusSplits, work: Path) -> ViewStore:
    """States of all views of all clips that are trained on, not standardised, computed now or found in `work`."""
    augmentation = Augmentation.of(recipe.speeds, recipe.rooms, recipe.room_share, corpora.noises)
    # The store's own name tells of the views, and the teacher changes no state.
    heard = recipe.model_copy(update={"speeds": (), "rooms": 0, "room_share": 0, "teacher_l2": 1.0})
    name = f"states-{hashlib.sha256(repr(heard).encode()).hexdigest()[:12]}"
    return ViewStore(work, name, all_utterances(corpora.train), augmentation, partial(_make_extract, recipe))


def _make_extract(recipe: WhisperRecipe) -> Extract:
    encoder = WhisperEncoder.of(recipe.source, recipe.settings)

    def extract(audio: Float32) -> Rows:
        return encoder([torch.from_numpy(audio)])[0][0].numpy().astype(np.float16)  # type: ignore[no-any-return]

    return extract


class StatisticStates:
    """A Hearing over a ViewStore: an encoder whose states are standardised on `parts`, a model of their voices, and a teacher."""

    def __init__(
        self,
        recipe: WhisperRecipe,
        store: ViewStore,
        parts: Sequence[CorpusPart],
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

    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> StateBatch:
        """See Hearing; (B, 1, D)."""
        rows = []
        for example in examples:
            rng = np.random.default_rng((example.seed, 2))
            rows.append(self._state(example.utterance, self._store.augmentation.draw(rng), rng))
        states = torch.stack(rows)
        rng = np.random.default_rng([example.seed for example in examples])
        if mixup and rng.random() < MIXED_CHANCE:
            states = Mixup.drawn(len(examples), mixup, rng).blend(states)
        return StateBatch(states[:, None], torch.ones(len(states), 1, dtype=torch.bool), self._teacher.posterior(states))

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

    def _clips(self, parts: Sequence[CorpusPart]) -> ClipStates:
        """Of all utterances; where a part has an answer, it goes before any label, as everywhere in training."""
        utterances = [(u, part) for part in parts for u in part.utterances]
        states = torch.stack([self._standardised(u) for u, _ in utterances])
        emotions = [u.emotion if part.answer is None else None for u, part in utterances]
        return ClipStates(states, emotions, [_speaker(u) for u, _ in utterances], [_is_neutral(part) for _, part in utterances])

    def _taught(self, parts: Sequence[CorpusPart], letters: Sequence[Emotion], l2: float, seed: int) -> LinearTeacher:
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
        return LinearTeacher.fit(torch.stack(states), torch.tensor(targets), torch.tensor(importance), l2)


def _speaker(utterance: Utterance) -> Speaker | None:
    return (utterance.corpus, utterance.speaker) if utterance.speaker else None


def _is_neutral(part: CorpusPart) -> bool:
    """Whether it is calm speech without a label."""
    return (part.answer or {}).get(Emotion.NEUTRAL, 0.0) > 0.5
