"""Full, locked, damaged and read-only disks, kills, and what the terminal shows meanwhile."""

import io
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest
from rich.console import Console

from model.audio import Int16, float_to_pcm16, read_audio, s_to_samples
from model.emotions import Emotion, Prediction
from monitor.control import send_command
from monitor.daemon.live_view import LiveView, PlainView, level_meter
from monitor.daemon.status import DaemonStatus, RecentSegment
from monitor.fileio import SQLITE_SIDE_FILES
from monitor.inference.protocol import EngineState
from monitor.storage.cipher import connect
from monitor.storage.records import Coverage
from tests.support.commands import COMMAND, Running, configure, run, stored
from tests.support.paths import DEMO
from tests.support.storage import keys

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


@pytest.mark.parametrize(
    ("fault", "told"), [pytest.param(locked, "another program holds it", marks=pytest.mark.slow), (full, "check the disk")]
)
def test_what_cannot_be_written_waits_while_it_goes_on_listening(
    home: Path, listening: Running, fault: Callable[[Path, int], AbstractContextManager[None]], told: str
) -> None:
    with fault(home, listening.process.pid):
        say(listening, beginning(SECONDS))
        listening.until(lambda: any(told in problem for problem in send_command(database(home), "status")["problems"]))
        listening.until(lambda: send_command(database(home), "status")["segments"] == SEGMENTS)
        assert send_command(database(home), "status")["state"] == "listening"
    listening.until(lambda: len(stored(home)[0]) == SEGMENTS)
    listening.until(lambda: not send_command(database(home), "status")["problems"])
    listening.end(signal.SIGINT, signal.SIGINT)
    entries, coverage = stored(home)
    assert len(entries) == SEGMENTS
    heard = [part for part in coverage if part.kind is Coverage.HEARD]
    assert [(part.start_at, part.end_at) for part in heard] == [(ANCHOR, ANCHOR + timedelta(seconds=SECONDS))]


@pytest.mark.slow
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
        for ending in SQLITE_SIDE_FILES:  # readers leave an empty log behind
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


PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 1, 5, 11, 0, tzinfo=UTC)
SAD = Prediction({Emotion.SAD: 0.7, Emotion.NEUTRAL: 0.3}, unsure=False, bundle_version="compact-1")
UNSURE = Prediction({Emotion.SAD: 0.4, Emotion.NEUTRAL: 0.35, Emotion.FEAR: 0.25}, unsure=True, bundle_version="compact-1")


def _console() -> Console:
    return Console(width=80, record=True, file=io.StringIO(), force_terminal=True)


def test_the_panel_shows_level_speech_segments_queue_and_engine() -> None:
    status = DaemonStatus(
        "the default microphone",
        live=True,
        level_dbfs=-30,
        speaking=True,
        listening=True,
        position=NOON,
        segments=4,
        judged=2,
        unjudged=1,
        waiting=1,
    )
    status.engine, status.engine_detail = EngineState.READY, "embedded, compact-1"
    status.recent.extend(
        [RecentSegment(NOON, 3.2, SAD), RecentSegment(NOON, 1.0, UNSURE), RecentSegment(NOON, 2.0, None, "the engine failed")]
    )
    console = _console()
    console.print(LiveView(console, PARIS).render(status))
    text = console.export_text()
    for part in (
        "● microphone open",
        "-30 dB",
        "speech",
        "12:00:00",
        "3.2 s",
        "sad",
        "70 %",
        "unsure (sad 40 %)",
        "not analysed",
        "1 waiting",
    ):
        assert part in text, part
    assert "engine: ready, embedded, compact-1" in text
    assert "not a diagnosis" in text


def test_a_microphone_that_is_gone_is_never_shown_as_open() -> None:
    status = DaemonStatus("the default microphone", live=True, listening=False, device_problem="it stopped; trying to open it again")
    console = _console()
    console.print(LiveView(console, PARIS).render(status))
    text = console.export_text()
    assert "○ no microphone" in text
    assert "trying to open it again" in text
    assert "microphone open" not in text


def test_plain_lines_have_time_length_and_answer() -> None:
    console = Console(width=40, record=True, file=io.StringIO())
    view = PlainView(console, PARIS)
    view.judged(RecentSegment(NOON, 12.34, SAD))
    view.judged(RecentSegment(NOON, 1.0, UNSURE))
    assert console.export_text().splitlines() == ["12:00:00  12.3 s  sad 70 %", "12:00:00   1.0 s  unsure (sad 40 %)"]


def test_the_meter_stays_in_its_bounds() -> None:
    assert level_meter(-120).plain == "░" * 24 + "  -60 dB"
    assert level_meter(0).plain == "█" * 24 + "    0 dB"


@pytest.mark.slow
def test_on_a_terminal_the_panel_is_drawn_and_stays(home: Path) -> None:
    configure(home, engine={"kind": "transformers"})
    ours, theirs = pty.openpty()
    process = subprocess.Popen([COMMAND, "start", "--source", str(DEMO), "--speed", "max"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    try:
        while piece := os.read(ours, 65536):
            output += piece
    except OSError:
        pass  # Linux's way to say that the other end is closed
    assert process.wait() == 0
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert "hearing a recording" in screen
    assert "microphone open" not in screen
    assert re.search(r"\d\d:\d\d:\d\d +\d+\.\d s +\w+", screen)


def test_a_closed_or_muted_microphone_is_shown_as_that() -> None:
    paused = DaemonStatus("the default microphone", live=True, paused=True, paused_until=NOON)
    muted = DaemonStatus("the default microphone", live=True, listening=True, muted=True)
    for status, title in ((paused, "○ paused until 12:00"), (muted, "● microphone open, but muted")):
        console = _console()
        console.print(LiveView(console, PARIS).render(status))
        text = console.export_text()
        assert title in text
        assert ("nothing is heard" in text, " dB" in text) == ((True, False) if status is paused else (False, True))


def test_where_output_is_kept_no_answer_is_printed() -> None:
    console = _console()
    view = PlainView(console, PARIS, answers=False)
    view.tell("listening to the default microphone")
    view.judged(RecentSegment(NOON, 3.2, SAD))
    assert console.export_text() == "listening to the default microphone\n"
