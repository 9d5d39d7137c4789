"""What is done once in a while: each task for itself, whatever becomes of the others."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.errors import TimelineError
from model.types import Emotion, Prediction
from monitor.config import Config
from monitor.housekeeping import Housekeeper, tasks_of
from monitor.store.backup import Backups
from monitor.store.records import Judgement
from monitor.store.timeline import Timeline
from tests.stores import keys, raw

PARIS = ZoneInfo("Europe/Paris")


def test_a_task_that_fails_does_not_keep_the_others_from_being_done(caplog: pytest.LogCaptureFixture) -> None:
    done: list[datetime] = []

    def fail(_now: datetime) -> None:
        raise TimelineError("the disk is full")

    told: list[str] = []
    Housekeeper([fail, done.append], told.append).run_once()
    assert len(done) == 1
    assert told == ["the disk is full"]
    Housekeeper([done.append], told.append).run_once()
    assert told[-1] == "", "it is over"
    assert "the disk is full" in caplog.text


def test_it_works_in_the_background_and_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.housekeeping._FIRST_S", 0.01)
    done: list[datetime] = []
    with Housekeeper([done.append], lambda _problem: None):
        while not done:
            pass
    assert len(done) == 1


def test_kept_sound_goes_after_its_days_and_a_backup_is_made_a_day(home: Path) -> None:
    settings = Config().timeline
    kept = Backups.of(settings)
    start = datetime(2026, 1, 5, 12, tzinfo=UTC)
    with closing(Timeline.open(settings.database_path(), PARIS, keys())) as timeline:
        entry = timeline.add_segment(start_sample=0, end_sample=1, start_at=start, end_at=start + timedelta(seconds=1), sound=b"12")
        timeline.judge({entry: Judgement(Prediction({Emotion.SAD: 1.0}, False, "nano-1"))}, keep_sound=True)
        tasks = tasks_of(timeline, Config())

        def sounds_after(days: float) -> int:
            for task in tasks:
                task(datetime.now(UTC) + timedelta(days=days))
            with closing(raw(settings.database_path())) as connection:
                return int(connection.execute("SELECT count(*) FROM sound").fetchone()[0])

        assert [sounds_after(days) for days in (0, 29, 31)] == [1, 1, 0]
    assert len(kept.found()) == 3
