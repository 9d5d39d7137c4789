"""Labels to learn from: what the person said of segments whose audio was kept, and how they felt near others.

Gathers them from the timeline, says what could not be used and why, sends them segment by segment to a training, and tells later whether
they still hold. Audio is read where it is sent, one segment at a time, and goes nowhere else.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

import numpy as np

from model.audio import s_to_samples
from model.emotions import Emotion
from model.errors import EmosllmError
from model.labelled_segment import HeardWith, LabelKind, LabelledSegment, write_labelled_segments
from monitor.analysis.agreement import CHECKIN_WINDOW
from monitor.analysis.days import EARLIEST, LATEST
from monitor.config import Config, TimelineConfig
from monitor.storage.reader import AudioReader, TimelineReader
from monitor.storage.records import CheckIn, SegmentRecord

MIN_LABEL_S = 0.5
"""Nothing is learned from less sound."""

MAX_LABELS = 2000
"""The newest count: more would take more than a night, and say little more."""

MAX_NEAR_CHECKIN = 5
"""Of the speech around a check-in, what is nearest to its moment."""

NO_AUDIO_REASON = "no sound of it was kept"
NO_SUCH_LETTER_REASON = "the model cannot answer that emotion"
NOT_PREDICTED_REASON = "it was not judged"
TOO_SHORT_REASON = f"it is shorter than {MIN_LABEL_S} s"
TOO_MANY_REASON = f"more than the newest {MAX_LABELS} are not looked at"
NO_SPEECH_NEAR_REASON = "a check-in without kept speech near it that you have not named yourself"

LABELS_CHANGED_REASON = "something it learned from was erased, or said otherwise, meanwhile"


class LabelsOutdated(EmosllmError):
    """What is learned from does not hold any more: it was erased, taken back or said otherwise."""


@dataclass(frozen=True, slots=True)
class SegmentLabel:
    """A segment and what is known of it, without its sound.

    said: the correction's number, or the check-in's; said_at: its moment. The other fields are those of Evidence.
    """

    segment: int
    start_at: datetime
    end_at: datetime
    emotion: Emotion
    kind: LabelKind
    shown: Emotion
    weight: float
    said: int
    said_at: datetime


@dataclass(frozen=True, slots=True)
class LabelSet:
    """pieces: by when they were spoken. left_out: how many could not be used, by reason; of labels, and of check-ins."""

    pieces: tuple[SegmentLabel, ...]
    left_out: Mapping[str, int]

    @property
    def labels(self) -> tuple[SegmentLabel, ...]:
        """Those that the person said something of: corrections and confirmations."""
        return tuple(piece for piece in self.pieces if piece.kind is not LabelKind.CHECKIN)

    def count(self, kind: LabelKind) -> int:
        """How many there are of a kind."""
        return sum(piece.kind is kind for piece in self.pieces)

    def only(self, segments: Collection[int]) -> "LabelSet":
        """The same, without what is about other segments."""
        return LabelSet(tuple(piece for piece in self.pieces if piece.segment in segments), self.left_out)


def gather_labels(config: Config, letters: Collection[Emotion]) -> LabelSet:
    """All that a bundle that answers with `letters` can learn from. Raises TimelineError, StoreKeyError."""
    settings, left_out = config.timeline, Counter[str]()
    path, keys = settings.database_path(), settings.keys()
    with TimelineReader.open(path, keys) as reader, AudioReader.open(path, keys) as kept:
        said = reader.corrected_between(EARLIEST, LATEST)
        lengths = kept.lengths(entry.id for entry in said)
        labels = list(_labels(said, lengths, letters, left_out))
        if len(labels) > MAX_LABELS:
            left_out[TOO_MANY_REASON] = len(labels) - MAX_LABELS
            labels = sorted(labels, key=lambda piece: (piece.said_at, piece.said))[-MAX_LABELS:]
        weak: list[SegmentLabel] = []
        if labels and config.retrain.checkin_weight > 0:
            weak = _near_checkins(reader, kept, letters, config.retrain.checkin_weight, left_out)
    # What is weak must not outnumber what is said outright.
    pieces = [*labels, *sorted(weak, key=lambda piece: piece.said_at)[-len(labels) :]] if labels else []
    return LabelSet(tuple(sorted(pieces, key=lambda piece: (piece.start_at, piece.segment))), dict(left_out))


def send_labels(settings: TimelineConfig, pieces: Iterable[SegmentLabel], file: BinaryIO, heard_with: HeardWith) -> None:
    """Write them with their sound, for `read_all`. Raises Outdated where it is gone, TimelineError, and the file's OSError."""
    with AudioReader.open(settings.database_path(), settings.keys()) as kept:
        write_labelled_segments(file, (_with_audio(piece, kept.sound(piece.segment)) for piece in pieces), heard_with)


def check_labels_current(settings: TimelineConfig, pieces: Sequence[SegmentLabel]) -> None:
    """Raise Outdated unless every piece is still there and the same is said of it. Raises TimelineError.

    Sound that was kept long enough may be gone: that it ages is no reason to unlearn.
    """
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        checkins = {checkin.id: checkin.emotion for checkin in reader.checkins_between(EARLIEST, LATEST)}
        for piece in pieces:
            entry = reader.segment(piece.segment)
            if entry is None or not _is_current(piece, entry, checkins):
                raise LabelsOutdated(LABELS_CHANGED_REASON)


def _is_current(piece: SegmentLabel, entry: SegmentRecord, checkins: Mapping[int, Emotion]) -> bool:
    if piece.kind is LabelKind.CHECKIN:
        return entry.correction is None and checkins.get(piece.said) is piece.emotion
    return entry.correction is not None and (entry.correction.id, entry.correction.emotion) == (piece.said, piece.emotion)


def _labels(
    said: Iterable[SegmentRecord], lengths: Mapping[int, int], letters: Collection[Emotion], left_out: Counter[str]
) -> Iterator[SegmentLabel]:
    for entry in said:
        correction = entry.correction
        if correction is None:
            continue
        reason = _unusable_reason(entry, correction.emotion, lengths, letters)
        if reason or entry.prediction is None:
            left_out[reason] += 1
            continue
        kind = LabelKind.CONFIRMATION if correction.confirmed else LabelKind.CORRECTION
        place = (entry.id, entry.start_at, entry.end_at, correction.emotion, kind, entry.prediction.emotion)
        yield SegmentLabel(*place, 1.0, correction.id, correction.at)


def _unusable_reason(entry: SegmentRecord, emotion: Emotion, lengths: Mapping[int, int], letters: Collection[Emotion]) -> str:
    """Why nothing can be learned from it; empty where that is possible."""
    if entry.prediction is None:
        return NOT_PREDICTED_REASON
    if emotion not in letters:
        return NO_SUCH_LETTER_REASON
    if entry.id not in lengths:
        return NO_AUDIO_REASON
    return TOO_SHORT_REASON if lengths[entry.id] < s_to_samples(MIN_LABEL_S) else ""


def _near_checkins(
    reader: TimelineReader, kept: AudioReader, letters: Collection[Emotion], weight: float, left_out: Counter[str]
) -> list[SegmentLabel]:
    """Speech near check-ins that the person said nothing else of, each by the check-in that is nearest to it."""
    nearest: dict[int, tuple[timedelta, CheckIn, SegmentRecord]] = {}
    checkins = [checkin for checkin in reader.checkins_between(EARLIEST, LATEST) if _answerable(checkin, letters, left_out)]
    for checkin in checkins:
        for entry in reader.segments_between(checkin.at - CHECKIN_WINDOW, checkin.at + CHECKIN_WINDOW):
            away = max(entry.start_at - checkin.at, checkin.at - entry.end_at, timedelta())
            if entry.correction is None and (entry.id not in nearest or away < nearest[entry.id][0]):
                nearest[entry.id] = (away, checkin, entry)
    lengths = kept.lengths(nearest)
    found: dict[int, list[SegmentLabel]] = {checkin.id: [] for checkin in checkins}
    for _, checkin, entry in sorted(nearest.values(), key=lambda one: one[0]):
        if entry.prediction is not None and not _unusable_reason(entry, checkin.emotion, lengths, letters):
            place = (entry.id, entry.start_at, entry.end_at, checkin.emotion, LabelKind.CHECKIN, entry.prediction.emotion)
            found[checkin.id].append(SegmentLabel(*place, weight, checkin.id, checkin.at))
    if silent := sum(not pieces for pieces in found.values()):
        left_out[NO_SPEECH_NEAR_REASON] += silent
    return [piece for pieces in found.values() for piece in pieces[:MAX_NEAR_CHECKIN]]


def _answerable(checkin: CheckIn, letters: Collection[Emotion], left_out: Counter[str]) -> bool:
    if checkin.emotion not in letters:
        left_out[NO_SUCH_LETTER_REASON] += 1
    return checkin.emotion in letters


def _with_audio(piece: SegmentLabel, sound: bytes | None) -> LabelledSegment:
    if sound is None:
        raise LabelsOutdated(LABELS_CHANGED_REASON)
    pcm = np.frombuffer(sound, "<i2").astype(np.int16)
    return LabelledSegment(piece.segment, piece.start_at.astimezone(UTC), pcm, piece.emotion, piece.kind, piece.shown, piece.weight)
