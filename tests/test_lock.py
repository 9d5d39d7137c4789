"""One daemon a database: the lock holds between processes, and dies with the one that holds it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model.errors import TimelineError
from monitor.store.lock import DatabaseLock, make_private, make_tree_private

HOLD = """
import sys
from pathlib import Path
from monitor.store.lock import DatabaseLock
with DatabaseLock(Path(sys.argv[1]), "the other microphone"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLD, str(path)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_daemon_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db"
    with held_by_another_process(path) as process:
        with pytest.raises(TimelineError) as raised, DatabaseLock(path, "mic"):
            pytest.fail("two processes hold the lock")
        message = str(raised.value)
        assert str(path) in message
        assert f"process {process.pid}, listening to the other microphone since 20" in message
        process.communicate("", timeout=10)
    with DatabaseLock(path, "mic"):
        pass


def test_a_killed_daemon_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db"
    with held_by_another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with DatabaseLock(path, "mic"):
            assert (tmp_path / "timeline.db.lock").exists()


def test_the_lock_is_one_whatever_the_path_is_called(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "timeline.db")
    with (
        DatabaseLock(tmp_path / "timeline.db", "mic"),
        pytest.raises(TimelineError, match="already in use"),
        DatabaseLock(tmp_path / "link.db", "mic"),
    ):
        pytest.fail("the same database is locked twice")


@pytest.mark.parametrize("left", ["", "{", "[]", '{"pid": 1}'])
def test_a_strange_note_does_not_hide_that_the_lock_is_held(tmp_path: Path, left: str) -> None:
    path = tmp_path / "timeline.db"
    with DatabaseLock(path, "mic"):
        (tmp_path / "timeline.db.lock").write_text(left)
        with pytest.raises(TimelineError, match="another process"), DatabaseLock(path, "mic"):
            pytest.fail("locked twice")


def test_files_and_new_folders_are_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "timeline.db"
    with DatabaseLock(path, "mic"):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.with_name("timeline.db.lock").stat().st_mode & 0o777 == 0o600


def test_a_folder_of_ours_and_all_in_it_is_taken_from_others_but_not_what_a_link_leads_to(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "state", tmp_path / "theirs"
    (ours / "backups").mkdir(parents=True)
    for file in (theirs, ours / "timeline.db", ours / "timeline.db-wal", ours / "backups" / "one.db"):
        file.touch()
        file.chmod(0o644)
    (ours / "link").symlink_to(theirs)
    (ours / "backups").chmod(0o755)
    ours.chmod(0o755)
    assert make_tree_private(ours) == 5
    assert {path.stat().st_mode & 0o777 for path in (ours, ours / "backups")} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in ours.rglob("*.db*")} == {0o600}
    assert theirs.stat().st_mode & 0o777 == 0o644
    assert make_tree_private(ours) == make_tree_private(tmp_path / "missing") == 0


def test_what_others_could_read_is_taken_from_them_but_folders_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "timeline.db"
    path.touch(0o644)
    make_private(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode & 0o777 == 0o755
