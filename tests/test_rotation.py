"""Changing the key: with the old one gone nothing is lost, and a kill at any moment locks nobody out."""

import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import keyring
import pytest

from model.errors import StoreKeyError, TimelineError
from monitor.store.backup import Backups
from monitor.store.cipher import salt_of
from monitor.store.copies import check
from monitor.store.keys import Keys
from monitor.store.lock import DatabaseLock
from monitor.store.reader import TimelineReader
from monitor.store.rotation import rotate
from monitor.store.timeline import Timeline
from tests.commands import run
from tests.keyrings import Memory, use

ROOT = Path(__file__).parents[1]
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
ROWS = 200
KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from tests.test_rotation import sound, store

def rotating(folder):
    from monitor.store.rotation import rotate
    backups = store(folder)
    child = os.fork()
    if child == 0:
        seen = 0
        def count(event, _):
            nonlocal seen
            if event in ("open", "os.rename", "os.remove", "os.chmod", "sqlite3.connect"):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        rotate(backups.database, backups.keys, backups)
        os._exit(0)
    return child

work, step = Path(sys.argv[1]), 1
while True:
    folder = work / f"step-{step}"
    shutil.copytree(work / "begin", folder)
    rotating(folder)
    if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
        break
    step += 1
print(step)
step, kills, folder = 0, 0, work / "again"
shutil.copytree(work / "begin", folder)
while kills < 20:
    child = rotating(folder)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.wait()[1])
    assert sound(store(folder)), kills
    kills += ended != 0
"""


def store(folder: Path) -> Backups:
    """The timeline in a state directory of its own, with its key in a file."""
    return Backups(folder / "timeline.db", folder / "backups", Keys("file", folder), keep=7)


def filled(folder: Path) -> Backups:
    backups = store(folder)
    with closing(Timeline.open(backups.database, ZoneInfo("UTC"), backups.keys)) as timeline:
        for second in range(ROWS):
            start = NOON + timedelta(seconds=second)
            timeline.add_segment(
                start_sample=second, end_sample=second + 1, start_at=start, end_at=start + timedelta(seconds=1), sound=b"12"
            )
    backups.make(NOON)
    return backups


def rows(backups: Backups) -> int:
    with closing(TimelineReader.open(backups.database, backups.keys)) as reader:
        return len(reader.segments_between(NOON, NOON + timedelta(days=1)))


def sound(backups: Backups) -> bool:
    """Whether everything can be opened and read to the last page."""
    files = [backups.database, *(backup.path for backup in backups.found())]
    for file in files:
        check(file, backups.keys.find(backups.database, copy=file), file)
    return len(files) == 2 and rows(backups) == ROWS


def test_all_files_get_a_new_key_and_the_old_one_is_gone(tmp_path: Path) -> None:
    backups = filled(tmp_path)
    files = [backups.database, *(backup.path for backup in backups.found())]
    old, before = (tmp_path / "timeline.key").read_text(), {file: file.read_bytes() for file in files}
    rotate(backups.database, backups.keys, backups)
    new = (tmp_path / "timeline.key").read_text()
    assert len(new.split()) == 1
    assert new != old
    assert len({salt_of(file) for file in files}) == 1
    for file in files:
        shared = {before[file][at : at + 4096] for at in range(0, len(before[file]), 4096)}
        assert not any(file.read_bytes()[at : at + 4096] in shared for at in range(0, file.stat().st_size, 4096))
        assert file.stat().st_mode & 0o777 == 0o600
    assert sound(backups)


def test_a_kill_at_any_step_or_moment_locks_nobody_out(tmp_path: Path) -> None:
    filled(tmp_path / "begin")
    steps = int(subprocess.check_output([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, text=True))
    assert steps > 20
    assert all(sound(store(tmp_path / f"step-{step}")) for step in range(1, steps))
    for name in (*(f"step-{step}" for step in range(1, steps, 5)), "again"):
        backups = store(tmp_path / name)
        rotate(backups.database, backups.keys, backups)
        assert sound(backups), name
        assert len((tmp_path / name / "timeline.key").read_text().split()) == 1
        assert not list((tmp_path / name).rglob("*.part*"))
        assert not list((tmp_path / name).glob("*.new"))


def test_a_key_in_the_keyring_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, memory := Memory())
    backups = Backups(tmp_path / "timeline.db", tmp_path / "backups", Keys("auto", tmp_path), keep=7)
    Timeline.open(backups.database, ZoneInfo("UTC"), backups.keys).close()
    [old] = memory.kept.values()
    assert "keyring" in str(rotate(backups.database, backups.keys, backups))
    [new] = memory.kept.values()
    assert old != new
    assert rows(backups) == 0
    assert not (tmp_path / "timeline.key").exists()
    assert keyring.get_keyring() is memory


def test_an_older_backup_that_is_damaged_stops_it_and_nothing_is_lost(tmp_path: Path) -> None:
    backups = filled(tmp_path)
    damaged = backups.found()[0].path
    content = bytearray(damaged.read_bytes())
    content[9000:9010] = b"\x55" * 10
    damaged.write_bytes(content)
    with pytest.raises(TimelineError, match=f"{damaged.name} is damaged|{damaged.name}: it is damaged"):
        rotate(backups.database, backups.keys, backups)
    assert rows(backups) == ROWS
    damaged.unlink()
    rotate(backups.database, backups.keys, backups)
    assert rows(backups) == ROWS


def test_it_is_refused_where_something_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backups = filled(tmp_path)
    monkeypatch.setattr("monitor.store.rotation._BUSY_TIMEOUT_S", 0.1)
    with closing(TimelineReader.open(backups.database, backups.keys)) as reader:
        reader.segments_between(NOON, NOON + timedelta(days=1))
        with pytest.raises(TimelineError, match="another program holds it"):
            rotate(backups.database, backups.keys, backups)
    aside = tmp_path / "timeline.db.aside-20260714T120000Z"
    aside.touch()
    with pytest.raises(TimelineError, match="move it away"):
        rotate(backups.database, backups.keys, backups)
    aside.unlink()
    monkeypatch.setenv("EMOSLLM_STORE_KEY", (tmp_path / "timeline.key").read_text())
    by_hand = Backups(backups.database, backups.folder, Keys("auto", tmp_path), keep=7)
    with pytest.raises(StoreKeyError, match="cannot be changed from here"):
        rotate(backups.database, by_hand.keys, by_hand)
    assert sound(backups)


def test_the_commands_say_where_the_key_is_and_change_export_and_import_it(home: Path, tmp_path: Path) -> None:
    folder = home / "state" / "emosllm-monitor"
    backups = filled(folder)
    file = folder / "timeline.key"
    assert run("key", "show-place").stdout.strip() == str(file)
    with DatabaseLock(backups.database, "mic"):
        refused = run("key", "rotate")
        assert (refused.returncode, "stop it first" in refused.stderr) == (1, True)
    old = file.read_text()
    done = run("key", "rotate")
    assert done.returncode == 0, done.stderr
    new = file.read_text()
    assert new != old
    assert new.strip() not in done.stdout + done.stderr

    kept = tmp_path / "kept.txt"
    assert run("key", "export", str(kept)).returncode == 0
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "exist" in run("key", "export", str(kept)).stderr.lower()
    file.unlink()
    assert "key is missing" in run("key", "show-place").stderr
    (tmp_path / "old.txt").write_text(old)
    assert "does not open" in run("key", "import", str(tmp_path / "old.txt")).stderr
    assert run("key", "import", str(kept)).returncode == 0
    assert file.read_text() == new
    assert sound(backups)
