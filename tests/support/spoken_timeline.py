"""A timeline with a person who speaks, whose voice is learned. Does not import torch."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from model.emotions import Emotion, Prediction
from model.voice_reference import VoiceSums
from monitor.config import Config
from monitor.storage.reader import TimelineReader
from monitor.storage.records import InferenceResult, SegmentRecord, VoiceContribution, VoiceReference
from monitor.storage.schema import SegmentRow
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")


FIRST = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


LAST = FIRST + timedelta(days=400)


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


WIDTH = 8


class SpokenTimeline:
    """A timeline in this test's home, and somebody who speaks: what was heard, from how many seconds of speech each."""

    def __init__(self, zone: ZoneInfo = PARIS) -> None:
        self.config = Config()
        self.path = self.config.timeline.database_path()
        self.timeline = TimelineWriter.open(self.path, zone, keys())
        self._sample, self._zone = 0, str(zone)
        self._random = np.random.default_rng(0)

    def say(
        self,
        at: datetime,
        count: int = 1,
        *,
        seconds: float = 6.0,
        mood: float = 0.0,
        microphone: str | None = "desk",
        space: str | None = "space",
        version: str | None = None,
    ) -> list[int]:
        """So many segments, one after the other, judged together; a mood moves every state."""
        results = {}
        for segment in self._waiting(at, count, seconds, microphone):
            sums = VoiceSums(1.0, seconds, (self._random.normal(size=WIDTH) + mood).astype(np.float32))
            heard = None if space is None else VoiceContribution(space, sums, version)
            results[segment] = InferenceResult(Prediction({Emotion.SAD: 1.0}, False, "tiny-1"), None, None, heard)
        return self.timeline.judge(results)

    def _waiting(self, at: datetime, count: int, seconds: float, microphone: str | None) -> list[int]:
        """In one transaction, which is quicker than as the monitor does it."""
        begins = [at + timedelta(seconds=number * (seconds + 1)) for number in range(count)]
        samples = [self._sample + 10**6 * number for number in range(1, count + 1)]
        self._sample = samples[-1]
        rows = [
            SegmentRow(
                stream=self.timeline.stream,
                start_sample=sample,
                end_sample=sample + 1,
                start_at=begin,
                end_at=begin + timedelta(seconds=seconds),
                zone=self._zone,
                state="waiting",
                microphone=microphone,
            )
            for sample, begin in zip(samples, begins, strict=True)
        ]
        with self.timeline._writing() as session:
            session.add_all(rows)
            session.flush()
            return [row.id for row in rows if row.id is not None]

    def days(self, count: int, each: int = 45, **more: object) -> None:
        """Some days from the first on."""
        for number in range(count):
            self.say(FIRST + number * DAY, each, **more)  # type: ignore[arg-type]

    def references(self) -> list[VoiceReference]:
        with TimelineReader.open(self.path, keys()) as reader:
            return reader.voice_references()

    def reference(self) -> VoiceReference:
        (only,) = self.references()
        return only

    def sums(self, microphone: str = "desk", space: str = "space") -> bytes:
        """Of a reference, as a judging process is told them."""
        known = self.timeline.voice_reference(microphone, space)
        assert known is not None
        held = self.timeline.reference_sums(known.version)
        assert held is not None
        return held.sums

    def segments(self) -> list[SegmentRecord]:
        with TimelineReader.open(self.path, keys()) as reader:
            return reader.segments_between(FIRST - 2 * DAY, LAST)

    def hours(self) -> list[tuple[str, str, float]]:
        with closing(raw(self.path)) as connection:
            return connection.execute("SELECT on_date, hour_at, segments FROM voice_hour ORDER BY 1, 2").fetchall()
