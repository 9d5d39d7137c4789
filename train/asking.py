"""Asks a bundle about encoder states that are at hand already, in its own style: a frozen encoder need not hear a clip twice."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.bundle import Bundle
from model.predictor import Answered, Predictor, Sound
from model.request import LanguageModel
from model.types import Prediction

_AT_ONCE = 24


def from_states(bundle: Bundle, llm: LanguageModel, states: Sequence[Tensor], sounds: Sequence[Sound]) -> list[Prediction]:
    """Predictions for n utterances' states (T, D), the reference of the voice, if any, subtracted.

    Where a bundle writes the words first, the known ones are taken for written.
    """
    predictor = Predictor(bundle, llm)
    return [one for some in _embedded(bundle, states, sounds) for one in predictor.judge(*some)]


def answers_from_states(bundle: Bundle, llm: LanguageModel, states: Sequence[Tensor], sounds: Sequence[Sound]) -> list[Answered]:
    """As `from_states`, but a bundle that writes the words first writes them; the sounds' audio is not looked at."""
    predictor = Predictor(bundle, llm)
    return [one for some in _embedded(bundle, states, sounds) for one in predictor.answer(*some)]


def _embedded(
    bundle: Bundle, states: Sequence[Tensor], sounds: Sequence[Sound]
) -> Iterator[tuple[Sequence[Sound], list[Tensor], list[float]]]:
    """Some of the sounds at a time, with their speech embeds (Q, H) and their distances to training speech."""
    for first in range(0, len(states), _AT_ONCE):
        some = list(states[first : first + _AT_ONCE])
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in some], batch_first=True)
        padded = pad_sequence(some, batch_first=True)
        yield sounds[first : first + _AT_ONCE], list(bundle.embeds_of(padded, mask)), bundle.distances(padded, mask)
