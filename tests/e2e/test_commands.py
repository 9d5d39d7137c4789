"""The commands as processes: what a newcomer types, what goes wrong, and how it ends."""

import csv
import json
import re
import signal
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from model.audio import float_to_pcm16, read_audio, s_to_samples
from model.emotions import Emotion
from monitor.storage.records import Coverage, SegmentState
from tests.support.commands import Running, configure, run, stored, worker_of
from tests.support.paths import DEMO
from tests.support.storage import raw

AT = "2026-01-05T09:00"
AT_UTC = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)  # the tests live in Paris
WITHOUT_VLLM = {"engine": {"kind": "transformers"}}


def _demo_bytes(until_s: float) -> bytes:
    return float_to_pcm16(read_audio(DEMO)[: s_to_samples(until_s)]).tobytes()


def test_the_demo_ends_up_on_the_timeline_and_in_the_report_through_vllm(home: Path) -> None:
    done = run("start", "--source", str(DEMO), "--speed", "max", "--at", AT)
    assert done.returncode == 0, done.stderr
    entries, coverage = stored(home)
    assert entries
    assert {entry.state for entry in entries} == {SegmentState.JUDGED}
    assert done.stdout.count("%") == len(entries)
    assert "engine ready: embedded, compact-" in done.stdout
    with DEMO.with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        acted = list(csv.DictReader(file, delimiter="\t"))
    for row in acted:
        start, end = (AT_UTC + timedelta(seconds=float(row[key])) for key in ("start_s", "end_s"))
        heard = sum((min(end, e.end_at) - max(start, e.start_at)).total_seconds() for e in entries if e.start_at < end and start < e.end_at)
        assert heard > 0.8, f"the clip at {row['start_s']} s was not found"
    (heard_all,) = [interval for interval in coverage if interval.kind is Coverage.HEARD]
    assert heard_all.start_at == AT_UTC
    assert (heard_all.end_at - heard_all.start_at).total_seconds() == pytest.approx(len(read_audio(DEMO)) / 16000, abs=0.01)

    day = run("report", "--day", "2026-01-05")
    assert day.returncode == 0
    assert "not a diagnosis" in " ".join(day.stdout.split())
    figures = json.loads(run("report", "--day", "2026-01-05", "--format", "json").stdout)
    assert figures["day"] == "2026-01-05"
    again = run("start", "--source", str(DEMO), "--speed", "max", "--at", "2026-01-05T09:01")
    assert again.returncode == 1
    assert "already knows what was heard from 2026-01-05 09:00:00" in again.stderr
    piped = run("start", "--source", "-", "--at", "2026-01-05T08:00", stdin=_demo_bytes(1.0))
    assert piped.returncode == 1
    assert "already knows" in piped.stderr
    assert len(stored(home)[0]) == len(entries)


def test_a_day_without_data_is_no_data(home: Path) -> None:
    for day in ("today", "yesterday", "2026-03-29"):
        done = run("report", "--day", day)
        assert done.returncode == 0
        assert "NO DATA" in done.stdout
        assert "neutral" not in done.stdout.lower()
    assert not (home / "state").exists(), "looking must not create anything"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["start", "--source", "missing.wav"], "missing.wav does not exist"),
        (["start", "--source", "missing.wav", "--speed", "max"], "missing.wav does not exist"),
        (["start", "--source", "/dev/null"], "empty"),
        (["start", "--source", __file__], "not audio"),
        (["start", "--source", str(DEMO), "--at", "noon"], "--at 'noon'"),
        (["start", "--source", str(DEMO), "--at", "2999-01-01T00:00"], "future"),
        (["start", "--source", "-"], "without any sound"),
        (["report", "--day", "2026-02-30"], "2026-02-30"),
        (["report", "--day", "someday"], "yesterday"),
        (["--config", "gone.toml", "report"], "gone.toml"),
    ],
)
def test_what_goes_wrong_is_one_message_without_a_traceback(arguments: list[str], reason: str, home: Path) -> None:
    configure(home, **WITHOUT_VLLM)
    done = run(*arguments)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_a_broken_setting_stops_every_command_that_needs_settings(home: Path) -> None:
    configure(home, segmenter={"frame_ms": 25})
    for command in (["report"], ["start", "--source", str(DEMO)]):
        done = run(*command)
        assert done.returncode == 1
        assert "[segmenter] frame_ms" in done.stderr
    done = run("doctor")
    assert done.returncode == 1
    assert "FAIL  settings" in done.stdout
    assert "ok    bundle" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_in_the_middle_of_a_word_stores_the_open_segment_and_ends_well(home: Path, number: signal.Signals) -> None:
    configure(home, **WITHOUT_VLLM)
    running = Running(home, "--source", "-", stdin=subprocess.PIPE)
    assert running.process.stdin is not None
    running.process.stdin.write(_demo_bytes(5.0))
    running.process.stdin.flush()
    running.until(lambda: "engine ready" in running.output)
    assert running.end(number) == 0, running.output
    (entry,), (heard,) = stored(home)
    assert entry.state is SegmentState.JUDGED
    assert heard.kind is Coverage.HEARD
    assert (heard.end_at - heard.start_at).total_seconds() == pytest.approx(5.0, abs=0.01)
    assert heard.end_at - entry.end_at < timedelta(seconds=0.7)
    assert "Traceback" not in running.output


@pytest.mark.slow
def test_a_signal_while_the_engine_loads_still_judges_and_a_second_one_leaves_it_for_the_next_start(home: Path) -> None:
    configure(home, **WITHOUT_VLLM)
    for signals, state in (([signal.SIGINT, signal.SIGINT], SegmentState.WAITING), ([signal.SIGINT], SegmentState.JUDGED)):
        running = Running(home, "--source", "-", stdin=subprocess.PIPE)
        assert running.process.stdin is not None
        running.process.stdin.write(_demo_bytes(8.0))
        running.process.stdin.flush()
        before = len(stored(home)[0]) if (home / "state").exists() else 0
        running.until(lambda before=before: len(stored(home)[0]) > before)  # type: ignore[misc]
        assert running.end(*signals) == 0, running.output
        assert {entry.state for entry in stored(home)[0]} == {state}, running.output
    assert len(stored(home)[0]) == 2, "what the first left was judged by the second, once"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_was_heard_is_a_good_end_too(home: Path, number: signal.Signals) -> None:
    configure(home, **WITHOUT_VLLM)
    running = Running(home, "--source", "-", stdin=subprocess.PIPE)
    running.until((home / "state").exists)
    assert running.end(number) == 0, running.output
    assert "Traceback" not in running.output


def test_a_second_start_is_refused_and_told_about_the_first(home: Path) -> None:
    configure(home, **WITHOUT_VLLM)
    running = Running(home, "--source", "-", stdin=subprocess.PIPE)
    running.until(lambda: "listening" in running.output)
    done = run("start", "--source", str(DEMO))
    assert done.returncode == 1
    assert f"process {running.process.pid}" in done.stderr
    assert running.process.poll() is None
    running.process.kill()
    running.process.wait()
    assert run("start", "--source", "-", stdin=_demo_bytes(1.0)).returncode == 0, "a killed monitor must not block the next"


@pytest.mark.slow
def test_an_engine_that_does_not_start_is_explained_and_nothing_heard_is_lost(home: Path, tmp_path: Path) -> None:
    configure(home, **WITHOUT_VLLM)
    (tmp_path / "torch.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')\n")
    done = run("start", "--source", str(DEMO), "--speed", "max", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "libgomp.so.1" in done.stderr
    assert "engine.log" in done.stderr
    heard, _ = stored(home)
    assert heard
    assert {entry.state for entry in heard} == {SegmentState.WAITING}
    assert run("start", "--source", "-", stdin=_demo_bytes(1.0)).returncode == 0
    judged, _ = stored(home)
    assert {entry.state for entry in judged if entry.id in {one.id for one in heard}} == {SegmentState.JUDGED}


def test_nothing_said_felt_or_heard_is_in_any_file_or_message(home: Path) -> None:
    """Everything that is written anywhere while the engine dies and comes back: no label, no word, no sound."""
    configure(home, engine={"kind": "transformers"}, log={"level": "debug"}, privacy={"keep_audio": True, "keep_transcripts": True})
    running = Running(home, "--source", "-", "--at", AT, "--unattended", stdin=subprocess.PIPE)
    assert running.process.stdin is not None
    sound = float_to_pcm16(read_audio(DEMO)[: s_to_samples(35.0)])
    running.process.stdin.write(sound.tobytes())
    running.process.stdin.flush()
    running.until(lambda: "engine ready" in running.output)
    running.until(lambda: any(entry.state is SegmentState.JUDGED for entry in stored(home)[0]))
    worker_of(running).kill()
    running.until(lambda: running.output.count("engine ready") == 2)
    files = [path for path in home.rglob("*") if path.is_file()]  # also what is there only while it runs
    running.process.stdin.close()
    assert running.process.wait(120) == 0, running.output
    entries, _ = stored(home)
    assert entries
    readable = [path for path in {*files, *home.rglob("*")} if path.is_file() and ".db" not in path.name and path.suffix != ".key"]
    assert {"monitor.log", "engine.log"} <= {path.name for path in readable}
    words = {emotion.word for emotion in Emotion} | {"posterior", "transcript"}
    for path in readable:
        text = path.read_bytes().decode(errors="replace").lower()
        assert not [word for word in words if re.search(rf"\b{word}\b", text)], path
    # Sixteen loud samples in a row of each segment: they stand nowhere else by chance.
    pieces = []
    for entry in entries:
        loudest = entry.start_sample + int(np.abs(sound[entry.start_sample : entry.end_sample - 16]).argmax())
        pieces.append(sound[loudest : loudest + 16].tobytes())
    with closing(raw(home / "state" / "emosllm-monitor" / "timeline.db")) as connection:
        kept = b"".join(bytes(row[0]) for row in connection.execute("SELECT pcm FROM sound"))
    assert all(piece in kept for piece in pieces), "kept as the person wants it, and this test would find it"
    for path in home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(piece in content for piece in pieces), path
            assert path.stat().st_mode & 0o077 == 0 or home / "state" not in path.parents, f"{path} can be read by others"


@pytest.mark.parametrize(
    ("command", "option"),
    [(["corpus", "prepare"], "--out"), (["train"], "--manifest"), (["train"], "--dry-run"), (["evaluate"], "--strategy")],
)
def test_training_options_are_shown_by_the_training_process(command: list[str], option: str) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert option in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["train", "--manifest", "gone.csv", "--out", "new"], 1, "error: cannot read the manifest gone.csv"),
        (["evaluate", "--manifest", "gone.csv"], 1, "error: cannot read the manifest gone.csv"),
        (["evaluate"], 2, "--manifest"),
        (["train", "--data=folder"], 2, "--data"),
    ],
)
def test_what_goes_wrong_in_training_is_one_message_too(
    arguments: list[str], status: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a run leaves its work where it is started
    done = run(*arguments)
    assert done.returncode == status
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
