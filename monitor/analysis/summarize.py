"""Computes the summary of a day from the segments and coverage that overlap it.

Pure arithmetic on records; knows no database and prints nothing. Time is clipped to the day and split at its hours.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from statistics import quantiles

from model.emotions import Emotion
from monitor.analysis.affect import AffectPoint, affect_dynamics, follows, longest_run, segment_affect, transitions
from monitor.analysis.days import Day, Hour
from monitor.analysis.shares import ConfusionModel, estimate_shares
from monitor.analysis.summary import (
    ENOUGH_HEARD_S,
    MUCH_UNJUDGED,
    RECORDED_KINDS,
    Affect,
    Amount,
    DayState,
    DaySummary,
    Gap,
    HourSummary,
    Interval,
    Quartiles,
    SpeechSummary,
    VoiceStatistics,
    overlap_s,
)
from monitor.storage.coverage import tile_coverage
from monitor.storage.records import Coverage, CoverageInterval, SegmentRecord, SegmentState


@dataclass(frozen=True, slots=True)
class _DaySegment:
    """A segment, with what is asked of it for the day and again for its hours. place: on valence and arousal, where it has one."""

    entry: SegmentRecord
    emotion: Emotion | None
    place: AffectPoint | None

    def seconds(self, within: Interval) -> float:
        """Of it, in a stretch."""
        start, end = self.entry.start_at, self.entry.end_at
        if start >= within[0] and end <= within[1]:
            return (end - start).total_seconds()
        return overlap_s((start, end), within)


def summarize(
    day: Day,
    entries: Iterable[SegmentRecord],
    coverage: Iterable[CoverageInterval],
    now: datetime,
    confusions: Mapping[str, ConfusionModel] | None = None,
) -> DaySummary:
    """Summarize a day from the segments and coverage that overlap it; others are ignored. now: aware UTC.

    confusions: how bundles confuse emotions, by version, where that is known; without it, shares are counted and have no intervals.
    """
    whole = (day.start, day.end)
    entries = [entry for entry in entries if entry.start_at < day.end and entry.end_at > day.start]
    pieces = [
        _DaySegment(entry, entry.named, segment_affect(entry)) for entry in sorted(entries, key=lambda entry: (entry.start_at, entry.id))
    ]
    coverage = list(coverage)
    tiles = tile_coverage(day.start, min(day.end, now), coverage, entries)
    # Where a clock was set back something is known of what is still to come.
    tiles += [part for part in tile_coverage(max(day.start, now), day.end, coverage, entries) if part.kind is not Coverage.NOT_RUNNING]
    heard = [(part.start_at, part.end_at) for part in tiles if part.kind in RECORDED_KINDS]
    shares = estimate_shares([(piece.entry, piece.seconds(whole)) for piece in pieces], confusions or {})
    speech = _speech(pieces, whole)
    estimated = {emotion: shares.estimated.get(emotion, 0.0) for emotion in speech.emotions} if shares.estimated else {}
    speech = replace(speech, estimated=estimated, intervals=shares.intervals)
    state, gaps = _state(day, _within_s(heard, whole), speech, now)
    named = [(piece.entry, piece.emotion) for piece in pieces if piece.emotion is not None]
    return DaySummary(
        day=day,
        now=now.astimezone(UTC),
        state=state,
        gaps=gaps,
        coverage=tuple(tiles),
        speech=speech,
        bundles=dict(Counter(entry.prediction.bundle_version for entry in entries if entry.prediction)),
        hours=_hours(day.hours(), pieces, heard),
        longest_run=longest_run(named),
        transitions=transitions(named),
        references=_references(entries),
    )


def _references(entries: Iterable[SegmentRecord]) -> dict[str, int]:
    found = dict(Counter(entry.voice_version or "" for entry in entries if entry.prediction))
    return found if any(found) else {}


def _hours(hours: Sequence[Hour], pieces: Iterable[_DaySegment], heard: Sequence[Interval]) -> tuple[HourSummary, ...]:
    """What of each hour was heard and said. A segment that lies in two belongs to both."""
    starts = [hour.start for hour in hours]
    within: list[list[_DaySegment]] = [[] for _ in hours]
    for piece in pieces:
        index = max(0, bisect_right(starts, piece.entry.start_at) - 1)
        while index < len(hours) and hours[index].start < piece.entry.end_at:
            within[index].append(piece)
            index += 1
    return tuple(
        HourSummary(hour.label, *time_range, _within_s(heard, time_range), _speech(said, time_range))
        for hour, said in zip(hours, within, strict=True)
        for time_range in [(hour.start, hour.end)]
    )


def _state(day: Day, heard_s: float, speech: SpeechSummary, now: datetime) -> tuple[DayState, tuple[Gap, ...]]:
    if not heard_s:
        return DayState.NO_DATA, ()
    found = {
        Gap.NOT_OVER: now < day.end,
        Gap.HEARD_LITTLE: heard_s < ENOUGH_HEARD_S,
        Gap.WAITING: speech.waiting.segments > 0,
        Gap.UNJUDGED: speech.given_up.seconds > MUCH_UNJUDGED * speech.total.seconds,
    }
    gaps = tuple(gap for gap, present in found.items() if present)
    return (DayState.PARTIAL if gaps else DayState.COVERED), gaps


def _speech(pieces: Sequence[_DaySegment], within: Interval) -> SpeechSummary:
    """pieces: in order, each of which lies in `within` at least in part."""
    emotions: dict[Emotion, Amount] = {}
    unjudged: defaultdict[str, Amount] = defaultdict(Amount)
    unsure = waiting = Amount()
    for piece in pieces:
        entry, amount = piece.entry, Amount(1, piece.seconds(within))
        if entry.prediction is not None:
            for emotion in entry.prediction.posterior:
                if emotion not in emotions:
                    emotions[emotion] = Amount()
        if piece.emotion is not None:
            emotions[piece.emotion] = emotions.get(piece.emotion, Amount()) + amount
        elif entry.prediction is not None:
            unsure += amount
        elif entry.state is SegmentState.WAITING:
            waiting += amount
        else:
            unjudged[entry.reason or "no reason stored"] += amount
    return SpeechSummary(
        emotions,
        unsure,
        waiting,
        dict(unjudged),
        affect=_affect(pieces, within),
        corrected=sum(piece.entry.correction is not None for piece in pieces),
        voice=_voice(pieces),
    )


def _affect(pieces: Iterable[_DaySegment], within: Interval) -> Affect | None:
    placed = [piece for piece in pieces if piece.place is not None]
    if not placed:
        return None
    seconds = [piece.seconds(within) for piece in placed]
    linked = [False, *(follows(before.entry, after.entry) for before, after in pairwise(placed))]
    valence = affect_dynamics([piece.place.valence for piece in placed if piece.place], seconds, linked)
    arousal = affect_dynamics([piece.place.arousal for piece in placed if piece.place], seconds, linked)
    return Affect(len(placed), sum(seconds), valence, arousal)


def _voice(pieces: Iterable[_DaySegment]) -> VoiceStatistics | None:
    voices = [piece.entry.voice for piece in pieces if piece.entry.voice is not None]
    if not voices:
        return None
    pitches = [voice.pitch_hz for voice in voices if voice.pitch_hz is not None]
    return VoiceStatistics(len(voices), _quartiles([voice.loudness_db for voice in voices]), _quartiles(pitches))


def _quartiles(values: Sequence[float]) -> Quartiles | None:
    if len(values) < 2:
        return Quartiles(values[0], values[0], values[0]) if values else None
    return Quartiles(*quantiles(values, n=4, method="inclusive"))


def _within_s(time_ranges: Iterable[Interval], within: Interval) -> float:
    return sum(overlap_s(time_range, within) for time_range in time_ranges)
