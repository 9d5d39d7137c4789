"""The judging process under supervision: answered once each, across crashes, restarts and a wrong start."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from model.bundle_format import find_bundle, read_bundle_manifest
from model.errors import EngineUnavailable
from monitor.bundles.registry import BundleRegistry
from monitor.inference.protocol import EngineState
from monitor.inference.worker_process import Wakeup, WorkerProcess
from tests.support.bundles import STORED
from tests.support.inference import FAST_ENGINE, RecordedEvents, never, noise_segments, wait_until, worker_pid
from tests.support.paths import ROOT


def test_what_waits_while_the_model_loads_is_answered_in_order_once_each(tmp_path: Path) -> None:
    record = RecordedEvents(noise_segments(11))
    judge = record.judge(tmp_path)
    judge.start()
    judge.finish(never)
    assert record.answered == list(range(11))
    assert record.dropped == []
    assert record.states == [EngineState.LOADING, EngineState.READY]
    assert (tmp_path / "engine.log").stat().st_mode & 0o077 == 0


def test_a_killed_process_is_started_again_and_nothing_is_lost_or_answered_twice(tmp_path: Path) -> None:
    record = RecordedEvents()
    judge = record.judge(tmp_path)
    judge.start()
    wait_until(lambda: EngineState.READY in record.states)
    os.kill(worker_pid(judge), signal.SIGSTOP)  # it has the questions now, and no answer
    record.sounds.update(enumerate(noise_segments(9)))
    for entry in record.sounds:
        judge.submit(entry)
    time.sleep(1)
    os.kill(worker_pid(judge), signal.SIGKILL)
    judge.finish(never)
    assert sorted(record.answered) == list(range(9))
    assert EngineState.RESTARTING in record.states
    assert judge.error is None


@pytest.mark.slow
def test_what_is_withdrawn_is_not_answered_and_what_has_no_sound_is_not_asked(tmp_path: Path) -> None:
    record = RecordedEvents(noise_segments(6))
    judge = record.judge(tmp_path)
    judge.withdraw([0, 4])
    del record.sounds[2]
    judge.start()
    judge.finish(never)
    assert record.answered == [1, 3, 5]
    assert judge.waiting == 0


def test_what_nobody_waits_for_stays_unanswered(tmp_path: Path) -> None:
    record = RecordedEvents(noise_segments(1))
    judge = record.judge(tmp_path)
    judge.start()
    judge.finish(lambda: True)
    assert (record.answered, record.dropped, judge.waiting) == ([], [], 1)


@pytest.mark.slow
def test_a_bundle_that_is_none_is_set_aside_for_the_built_in_one(tmp_path: Path) -> None:
    record = RecordedEvents(noise_segments(2))
    judge = record.judge(tmp_path, FAST_ENGINE.model_copy(update={"bundle": str(tmp_path / "gone")}))
    judge.start()
    judge.finish(never)
    assert record.answered == [0, 1]


def _bad_copy(folder: Path) -> Path:
    """A bundle like the built-in one that cannot be loaded, under a version of its own."""
    bad = folder / "bad"
    shutil.copytree(find_bundle("compact"), bad)
    (bad / "mapper.safetensors").write_bytes(b"damaged")
    description = bad / "bundle.json"
    description.write_text(description.read_text().replace(read_bundle_manifest(bad).version, "compact-bad00000"))
    return bad


@pytest.mark.slow
def test_a_bundle_that_cannot_be_used_is_set_aside_for_the_one_before_and_that_is_said(tmp_path: Path) -> None:
    record = RecordedEvents(noise_segments(2))
    config = FAST_ENGINE.model_copy(update={"bundle": str(_bad_copy(tmp_path))})
    judge = record.judge(tmp_path, config)
    judge.start()
    judge.finish(never)
    assert record.answered == [0, 1]
    assert {result.prediction.bundle_version for _, result in record.results} == {STORED}
    assert any("set aside" in detail for detail in record.details)
    assert BundleRegistry(config.bundle, tmp_path / "bundles.json").fallback_reason(), "and that is remembered"


def test_an_engine_that_never_starts_is_tried_three_times_and_its_last_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A torch that dies while it is imported, as one built for another machine does.
    (tmp_path / "torch.py").write_text("import sys, os\nprint('illegal instruction in kernel', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("monitor.inference.supervisor._RESTART_DELAYS_S", (0.01,))
    record = RecordedEvents(noise_segments(1))
    judge = record.judge(tmp_path)
    judge.start()
    judge.finish(never)
    assert isinstance(judge.error, EngineUnavailable)
    assert "illegal instruction in kernel" in str(judge.error)
    assert "SIGABRT" in str(judge.error)
    assert record.states.count(EngineState.LOADING) == 3
    assert judge.waiting == 1, "it is judged when an engine is there again"
    assert not BundleRegistry("compact", tmp_path / "bundles.json").fallback_reason(), "where there is no other, the bundle is not to blame"


@pytest.mark.slow
def test_a_tireless_judge_goes_on_until_the_engine_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{broken}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("monitor.inference.supervisor._RESTART_DELAYS_S", (0.01,))
    record = RecordedEvents(noise_segments(3))
    judge = record.judge(tmp_path, retry_forever=True)
    judge.start()
    wait_until(lambda: record.states.count(EngineState.LOADING) > 4)
    (broken / "torch.py").unlink()
    judge.finish(never)
    assert record.answered == [0, 1, 2]


def test_a_judging_process_does_not_outlive_its_daemon(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, time; from pathlib import Path\n"
        "from monitor.bundles.registry import BundleRegistry\n"
        "from monitor.config import EngineConfig\n"
        "from monitor.inference.supervisor import InferenceSupervisor\n"
        "log = Path(sys.argv[1]); registry = BundleRegistry('compact', log.with_name('bundles.json'))\n"
        "supervisor = InferenceSupervisor(EngineConfig(kind='transformers', bundle='compact'), registry, log, False)\n"
        "assert supervisor.poll(1).state == 'loading'; time.sleep(1)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "engine.log")], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL

    def gone() -> bool:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"monitor.inference.worker" in entry.read_bytes() and int(Path(entry.parent / "stat").read_text().split()[3]) == 1:
                    return False
            except OSError:
                continue
        return True

    wait_until(gone, 30)


def test_a_judging_process_is_told_how_its_libraries_wait_unless_somebody_else_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("EMOSLLM_STORE_KEY", "ab" * 32)
    process = WorkerProcess(FAST_ENGINE, tmp_path / "engine.log")
    child = psutil.Process(process._process.pid)
    wait_until(child.environ)  # for a moment after its start there is nothing to be read
    told = child.environ()
    process.end()
    assert told["OMP_WAIT_POLICY"] == "PASSIVE"
    assert told["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert "EMOSLLM_STORE_KEY" not in told


def test_who_waits_for_a_process_is_woken_as_often_as_there_is_reason_to(tmp_path: Path) -> None:
    process, wakeup = WorkerProcess(FAST_ENGINE, tmp_path / "engine.log"), Wakeup()
    for _ in range(3):
        threading.Timer(0.05, wakeup.wake).start()
        began = time.monotonic()
        assert process.receive(60, wakeup) is None
        assert time.monotonic() - began < 30
    for _ in range(100_000):  # more than would fit in a pipe that nobody empties
        wakeup.wake()
    assert process.receive(60, wakeup) is None
    assert process.receive(0, wakeup) is None
    assert not wakeup.reader.poll()
    process.end()
