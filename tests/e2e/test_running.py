"""A running monitor from outside: paused, muted, stopped and asked on a virtual microphone; killed at any moment on a recording."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest

from model.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from monitor.analysis.days import Day
from monitor.storage.coverage import CoverageTile, tile_coverage
from monitor.storage.reader import TimelineReader
from monitor.storage.records import Coverage, SegmentState
from tests.support.commands import Running, configure, run, stored, worker_of
from tests.support.paths import DEMO
from tests.support.storage import keys, raw
from tests.support.virtual_microphone import VirtualMicrophone

QUICK = {"engine": {"kind": "transformers"}}
CLIP_S = 12


def database(home: Path) -> Path:
    return home / "state" / "emosllm-monitor" / "timeline.db"


def tiles(home: Path, start: datetime, end: datetime) -> list[CoverageTile]:
    with closing(TimelineReader.open(database(home), keys())) as reader:
        return tile_coverage(start, end, reader.coverage_between(start, end), reader.segments_between(start, end))


def spool(home: Path) -> int:
    """Segments whose sound is stored."""
    with closing(raw(database(home))) as connection:
        return int(connection.execute("SELECT count(*) FROM sound").fetchone()[0])


def status(running: Running, home: Path) -> dict[str, object]:
    done = run("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr + running.output
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def listening(home: Path, microphone: VirtualMicrophone) -> Iterator[Running]:
    """A monitor on a microphone that nobody speaks into."""
    configure(home, **QUICK)
    running = Running(home, environment=microphone.env)
    running.until(lambda: "listening" in running.output)
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGKILL)


def test_it_is_paused_and_resumed_and_stopped_from_another_terminal_and_all_of_it_is_stored(home: Path, listening: Running) -> None:
    before = datetime.now(UTC)
    assert status(listening, home)["state"] == "listening"
    shown = run("status")
    assert "State       listening (the microphone is open)" in shown.stdout
    time.sleep(1)
    paused = run("pause", "--for", "30m")
    assert "the microphone is closed" in paused.stdout
    listening.until(lambda: status(listening, home)["state"] == "paused")
    assert status(listening, home)["paused_until"]
    time.sleep(1)
    assert run("resume").stdout == "resumed; the microphone is open\n"
    listening.until(lambda: status(listening, home)["state"] == "listening")
    time.sleep(1)
    assert run("stop").stdout == "stopped\n"
    assert listening.process.wait(30) == 0
    long = [part.kind for part in tiles(home, before, datetime.now(UTC)) if part.seconds > 0.5]
    opened = [Coverage.HEARD if kind is Coverage.MUTED else kind for kind in long]  # the virtual source is silent
    assert [kind for kind, _ in groupby(opened)][:3] == [Coverage.HEARD, Coverage.PAUSED, Coverage.HEARD]
    gone = run("status")
    assert (gone.returncode, "not running" in gone.stdout) == (3, True)
    assert run("pause").returncode == 1


def test_a_pause_outlives_a_kill_and_a_start(home: Path, listening: Running, microphone: VirtualMicrophone) -> None:
    run("pause")
    listening.until(lambda: status(listening, home)["state"] == "paused")
    listening.process.kill()
    listening.process.wait(10)
    again = Running(home, environment=microphone.env)
    again.until(lambda: "paused; the microphone is closed" in again.output)
    assert "listening to" not in again.output
    run("resume")
    again.until(lambda: "listening to" in again.output)
    assert again.end(signal.SIGTERM) == 0


def test_what_cannot_be_paused_or_understood_is_refused(home: Path) -> None:
    configure(home, **QUICK)
    running = Running(home, "--source", "-", stdin=subprocess.PIPE)
    running.until(lambda: "listening" in running.output)
    assert "a recording cannot be paused" in run("pause").stderr
    assert "'tomorrow' is no length of time" in run("pause", "--for", "tomorrow").stderr
    assert status(running, home)["source"] == "standard input"
    assert run("stop").returncode == 0
    assert running.process.wait(60) == 0


@pytest.mark.slow
def test_it_runs_without_a_terminal(home: Path, microphone: VirtualMicrophone) -> None:
    configure(home, **QUICK)
    started = run("start", "--detach", environment=microphone.env)
    assert started.returncode == 0, started.stderr
    assert "running in the background, listening: microphone" in started.stdout
    try:
        assert run("start", "--detach", environment=microphone.env).returncode == 1, "one at a time"
        status_now = json.loads(run("status", "--json").stdout)
        assert status_now["state"] in ("listening", "muted")  # the virtual source is silent
        assert psutil.Process(status_now["pid"]).environ()["PYTHONMALLOC"] == "malloc", "its memory is in large pages"
    finally:
        assert run("stop").returncode == 0
    configure(home, audio={"device": "Neumann U 87"}, **QUICK)
    waits = run("start", "--detach", environment=microphone.env)
    assert "running in the background, no microphone" in waits.stdout
    assert "'Neumann U 87' is not there" in waits.stderr
    assert run("stop").returncode == 0
    # Asked again and again: it answers questions before it has found out that there is nothing to play.
    missing = [run("start", "--detach", "--source", "missing.wav") for _ in range(3)]
    assert {(done.returncode, done.stderr) for done in missing} == {(1, "error: missing.wav does not exist\n")}


@pytest.mark.slow
def test_a_muted_microphone_is_stored_as_that(home: Path, listening: Running, microphone: VirtualMicrophone) -> None:
    before = datetime.now(UTC)
    # The virtual source is silent, which no real microphone is: what it delivers is a muted one's zeros.
    listening.until(lambda: "the microphone is muted" in listening.output, 20)
    assert status(listening, home)["state"] == "muted"
    microphone.play(_clip(home))
    listening.until(lambda: "not muted any more" in listening.output, 20)
    assert listening.end(signal.SIGTERM) == 0
    parts = tiles(home, before, datetime.now(UTC))
    assert {Coverage.MUTED, Coverage.HEARD} <= {part.kind for part in parts}
    assert sum(part.seconds for part in parts if part.kind is Coverage.MUTED) > 1.5


def _clip(home: Path) -> Path:
    import soundfile

    path = home / "clip.wav"
    soundfile.write(path, read_audio(DEMO)[3 * SAMPLE_RATE : 8 * SAMPLE_RATE], SAMPLE_RATE)
    return path


def _piped(home: Path) -> Running:
    """A monitor that hears the demo from a pipe as fast as it takes it; killed or not, it stores what it heard as of now."""
    running = Running(home, "--source", "-", "--at", f"2026-01-{_piped_days.pop(0):02}T09:00", stdin=subprocess.PIPE)
    assert running.process.stdin is not None
    try:
        running.process.stdin.write(float_to_pcm16(read_audio(DEMO)[: CLIP_S * SAMPLE_RATE]).tobytes())
        running.process.stdin.flush()
    except BrokenPipeError:
        pass
    return running


_piped_days = list(range(1, 29))


def _wait_for_listening(running: Running) -> None:
    running.until(lambda: "listening" in running.output)


@pytest.mark.slow
def test_a_monitor_killed_at_any_moment_loses_no_closed_segment_and_judges_none_twice(home: Path) -> None:
    configure(home, **QUICK)
    rng = random.Random(5)
    known: set[int] = set()
    for _ in range(5):
        running = _piped(home)
        _wait_for_listening(running)
        time.sleep(rng.uniform(0.0, 4.0))
        running.process.kill()
        running.process.wait(10)
        running.process.stdin.close()  # type: ignore[union-attr]
        entries = {entry.id for entry in stored(home)[0]}
        assert known <= entries, "a closed segment is gone"
        known = entries
    waiting = sum(entry.state is SegmentState.WAITING for entry in stored(home)[0])
    assert spool(home) == waiting, "each that waits has its sound, and no other"
    last = _piped(home)
    last.process.stdin.close()  # type: ignore[union-attr]
    assert last.process.wait(120) == 0, last.output
    entries, _ = stored(home)
    assert known <= {entry.id for entry in entries}
    assert {entry.state for entry in entries} == {SegmentState.JUDGED}
    assert spool(home) == 0
    spans = sorted((entry.start_at, entry.end_at) for entry in entries)
    assert all(left[1] <= right[0] for left, right in pairwise(spans)), "two segments for one moment"
    with closing(raw(database(home))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    for day in {entry.start_at.date() for entry in entries}:
        with closing(TimelineReader.open(database(home), keys())) as reader:
            whole = Day(day, ZoneInfo("Europe/Paris"))
            parts = tile_coverage(whole.start, whole.end, reader.coverage_between(whole.start, whole.end))
        heard = sum(part.seconds for part in parts if part.kind is Coverage.HEARD)
        assert heard <= CLIP_S + 0.1


@pytest.mark.slow
def test_an_engine_killed_again_and_again_answers_everything_once(home: Path) -> None:
    configure(home, **QUICK)
    running = Running(home, "--source", str(DEMO), "--speed", "max", "--at", "2026-01-05T09:00")
    for _ in range(2):  # a third death without an answer would be blamed on the bundle
        child = worker_of(running)
        time.sleep(0.5)
        child.kill()
        running.until(lambda child=child: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 20)  # type: ignore[misc]
    assert running.process.wait(240) == 0, running.output
    entries, _ = stored(home)
    assert {entry.state for entry in entries} == {SegmentState.JUDGED}
    assert running.output.count("%") == len(entries)


@pytest.mark.slow
def test_speech_that_waits_beyond_the_limit_is_given_up_and_stored_as_that(home: Path, tmp_path: Path) -> None:
    configure(home, spool={"max_mib": 1}, **QUICK)
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(600)\n")
    running = Running(home, "--source", "-", "--at", "2026-01-05T09:00", stdin=subprocess.PIPE, environment={"PYTHONPATH": str(tmp_path)})
    assert running.process.stdin is not None
    running.process.stdin.write(float_to_pcm16(read_audio(DEMO)).tobytes() * 2)
    running.process.stdin.close()
    running.until(lambda: "too much speech was waiting" in running.output)
    running.until(lambda: len(stored(home)[0]) >= 28)
    running.end(signal.SIGINT, signal.SIGINT)
    entries, coverage = stored(home)
    given_up = [entry for entry in entries if entry.state is SegmentState.UNJUDGED]
    waiting = [entry for entry in entries if entry.state is SegmentState.WAITING]
    assert given_up
    assert max(entry.start_at for entry in given_up) < min(entry.start_at for entry in waiting), "the oldest go"
    assert sum((entry.end_at - entry.start_at).total_seconds() for entry in waiting) * 2 * SAMPLE_RATE <= 2**20
    down = [(part.start_at, part.end_at) for part in coverage if part.kind is Coverage.ENGINE_DOWN]
    assert sorted(down) == sorted((entry.start_at, entry.end_at) for entry in given_up)
    assert spool(home) == len(waiting)
