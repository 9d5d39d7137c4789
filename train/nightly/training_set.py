"""What a nightly retraining learns from: its settings (night.toml), the labels' folds by time, and the training set.

Labels are divided by time into parts. Every label is held out once, and every fold learns from nearly all the others (cross-validation), so
that few labels suffice to show a gain; parts are ranges of time, so that what is held out was not said in the same minute as what was
learned. The person's segments come in several views and stay in memory, because their audio is never written to disk. Clips of the
rehearsal set are mixed in. n segments, L letters, T encoder states of a segment, D encoder width.
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import soxr
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.audio import SAMPLE_RATE, Float32, Int16, pcm16_to_float
from model.bundle import Bundle
from model.bundle_format import LabelCounts
from model.emotions import Emotion
from model.labelled_segment import LabelKind, LabelledSegment
from model.paralinguistics import VoiceMeasurement, measure_voice
from model.predictor import SpeechInput
from model.speech_encoder import SpeechEncoder
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart
from train.evaluation.metrics import Floats
from train.learning.encoder_states import StateBatch, StateSource
from train.learning.examples import Example, VoiceLevels
from train.recipe import Count, LoopRecipe, PhaseRecipe, Share
from train.rehearsal_set import RehearsalClip

_SETTINGS_FILE = Path(__file__).parent / "night.toml"


class NightlySettings(BaseModel):
    """See night.toml, which has a line on each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: Annotated[int, Field(ge=2)]
    least_labels: Count
    least_corrections: Annotated[int, Field(ge=0)]
    bias_spread: Annotated[float, Field(gt=0)]
    stopping: Annotated[float, Field(gt=0, lt=1)]
    own_share: Annotated[float, Field(gt=0, lt=1)]
    smoothing: Share
    views: Count
    patience: Count
    way: Annotated[float, Field(gt=0, le=1)]
    loop: LoopRecipe
    phase: PhaseRecipe

    @classmethod
    def load(cls) -> Self:
        """As shipped."""
        return cls.model_validate(tomllib.loads(_SETTINGS_FILE.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class LabelFold:
    """trained: with check-ins, but those from among what is held out. stopping, held_out: labels only, oldest first."""

    trained: list[LabelledSegment]
    stopping: list[LabelledSegment]
    held_out: list[LabelledSegment]


@dataclass(frozen=True, slots=True)
class LabelFolds:
    """everything: what is learned from in the end. left_out: pieces that cannot be used, by reason."""

    everything: list[LabelledSegment]
    folds: list[LabelFold]
    left_out: dict[str, int]

    @property
    def held_out(self) -> list[LabelledSegment]:
        """All labels, oldest first."""
        return [one for fold in self.folds for one in fold.held_out]

    @property
    def learned(self) -> LabelCounts:
        """In counts."""
        kinds = Counter(one.kind for one in self.everything)
        return LabelCounts(
            corrections=kinds[LabelKind.CORRECTION],
            confirmations=kinds[LabelKind.CONFIRMATION],
            checkins=kinds[LabelKind.CHECKIN],
            trained=len(self.everything),
            held_out=len(self.held_out),
            left_out=self.left_out,
        )

    def lacking(self, settings: NightlySettings) -> str:
        """Why nothing can be learned from this; empty where it can."""
        labels = self.held_out
        if len(labels) < settings.least_labels:
            return f"{len(labels)} corrections and confirmations are too few; at least {settings.least_labels} are needed"
        corrections = [one for one in labels if one.kind is LabelKind.CORRECTION]
        if len(corrections) < settings.least_corrections:
            return f"only {len(corrections)} labels are corrections; fewer than {settings.least_corrections} cannot tell luck from skill"
        if len({one.emotion for one in corrections}) < 2:
            return "all corrections name the same emotion; nothing can be learned from one emotion but to say it always"
        return ""


def divide_labels(pieces: Iterable[LabelledSegment], letters: Sequence[Emotion], settings: NightlySettings) -> LabelFolds:
    """Labels in order of time, in as many parts of equal size as there are folds."""
    usable, left_out = list[LabelledSegment](), Counter[str]()
    for one in pieces:
        if one.emotion in letters:
            usable.append(one)
        else:
            left_out[f"the bundle cannot answer {one.emotion.word}"] += 1
    usable.sort(key=lambda one: (one.at, one.segment))
    labels = [one for one in usable if one.kind is not LabelKind.CHECKIN]
    checkins = [one for one in usable if one.kind is LabelKind.CHECKIN]
    edges = [round(len(labels) * part / settings.folds) for part in range(settings.folds + 1)]
    folds = [_fold(labels, checkins, start, end, settings.stopping) for start, end in pairwise(edges)]
    return LabelFolds(usable, folds, dict(left_out))


def _fold(labels: Sequence[LabelledSegment], checkins: Sequence[LabelledSegment], start: int, end: int, stopping: float) -> LabelFold:
    held_out, others = list(labels[start:end]), [*labels[:start], *labels[end:]]
    kept = len(others) - ceil(stopping * len(others))
    apart = [one for one in checkins if not held_out or not held_out[0].at <= one.at <= held_out[-1].at]
    return LabelFold([*others[:kept], *apart], others[kept:], held_out)


_SPEEDS = (0.92, 1.08)
_KEPT = (0.7, 1.0)
_NOISE_DB = (15.0, 30.0)
_LEAST_SAMPLES = SAMPLE_RATE // 2
_AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUtterance:
    """One utterance to be learned from. views: states (T, D) of each. target (L,): what is to be answered, a distribution.

    offset (L,): see Heard.
    """

    views: Sequence[Tensor]
    target: Tensor
    offset: Tensor


class NightlyStates:
    """Hands out what was encoded beforehand, by the utterance's path, which is a name and no file."""

    def __init__(self, encoder: SpeechEncoder, known: Mapping[Path, EncodedUtterance]) -> None:
        self.encoder = encoder
        self._known = known

    def length(self, utterance: Utterance) -> float:
        """Encoder states."""
        return len(self._known[utterance.path].views[0])

    def hear(self, examples: Sequence[Example], mixup: float = 0.0) -> StateBatch:
        """See Hearing; which view is the example's seed's to say. Nothing is blended."""
        assert not mixup
        found = [self._known[example.utterance.path] for example in examples]
        rows = [one.views[example.seed % len(one.views)] for one, example in zip(found, examples, strict=True)]
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        targets, offsets = (torch.stack(parts) for parts in ([one.target for one in found], [one.offset for one in found]))
        return StateBatch(pad_sequence(rows, batch_first=True), mask, targets, offsets)


def augmented_views(pcm: Int16, count: int, rng: np.random.Generator) -> list[Float32]:
    """A segment (N,) as it was, and count - 1 times a little faster or slower, cut shorter, in a little noise."""
    audio = pcm16_to_float(pcm)
    return [audio, *(_augmented_view(audio, rng) for _ in range(count - 1))]


@torch.no_grad()
def encode_clips(encoder: SpeechEncoder, clips: Sequence[Float32]) -> list[Tensor]:
    """States (T, D) of each clip (N,)."""
    found: list[Tensor] = []
    for first in range(0, len(clips), _AT_ONCE):
        states, mask = encoder([torch.from_numpy(clip) for clip in clips[first : first + _AT_ONCE]])
        found += [row[real].cpu() for row, real in zip(states, mask, strict=True)]
    return found


def _augmented_view(audio: Float32, rng: np.random.Generator) -> Float32:
    played = np.asarray(soxr.resample(audio, SAMPLE_RATE * rng.uniform(*_SPEEDS), SAMPLE_RATE), dtype=np.float32)
    kept = min(len(played), max(_LEAST_SAMPLES, int(len(played) * rng.uniform(*_KEPT))))
    start = int(rng.integers(len(played) - kept + 1))
    piece = played[start : start + kept]
    level = float(np.sqrt(np.mean(np.square(piece)))) * 10 ** (-rng.uniform(*_NOISE_DB) / 20)
    return np.asarray(piece + rng.normal(scale=max(level, 1e-6), size=len(piece)), dtype=np.float32)


_SHARE_UNIT = 1000
_FLOOR = 1e-9
_NO_AUDIO = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSegment:
    """One of the person's segments. views: encoder states (T, D) of each, as it was first. distance: of that one to training speech, see
    Bundle.distances. sound: what is known beside its audio."""

    evidence: LabelledSegment
    views: Sequence[Tensor]
    distance: float
    sound: SpeechInput


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What the training loop takes. voices: where the bundle wants them described."""

    parts: Sequence[CorpusPart]
    hearing: StateSource
    voices: VoiceLevels | None


def encode_segments(bundle: Bundle, pieces: Sequence[LabelledSegment], views: int, shift: Float32 | None) -> list[EncodedSegment]:
    """Hear each of the person's segments as often as wanted. shift (D,): what of the person's voice is subtracted from states, if any."""
    taken = torch.from_numpy(shift) if shift is not None else torch.zeros(())
    found = []
    for one in pieces:
        states = encode_clips(bundle.encoder, augmented_views(one.pcm, views, np.random.default_rng(one.segment)))
        measured = measure_voice(pcm16_to_float(one.pcm)) if bundle.manifest.features is not None else None
        rows = [row - taken for row in states]
        found.append(EncodedSegment(one, rows, _distance(bundle, rows[0]), SpeechInput(_NO_AUDIO, measured=measured)))
    return found


def build_training_set(
    bundle: Bundle,
    own: Sequence[EncodedSegment],
    targets: Floats,
    offsets: Floats,
    transcripts: Sequence[str | None],
    public: Sequence[RehearsalClip],
    settings: NightlySettings,
) -> TrainingSet:
    """own: what is learned from. targets, offsets (n, L): what is to be answered, see Heardable. transcripts: what the bundle writes.

    What learns answers before its distance to training speech blurs it. So targets that were blurred by a clip's distance are sharpened.
    """
    known: dict[Path, EncodedUtterance] = {}
    utterances: list[tuple[Utterance, float]] = []
    for one, target, offset, transcript in zip(own, _tensors(targets), _tensors(offsets), transcripts, strict=True):
        utterance = _utterance(f"own/{one.evidence.segment}", one.evidence.emotion, transcript)
        known[utterance.path] = EncodedUtterance(one.views, target, offset)
        utterances.append((utterance, one.evidence.weight))
    rehearsed = [clip for clip in public if clip.rehearsed]
    named = [_utterance(f"public/{i}", clip.emotion, clip.sound.transcript) for i, clip in enumerate(rehearsed)]
    none = torch.zeros(len(bundle.manifest.letters))
    for utterance, clip in zip(named, rehearsed, strict=True):
        sharp = (clip.posterior.clamp(min=_FLOOR).log() * _distance(bundle, clip.states)).softmax(dim=0)
        known[utterance.path] = EncodedUtterance([clip.states], sharp, none)
    parts = [*_personal_parts(utterances, settings.own_share), *_rehearsal_parts(named, 1 - settings.own_share)]
    return TrainingSet(parts, NightlyStates(bundle.encoder, known), _voices(bundle, own, rehearsed, named))


def _distance(bundle: Bundle, states: Tensor) -> float:
    return bundle.distances(states[None], torch.ones(1, len(states), dtype=torch.bool))[0]


def _tensors(rows: Floats) -> list[Tensor]:
    return list(torch.from_numpy(rows).float())


def _personal_parts(utterances: Sequence[tuple[Utterance, float]], share: float) -> Iterator[CorpusPart]:
    """A part for each emotion and weight, drawn as often as all its segments weigh: one rare label does not fill the batches."""
    groups: defaultdict[tuple[Emotion | None, float], list[Utterance]] = defaultdict(list)
    for utterance, weight in utterances:
        groups[utterance.emotion, weight].append(utterance)
    total = sum(weight for _, weight in utterances)
    for (_, weight), group in groups.items():
        yield CorpusPart("own", max(1, round(_SHARE_UNIT * share * weight * len(group) / total)), group)


def _rehearsal_parts(utterances: Sequence[Utterance], share: float) -> Iterator[CorpusPart]:
    """Speech evenly over emotions, and sounds that are none as often as they occur."""
    speech = [u for u in utterances if u.emotion is not None]
    rest = [u for u in utterances if u.emotion is None]
    for group, answer in ((speech, None), (rest, {})):
        if group:
            yield CorpusPart("public", max(1, round(_SHARE_UNIT * share * len(group) / len(utterances))), group, answer)


def _voices(
    bundle: Bundle, own: Sequence[EncodedSegment], public: Sequence[RehearsalClip], named: Sequence[Utterance]
) -> VoiceLevels | None:
    if bundle.manifest.features is None:
        return None
    measured: dict[Path, VoiceMeasurement] = {Path(f"own/{one.evidence.segment}"): one.sound.measured for one in own if one.sound.measured}
    measured |= {u.path: clip.sound.measured for u, clip in zip(named, public, strict=True) if clip.sound.measured}
    return VoiceLevels(measured, bundle.manifest.features)


def _utterance(name: str, emotion: Emotion | None, transcript: str | None) -> Utterance:
    return Utterance(Path(name), "night", "", None, emotion, transcript, None, None, "")
