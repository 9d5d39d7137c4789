"""Makes a night's lesson: the person's segments and the public clips as utterances for the one training loop, with what is to be answered.

L letters.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.audio import pcm16_to_float
from model.bundle import Bundle
from model.evidence import Evidence
from model.paralinguistics import Measured, measure
from model.predictor import Answered
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.learning.hearing import Hearing
from train.learning.voices import Voices
from train.nightly.hearing import Heardable, NightHearing, encoded, views_of
from train.nightly.settings import NightSettings
from train.public_set import PublicClip

_SHARE_UNIT = 1000


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the training loop takes. voices: where the bundle wants them described."""

    parts: Sequence[Part]
    hearing: Hearing
    voices: Voices | None


def lesson_of(
    bundle: Bundle, own: Sequence[Evidence], answers: Sequence[Answered], public: Sequence[PublicClip], settings: NightSettings
) -> Lesson:
    """own: what is learned from; answers: what the bundle in use says of it, of which a label leaves `smoothing`."""
    letters = bundle.manifest.letters
    known: dict[Path, Heardable] = {}
    utterances: list[tuple[Utterance, float]] = []
    for one, answer in zip(own, answers, strict=True):
        utterance = _utterance(f"own/{one.segment}", one.emotion, answer.transcript)
        rng = np.random.default_rng(one.segment)
        states = encoded(bundle.encoder, views_of(one.pcm, settings.views, rng))
        known[utterance.path] = Heardable(states, _target(one.emotion, answer, letters, settings.smoothing))
        utterances.append((utterance, one.weight))
    rehearsed = [clip for clip in public if clip.rehearsed]
    named = [_utterance(f"public/{i}", clip.emotion, clip.sound.transcript) for i, clip in enumerate(rehearsed)]
    known |= {u.path: Heardable([clip.states], clip.posterior) for u, clip in zip(named, rehearsed, strict=True)}
    parts = [*_own_parts(utterances, settings.own_share), *_public_parts(named, 1 - settings.own_share)]
    return Lesson(parts, NightHearing(bundle.encoder, known), _voices(bundle, own, rehearsed, named))


def _own_parts(utterances: Sequence[tuple[Utterance, float]], share: float) -> Iterator[Part]:
    """A part for each emotion and weight, drawn as often as all its segments weigh: one rare label does not fill the batches."""
    groups: defaultdict[tuple[Emotion | None, float], list[Utterance]] = defaultdict(list)
    for utterance, weight in utterances:
        groups[utterance.emotion, weight].append(utterance)
    total = sum(weight for _, weight in utterances)
    for (_, weight), group in groups.items():
        yield Part("own", max(1, round(_SHARE_UNIT * share * weight * len(group) / total)), group)


def _public_parts(utterances: Sequence[Utterance], share: float) -> Iterator[Part]:
    """Speech evenly over emotions, and sounds that are none as often as they occur."""
    speech = [u for u in utterances if u.emotion is not None]
    rest = [u for u in utterances if u.emotion is None]
    for group, answer in ((speech, None), (rest, {})):
        if group:
            yield Part("public", max(1, round(_SHARE_UNIT * share * len(group) / len(utterances))), group, answer)


def _target(emotion: Emotion, answer: Answered, letters: Sequence[Emotion], smoothing: float) -> Tensor:
    label = torch.tensor([float(letter == emotion) for letter in letters])
    if answer.prediction is None:
        return label
    before = torch.tensor([answer.prediction.posterior[letter] for letter in letters], dtype=torch.float32)
    return (1 - smoothing) * label + smoothing * before


def _voices(bundle: Bundle, own: Sequence[Evidence], public: Sequence[PublicClip], named: Sequence[Utterance]) -> Voices | None:
    if bundle.manifest.features is None:
        return None
    measured: dict[Path, Measured] = {Path(f"own/{one.segment}"): measure(pcm16_to_float(one.pcm)) for one in own}
    measured |= {u.path: clip.sound.measured for u, clip in zip(named, public, strict=True) if clip.sound.measured}
    return Voices(measured, bundle.manifest.features)


def _utterance(name: str, emotion: Emotion | None, transcript: str | None) -> Utterance:
    return Utterance(Path(name), "night", "", None, emotion, transcript, None, None, "")
