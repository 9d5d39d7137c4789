"""A monitor whose disk is full, locked, damaged or read-only, or which is killed: nothing that it heard is lost."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from model.audio import Int16, float_to_pcm16, read_audio, s_to_samples
from monitor.control import ask
from monitor.store.cipher import connect
from monitor.store.lock import BESIDE
from monitor.store.records import Coverage
from tests.commands import Running, configure, run, stored
from tests.conftest import DEMO
from tests.stores import keys

ANCHOR = datetime(2026, 1, 5, 9, tzinfo=UTC)
SEGMENTS, SECONDS = 3, 20  # of the demo's beginning
PAGE = 4096


def database(home: Path) -> Path:
    return home / "state" / "emosllm-monitor" / "timeline.db"


@pytest.fixture
def listening(home: Path) -> Iterator[Running]:
    """A monitor with an open pipe."""
    configure(home, engine={"kind": "transformers"})
    running = start(home)
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGKILL)


def start(home: Path, day: int = 0) -> Running:
    running = Running(home, "--source", "-", "--at", (ANCHOR + timedelta(days=day)).isoformat(), stdin=subprocess.PIPE)
    running.until(lambda: "listening to" in running.output)
    return running


def say(running: Running, sound: Int16) -> None:
    assert running.process.stdin is not None
    running.process.stdin.write(sound.tobytes())
    running.process.stdin.flush()


def beginning(seconds: float) -> Int16:
    return float_to_pcm16(read_audio(DEMO)[: s_to_samples(seconds)])


@contextmanager
def locked(home: Path, _pid: int) -> Iterator[None]:
    """Another process is in the middle of writing."""
    with closing(connect(database(home), keys().find(database(home)), read_only=False, timeout_s=5.0)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def full(_home: Path, pid: int) -> Iterator[None]:
    """No file can grow."""
    process = psutil.Process(pid)
    process.rlimit(psutil.RLIMIT_FSIZE, (PAGE, psutil.RLIM_INFINITY))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Not even root can write there."""
    if os.geteuid():
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("fault", "told"), [(locked, "another program holds it"), (full, "check the disk")])
def test_what_cannot_be_written_waits_while_it_goes_on_listening(
    home: Path, listening: Running, fault: Callable[[Path, int], AbstractContextManager[None]], told: str
) -> None:
    with fault(home, listening.process.pid):
        say(listening, beginning(SECONDS))
        listening.until(lambda: any(told in problem for problem in ask(database(home), "status")["problems"]))
        listening.until(lambda: ask(database(home), "status")["segments"] == SEGMENTS)
        assert ask(database(home), "status")["state"] == "listening"
    listening.until(lambda: len(stored(home)[0]) == SEGMENTS)
    listening.until(lambda: not ask(database(home), "status")["problems"])
    listening.end(signal.SIGINT, signal.SIGINT)
    entries, coverage = stored(home)
    assert len(entries) == SEGMENTS
    heard = [part for part in coverage if part.kind is Coverage.HEARD]
    assert [(part.start_at, part.end_at) for part in heard] == [(ANCHOR, ANCHOR + timedelta(seconds=SECONDS))]


def test_a_damaged_timeline_is_refused_and_a_backup_put_back(home: Path, listening: Running) -> None:
    say(listening, beginning(SECONDS))
    listening.until(lambda: len(stored(home)[0]) == SEGMENTS)
    listening.end(signal.SIGINT, signal.SIGINT)
    known = {entry.id for entry in stored(home)[0]}
    backup = Path(run("backup").stdout.strip())
    good = database(home).read_bytes()
    for page in (0, len(good) // PAGE // 2, len(good) // PAGE - 1):
        damaged = bytearray(good)
        damaged[page * PAGE + 200] ^= 1
        for ending in BESIDE:  # readers leave an empty log behind
            database(home).with_name(database(home).name + ending).unlink(missing_ok=True)
        database(home).write_bytes(damaged)
        refused = run("start", "--source", "-", "--at", "2026-01-06T09:00")
        assert refused.returncode == 1
        assert "is damaged" in refused.stderr
        assert "`emosllm-monitor restore`" in refused.stderr
        assert database(home).read_bytes() == damaged, "it was changed"
    assert run("restore", backup.name).returncode == 0
    assert {entry.id for entry in stored(home)[0]} == known
    again = start(home, day=1)
    again.end(signal.SIGINT, signal.SIGINT)


def test_a_folder_that_cannot_be_written_is_named_also_after_a_kill(home: Path, listening: Running) -> None:
    listening.end(signal.SIGKILL)
    with read_only(database(home).parent):
        refused = run("start", "--source", "-", "--at", "2026-01-06T09:00")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: cannot write")
    assert "check the permissions there" in refused.stderr
    again = start(home, day=1)
    again.end(signal.SIGINT, signal.SIGINT)


def test_a_monitor_killed_in_a_recording_has_stored_what_it_heard_but_for_the_last_seconds(home: Path, listening: Running) -> None:
    say(listening, beginning(60))
    heard_to = ANCHOR + timedelta(seconds=60 - 5 - 1)

    def stored_enough() -> bool:
        return any(part.kind is Coverage.HEARD and part.start_at == ANCHOR and part.end_at >= heard_to for part in stored(home)[1])

    listening.until(stored_enough, 20)
    listening.end(signal.SIGKILL)
    assert stored_enough()


def test_a_page_half_written_in_a_power_cut_is_taken_from_the_log(home: Path, listening: Running) -> None:
    say(listening, beginning(SECONDS))
    listening.until(lambda: len(stored(home)[0]) == SEGMENTS)
    listening.end(signal.SIGKILL)
    torn = bytearray(database(home).read_bytes())
    torn[PAGE // 2 : PAGE] = bytes(PAGE // 2)
    database(home).write_bytes(torn)
    again = start(home, day=1)
    again.end(signal.SIGINT, signal.SIGINT)
    assert len(stored(home)[0]) == SEGMENTS
