"""Erased data is in no byte of any file afterwards, and everything else is unchanged."""

import json
import os
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from model.emotions import Emotion, Prediction
from model.errors import TimelineError, TimelineInUse
from monitor.analysis.days import TimeRange, parse_time_range
from monitor.config import Config
from monitor.deletion import delete_everything, delete_range, deletion_interrupted, preview_deletion, receipt_lines
from monitor.fileio import DatabaseLock
from monitor.storage.feedback import FeedbackStore
from monitor.storage.records import InferenceResult
from monitor.storage.writer import TimelineWriter
from tests.support.commands import run
from tests.support.erasure import AFTER, ERASED, HOUR, NOON, PARIS, WITHIN, SeededTimeline, bundle_that_learned, traces
from tests.support.storage import keys, raw


@pytest.fixture
def life(home: Path) -> SeededTimeline:
    life = SeededTimeline(home)
    life.live()
    life.summarize()
    return life


# what goes and what stays ----------------------------------------------------------------------------------------


def test_no_byte_of_it_is_left_in_any_file_and_the_rest_is_as_it_was(life: SeededTimeline) -> None:
    life.backups.make(NOON)
    life.backups.restore(life.backups.make(NOON + HOUR), NOON)
    with closing(raw(life.database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 0
    life.backups.sweep()
    aside = next(life.database.parent.glob("*.aside-*"))
    before = life.all_bytes()
    assert all(trace in before for name in ("before", "within", "after") for trace in traces(name))
    assert b"within-summary" in before
    rows = life.rows()

    receipt = delete_range(life.config, ERASED)

    after = life.all_bytes()
    assert not [trace for trace in (*traces("within"), b"within-summary") if trace in after]
    assert all(trace in after for name in ("before", "after") for trace in traces(name))
    assert receipt.found.segments == 2
    assert receipt.found.checkins == receipt.found.prompts == receipt.found.corrections == receipt.found.summaries == 1
    assert receipt.found.voice_hours == 1
    assert "what the monitor learned of your voice in 1 hour, the whole of each" in "\n".join(receipt_lines(receipt, "", remote=False))
    assert receipt.rewritten == [*(backup.path.name for backup in life.backups.found()), aside.name]
    assert not receipt.left
    left = life.rows()
    assert left["checkin"] == [("before-note",), ("after-note",)]
    assert left["segment"] == [row for row in rows["segment"] if row[1] // 10**6 != 1]
    assert left["voice_hour"] == [rows["voice_hour"][0], rows["voice_hour"][2]]
    assert left["day_summary"] == [("other-summary",)]
    assert not preview_deletion(life.config, ERASED)
    assert not deletion_interrupted(life.config.timeline)


def test_the_time_is_unknown_afterwards_not_silent(life: SeededTimeline) -> None:
    delete_range(life.config, ERASED)
    heard = [(start, end) for kind, start, end in life.rows()["coverage"] if kind == "heard"]
    assert heard == [
        ("2026-07-14 11:00:00.918273", "2026-07-14 12:00:00.000000"),
        ("2026-07-14 13:00:00.000000", "2026-07-14 14:00:00.918273"),
    ]


def test_a_segment_across_the_border_goes_as_a_whole(life: SeededTimeline) -> None:
    edge = TimeRange(WITHIN + timedelta(seconds=1), WITHIN + timedelta(seconds=1, milliseconds=1))
    assert delete_range(life.config, edge).found.segments == 1
    assert b"within-words" not in life.all_bytes()


def test_an_answer_that_is_forgotten_takes_its_question_along(life: SeededTimeline) -> None:
    with FeedbackStore.open(life.database, PARIS, keys(), clock=lambda: WITHIN + timedelta(seconds=6)) as words:
        words.asked(WITHIN - timedelta(seconds=10))
        words.check_in(WITHIN + timedelta(seconds=5), 0.5, Emotion.HAPPY)
    delete_range(life.config, TimeRange(WITHIN, WITHIN + HOUR))
    assert [row[0][:19] for row in life.rows()["prompt"]] == ["2026-07-14 11:41:10", "2026-07-14 13:21:10"]


def test_forgetting_nothing_and_forgetting_twice_do_no_harm(life: SeededTimeline) -> None:
    nothing = TimeRange(NOON - timedelta(days=9), NOON - timedelta(days=8))
    rows = life.rows()
    assert not delete_range(life.config, nothing).found
    assert life.rows() == rows
    delete_range(life.config, ERASED)
    rows = life.rows()
    assert not delete_range(life.config, ERASED).found
    assert life.rows() == rows


def test_backups_that_hold_nothing_of_it_are_not_touched(life: SeededTimeline) -> None:
    life.backups.make(NOON)
    delete_range(life.config, ERASED)
    content = [backup.path.read_bytes() for backup in life.backups.found()]
    assert delete_range(life.config, ERASED).rewritten == []
    assert [backup.path.read_bytes() for backup in life.backups.found()] == content


def test_a_backup_of_older_tables_is_cleaned_too(life: SeededTimeline) -> None:
    with closing(raw(life.database)) as connection:
        for trigger in [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
            connection.execute(f"DROP TRIGGER {trigger}")
        for table in ("day_summary", "prompt", "checkin", "correction", "sharing", "outbox", "voice_hour", "voice_reference"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE alembic_version SET version_num = '0002'")
        connection.commit()
    life.backups.make(NOON)
    assert delete_range(life.config, ERASED).rewritten == [life.backups.found()[0].path.name]
    after = life.all_bytes()
    assert b"within-words" not in after
    assert b"before-words" in after


def test_a_damaged_backup_goes_and_one_without_its_key_is_named(life: SeededTimeline, tmp_path: Path) -> None:
    damaged = life.backups.make(NOON)
    content = bytearray(damaged.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    damaged.write_bytes(content)
    foreign = life.backups.make(NOON + HOUR)
    foreign.write_bytes(os.urandom(8192))
    receipt = delete_range(life.config, ERASED)
    assert receipt.removed == [f"{damaged.name}, which was damaged"]
    assert not damaged.exists()
    assert foreign.exists()
    assert str(foreign) in receipt.left[0]


def test_numbers_are_not_given_again(life: SeededTimeline) -> None:
    last = max(life.ids.values())
    delete_range(life.config, TimeRange(NOON + HOUR, NOON + 2 * HOUR))
    with closing(TimelineWriter.open(life.database, PARIS, keys())) as timeline:
        fresh = timeline.add_segment(start_sample=1, end_sample=2, start_at=AFTER, end_at=AFTER + HOUR / 100, sound=b"12")
        # An answer to a question that was asked before, and comes now, finds nobody.
        assert timeline.judge({last: InferenceResult(Prediction({Emotion.SAD: 1.0}, False, "late"))}) == []
    assert fresh > last


# bundles ---------------------------------------------------------------------------------------------------------


# beside a monitor ------------------------------------------------------------------------------------------------


# everything ------------------------------------------------------------------------------------------------------


def test_everything_is_the_key_too_so_that_no_copy_can_be_read(life: SeededTimeline, tmp_path: Path) -> None:
    key = keys().find(life.database)
    copy = life.backups.make(NOON).read_bytes()
    bundle_that_learned(life.folder / "bundles" / "night", json.dumps({"segments": [life.ids["within"]], "from": "x", "to": "x"}))
    (life.folder / "monitor.log").write_text("2026")
    (life.folder / "bundles.json").write_text('{"proven": [], "aside": {}}')
    (life.folder / "other.key").write_text("of another timeline")
    receipt = delete_everything(life.config)
    assert receipt.keys == [str(life.folder / "timeline.key")]
    assert receipt.retired == ["night"]
    left = sorted(path.relative_to(life.folder).as_posix() for path in life.folder.rglob("*") if path.is_file())
    assert left == ["bundles/night/bundle.json", "bundles/night/retired.json", "other.key", "timeline.db.lock"]
    everywhere = life.all_bytes(key)
    assert not [trace for name in ("before", "within", "after") for trace in traces(name) if trace in everywhere]
    assert key.digits.encode() not in everywhere
    (tmp_path / "stolen.db").write_bytes(copy)
    with pytest.raises(TimelineError, match="key is missing"):
        keys().find(life.database, copy=tmp_path / "stolen.db")
    life.live()
    assert keys().find(life.database) != key


def test_a_database_that_is_reached_by_a_link_is_forgotten_itself(life: SeededTimeline, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(life.database)
    settings = life.config.timeline.model_copy(update={"database": str(link)})
    delete_everything(life.config.model_copy(update={"timeline": settings}))
    assert not life.database.exists()
    assert not deletion_interrupted(life.config.timeline)


def test_everything_is_not_forgotten_under_a_running_monitor(life: SeededTimeline) -> None:
    with DatabaseLock(life.database, "mic"), pytest.raises(TimelineInUse, match="stop it first"):
        delete_everything(life.config)
    assert not deletion_interrupted(life.config.timeline)
    assert b"within-words" in life.all_bytes()


def test_a_timeline_whose_key_is_lost_can_be_forgotten(life: SeededTimeline) -> None:
    (life.folder / "timeline.key").unlink()
    receipt = delete_everything(life.config)
    assert (receipt.keys, "timeline.db" in receipt.removed) == ([], True)
    assert not life.database.exists()


def test_a_key_in_the_environment_is_named_as_out_of_reach(life: SeededTimeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_KEY", keys().find(life.database).digits)
    assert "EMOSLLM_STORE_KEY" in delete_everything(life.config).left[0]


def test_where_there_is_no_timeline_there_is_nothing_to_forget(home: Path) -> None:
    assert not delete_range(Config(), ERASED).found
    assert delete_everything(Config()).removed == []


# commands --------------------------------------------------------------------------------------------------------


def test_the_command_shows_asks_and_gives_a_receipt(life: SeededTimeline) -> None:
    life.backups.make(NOON)
    asked = run("forget", "--from", "2026-07-14T14:00", "--to", "2026-07-14T15:00")
    assert asked.returncode == 1
    assert "2 pieces of speech, 1 with words, 2 with sound" in asked.stdout
    assert "pass --yes" in asked.stderr
    assert b"within-words" in life.all_bytes()
    done = run("forget", "--from", "2026-07-14T14:00", "--to", "2026-07-14T15:00", "--yes")
    assert done.returncode == 0, done.stderr
    for text in (
        "2 pieces of speech",
        "1 correction, 1 check-in, 1 question",
        "written anew without it: timeline-",
        "Nothing of it is left",
    ):
        assert text in done.stdout
    assert "exports, reports and pictures" in done.stdout
    assert b"within-words" not in life.all_bytes()
    assert "There was nothing to forget" in run("forget", "--day", "2020-01-01", "--yes").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to forget"),
        (["--to", "12:00"], "--to needs --from"),
        (["--all", "--day", "today"], "exclude each other; pass one of them"),
        (["--from", "2999-01-01"], "is in the future"),
        (["--from", "2026-07-14T15:00", "--to", "2026-07-14T14:00"], "is not after"),
        (["--from", "noon"], "'noon' is not a time"),
    ],
)
def test_what_makes_no_sense_is_refused(life: SeededTimeline, arguments: list[str], message: str) -> None:
    done = run("forget", *arguments, "--yes")
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr
    assert b"within-words" in life.all_bytes()


@pytest.mark.parametrize(
    ("begin", "finish", "start", "end"),
    [
        ("2026-07-14", "2026-07-14", "2026-07-13T22:00", "2026-07-14T22:00"),
        ("10:00", None, "2026-07-14T08:00", "9999-01-01T00:00"),
        ("2026-07-14T10:00Z", "2026-07-14T10:30+00:00", "2026-07-14T10:00", "2026-07-14T10:30"),
        # Twice on the clock, and skipped by it: always the longer stretch.
        ("2025-10-26T02:30", "2025-10-26T02:40", "2025-10-26T00:30", "2025-10-26T01:40"),
        ("2026-03-29T02:30", "2026-03-29T02:40", "2026-03-29T00:30", "2026-03-29T01:40"),
    ],
)
def test_moments_are_of_the_local_clock_and_days_are_whole(begin: str, finish: str | None, start: str, end: str) -> None:
    time_range = parse_time_range(None, begin, finish, PARIS, NOON)
    assert (f"{time_range.start:%Y-%m-%dT%H:%M}", f"{time_range.end:%Y-%m-%dT%H:%M}") == (start, end)
