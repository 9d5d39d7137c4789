"""What there is to learn from: what the person says of pieces of their speech whose sound was kept, and how they felt near others.

Looks for it in the timeline, says what could not be used and why, sends it on piece by piece, and tells later whether it still holds.
Sound is read where it is sent, one piece at a time, and goes nowhere else.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

import numpy as np

from model.audio import s_to_samples
from model.errors import EmosllmError
from model.evidence import Evidence, HeardWith, Kind, write_evidence
from model.types import Emotion
from monitor.config import Config, TimelineConfig
from monitor.day.agreement import NEAR
from monitor.day.stretches import FIRST, LAST
from monitor.store.kept_sound import KeptSound
from monitor.store.reader import TimelineReader
from monitor.store.records import CheckIn, TimelineEntry

SHORTEST_S = 0.5
"""Nothing is learned from less sound."""

MOST_LABELS = 2000
"""The newest count: more would take more than a night, and say little more."""

MOST_NEAR_A_CHECKIN = 5
"""Of the speech around a check-in, what is nearest to its moment."""

NO_SOUND = "no sound of it was kept"
CANNOT_ANSWER = "the model cannot answer that emotion"
NOT_JUDGED = "it was not judged"
TOO_SHORT = f"it is shorter than {SHORTEST_S} s"
TOO_MANY = f"more than the newest {MOST_LABELS} are not looked at"
NO_SPEECH_NEAR = "a check-in without kept speech near it that you have not named yourself"

ERASED = "something it learned from was erased, or said otherwise, meanwhile"


class Outdated(EmosllmError):
    """What is learned from does not hold any more: it was erased, taken back or said otherwise."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment and what is known of it, without its sound.

    said: the correction's number, or the check-in's; said_at: its moment. The other fields are those of Evidence.
    """

    segment: int
    start_at: datetime
    end_at: datetime
    emotion: Emotion
    kind: Kind
    shown: Emotion
    weight: float
    said: int
    said_at: datetime


@dataclass(frozen=True, slots=True)
class Material:
    """pieces: by when they were spoken. left_out: how many could not be used, by reason; of labels, and of check-ins."""

    pieces: tuple[Piece, ...]
    left_out: Mapping[str, int]

    @property
    def labels(self) -> tuple[Piece, ...]:
        """Those that the person said something of: corrections and confirmations."""
        return tuple(piece for piece in self.pieces if piece.kind is not Kind.CHECKIN)

    def count(self, kind: Kind) -> int:
        """How many there are of a kind."""
        return sum(piece.kind is kind for piece in self.pieces)

    def only(self, segments: Collection[int]) -> "Material":
        """The same, without what is about other segments."""
        return Material(tuple(piece for piece in self.pieces if piece.segment in segments), self.left_out)


def gather(config: Config, letters: Collection[Emotion]) -> Material:
    """All that a bundle that answers with `letters` can learn from. Raises TimelineError, StoreKeyError."""
    settings, left_out = config.timeline, Counter[str]()
    path, keys = settings.database_path(), settings.keys()
    with TimelineReader.open(path, keys) as reader, KeptSound.open(path, keys) as kept:
        said = reader.corrected_between(FIRST, LAST)
        lengths = kept.lengths(entry.id for entry in said)
        labels = list(_labels(said, lengths, letters, left_out))
        if len(labels) > MOST_LABELS:
            left_out[TOO_MANY] = len(labels) - MOST_LABELS
            labels = sorted(labels, key=lambda piece: (piece.said_at, piece.said))[-MOST_LABELS:]
        weak: list[Piece] = []
        if labels and config.retrain.checkin_weight > 0:
            weak = _near_checkins(reader, kept, letters, config.retrain.checkin_weight, left_out)
    # What is weak must not outnumber what is said outright.
    pieces = [*labels, *sorted(weak, key=lambda piece: piece.said_at)[-len(labels) :]] if labels else []
    return Material(tuple(sorted(pieces, key=lambda piece: (piece.start_at, piece.segment))), dict(left_out))


def send(settings: TimelineConfig, pieces: Iterable[Piece], file: BinaryIO, heard_with: HeardWith) -> None:
    """Write them with their sound, for `read_all`. Raises Outdated where it is gone, TimelineError, and the file's OSError."""
    with KeptSound.open(settings.database_path(), settings.keys()) as kept:
        write_evidence(file, (_with_sound(piece, kept.sound(piece.segment)) for piece in pieces), heard_with)


def refuse_outdated(settings: TimelineConfig, pieces: Sequence[Piece]) -> None:
    """Raise Outdated unless every piece is still there and the same is said of it. Raises TimelineError.

    Sound that was kept long enough may be gone: that it ages is no reason to unlearn.
    """
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        checkins = {checkin.id: checkin.emotion for checkin in reader.checkins_between(FIRST, LAST)}
        for piece in pieces:
            entry = reader.segment(piece.segment)
            if entry is None or not _holds(piece, entry, checkins):
                raise Outdated(ERASED)


def _holds(piece: Piece, entry: TimelineEntry, checkins: Mapping[int, Emotion]) -> bool:
    if piece.kind is Kind.CHECKIN:
        return entry.correction is None and checkins.get(piece.said) is piece.emotion
    return entry.correction is not None and (entry.correction.id, entry.correction.emotion) == (piece.said, piece.emotion)


def _labels(
    said: Iterable[TimelineEntry], lengths: Mapping[int, int], letters: Collection[Emotion], left_out: Counter[str]
) -> Iterator[Piece]:
    for entry in said:
        correction = entry.correction
        if correction is None:
            continue
        reason = _unusable(entry, correction.emotion, lengths, letters)
        if reason or entry.prediction is None:
            left_out[reason] += 1
            continue
        kind = Kind.CONFIRMATION if correction.confirmed else Kind.CORRECTION
        place = (entry.id, entry.start_at, entry.end_at, correction.emotion, kind, entry.prediction.emotion)
        yield Piece(*place, 1.0, correction.id, correction.at)


def _unusable(entry: TimelineEntry, emotion: Emotion, lengths: Mapping[int, int], letters: Collection[Emotion]) -> str:
    """Why nothing can be learned from it; empty where that is possible."""
    if entry.prediction is None:
        return NOT_JUDGED
    if emotion not in letters:
        return CANNOT_ANSWER
    if entry.id not in lengths:
        return NO_SOUND
    return TOO_SHORT if lengths[entry.id] < s_to_samples(SHORTEST_S) else ""


def _near_checkins(
    reader: TimelineReader, kept: KeptSound, letters: Collection[Emotion], weight: float, left_out: Counter[str]
) -> list[Piece]:
    """Speech near check-ins that the person said nothing else of, each by the check-in that is nearest to it."""
    nearest: dict[int, tuple[timedelta, CheckIn, TimelineEntry]] = {}
    checkins = [checkin for checkin in reader.checkins_between(FIRST, LAST) if _answerable(checkin, letters, left_out)]
    for checkin in checkins:
        for entry in reader.segments_between(checkin.at - NEAR, checkin.at + NEAR):
            away = max(entry.start_at - checkin.at, checkin.at - entry.end_at, timedelta())
            if entry.correction is None and (entry.id not in nearest or away < nearest[entry.id][0]):
                nearest[entry.id] = (away, checkin, entry)
    lengths = kept.lengths(nearest)
    found: dict[int, list[Piece]] = {checkin.id: [] for checkin in checkins}
    for _, checkin, entry in sorted(nearest.values(), key=lambda one: one[0]):
        if entry.prediction is not None and not _unusable(entry, checkin.emotion, lengths, letters):
            place = (entry.id, entry.start_at, entry.end_at, checkin.emotion, Kind.CHECKIN, entry.prediction.emotion)
            found[checkin.id].append(Piece(*place, weight, checkin.id, checkin.at))
    if silent := sum(not pieces for pieces in found.values()):
        left_out[NO_SPEECH_NEAR] += silent
    return [piece for pieces in found.values() for piece in pieces[:MOST_NEAR_A_CHECKIN]]


def _answerable(checkin: CheckIn, letters: Collection[Emotion], left_out: Counter[str]) -> bool:
    if checkin.emotion not in letters:
        left_out[CANNOT_ANSWER] += 1
    return checkin.emotion in letters


def _with_sound(piece: Piece, sound: bytes | None) -> Evidence:
    if sound is None:
        raise Outdated(ERASED)
    pcm = np.frombuffer(sound, "<i2").astype(np.int16)
    return Evidence(piece.segment, piece.start_at.astimezone(UTC), pcm, piece.emotion, piece.kind, piece.shown, piece.weight)
