"""Makes a night's training set: the person's segments and the rehearsal clips as utterances for the one training loop, with targets.

n segments, L letters, T encoder states of a segment, D encoder width.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.audio import Float32, pcm16_to_float
from model.bundle import Bundle
from model.evidence import Evidence
from model.paralinguistics import Measured, measure
from model.predictor import Sound
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.learning.hearing import Hearing
from train.learning.voices import Voices
from train.nightly.hearing import Heardable, NightHearing, encoded, views_of
from train.nightly.settings import NightSettings
from train.public_set import PublicClip
from train.scoring.metrics import Floats

_SHARE_UNIT = 1000
_FLOOR = 1e-9
_NO_AUDIO = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class OwnSegment:
    """One of the person's segments. views: encoder states (T, D) of each, as it was first. distance: of that one to training speech, see
    Bundle.distances. sound: what is known beside its audio."""

    evidence: Evidence
    views: Sequence[Tensor]
    distance: float
    sound: Sound


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What the training loop takes. voices: where the bundle wants them described."""

    parts: Sequence[Part]
    hearing: Hearing
    voices: Voices | None


def encode_own(bundle: Bundle, pieces: Sequence[Evidence], views: int, shift: Float32 | None) -> list[OwnSegment]:
    """Hear each of the person's segments as often as wanted. shift (D,): what of the person's voice is subtracted from states, if any."""
    taken = torch.from_numpy(shift) if shift is not None else torch.zeros(())
    found = []
    for one in pieces:
        states = encoded(bundle.encoder, views_of(one.pcm, views, np.random.default_rng(one.segment)))
        measured = measure(pcm16_to_float(one.pcm)) if bundle.manifest.features is not None else None
        rows = [row - taken for row in states]
        found.append(OwnSegment(one, rows, _distance(bundle, rows[0]), Sound(_NO_AUDIO, measured=measured)))
    return found


def training_set(
    bundle: Bundle,
    own: Sequence[OwnSegment],
    targets: Floats,
    offsets: Floats,
    transcripts: Sequence[str | None],
    public: Sequence[PublicClip],
    settings: NightSettings,
) -> TrainingSet:
    """own: what is learned from. targets, offsets (n, L): what is to be answered, see Heardable. transcripts: what the bundle writes.

    What learns answers before its distance to training speech blurs it. So targets that were blurred by a clip's distance are sharpened.
    """
    known: dict[Path, Heardable] = {}
    utterances: list[tuple[Utterance, float]] = []
    for one, target, offset, transcript in zip(own, _tensors(targets), _tensors(offsets), transcripts, strict=True):
        utterance = _utterance(f"own/{one.evidence.segment}", one.evidence.emotion, transcript)
        known[utterance.path] = Heardable(one.views, target, offset)
        utterances.append((utterance, one.evidence.weight))
    rehearsed = [clip for clip in public if clip.rehearsed]
    named = [_utterance(f"public/{i}", clip.emotion, clip.sound.transcript) for i, clip in enumerate(rehearsed)]
    none = torch.zeros(len(bundle.manifest.letters))
    for utterance, clip in zip(named, rehearsed, strict=True):
        sharp = (clip.posterior.clamp(min=_FLOOR).log() * _distance(bundle, clip.states)).softmax(dim=0)
        known[utterance.path] = Heardable([clip.states], sharp, none)
    parts = [*_own_parts(utterances, settings.own_share), *_public_parts(named, 1 - settings.own_share)]
    return TrainingSet(parts, NightHearing(bundle.encoder, known), _voices(bundle, own, rehearsed, named))


def _distance(bundle: Bundle, states: Tensor) -> float:
    return bundle.distances(states[None], torch.ones(1, len(states), dtype=torch.bool))[0]


def _tensors(rows: Floats) -> list[Tensor]:
    return list(torch.from_numpy(rows).float())


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


def _voices(bundle: Bundle, own: Sequence[OwnSegment], public: Sequence[PublicClip], named: Sequence[Utterance]) -> Voices | None:
    if bundle.manifest.features is None:
        return None
    measured: dict[Path, Measured] = {Path(f"own/{one.evidence.segment}"): one.sound.measured for one in own if one.sound.measured}
    measured |= {u.path: clip.sound.measured for u, clip in zip(named, public, strict=True) if clip.sound.measured}
    return Voices(measured, bundle.manifest.features)


def _utterance(name: str, emotion: Emotion | None, transcript: str | None) -> Utterance:
    return Utterance(Path(name), "night", "", None, emotion, transcript, None, None, "")
