"""The encryption key: without it nothing can be read, where it is kept, and changing it loses nothing."""

import logging
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import keyring
import pytest

from model.emotions import Emotion, Prediction
from model.errors import StoreKeyError, TimelineError
from monitor.fileio import DatabaseLock
from monitor.storage.backup import Backups, rotate_key
from monitor.storage.cipher import StoreKey, salt_of
from monitor.storage.keys import KeyPlaceName, KeyStore
from monitor.storage.reader import TimelineReader
from monitor.storage.records import InferenceResult
from monitor.storage.snapshot import check_copy
from monitor.storage.writer import TimelineWriter
from tests.support.commands import run
from tests.support.paths import ROOT
from tests.support.storage import Broken, Locked, Memory, Plain, keys, use

UTC_ZONE = ZoneInfo("UTC")
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
MARKER = "planted-marker-5b1f"


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "state" / "emosllm-monitor"


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "timeline.db"


def fill(path: Path, place: KeyPlaceName = "auto") -> None:
    with closing(TimelineWriter.open(path, UTC_ZONE, KeyStore(place, keys().folder))) as timeline:
        start, end = NOON, NOON + timedelta(seconds=2)
        first = timeline.add_segment(start_sample=0, end_sample=32_000, start_at=start, end_at=end, sound=MARKER.encode())
        timeline.judge({first: InferenceResult(Prediction({Emotion.SAD: 1.0}, unsure=False, bundle_version=MARKER), MARKER)})


def bundles(path: Path, place: KeyPlaceName = "auto") -> list[str | None]:
    with closing(TimelineReader.open(path, KeyStore(place, keys().folder))) as reader:
        found = reader.segments_between(NOON, NOON + timedelta(hours=1))
    return [entry.prediction and entry.prediction.bundle_version for entry in found]


def everything(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# what is on the disk ---------------------------------------------------------------------------------------------


def test_no_byte_of_what_is_stored_can_be_read_without_the_key(path: Path) -> None:
    fill(path)
    with closing(TimelineWriter.open(path, UTC_ZONE, keys())) as timeline:
        end = NOON + timedelta(seconds=1)
        second = timeline.add_segment(start_sample=0, end_sample=9, start_at=NOON, end_at=end, sound=MARKER.encode())
        timeline.give_up([second], MARKER)
        timeline.add_segment(start_sample=10, end_sample=19, start_at=NOON, end_at=end, sound=MARKER.encode())
        files = everything(path.parent)
        assert {file.name for file in files} == {"timeline.db", "timeline.db-wal", "timeline.db-shm", "timeline.key"}
    for content in (*files.values(), *everything(path.parent).values()):
        for planted in (MARKER, "SQLite format 3", "segment", "2026-07-14"):
            assert planted.encode() not in content
    assert bundles(path) == [MARKER, None, None]


def test_key_and_folder_are_for_their_owner_only(path: Path) -> None:
    fill(path)
    assert (path.parent / "timeline.key").stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_key_is_never_shown() -> None:
    key = StoreKey.new()
    assert key.digits not in repr(key) + str(key) + f"{KeyStore('auto', Path())}"
    with pytest.raises(ValueError, match="64") as raised:
        StoreKey.parse("abc123")
    assert "abc123" not in str(raised.value)


# wrong and missing keys ------------------------------------------------------------------------------------------


def test_a_wrong_key_changes_nothing_and_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path)
    before = everything(path.parent)
    monkeypatch.setenv("EMOSLLM_STORE_KEY", "ab" * 32)
    for opening in (fill, bundles):
        with pytest.raises(StoreKeyError, match=r"EMOSLLM_STORE_KEY does not open .*timeline\.db.*another key"):
            opening(path)
    assert everything(path.parent) == before
    assert capfd.readouterr().err == ""


def test_a_missing_key_is_missed_where_it_was_looked_for_and_none_is_made(path: Path) -> None:
    fill(path)
    (path.parent / "timeline.key").unlink()
    before = everything(path.parent)
    for opening in (fill, bundles):
        with pytest.raises(StoreKeyError, match=r"key is missing.*timeline\.key and in the system keyring.*key import"):
            opening(path)
    assert everything(path.parent) == before


@pytest.mark.parametrize("text", ["abc", "xy" * 32, "ab" * 33])
def test_what_is_no_key_is_refused_without_showing_it(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_KEY", text)
    with pytest.raises(StoreKeyError, match=r"EMOSLLM_STORE_KEY is no key: .*64 hex") as raised:
        fill(path)
    assert text not in str(raised.value)
    assert not path.exists()


def test_plain_sqlite_is_refused_and_left_alone(path: Path) -> None:
    import sqlite3

    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE segment(id)")
    before = everything(path.parent)
    for opening in (fill, bundles):
        with pytest.raises(TimelineError, match="not encrypted"):
            opening(path)
    assert everything(path.parent) == before


def test_damage_is_told_from_a_wrong_key(path: Path) -> None:
    fill(path)
    content = bytearray(path.read_bytes())
    content[100:120] = b"\x55" * 20
    path.write_bytes(content)
    for opening in (fill, bundles):
        with pytest.raises(TimelineError, match="it is damaged") as raised:
            opening(path)
        assert not isinstance(raised.value, StoreKeyError)


# places ----------------------------------------------------------------------------------------------------------


def test_the_environment_comes_first_and_leaves_no_key_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_KEY", "AB" * 32)
    fill(path)
    assert bundles(path) == [MARKER]
    assert not (path.parent / "timeline.key").exists()


def test_a_new_key_goes_to_the_keyring_where_there_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    use(monkeypatch, memory)
    fill(path)
    assert [entry[:2] for entry in memory.kept] == [("emosllm-monitor", str(path))]
    assert not (path.parent / "timeline.key").exists()
    assert bundles(path) == bundles(path, "keyring") == [MARKER]
    memory.kept.clear()
    with pytest.raises(StoreKeyError, match="missing"):
        bundles(path)


@pytest.mark.parametrize("backend", [Plain, Locked, Broken])
def test_without_a_keyring_that_counts_the_key_goes_to_a_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, backend: type[Memory], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    use(monkeypatch, backend())
    fill(path)
    assert bundles(path) == bundles(path, "file") == [MARKER]
    assert f"a key was put in {path.parent / 'timeline.key'}" in caplog.text
    assert (path.parent / "timeline.key").read_text().strip() not in caplog.text


@pytest.mark.parametrize(("backend", "why"), [(Locked, "no answer within"), (Broken, "RuntimeError: the bus is gone")])
def test_a_keyring_that_does_not_answer_is_not_a_missing_key(
    path: Path, monkeypatch: pytest.MonkeyPatch, backend: type[Memory], why: str
) -> None:
    use(monkeypatch, Memory())
    fill(path)
    use(monkeypatch, backend())
    with pytest.raises(StoreKeyError, match=f"cannot be asked: .*{why}.*unlock"):
        bundles(path)


@pytest.mark.parametrize(("place", "match"), [("keyring", "no system keyring"), ("environment", "EMOSLLM_STORE_KEY cannot be set")])
def test_a_place_that_was_asked_for_is_not_replaced_by_another(path: Path, place: KeyPlaceName, match: str) -> None:
    with pytest.raises(StoreKeyError, match=match):
        fill(path, place)
    assert not path.exists()


def test_each_database_has_a_key_of_its_own(path: Path, tmp_path: Path) -> None:
    for database in (path, tmp_path / "timeline.db", tmp_path / "other.db"):
        fill(database)
        assert bundles(database) == [MARKER]
    files = {file.name: file.read_text() for file in path.parent.glob("*.key")}
    assert len(files) == len(set(files.values())) == 3
    assert "timeline.key" in files
    assert list(tmp_path.glob("*.key")) == []


def test_a_key_file_that_others_can_read_is_taken_from_them(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path)
    file = path.parent / "timeline.key"
    file.chmod(0o644)
    assert bundles(path) == [MARKER]
    assert file.stat().st_mode & 0o777 == 0o600
    assert "key rotate" in caplog.text


ROWS = 200
KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from tests.integration.test_keys import sound, store

def rotating(folder):
    from monitor.storage.backup import rotate_key
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
        rotate_key(backups.database, backups.keys, backups)
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
    return Backups(folder / "timeline.db", folder / "backups", KeyStore("file", folder), keep=7)


def filled(folder: Path) -> Backups:
    backups = store(folder)
    with closing(TimelineWriter.open(backups.database, ZoneInfo("UTC"), backups.keys)) as timeline:
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
        check_copy(file, backups.keys.find(backups.database, copy=file), file)
    return len(files) == 2 and rows(backups) == ROWS


def test_all_files_get_a_new_key_and_the_old_one_is_gone(tmp_path: Path) -> None:
    backups = filled(tmp_path)
    files = [backups.database, *(backup.path for backup in backups.found())]
    old, before = (tmp_path / "timeline.key").read_text(), {file: file.read_bytes() for file in files}
    rotate_key(backups.database, backups.keys, backups)
    new = (tmp_path / "timeline.key").read_text()
    assert len(new.split()) == 1
    assert new != old
    assert len({salt_of(file) for file in files}) == 1
    for file in files:
        shared = {before[file][at : at + 4096] for at in range(0, len(before[file]), 4096)}
        assert not any(file.read_bytes()[at : at + 4096] in shared for at in range(0, file.stat().st_size, 4096))
        assert file.stat().st_mode & 0o777 == 0o600
    assert sound(backups)


@pytest.mark.slow
def test_a_kill_at_any_step_or_moment_locks_nobody_out(tmp_path: Path) -> None:
    filled(tmp_path / "begin")
    steps = int(subprocess.check_output([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, text=True))
    assert steps > 20
    assert all(sound(store(tmp_path / f"step-{step}")) for step in range(1, steps))
    for name in (*(f"step-{step}" for step in range(1, steps, 5)), "again"):
        backups = store(tmp_path / name)
        rotate_key(backups.database, backups.keys, backups)
        assert sound(backups), name
        assert len((tmp_path / name / "timeline.key").read_text().split()) == 1
        assert not list((tmp_path / name).rglob("*.part*"))
        assert not list((tmp_path / name).glob("*.new"))


def test_a_key_in_the_keyring_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, memory := Memory())
    backups = Backups(tmp_path / "timeline.db", tmp_path / "backups", KeyStore("auto", tmp_path), keep=7)
    TimelineWriter.open(backups.database, ZoneInfo("UTC"), backups.keys).close()
    [old] = memory.kept.values()
    assert "keyring" in str(rotate_key(backups.database, backups.keys, backups))
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
        rotate_key(backups.database, backups.keys, backups)
    assert rows(backups) == ROWS
    damaged.unlink()
    rotate_key(backups.database, backups.keys, backups)
    assert rows(backups) == ROWS


def test_it_is_refused_where_something_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backups = filled(tmp_path)
    monkeypatch.setattr("monitor.storage.backup._BUSY_TIMEOUT_S", 0.1)
    with closing(TimelineReader.open(backups.database, backups.keys)) as reader:
        reader.segments_between(NOON, NOON + timedelta(days=1))
        with pytest.raises(TimelineError, match="another program holds it"):
            rotate_key(backups.database, backups.keys, backups)
    aside = tmp_path / "timeline.db.aside-20260714T120000Z"
    aside.touch()
    with pytest.raises(TimelineError, match="move it away"):
        rotate_key(backups.database, backups.keys, backups)
    aside.unlink()
    monkeypatch.setenv("EMOSLLM_STORE_KEY", (tmp_path / "timeline.key").read_text())
    by_hand = Backups(backups.database, backups.folder, KeyStore("auto", tmp_path), keep=7)
    with pytest.raises(StoreKeyError, match="cannot be changed from here"):
        rotate_key(backups.database, by_hand.keys, by_hand)
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
