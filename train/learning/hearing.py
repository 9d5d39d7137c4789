"""What the mapper is trained on: states of the frozen encoder, of sound as it is or of augmented views, kept on disk where that pays.

B examples, T encoder frames, D encoder width, L letters.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.audio import audio_length_s, read_audio
from model.encoder import NanoEncoder, SpeechEncoder
from model.errors import TrainingError
from train.corpora.manifest import Utterance
from train.learning.classifier import Ensemble
from train.learning.examples import Example
from train.learning.features import FeatureStore
from train.learning.mixup import MIXED_CHANCE, Mixup


@dataclass(frozen=True, slots=True)
class Heard:
    """states (B, T, D) and mask (B, T), True where real; letters (B, L): what the encoder's own classifier hears, if it has one.

    offsets (B, L): what the letters' log-probabilities are known to lack in each example, if anything; learned is what is left.
    """

    states: Tensor
    mask: Tensor
    letters: Tensor | None
    offsets: Tensor | None = None


class Hearing(Protocol):
    """A frozen encoder and where its input comes from."""

    encoder: SpeechEncoder

    def length(self, utterance: Utterance) -> float:
        """How long an utterance is, in any unit that is the same for all; examples of like length are put together."""

    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> Heard:
        """States of B examples, on the encoder's device. Raises FormatError for a file that cannot be read.

        mixup: where it is not 0, half of the time each example is blended with another (mixup.py), share from Beta(mixup, mixup). What is
        heard then has no label; only the encoder's classifiers can say what it is.
        """


class NanoHearing:
    """nano's encoder over augmented views of stored features; a view is a function of the example's seed."""

    def __init__(self, store: FeatureStore, encoder: NanoEncoder, teacher: Ensemble) -> None:
        self.encoder: SpeechEncoder = encoder
        self._nano, self._teacher, self._store = encoder, teacher, store

    def length(self, utterance: Utterance) -> float:
        """Feature frames."""
        return self._store.length(utterance)

    @torch.no_grad()
    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> Heard:
        """See Hearing."""
        views = [self._store.view(e.utterance, np.random.default_rng((e.seed, 2))) for e in examples]
        inputs, lengths = pad_sequence(views, batch_first=True), torch.tensor([len(view) for view in views])
        rng = np.random.default_rng([e.seed for e in examples])
        if mixup and rng.random() < MIXED_CHANCE:
            blend = Mixup.drawn(len(examples), mixup, rng)
            inputs, lengths = blend.blend(inputs), blend.longer(lengths)
        states, mask = self._nano.states(inputs, lengths)
        return Heard(states, mask, self._teacher.posterior(states, mask))


class WholeHearing:
    """Any encoder over whole utterances as they are. With a folder, states are kept there in half precision and made once.

    Half precision halves the disk space; its rounding (1e-3 of a value) is far below what the encoder's layer norms pass on.
    """

    def __init__(self, encoder: SpeechEncoder, kept: Path | None, teacher: Ensemble | None = None) -> None:
        self.encoder = encoder
        self._kept, self._teacher = kept, teacher

    def length(self, utterance: Utterance) -> float:
        """Seconds."""
        return _seconds(utterance.path)

    @torch.no_grad()
    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> Heard:
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
        return Heard(states, mask, letters)

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
