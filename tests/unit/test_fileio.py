"""Files of the monitor's own are replaced in one step, for their owner alone, and held by one process at a time."""

import threading
from pathlib import Path

import pytest

from monitor.fileio import locked, open_private_atomic, partial_path, write_private_atomic


def test_a_file_is_replaced_in_one_step_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "state" / "note.json"
    write_private_atomic(path, "früher")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    with path.open(encoding="utf-8") as before:
        write_private_atomic(path, b"later")
        assert before.read() == "früher"
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("later", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_fails_or_was_killed_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_private_atomic(path, "before")
    with pytest.raises(ZeroDivisionError), open_private_atomic(path) as file:
        file.write(bytes(1 // 0))
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])
    partial_path(path).write_text("what a killed writer left")
    write_private_atomic(path, "after")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("after", [path])


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs", tmp_path / "note.json"
    theirs.write_text("theirs")
    link.symlink_to(theirs)
    write_private_atomic(link, "ours")
    assert (theirs.read_text(), link.read_text(), link.is_symlink()) == ("theirs", "ours", False)


def test_who_does_not_wait_is_refused_and_who_waits_comes_next(tmp_path: Path) -> None:
    folder, order = tmp_path / "ours", list[str]()

    def second() -> None:
        with locked(folder):
            order.append("second")

    waiting = threading.Thread(target=second)
    with locked(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(BlockingIOError), locked(folder, wait=False):
            pytest.fail("held twice")
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    with locked(folder, wait=False):
        assert list(folder.iterdir()) == []
