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
SAID = Judgement(Prediction({Emotion.SAD: 1.0}, False, "nano-1"), "words that were said")


def record(folder: Path, config: Config, act: Callable[[Recorder], None]) -> Path:
    """Let a recorder act on a fresh timeline that two segments of a second were stored in; the timeline's file."""
    path = folder / "timeline.db"
    with closing(Timeline.open(path, UTC_ZONE, keys())) as timeline:
        view = PlainView(Console(quiet=True), UTC_ZONE)
        choice = BundleChoice("nano", folder / "bundles.json")
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
