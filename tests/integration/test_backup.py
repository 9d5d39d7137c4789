"""Backups are whole, encrypted, counted, and can be put back; nothing that goes wrong costs one that is there."""

import os
import resource
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.errors import StoreKeyError, TimelineError
from monitor.config import TimelineConfig
from monitor.fileio import DatabaseLock
from monitor.storage.backup import Backups
from monitor.storage.cipher import connect
from monitor.storage.reader import TimelineReader
from monitor.storage.records import SegmentState
from monitor.storage.snapshot import check_copy
from monitor.storage.writer import TimelineWriter
from tests.support.commands import run
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
MARKER = "planted-marker-77c0"


@pytest.fixture
def backups(home: Path) -> Backups:
    return Backups.of(TimelineConfig(backups=3))


def add(timeline: TimelineWriter, second: int) -> None:
    start = NOON + timedelta(seconds=second)
    timeline.add_segment(start_sample=second, end_sample=second + 1, start_at=start, end_at=start + timedelta(seconds=1), sound=b"12")


def fill(path: Path, seconds: range) -> None:
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        for second in seconds:
            add(timeline, second)


def rows(path: Path) -> int:
    with closing(TimelineReader.open(path, keys())) as reader:
        return len(reader.segments_between(NOON, NOON + timedelta(days=1)))


def rows_of_backup(backups: Backups, path: Path) -> int:
    with closing(connect(path, backups.keys.find(backups.database, copy=path), read_only=True, timeout_s=1)) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM segment").fetchall()
    return int(count)


def damage(path: Path, at: int = 9000) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + 20] = b"\x55" * 20
    path.write_bytes(content)


def everything(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_backup_is_one_private_encrypted_file_that_holds_everything(backups: Backups) -> None:
    fill(backups.database, range(300))
    path = backups.make(NOON)
    assert path.name == "timeline-20260714T120000Z.db"
    assert rows_of_backup(backups, path) == 300
    check_copy(path, backups.keys.find(backups.database), path)
    assert [file.name for file in backups.folder.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600
    assert backups.folder.stat().st_mode & 0o777 == 0o700
    assert b"SQLite format 3" not in path.read_bytes()


def test_it_is_made_while_another_thread_writes(backups: Backups) -> None:
    with closing(TimelineWriter.open(backups.database, PARIS, keys())) as timeline:
        for second in range(100):
            add(timeline, second)
        stopping, written = threading.Event(), [100]

        def write() -> None:
            while not stopping.is_set():
                add(timeline, written[0])
                written[0] += 1

        thread = threading.Thread(target=write)
        thread.start()
        found = []
        for day in range(3):
            before = written[0]
            path = backups.make(NOON + timedelta(days=day))
            found.append((before, rows_of_backup(backups, path), written[0]))
        stopping.set()
        thread.join()
    assert all(before <= count <= after + 1 for before, count, after in found)
    assert found[0][0] < found[-1][2]
    assert rows(backups.database) == written[0]


def test_only_the_newest_are_kept(backups: Backups) -> None:
    fill(backups.database, range(1))
    (backups.folder).mkdir()
    strangers = [backups.folder / "holiday.db", backups.folder / "timeline-0a1b2c3d-20200101T000000Z.db"]
    for stranger in strangers:
        stranger.touch()
    made = [backups.make(NOON + timedelta(days=day)) for day in range(5)]
    assert [backup.path for backup in backups.found()] == made[-3:]
    assert [backup.made_at for backup in backups.found()] == [NOON + timedelta(days=day) for day in (2, 3, 4)]
    assert all(stranger.exists() for stranger in strangers)


def test_one_is_due_every_local_day(backups: Backups) -> None:
    fill(backups.database, range(1))
    before_midnight = datetime(2026, 7, 14, 21, 59, tzinfo=UTC)  # 23:59 in Paris
    assert backups.make_if_due(before_midnight, PARIS) is not None
    assert backups.make_if_due(before_midnight + timedelta(seconds=59), PARIS) is None
    assert backups.make_if_due(before_midnight + timedelta(minutes=1), PARIS) is not None
    assert backups.make_if_due(before_midnight + timedelta(hours=23), PARIS) is None
    assert backups.make_if_due(before_midnight + timedelta(days=9), PARIS) is not None


def test_sound_is_in_no_backup_and_what_waited_for_it_is_given_up_after_a_restore(backups: Backups) -> None:
    with closing(TimelineWriter.open(backups.database, PARIS, keys())) as timeline:
        for second in range(10):
            start, end = (NOON + timedelta(seconds=second + more) for more in (0, 1))
            timeline.add_segment(start_sample=second, end_sample=second + 1, start_at=start, end_at=end, sound=os.urandom(100_000))
    path = backups.make(NOON)
    assert path.stat().st_size < 200_000 < 1_000_000 < backups.database.stat().st_size
    with closing(connect(path, keys().find(backups.database), read_only=True, timeout_s=1)) as connection:
        assert connection.execute("SELECT count(*) FROM sound").fetchall() == [(0,)]
        assert connection.execute("SELECT count(*) FROM segment").fetchall() == [(10,)]
    with closing(raw(backups.database)) as connection:
        assert connection.execute("SELECT count(*) FROM sound").fetchall() == [(10,)]
    backups.restore(path, NOON)
    with closing(TimelineWriter.open(backups.database, PARIS, keys())) as restored:
        assert restored.recover() == []
    with closing(TimelineReader.open(backups.database, keys())) as reader:
        entries = reader.segments_between(NOON, NOON + timedelta(minutes=1))
    assert {(entry.state, entry.reason) for entry in entries} == {(SegmentState.UNJUDGED, "its sound was not in the backup")}


def test_a_damaged_timeline_is_not_backed_up_and_costs_no_backup(backups: Backups) -> None:
    fill(backups.database, range(300))
    for day in range(3):
        backups.make(NOON + timedelta(days=day))
    before = everything(backups.folder)
    for at in (9000, 100, backups.database.stat().st_size - 500):
        damage(backups.database, at)
        with pytest.raises(TimelineError, match=r"timeline\.db.* is damaged.*emosllm-monitor restore"):
            backups.make(NOON + timedelta(days=9))
        assert everything(backups.folder) == before


def test_a_full_disk_costs_no_backup(backups: Backups) -> None:
    fill(backups.database, range(300))
    for day in range(3):
        backups.make(NOON + timedelta(days=day))
    before = everything(backups.folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(TimelineError, match=r"timeline-20260723T120000Z\.db: .*(check the disk|free some space)"):
            replace(backups, keep=1).make(NOON + timedelta(days=9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert everything(backups.folder) == before


def test_a_folder_that_may_not_be_written_is_named(backups: Backups) -> None:
    fill(backups.database, range(1))
    backups.folder.write_text("a file where the folder should be")
    with pytest.raises(TimelineError, match=r"backups in .*backups"):
        backups.make(NOON)


def test_there_is_nothing_to_back_up_before_the_first_start(backups: Backups) -> None:
    with pytest.raises(TimelineError, match="no timeline"):
        backups.make(NOON)
    assert not backups.database.exists()


def test_what_a_killed_backup_left_is_removed(backups: Backups) -> None:
    fill(backups.database, range(1))
    backups.folder.mkdir()
    for name in ("timeline-20260101T000000Z.db.part", "timeline-20260101T000000Z.db.part-journal"):
        (backups.folder / name).touch()
    path = backups.make(NOON)
    assert [file.name for file in backups.folder.iterdir()] == [path.name]


# restoring -------------------------------------------------------------------------------------------------------


def test_a_restored_timeline_is_the_one_that_was_backed_up_and_goes_on(backups: Backups) -> None:
    fill(backups.database, range(20))
    path = backups.make(NOON)
    fill(backups.database, range(20, 30))
    damaged = backups.database.read_bytes()
    aside = backups.restore(path, NOON + timedelta(days=1))
    assert rows(backups.database) == 20
    assert aside is not None
    assert aside.name == "timeline.db.aside-20260715T120000Z"
    assert aside.read_bytes() == damaged
    fill(backups.database, range(20, 25))
    assert rows(backups.database) == 25
    assert rows_of_backup(backups, path) == 20


def test_the_log_of_a_killed_daemon_goes_aside_with_its_database(backups: Backups) -> None:
    fill(backups.database, range(5))
    path = backups.make(NOON)
    with closing(TimelineWriter.open(backups.database, PARIS, keys())) as timeline:
        add(timeline, 5)
        left = {ending: backups.database.with_name(f"timeline.db{ending}").read_bytes() for ending in ("", "-wal")}
    for ending, content in left.items():
        backups.database.with_name(f"timeline.db{ending}").write_bytes(content)
    aside = backups.restore(path, NOON)
    assert aside is not None
    assert rows(backups.database) == 5
    assert rows_of_backup(backups, aside) == 6


def test_a_lost_timeline_is_restored_too(backups: Backups) -> None:
    fill(backups.database, range(5))
    path = backups.make(NOON)
    backups.database.unlink()
    assert backups.restore(path, NOON) is None
    assert rows(backups.database) == 5


def test_a_backup_that_is_damaged_or_strange_replaces_nothing(backups: Backups, tmp_path: Path) -> None:
    fill(backups.database, range(300))
    path = backups.make(NOON)
    before = everything(backups.database.parent)
    damage(path)
    with pytest.raises(TimelineError, match=f"{path.name}.* is damaged"):
        backups.restore(path, NOON)
    (tmp_path / "strange.db").write_bytes(os.urandom(8192))
    with pytest.raises(StoreKeyError, match=r"does not open .*strange\.db"):
        backups.restore(tmp_path / "strange.db", NOON)
    assert everything(backups.database.parent) == before


def test_the_commands_back_up_list_and_restore_but_not_under_a_running_daemon(home: Path) -> None:
    database = home / "state" / "emosllm-monitor" / "timeline.db"
    assert "no backups" in run("restore").stderr
    fill(database, range(3))
    with DatabaseLock(database, "mic"):
        made = run("backup")
        assert made.returncode == 0, made.stderr
        name = Path(made.stdout.strip()).name
        assert "already in use" in run("restore", name).stderr
    assert name in run("restore").stdout
    damage(database, 100)
    assert "it is damaged; `emosllm-monitor restore`" in run("report").stderr
    done = run("restore", name)
    assert done.returncode == 0, done.stderr
    assert "aside" in done.stdout
    assert rows(database) == 3
    assert "no backup nothing.db" in run("restore", "nothing.db").stderr
