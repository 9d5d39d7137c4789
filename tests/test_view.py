"""What a person sees while the monitor runs."""

import io
import os
import pty
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console

from model.types import Emotion, Prediction
from monitor.judging.listener import EngineState
from monitor.view import Judged, LiveView, PlainView, Status, meter
from tests.commands import COMMAND, configure
from tests.conftest import DEMO

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 1, 5, 11, 0, tzinfo=UTC)
SAD = Prediction({Emotion.SAD: 0.7, Emotion.NEUTRAL: 0.3}, unsure=False, bundle_version="compact-1")
UNSURE = Prediction({Emotion.SAD: 0.4, Emotion.NEUTRAL: 0.35, Emotion.FEAR: 0.25}, unsure=True, bundle_version="compact-1")


def _console() -> Console:
    return Console(width=80, record=True, file=io.StringIO(), force_terminal=True)


def test_the_panel_shows_level_speech_segments_queue_and_engine() -> None:
    status = Status(
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
    status.recent.extend([Judged(NOON, 3.2, SAD), Judged(NOON, 1.0, UNSURE), Judged(NOON, 2.0, None, "the engine failed")])
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
        "unsure, perhaps sad",
        "not judged",
        "1 waiting",
    ):
        assert part in text, part
    assert "engine: ready, embedded, compact-1" in text
    assert "not a diagnosis" in text


def test_a_microphone_that_is_gone_is_never_shown_as_open() -> None:
    status = Status("the default microphone", live=True, listening=False, device_problem="it stopped; trying to open it again")
    console = _console()
    console.print(LiveView(console, PARIS).render(status))
    text = console.export_text()
    assert "○ no microphone" in text
    assert "trying to open it again" in text
    assert "microphone open" not in text


def test_plain_lines_have_time_length_and_answer() -> None:
    console = Console(width=40, record=True, file=io.StringIO())
    view = PlainView(console, PARIS)
    view.judged(Judged(NOON, 12.34, SAD))
    view.judged(Judged(NOON, 1.0, UNSURE))
    assert console.export_text().splitlines() == ["12:00:00  12.3 s  sad 70 %", "12:00:00   1.0 s  unsure, perhaps sad 40 %"]


def test_the_meter_stays_in_its_bounds() -> None:
    assert meter(-120).plain == "░" * 24 + "  -60 dB"
    assert meter(0).plain == "█" * 24 + "    0 dB"


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
    paused = Status("the default microphone", live=True, paused=True, paused_until=NOON)
    muted = Status("the default microphone", live=True, listening=True, muted=True)
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
    view.judged(Judged(NOON, 3.2, SAD))
    assert console.export_text() == "listening to the default microphone\n"
