"""Asks a bundle about encoder states that are at hand already, in its own style: a frozen encoder need not hear a clip twice."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.bundle import Bundle
from model.predictor import Predictor, Sound
from model.request import LanguageModel
from model.types import Prediction

_AT_ONCE = 24


def from_states(bundle: Bundle, llm: LanguageModel, states: Sequence[Tensor], sounds: Sequence[Sound]) -> list[Prediction]:
    """Predictions for n utterances' states (T, D). Where a bundle writes the words first, the known ones are taken for written."""
    predictor, found = Predictor(bundle, llm), list[Prediction]()
    for first in range(0, len(states), _AT_ONCE):
        some, of_them = states[first : first + _AT_ONCE], sounds[first : first + _AT_ONCE]
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in some], batch_first=True)
        padded = pad_sequence(list(some), batch_first=True)
        found += predictor.judge(of_them, list(bundle.embeds_of(padded, mask)), bundle.distances(padded, mask))
    return found
