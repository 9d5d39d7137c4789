"""The judging process under supervision: answered once each, across crashes, restarts and a wrong start."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from model.audio import Int16
from model.errors import EngineRejected, EngineUnavailable
from model.types import Prediction
from monitor.config import EngineConfig
from monitor.judge import EngineState, Judge, Listener

QUICK = EngineConfig(kind="transformers", max_batch=4)


class Record:
    """What a judge's callbacks were told."""

    def __init__(self) -> None:
        self.predictions: list[tuple[int, Prediction]] = []
        self.dropped: list[tuple[int, str]] = []
        self.states: list[EngineState] = []

    def listener(self) -> Listener:
        return Listener(self._judged, lambda entry, reason: self.dropped.append((entry, reason)), self._changed)

    def _judged(self, predictions: Mapping[int, Prediction]) -> None:
        self.predictions += predictions.items()

    def _changed(self, state: EngineState, _detail: str) -> None:
        self.states.append(state)


def _sounds(count: int) -> list[Int16]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=16000 * (1 + n % 3)) * 1000).astype(np.int16) for n in range(count)]


def _wait(until: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def never() -> bool:
    """Nobody loses patience."""
    return False


def _child_of(judge: Judge) -> int:
    """The process id of the judging process."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    return next(pid for pid in pids if b"monitor.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_what_waits_while_the_model_loads_is_answered_in_order_once_each(tmp_path: Path) -> None:
    record = Record()
    judge = Judge(QUICK, tmp_path / "engine.log", record.listener())
    for entry, pcm in enumerate(_sounds(11)):
        judge.submit(entry, pcm)
    judge.start()
    judge.finish(never)
    assert [entry for entry, _ in record.predictions] == list(range(11))
    assert record.dropped == []
    assert record.states == [EngineState.LOADING, EngineState.READY]
    assert (tmp_path / "engine.log").stat().st_mode & 0o077 == 0


def test_a_killed_process_is_started_again_and_nothing_is_lost_or_answered_twice(tmp_path: Path) -> None:
    record = Record()
    judge = Judge(QUICK, tmp_path / "engine.log", record.listener())
    judge.start()
    _wait(lambda: EngineState.READY in record.states)
    os.kill(_child_of(judge), signal.SIGSTOP)  # it has the questions now, and no answer
    for entry, pcm in enumerate(_sounds(9)):
        judge.submit(entry, pcm)
    time.sleep(1)
    os.kill(_child_of(judge), signal.SIGKILL)
    judge.finish(never)
    assert sorted(entry for entry, _ in record.predictions) == list(range(9))
    assert EngineState.RESTARTING in record.states
    assert judge.error is None


def test_beyond_the_limit_the_oldest_are_given_up_and_said(tmp_path: Path) -> None:
    record = Record()
    judge = Judge(QUICK.model_copy(update={"max_waiting": 5}), tmp_path / "engine.log", record.listener())
    for entry, pcm in enumerate(_sounds(8)):
        judge.submit(entry, pcm)
    judge.start()
    judge.finish(never)
    assert [entry for entry, _ in record.dropped] == [0, 1, 2]
    assert all("more than 5" in reason for _, reason in record.dropped)
    assert [entry for entry, _ in record.predictions] == [3, 4, 5, 6, 7]


def test_what_cannot_be_waited_for_is_given_up_not_forgotten(tmp_path: Path) -> None:
    record = Record()
    judge = Judge(QUICK, tmp_path / "engine.log", record.listener())
    judge.start()
    judge.submit(7, _sounds(1)[0])
    judge.finish(lambda: True)
    assert [entry for entry, _ in record.dropped] == [7]
    assert record.predictions == []


def test_a_bundle_that_is_none_ends_it_at_once_with_the_reason(tmp_path: Path) -> None:
    record = Record()
    judge = Judge(QUICK.model_copy(update={"bundle": str(tmp_path)}), tmp_path / "engine.log", record.listener())
    judge.start()
    judge.submit(1, _sounds(1)[0])
    judge.finish(never)
    assert isinstance(judge.error, EngineRejected)
    assert "no bundle at" in str(judge.error)
    assert [entry for entry, _ in record.dropped] == [1]


def test_an_engine_that_never_starts_is_tried_three_times_and_its_last_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A torch that dies while it is imported, as one built for another machine does.
    (tmp_path / "torch.py").write_text("import sys, os\nprint('illegal instruction in kernel', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("monitor.judge._BACKOFF_S", (0.01,))
    record = Record()
    judge = Judge(QUICK, tmp_path / "engine.log", record.listener())
    judge.start()
    judge.submit(1, _sounds(1)[0])
    judge.finish(never)
    assert isinstance(judge.error, EngineUnavailable)
    assert "illegal instruction in kernel" in str(judge.error)
    assert "SIGABRT" in str(judge.error)
    assert record.states.count(EngineState.LOADING) == 3


def test_a_judging_process_does_not_outlive_its_daemon(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, time; from pathlib import Path\n"
        "from monitor.config import EngineConfig; from monitor.judge import Judge, Listener\n"
        "j = Judge(EngineConfig(kind='transformers'), Path(sys.argv[1]), Listener(print, print, print)); j.start(); time.sleep(1)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "engine.log")], check=False, cwd=Path(__file__).parent.parent)

    def gone() -> bool:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"monitor.worker" in entry.read_bytes() and int(Path(entry.parent / "stat").read_text().split()[3]) == 1:
                    return False
            except OSError:
                continue
        return True

    _wait(gone, 30)
