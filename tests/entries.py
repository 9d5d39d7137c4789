"""Segments as tests of the day make them: short to write, everything not said is ordinary."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from model.types import Emotion, Prediction
from monitor.store.records import Correction, Estimate, SegmentState, TimelineEntry, Voice

NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)


def judged(
    at_s: float,
    seconds: float,
    said: Prediction | Emotion | Mapping[Emotion, float],
    *,
    unsure: bool = False,
    corrected: Emotion | None = None,
    voice: Voice | None = None,
    bundle: str = "compact-1",
) -> TimelineEntry:
    """A segment that begins `at_s` after NOON. corrected: what the person says it was."""
    if isinstance(said, Emotion):
        said = {said: 1.0}
    prediction = said if isinstance(said, Prediction) else Prediction(said, unsure, bundle)
    start = NOON + timedelta(seconds=at_s)
    end = start + timedelta(seconds=seconds)
    correction = None if corrected is None else Correction(1, corrected, corrected is prediction.emotion, end)
    number = round(at_s)
    place = (number, "s", number, number + 1, start, end, "UTC", SegmentState.JUDGED, None)
    return TimelineEntry(*place, prediction, end, correction, voice)


def estimates(entries: Iterable[TimelineEntry]) -> list[Estimate]:
    """What the model said of those that are judged."""
    return [
        Estimate(entry.id, entry.start_at, entry.end_at, entry.prediction.posterior, entry.prediction.unsure)
        for entry in entries
        if entry.prediction is not None
    ]
