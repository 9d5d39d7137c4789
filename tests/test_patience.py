"""Writes that have to wait: in order, none twice, and none lost while there is room."""

import pytest

from model.errors import TimelineError
from monitor.store.patience import PatientWriter, Write


class Disk:
    """Takes writes, or is full."""

    def __init__(self) -> None:
        self.full = False
        self.written: list[str] = []

    def write(self, name: str, size: int = 0) -> Write:
        return Write(lambda: self._take(name), (lambda: self._take(f"lost {name}")) if size else None, size)

    def _take(self, name: str) -> None:
        if self.full:
            raise TimelineError("the disk is full")
        self.written.append(name)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_what_can_be_written_is_written_at_once(disk: Disk) -> None:
    writer = PatientWriter(100)
    writer.add(disk.write("a"))
    writer.add(disk.write("b", 99))
    assert (disk.written, writer.waiting, writer.problem) == (["a", "b"], 0, "")


def test_what_cannot_be_written_waits_and_keeps_its_place(disk: Disk) -> None:
    writer = PatientWriter(100)
    writer.add(disk.write("a"))
    disk.full = True
    for name in "bcd":
        writer.add(disk.write(name, 10))
    assert (writer.waiting, writer.problem) == (3, "the disk is full")
    disk.full = False
    assert not writer.flush(), "not yet: it is tried every few seconds"
    assert writer.flush(now=True)
    assert (disk.written, writer.waiting, writer.problem) == (["a", "b", "c", "d"], 0, "")


def test_without_room_the_oldest_sound_goes_and_that_is_written_in_its_place(disk: Disk) -> None:
    writer = PatientWriter(100)
    disk.full = True
    for name, size in (("a", 60), ("coverage", 0), ("b", 40), ("c", 50), ("d", 10)):
        writer.add(disk.write(name, size))
    disk.full = False
    writer.flush(now=True)
    assert disk.written == ["lost a", "coverage", "b", "c", "d"]
