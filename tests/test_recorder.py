"""What the recorder keeps of an answer, and what it gives up; on a real timeline, with answers handed in as the judge's thread does."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from rich.console import Console

from model.types import Emotion, Prediction
from monitor.config import Config, PrivacyConfig, SpoolConfig
from monitor.day.stretches import Stretch
from monitor.judging.bundle_choice import BundleChoice
from monitor.recorder import Recorder
from monitor.status import Status
from monitor.store.reader import TimelineReader
from monitor.store.records import Coverage, Judgement, SegmentState
from monitor.store.timeline import Timeline
from monitor.view import PlainView
from tests.stores import keys, raw

UTC_ZONE = ZoneInfo("UTC")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SAID = Judgement(Prediction({Emotion.SAD: 1.0}, False, "compact-1"), "words that were said")


def record(folder: Path, config: Config, act: Callable[[Recorder], None], bundle: str = "compact") -> Path:
    """Let a recorder act on a fresh timeline that two segments of a second were stored in; the timeline's file."""
    path = folder / "timeline.db"
    with closing(Timeline.open(path, UTC_ZONE, keys())) as timeline:
        view = PlainView(Console(quiet=True), UTC_ZONE)
        choice = BundleChoice(bundle, folder / "bundles.json")
        recorder = Recorder(config, timeline, choice, folder / "engine.log", Status("a test", True), view)
        for second in (0, 5):
            start = NOON + timedelta(seconds=second)
            recorder.segment(16_000 * second, np.ones(16_000, np.int16), start, start + timedelta(seconds=1))
        act(recorder)
    return path


@pytest.mark.parametrize(("keep_transcripts", "words"), [(False, None), (True, "words that were said")])
@pytest.mark.parametrize(("keep_audio", "sounds"), [(False, [2]), (True, [1, 2])])
def test_words_and_sound_are_kept_only_where_the_person_wants_it(
    tmp_path: Path, keep_transcripts: bool, words: str | None, keep_audio: bool, sounds: list[int]
) -> None:
    config = Config(privacy=PrivacyConfig(keep_transcripts=keep_transcripts, keep_audio=keep_audio))
    path = record(tmp_path, config, lambda recorder: recorder._on_judged({1: SAID}))
    with closing(raw(path)) as connection:
        assert connection.execute("SELECT transcript FROM segment WHERE id = 1").fetchone()[0] == words
        assert [row[0] for row in connection.execute("SELECT segment_id FROM sound ORDER BY 1")] == sounds


def test_what_waited_too_long_is_given_up_also_while_nobody_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.recorder._TRIM_EVERY_S", 0.0)

    def age_and_flush(recorder: Recorder) -> None:
        with closing(raw(tmp_path / "timeline.db")) as connection, connection:
            connection.execute("UPDATE sound SET stored_at = '2026-01-01 00:00:00.000000' WHERE segment_id = 1")
        recorder.flush()
        assert recorder.judge.waiting == 1

    path = record(tmp_path, Config(spool=SpoolConfig(max_hours=48)), age_and_flush)
    with closing(TimelineReader.open(path, keys())) as reader:
        entries = reader.segments_between(NOON, NOON + timedelta(minutes=1))
        (down,) = reader.coverage_between(NOON, NOON + timedelta(minutes=1))
    assert [entry.state for entry in entries] == [SegmentState.UNJUDGED, SegmentState.WAITING]
    assert (down.kind, down.start_at, down.end_at) == (Coverage.ENGINE_DOWN, NOON, NOON + timedelta(seconds=1))
    assert "waited too long" in down.reason


def test_what_is_forgotten_is_neither_judged_nor_written_and_what_follows_is(tmp_path: Path) -> None:
    """Segments lie at 0 and 5 s; forgotten is 4 to 10 s, while one from 9 to 11 s is still open."""

    def at(seconds: float) -> datetime:
        return NOON + timedelta(seconds=seconds)

    def go_on(recorder: Recorder) -> None:
        recorder.forget(Stretch(at(4), at(10)))
        assert recorder.judge.waiting == 1
        for begin, end in ((9, 11), (12, 13)):
            recorder.segment(16_000 * begin, np.ones(16_000 * (end - begin), np.int16), at(begin), at(end))
        recorder.cover(Coverage.HEARD, at(2), at(14), "")
        recorder.cover(Coverage.MUTED, at(5), at(9), "")
        assert recorder.judge.waiting == 2

    path = record(tmp_path, Config(), go_on)
    with closing(TimelineReader.open(path, keys())) as reader:
        starts = [entry.start_at for entry in reader.segments_between(NOON, at(60))]
        told = [(part.kind, part.start_at, part.end_at) for part in reader.coverage_between(NOON, at(60))]
    # What is stored already is for whoever asked: the one at 5 s.
    assert starts == [at(0), at(5), at(12)]
    assert told == [(Coverage.HEARD, at(2), at(4)), (Coverage.HEARD, at(10), at(14))]


def test_an_answer_that_comes_after_its_segment_was_forgotten_is_not_shown(tmp_path: Path) -> None:
    def answer_late(recorder: Recorder) -> None:
        recorder._on_judged({1: SAID})
        assert len(recorder._status.recent) == 1
        recorder.forget(Stretch(NOON, NOON + timedelta(seconds=60)))
        recorder._on_judged({2: SAID})
        assert not recorder._status.recent

    record(tmp_path, Config(), answer_late)
