"""A bundle as somebody who gets to know a person: it hears every clip once, and is asked about it again with other references.

D encoder width, T encoder states of a clip.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.audio import Float32
from model.bundle import Bundle
from model.encoder import SpeechEncoder
from model.errors import TrainingError
from model.predictor import Answered, Predictor, Sound, Style
from model.request import LanguageModel
from model.voice_reference import VoiceSums, shift_of


class SpeakerPredictor(Protocol):
    """Whatever answers about a person's clips with and without a reference of their voice."""

    def predict(self, sounds: Sequence[Sound], shift: Float32 | None = None) -> list[Answered]:
        """As Predictor.predict; every answer has its `sums`."""
        ...

    def shift_of(self, sums: VoiceSums | None) -> Float32:
        """What a reference of these sums subtracts from every state: (D,)."""
        ...

    def clear(self) -> None:
        """Another person follows; what is kept of this one's clips may go."""
        ...


class BundleSpeakerPredictor:
    """A bundle in a style. Raises TrainingError where it was trained without personal normalisation."""

    def __init__(self, bundle: Bundle, llm: LanguageModel, style: Style) -> None:
        if bundle.reference_settings is None:
            raise TrainingError(
                f"the bundle {bundle.manifest.version} was trained without personal normalisation: a person's speech changes none of its"
                " answers; leave --person-minutes out, or name a bundle with `normalisation` in its bundle.json"
            )
        self._settings = bundle.reference_settings
        self._encoder = CachingEncoder(bundle.encoder)
        self._predictor = Predictor(replace(bundle, encoder=self._encoder), llm, style)

    def predict(self, sounds: Sequence[Sound], shift: Float32 | None = None) -> list[Answered]:
        """See SpeakerPredictor."""
        return self._predictor.predict(sounds, shift)

    def shift_of(self, sums: VoiceSums | None) -> Float32:
        """See SpeakerPredictor."""
        return shift_of(sums, self._settings)

    def clear(self) -> None:
        """See SpeakerPredictor."""
        self._encoder.kept.clear()


class CachingEncoder(SpeechEncoder):
    """A frozen encoder that keeps, in half precision, the states of all it has heard, so that nothing is encoded twice.

    kept: states (T, D) by a hash of the sound. Clear it when they take too much room: about 100 KB a second of sound.
    """

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        self._encoder = encoder
        self.width = encoder.width
        self.kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See SpeechEncoder; states are rounded to half precision, whether they were kept or not."""
        keys = [hashlib.sha256(clip.numpy().tobytes()).digest() for clip in audio]
        new = {key: clip for key, clip in zip(keys, audio, strict=True) if key not in self.kept}
        if new:
            states, mask = self._encoder(list(new.values()))
            self.kept |= {key: row[real].half().cpu() for key, row, real in zip(new, states, mask, strict=True)}
        rows = [self.kept[key].float() for key in keys]
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        return pad_sequence(rows, batch_first=True), mask
