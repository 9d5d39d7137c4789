"""From a source to the timeline: faults, pauses, coverage of every second, and what the recorder keeps of an answer."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from rich.console import Console

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, read_audio
from model.emotions import Emotion, Prediction
from model.errors import DeviceError, DeviceFault, TimelineError
from monitor.analysis.days import TimeRange
from monitor.audio.clock import ClockReading, ClockStepped
from monitor.audio.segmenter import Segmenter
from monitor.audio.sources import Delivery
from monitor.audio.stream import AudioChunk, StreamClock
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, EngineConfig, PrivacyConfig, SegmenterConfig, SpoolConfig
from monitor.daemon.capture_session import CaptureSession
from monitor.daemon.daemon import Daemon
from monitor.daemon.live_view import PlainView
from monitor.daemon.pause import PauseFile
from monitor.daemon.recorder import Recorder
from monitor.daemon.status import DaemonStatus
from monitor.daemon.systemd import SystemdNotifier
from monitor.inference.protocol import Predicted
from monitor.storage.coverage import CoverageTracker, tile_coverage
from monitor.storage.reader import TimelineReader
from monitor.storage.records import Coverage, CoverageInterval, InferenceResult, SegmentRecord, SegmentState
from monitor.storage.writer import TimelineWriter
from tests.support.inference import RECORDED_AT, report, with_recorder
from tests.support.paths import DEMO
from tests.support.storage import keys, raw

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Room:
    """A hearing with all that it writes to, and what it has written."""

    def __init__(self, folder: Path) -> None:
        from rich.console import Console

        self.path = folder / "timeline.db"
        self._timeline = TimelineWriter.open(self.path, ZoneInfo("UTC"), keys())
        self.status = status = DaemonStatus("a test", live=True)
        registry = BundleRegistry("compact", folder / "bundles.json")
        self.recorder = Recorder(
            Config(), self._timeline, registry, folder / "engine.log", status, PlainView(Console(quiet=True), ZoneInfo("UTC"))
        )
        self.coverage_tracker = CoverageTracker(self.recorder.cover)
        self.coverage_tracker.become(Coverage.HEARD, NOON)
        self.hearing = CaptureSession(0, StreamClock(NOON), Segmenter(SegmenterConfig()), self.coverage_tracker, self.recorder, status)

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
            parts = tile_coverage(NOON, end, reader.coverage_between(NOON, end))
        return [(part.kind, (part.start_at - NOON).total_seconds(), (part.end_at - NOON).total_seconds()) for part in parts]

    def segments(self) -> list[SegmentRecord]:
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
    event = ClockStepped(NOON + timedelta(seconds=5), NOON + timedelta(hours=1, seconds=5), 3600.0)
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
        room.hearing.progress((position, ClockReading(at, at, at)), [])
    assert room.status.position is not None
    moved_s = (room.status.position - NOON).total_seconds() - room.hearing.end / SAMPLE_RATE
    assert moved_s == pytest.approx(-hours * 3600 * ppm / 1e6, abs=0.35)


SAID = InferenceResult(Prediction({Emotion.SAD: 1.0}, False, "compact-1"), "words that were said")


@pytest.mark.parametrize(("keep_transcripts", "words"), [(False, None), (True, "words that were said")])
@pytest.mark.parametrize(("keep_audio", "sounds"), [(False, [2]), (True, [1, 2])])
def test_words_and_sound_are_kept_only_where_the_person_wants_it(
    tmp_path: Path, keep_transcripts: bool, words: str | None, keep_audio: bool, sounds: list[int]
) -> None:
    config = Config(privacy=PrivacyConfig(keep_transcripts=keep_transcripts, keep_audio=keep_audio))
    path = with_recorder(tmp_path, config, lambda recorder: report(recorder, Predicted({1: SAID})))
    with closing(raw(path)) as connection:
        assert connection.execute("SELECT transcript FROM segment WHERE id = 1").fetchone()[0] == words
        assert [row[0] for row in connection.execute("SELECT segment_id FROM sound ORDER BY 1")] == sounds


@pytest.mark.parametrize("ends", [False, True])
def test_a_segment_waits_until_its_prediction_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    """The disk is full for two tries; or until the monitor ends, which leaves the segment for the next start."""
    monkeypatch.setattr("monitor.daemon.recorder._READ_RETRY_S", 0.01)

    def act(recorder: Recorder) -> None:
        store, waiting = recorder._timeline.judge, []

        def store_later(results: Mapping[int, InferenceResult], keep_audio: bool) -> list[int]:
            waiting.append(recorder.supervisor.waiting)
            if ends or len(waiting) < 3:
                raise TimelineError("the disk is full")
            return store(results, keep_audio)

        monkeypatch.setattr(recorder._timeline, "judge", store_later)
        if ends:
            recorder._closing.set()
            with pytest.raises(TimelineError, match="the disk is full"):
                report(recorder, Predicted({1: SAID}))
        else:
            report(recorder, Predicted({1: SAID}))
        assert set(waiting) == {2}
        assert (recorder.supervisor.waiting, recorder._status.judged) == ((2, 0) if ends else (1, 1))

    with closing(TimelineReader.open(with_recorder(tmp_path, Config(), act), keys())) as reader:
        states = [entry.state for entry in reader.segments_between(RECORDED_AT, RECORDED_AT + timedelta(minutes=1))]
    assert states == [SegmentState.WAITING if ends else SegmentState.JUDGED, SegmentState.WAITING]


def test_what_waited_too_long_is_given_up_also_while_nobody_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.daemon.recorder._TRIM_EVERY_S", 0.0)

    def age_and_flush(recorder: Recorder) -> None:
        with closing(raw(tmp_path / "timeline.db")) as connection, connection:
            connection.execute("UPDATE sound SET stored_at = '2026-01-01 00:00:00.000000' WHERE segment_id = 1")
        recorder.flush()
        assert recorder.supervisor.waiting == 1

    path = with_recorder(tmp_path, Config(spool=SpoolConfig(max_hours=48)), age_and_flush)
    with closing(TimelineReader.open(path, keys())) as reader:
        entries = reader.segments_between(RECORDED_AT, RECORDED_AT + timedelta(minutes=1))
        (down,) = reader.coverage_between(RECORDED_AT, RECORDED_AT + timedelta(minutes=1))
    assert [entry.state for entry in entries] == [SegmentState.UNJUDGED, SegmentState.WAITING]
    assert (down.kind, down.start_at, down.end_at) == (Coverage.ENGINE_DOWN, RECORDED_AT, RECORDED_AT + timedelta(seconds=1))
    assert "waited too long" in down.reason


def test_what_is_forgotten_is_neither_judged_nor_written_and_what_follows_is(tmp_path: Path) -> None:
    """Segments lie at 0 and 5 s; forgotten is 4 to 10 s, while one from 9 to 11 s is still open."""

    def at(seconds: float) -> datetime:
        return RECORDED_AT + timedelta(seconds=seconds)

    def go_on(recorder: Recorder) -> None:
        recorder.forget(TimeRange(at(4), at(10)))
        assert recorder.supervisor.waiting == 1
        for begin, end in ((9, 11), (12, 13)):
            recorder.segment(16_000 * begin, np.ones(16_000 * (end - begin), np.int16), at(begin), at(end))
        recorder.cover(Coverage.HEARD, at(2), at(14), "")
        recorder.cover(Coverage.MUTED, at(5), at(9), "")
        assert recorder.supervisor.waiting == 2

    path = with_recorder(tmp_path, Config(), go_on)
    with closing(TimelineReader.open(path, keys())) as reader:
        starts = [entry.start_at for entry in reader.segments_between(RECORDED_AT, at(60))]
        told = [(part.kind, part.start_at, part.end_at) for part in reader.coverage_between(RECORDED_AT, at(60))]
    # What is stored already is for whoever asked: the one at 5 s.
    assert starts == [at(0), at(5), at(12)]
    assert told == [(Coverage.HEARD, at(2), at(4)), (Coverage.HEARD, at(10), at(14))]


def test_an_answer_that_comes_after_its_segment_was_forgotten_is_not_shown(tmp_path: Path) -> None:
    def answer_late(recorder: Recorder) -> None:
        report(recorder, Predicted({1: SAID}))
        assert len(recorder._status.recent) == 1
        recorder.forget(TimeRange(RECORDED_AT, RECORDED_AT + timedelta(seconds=60)))
        report(recorder, Predicted({2: SAID}))
        assert not recorder._status.recent

    with_recorder(tmp_path, Config(), answer_late)


UTC_ZONE = ZoneInfo("UTC")
CHUNK = SAMPLE_RATE // 10
HUM = np.random.default_rng(0).normal(scale=20, size=CHUNK).astype(np.int16) | np.int16(1)


class Microphone:
    """Hums in real time until it fails as it is told, or is closed. The only fake here: a fault of hardware."""

    description, live, microphone = "a microphone", True, "a microphone"
    delivered: Delivery | None = None

    def __init__(self, fault: DeviceFault | None, seconds: float = 0.5, opens: bool = True) -> None:
        self._fault, self._chunks, self._opens = fault, round(seconds * 10), opens
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if not self._opens:
            raise DeviceError("it is not there", DeviceFault.UNAVAILABLE)
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[AudioChunk]:
        number = 0
        while not self._closed.wait(0.1):
            if self._fault is not None and number >= self._chunks:
                raise DeviceError("it failed", self._fault)
            yield AudioChunk(number * CHUNK, HUM)
            number += 1


class Run:
    """A daemon on its own thread, over a real timeline."""

    def __init__(self, folder: Path, sources: Sequence[Microphone], unattended: bool = True) -> None:
        self.path = folder / "timeline.db"
        self.pause = PauseFile(folder / "timeline.db.paused")
        self.opened = 0
        self.began = datetime.now(UTC)
        self._timeline = TimelineWriter.open(self.path, UTC_ZONE, keys())
        config = Config(engine=EngineConfig(kind="transformers"))
        status, view = DaemonStatus("a microphone", live=True), PlainView(Console(quiet=True), UTC_ZONE)
        self.status = status
        recorder = Recorder(config, self._timeline, BundleRegistry("compact", folder / "bundles.json"), folder / "engine.log", status, view)
        left = list(sources)

        def next_source() -> Microphone:
            self.opened += 1
            return left.pop(0) if len(left) > 1 else left[0]

        self.daemon = Daemon(config, next_source, None, recorder, self.pause, status, view, SystemdNotifier({}), unattended)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.daemon.run()
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        self._thread.start()

    def until(self, happened: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "waited too long"
            assert self.error is None, self.error
            time.sleep(0.02)

    def end(self) -> list[CoverageInterval]:
        """Stop it; what is stored as coverage."""
        self.daemon.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._timeline.close()
        with closing(TimelineReader.open(self.path, keys())) as reader:
            return reader.coverage_between(self.began - timedelta(days=1), self.began + timedelta(days=1))


def story(coverage: Sequence[CoverageInterval], began: datetime) -> list[tuple[str, str]]:
    """Kind and reason of each stretch in order, from the first sound on; nothing in between may be missing."""
    start = min(part.start_at for part in coverage)
    parts = tile_coverage(start, max(part.end_at for part in coverage), coverage)
    assert start - began < timedelta(seconds=10)
    return [kind for kind, _ in groupby((part.kind.value, part.reason) for part in parts)]


@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (DeviceFault.LOST, ("device-lost", "lost")),
        (DeviceFault.STALLED, ("device-lost", "stalled")),
        (DeviceFault.DEFAULT_CHANGED, ("device-lost", "default-changed")),
        (DeviceFault.SLEPT, ("not-running", "the machine slept")),
    ],
)
def test_every_fault_is_stored_with_its_reason_and_the_microphone_opened_again(
    tmp_path: Path, fault: DeviceFault, stored: tuple[str, str]
) -> None:
    run = Run(tmp_path, [Microphone(fault), Microphone(None)])
    run.start()
    run.until(lambda: run.opened == 2 and run.status.listening)
    time.sleep(0.4)
    assert story(run.end(), run.began) == [("heard", ""), stored, ("heard", "")]


def test_a_microphone_that_is_away_is_tried_for_ever_and_its_absence_has_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.audio.clock._RETRY_DELAYS_S", (0.05,))
    away = [Microphone(None, opens=False) for _ in range(20)]
    run = Run(tmp_path, [Microphone(DeviceFault.LOST), *away, Microphone(None)])
    run.start()
    run.until(lambda: run.opened == 22 and run.status.listening)
    time.sleep(0.4)
    kinds = [kind for kind, _ in groupby(kind for kind, _ in story(run.end(), run.began))]
    assert kinds == ["heard", "device-lost", "heard"]


def test_a_microphone_that_never_was_there_ends_it_unless_nobody_is_there_to_mend_that(tmp_path: Path) -> None:
    attended = Run(tmp_path / "attended", [Microphone(None, opens=False)], unattended=False)
    with pytest.raises(DeviceError, match="it is not there"):
        attended.daemon.run()
    alone = Run(tmp_path / "alone", [Microphone(None, opens=False), Microphone(None)])
    alone.start()
    alone.until(lambda: alone.status.listening)
    time.sleep(0.4)
    assert story(alone.end(), alone.began) == [("device-lost", "unavailable"), ("heard", "")]


def test_a_pause_ends_by_itself(tmp_path: Path) -> None:
    run = Run(tmp_path, [Microphone(None), Microphone(None)])
    run.start()
    run.until(lambda: run.status.listening)
    run.until(lambda: run.status.position is not None)
    run.daemon.pause(datetime.now(UTC) + timedelta(seconds=0.6))
    run.until(lambda: run.status.paused)
    assert not run.status.listening
    run.until(lambda: not run.status.paused)
    assert Coverage.PAUSED in {part.kind for part in run.end()}
