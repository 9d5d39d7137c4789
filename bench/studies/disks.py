"""Disks that are full, locked, damaged or may not be written, under a monitor that somebody speaks to.

Mounts, and folders that even root may not change, need root. Without it a limit on the size of files stands in for the full disk,
and a folder's mode for a disk that is read-only.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import soundfile

from bench.harness import DEMO
from bench.studies.fault_harness import EndlessSpeech, FaultOutcome, SpeechPipe, database_path, median_and_longest, temporary_home
from model.audio import SAMPLE_RATE, float_to_pcm16, read_audio, s_to_samples
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk
from monitor.config import SegmenterConfig
from monitor.control import send_command
from monitor.fileio import SQLITE_SIDE_FILES
from monitor.storage.cipher import connect
from monitor.storage.coverage import tile_coverage
from monitor.storage.records import Coverage, SegmentState
from tests.support.commands import Running, configure, run, stored
from tests.support.storage import keys
from tests.support.virtual_microphone import VirtualMicrophone

_ENGINE = {"engine": {"kind": "transformers"}}
_PASSAGE_S = (2.0, 28.0)
_SILENCE_S = 2.0
_LOCKED_S = 20.0
_DISK_MIB = 4
_PAGE_BYTES = 4096
_IS_ROOT = os.geteuid() == 0


@dataclass
class _LiveMonitor:
    """A monitor on a microphone, and what was seen of it from outside."""

    folder: Path
    microphone: VirtualMicrophone
    running: Running
    passage: Path
    said: int = 0
    """Segments that must have been closed."""
    deaf: int = 0
    """How often it did not listen when it was asked, a few times a second."""
    problem: str = ""
    """The last that it told."""

    def speak(self) -> None:
        """Play the passage, and ask the monitor meanwhile how it is."""
        thread = threading.Thread(target=self.microphone.play, args=[self.passage])
        thread.start()
        until = time.monotonic() + _PASSAGE_S[1] - _PASSAGE_S[0] + _SILENCE_S
        while time.monotonic() < until or thread.is_alive():
            self.look()
            time.sleep(0.2)
        self.said += _segments_in(self.passage)

    def look(self) -> dict[str, Any]:
        """What `status` tells."""
        answer = send_command(database_path(self.folder), "status")
        self.deaf += answer["state"] != "listening"
        self.problem = next(iter(answer["problems"]), self.problem)
        return answer


def full_disk() -> FaultOutcome:
    """Full while somebody speaks, and then there is room again."""
    with temporary_home() as folder, _disk(folder) as disk, _live_monitor(folder) as live:
        way = f"a full disk of {_DISK_MIB} MiB (tmpfs)" if _IS_ROOT else "files that may not grow (RLIMIT_FSIZE)"
        return _through(live, way, lambda: disk.fill(live.running.process.pid), lambda: disk.free(live.running.process.pid))


def locked() -> FaultOutcome:
    """Another process holds the database for twenty seconds while somebody speaks."""
    with temporary_home() as folder, _live_monitor(folder) as live:
        holder = connect(database_path(folder), keys().find(database_path(folder)), read_only=False, timeout_s=5.0)
        with closing(holder):
            return _through(
                live,
                f"the database locked for at least {_LOCKED_S:.0f} s (BEGIN EXCLUSIVE)",
                lambda: holder.execute("BEGIN EXCLUSIVE"),
                lambda: holder.execute("ROLLBACK"),
                least_s=_LOCKED_S,
            )


def read_only_while_it_runs() -> FaultOutcome:
    """No file can be made, renamed or removed in the folder while somebody speaks, nor when it stops."""
    with temporary_home() as folder, _live_monitor(folder) as live:
        state = database_path(folder).parent
        change = ("chattr", "+i"), ("chattr", "-i")
        begin, end = change if _IS_ROOT and shutil.which("chattr") else (("chmod", "0500"), ("chmod", "0700"))
        try:
            return _through(
                live, f"a folder in which no file can be made or removed ({' '.join(begin)})", lambda: _do(*begin, str(state)), None
            )
        finally:
            _do(*end, str(state))


def read_only_at_the_start() -> FaultOutcome:
    """At its first start and after a kill it says that it cannot write, and it starts when it can."""
    back_s = []
    with temporary_home() as folder, VirtualMicrophone(hum=True) as microphone:
        configure(folder, **_ENGINE)
        state = database_path(folder).parent
        state.mkdir(mode=0o700, parents=True)
        for _ in range(2):
            with _read_only(state):
                refused = run("start", environment=microphone.env)
            assert refused.returncode == 1, refused.stdout
            assert refused.stderr.startswith("error: cannot"), refused.stderr
            assert "check the permissions" in refused.stderr, refused.stderr
            began = time.monotonic()
            running = Running(folder, environment=microphone.env)
            running.until(lambda running=running: "listening to" in running.output)  # type: ignore[misc]
            back_s.append(time.monotonic() - began)
            running.process.kill()
            running.process.wait()
    means = "a bind mount" if _IS_ROOT else "its mode"
    return FaultOutcome(
        f"a folder that is read-only at the start ({means}): refused", 2, 0, 0, 0, 0.0, f"{median_and_longest(back_s)} from the next start"
    )


def damaged(places: int) -> FaultOutcome:
    """Twenty bytes flipped in one page or another: the start is refused, and a restored backup holds everything."""
    speech, lost, back_s = EndlessSpeech(), 0, list[float]()
    with temporary_home() as folder:
        configure(folder, **_ENGINE)
        with SpeechPipe(speech, 100.0) as pipe:
            first = Running(folder, "--source", "-", "--at", "2025-01-01T09:00", stdin=pipe.outlet)
            first.until(lambda: len(stored(folder)[0]) >= 20 if database_path(folder).exists() else False)
            pipe.end()
            assert first.process.wait(120) == 0, first.output
        known = stored(folder)
        backup = Path(run("backup").stdout.strip()).name
        good = database_path(folder).read_bytes()
        for number in range(places):
            _damage(database_path(folder), good, number * (len(good) // _PAGE_BYTES) // places)
            refused = run("start", "--source", str(DEMO), "--at", "2025-01-02T09:00")
            assert refused.returncode == 1, f"page {number} of {places} is damaged, and it started: {refused.stdout}"
            assert "damaged" in refused.stderr, refused.stderr
            assert "`emosllm-monitor restore`" in refused.stderr, refused.stderr
            began = time.monotonic()
            restored = run("restore", backup)
            assert restored.returncode == 0, restored.stderr
            lost += len({entry.id for entry in known[0]} - {entry.id for entry in stored(folder)[0]}) + (stored(folder)[1] != known[1])
            with SpeechPipe(speech, 1.0) as pipe:
                again = Running(folder, "--source", "-", "--at", "2025-01-02T09:00", stdin=pipe.outlet)
                again.until(lambda again=again: "listening to" in again.output)  # type: ignore[misc]
                back_s.append(time.monotonic() - began)
                again.process.kill()
                again.process.wait()
    fault = "20 bytes of the database flipped: refused each time, then `restore`"
    return FaultOutcome(fault, places, len(known[0]), lost, 0, 0.0, f"{median_and_longest(back_s)} with `restore` and start")


def _through(
    live: _LiveMonitor, fault: str, begin: Callable[[], object], end: Callable[[], object] | None, least_s: float = 0.0
) -> FaultOutcome:
    """Speak before, during and after a fault; nothing may be missing at the end.

    end: None for a fault that lasts until after the monitor has stopped, and stops nothing from being written. Of others `status`
    must tell.
    """
    live.speak()
    heard_from = stored(live.folder)[1][0].start_at
    begin()
    began = time.monotonic()
    try:
        live.speak()
        if end is not None:
            _until(lambda: bool(live.look()["problems"]), 30)
            time.sleep(max(0.0, began + least_s - time.monotonic()))
    finally:
        if end is not None:
            end()
    over = time.monotonic()
    _until(lambda: not live.look()["problems"] and len(stored(live.folder)[0]) >= live.said, 60)
    written_s = time.monotonic() - over
    live.speak()
    counted, until = live.look()["segments"], datetime.now(UTC)
    assert live.running.end(signal.SIGTERM) == 0, live.running.output
    entries, coverage = stored(live.folder)
    parts = tile_coverage(heard_from, until, coverage, entries)
    closed = max(live.said, counted)
    assert all(entry.state is SegmentState.JUDGED for entry in entries), "something was not judged"
    listened = "never stopped" if not live.deaf else f"was not listening {live.deaf} times when asked"
    told = f'; said "{live.problem.split(": ", 1)[-1]}"; all was written {written_s:.1f} s after it ended' if end else ""
    return FaultOutcome(
        fault,
        1,
        closed,
        lost=max(0, closed - len(entries)),
        doubled=max(0, len(entries) - closed),
        wrong_s=sum(part.seconds for part in parts if part.kind is not Coverage.HEARD),
        back=listened + told,
    )


@contextmanager
def _live_monitor(folder: Path) -> Iterator[_LiveMonitor]:
    configure(folder, **_ENGINE)
    passage = folder / "passage.wav"
    start_s, end_s = _PASSAGE_S
    soundfile.write(passage, read_audio(DEMO)[s_to_samples(start_s) : s_to_samples(end_s)], SAMPLE_RATE)
    with VirtualMicrophone(hum=True) as microphone:
        running = Running(folder, environment=microphone.env)
        try:
            running.until(lambda: "listening to" in running.output and "engine ready" in running.output)
            yield _LiveMonitor(folder, microphone, running, passage)
        finally:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()


class _Disk:
    """The disk that a monitor writes to, which can be filled."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self, pid: int) -> None:
        if not _IS_ROOT:
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (_PAGE_BYTES, psutil.RLIM_INFINITY))
            return
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(_PAGE_BYTES))
            except OSError:
                return

    def free(self, pid: int) -> None:
        if _IS_ROOT:
            self._filler.unlink()
        else:
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


@contextmanager
def _disk(folder: Path) -> Iterator[_Disk]:
    state = folder / "state"
    state.mkdir(exist_ok=True)
    if not _IS_ROOT:
        yield _Disk(state)
        return
    _do("mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=0700", "tmpfs", str(state))
    try:
        yield _Disk(state)
    finally:
        _do("umount", "--lazy", str(state))


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    if not _IS_ROOT:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    _do("mount", "--bind", str(folder), str(folder))
    try:
        _do("mount", "-o", "remount,ro,bind", str(folder))
        yield
    finally:
        _do("umount", str(folder))


def _segments_in(passage: Path) -> int:
    segmenter = Segmenter(SegmenterConfig())
    return len(segmenter.push(AudioChunk(0, float_to_pcm16(read_audio(passage)))) + segmenter.flush())


def _damage(path: Path, good: bytes, page: int) -> None:
    for ending in SQLITE_SIDE_FILES:
        path.with_name(path.name + ending).unlink(missing_ok=True)
    start = page * _PAGE_BYTES + 200
    path.write_bytes(good[:start] + bytes(byte ^ 0xFF for byte in good[start : start + 20]) + good[start + 20 :])


def _until(happened: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not seen within {seconds:.0f} s"
        time.sleep(0.1)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
