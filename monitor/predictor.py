"""Sound of segments in, predictions out: encoder and mapper of the bundle, then the engine, in batches.

B batch, N samples. Padding costs time, so segments of like length are encoded together; the answers come back in the order asked.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.audio import Int16, pcm16_to_float
from model.bundle import Bundle
from model.types import Prediction
from monitor.engine import Engine

# Sound encoded at once, 40 s: beyond it a batch only costs memory.
_MAX_BATCH_SAMPLES = 640_000


class Predictor:
    """One bundle and the engine that holds its language model."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle = bundle
        self._engine = engine

    def predict(self, sounds: Sequence[Int16]) -> list[Prediction]:
        """B segments of int16 (N,) at SAMPLE_RATE to B predictions. Raises EngineError."""
        if not sounds:
            return []
        audio = [torch.from_numpy(pcm16_to_float(pcm)) for pcm in sounds]
        embeds: list[Tensor | None] = [None] * len(audio)
        for group in length_groups([len(clip) for clip in audio], _MAX_BATCH_SAMPLES):
            for place, embed in zip(group, self._bundle.speech_embeds([audio[i] for i in group]), strict=True):
                embeds[place] = embed
        answers = self._engine.log_probs(torch.stack([embed for embed in embeds if embed is not None]))
        return [self._bundle.prediction(answer) for answer in answers]


def length_groups(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Places of `lengths`, shortest first, in groups whose padded size (longest x count) is at most `limit`, or single."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and lengths[place] * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
