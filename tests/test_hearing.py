"""What one opening of a source becomes: segments at their wall time, and an account of every second, on a real timeline."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, read_audio
from monitor.config import Config, SegmenterConfig
from monitor.hearing import Hearing
from monitor.judging.bundle_choice import BundleChoice
from monitor.recorder import Recorder
from monitor.sound.clocks import ClockSet, Reading
from monitor.sound.segmenter import Segmenter
from monitor.sound.types import AudioChunk, StreamClock
from monitor.status import Status
from monitor.store.ledger import Ledger
from monitor.store.reader import TimelineReader
from monitor.store.records import Coverage, TimelineEntry
from monitor.store.tiling import tile
from monitor.store.timeline import Timeline
from monitor.view import PlainView
from tests.conftest import DEMO
from tests.stores import keys

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Room:
    """A hearing with all that it writes to, and what it has written."""

    def __init__(self, folder: Path) -> None:
        from rich.console import Console

        self.path = folder / "timeline.db"
        self._timeline = Timeline.open(self.path, ZoneInfo("UTC"), keys())
        self.status = status = Status("a test", live=True)
        choice = BundleChoice("compact", folder / "bundles.json")
        self.recorder = Recorder(
            Config(), self._timeline, choice, folder / "engine.log", status, PlainView(Console(quiet=True), ZoneInfo("UTC"))
        )
        self.ledger = Ledger(self.recorder.cover)
        self.ledger.become(Coverage.HEARD, NOON)
        self.hearing = Hearing(0, StreamClock(NOON), Segmenter(SegmenterConfig()), self.ledger, self.recorder, status)

    def hear(self, pcm: Int16, start: int | None = None) -> None:
        """Sound in chunks of a second, from `start` (by default where the last ended)."""
        begin = self.hearing.end if start is None else start
        for offset in range(0, len(pcm), SAMPLE_RATE):
            self.hearing.take(AudioChunk(begin + offset, pcm[offset : offset + SAMPLE_RATE]))
            self.hearing.progress(None, [])

    def tiles(self, seconds: float) -> list[tuple[Coverage, float, float]]:
        """Kinds of coverage from noon on, in seconds after it."""
        end = NOON + timedelta(seconds=seconds)
        with closing(TimelineReader.open(self.path, keys())) as reader:
            parts = tile(NOON, end, reader.coverage_between(NOON, end))
        return [(part.kind, (part.start_at - NOON).total_seconds(), (part.end_at - NOON).total_seconds()) for part in parts]

    def segments(self) -> list[TimelineEntry]:
        """All that are stored."""
        with closing(TimelineReader.open(self.path, keys())) as reader:
            return reader.segments_between(NOON - timedelta(days=2), NOON + timedelta(days=2))

    def close(self) -> None:
        """End the sound and the timeline."""
        self.hearing.close()
        self._timeline.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with closing(Room(tmp_path)) as opened:
        yield opened


def hum(seconds: float) -> Int16:
    return np.random.default_rng(0).normal(scale=20, size=round(seconds * SAMPLE_RATE)).astype(np.int16) | np.int16(1)  # never zero


def demo(seconds: float) -> Int16:
    return float_to_pcm16(read_audio(DEMO))[: round(seconds * SAMPLE_RATE)]


def test_silence_that_only_a_muted_microphone_delivers_is_muted_from_its_first_zero(room: Room) -> None:
    room.hear(np.concatenate([hum(4), np.zeros(5 * SAMPLE_RATE, np.int16), hum(3)]))
    room.hearing.close()
    assert room.tiles(12) == [(Coverage.HEARD, 0, 4), (Coverage.MUTED, 4, 9), (Coverage.HEARD, 9, 12)]


def test_sound_that_was_not_taken_in_time_is_a_hole_with_a_name(room: Room) -> None:
    room.hear(hum(3))
    room.hear(hum(3), start=5 * SAMPLE_RATE)
    room.hearing.close()
    assert room.tiles(8) == [(Coverage.HEARD, 0, 3), (Coverage.OVERFLOW, 3, 5), (Coverage.HEARD, 5, 8)]


def test_what_goes_on_is_stored_while_it_goes_on(room: Room) -> None:
    room.hear(hum(20))
    (kind, _, until), *_ = room.tiles(20)
    assert kind is Coverage.HEARD
    assert 14 <= until <= 20


def test_a_clock_that_is_set_closes_what_is_open_and_counts_anew(room: Room) -> None:
    room.hear(demo(5))
    event = ClockSet(NOON + timedelta(seconds=5), NOON + timedelta(hours=1, seconds=5), 3600.0)
    room.hearing.progress(None, [event])
    room.hear(demo(15)[5 * SAMPLE_RATE :])
    room.hearing.close()
    first, *others = room.segments()
    assert first.end_at <= NOON + timedelta(seconds=5)
    assert all(NOON + timedelta(hours=1, seconds=5) <= entry.start_at <= NOON + timedelta(hours=1, seconds=15) for entry in others)
    assert others
    assert room.tiles(3620)[:3] == [(Coverage.HEARD, 0, 5), (Coverage.NOT_RUNNING, 5, 3605), (Coverage.HEARD, 3605, 3615)]


@pytest.mark.parametrize("ppm", [-100, 100])
def test_a_sound_card_that_runs_fast_or_slow_stays_with_the_wall_clock(room: Room, ppm: int) -> None:
    real_s = NOON.timestamp()
    second = hum(1)
    lateness: Callable[[int], float] = lambda n: 0.02 + 0.03 * (n * 7 % 11) / 11  # noqa: E731
    hours = 3
    for n in range(hours * 3600):
        room.hearing.take(AudioChunk(room.hearing.end, second[:160]))
        # A chunk of a second each would take minutes; positions are what counts.
        position = round((n + 1) * SAMPLE_RATE * (1 + ppm / 1e6))
        at = real_s + n + 1 + lateness(n)
        room.hearing.progress((position, Reading(at, at, at)), [])
    assert room.status.position is not None
    moved_s = (room.status.position - NOON).total_seconds() - room.hearing.end / SAMPLE_RATE
    assert moved_s == pytest.approx(-hours * 3600 * ppm / 1e6, abs=0.35)
