"""The judging process under supervision: answered once each, across crashes, restarts and a wrong start."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from model.audio import Int16
from model.errors import EngineUnavailable
from model.manifest import find_bundle, read_manifest
from monitor.config import EngineConfig
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.judge import Judge
from monitor.judging.listener import EngineState, Listener
from monitor.judging.process import JudgingProcess, Wakeup
from monitor.store.records import Judgement
from tests.bundles import STORED

QUICK = EngineConfig(kind="transformers", bundle="compact", max_batch=4)


class Record:
    """What a judge's callbacks were told, and the sound that it asked for."""

    def __init__(self, sounds: Sequence[Int16] = ()) -> None:
        self.sounds = dict(enumerate(sounds))
        self.judgements: list[tuple[int, Judgement]] = []
        self.dropped: list[tuple[int, str]] = []
        self.states: list[EngineState] = []
        self.details: list[str] = []

    def judge(self, folder: Path, config: EngineConfig = QUICK, tireless: bool = False) -> Judge:
        """One that answers here, with everything submitted."""
        listener = Listener(self.sounds.get, self._judged, lambda entry, reason: self.dropped.append((entry, reason)), self._changed)
        choice = BundleChoice(config.bundle, folder / "bundles.json")
        judge = Judge(config, choice, folder / "engine.log", listener, tireless)
        for entry in self.sounds:
            judge.submit(entry)
        return judge

    @property
    def answered(self) -> list[int]:
        """Entries in the order of their answers."""
        return [entry for entry, _ in self.judgements]

    def _judged(self, judgements: Mapping[int, Judgement]) -> None:
        self.judgements += judgements.items()

    def _changed(self, state: EngineState, detail: str) -> None:
        self.states.append(state)
        self.details.append(detail)


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
    return next(pid for pid in pids if b"monitor.judging.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_what_waits_while_the_model_loads_is_answered_in_order_once_each(tmp_path: Path) -> None:
    record = Record(_sounds(11))
    judge = record.judge(tmp_path)
    judge.start()
    judge.finish(never)
    assert record.answered == list(range(11))
    assert record.dropped == []
    assert record.states == [EngineState.LOADING, EngineState.READY]
    assert (tmp_path / "engine.log").stat().st_mode & 0o077 == 0


def test_a_killed_process_is_started_again_and_nothing_is_lost_or_answered_twice(tmp_path: Path) -> None:
    record = Record()
    judge = record.judge(tmp_path)
    judge.start()
    _wait(lambda: EngineState.READY in record.states)
    os.kill(_child_of(judge), signal.SIGSTOP)  # it has the questions now, and no answer
    record.sounds.update(enumerate(_sounds(9)))
    for entry in record.sounds:
        judge.submit(entry)
    time.sleep(1)
    os.kill(_child_of(judge), signal.SIGKILL)
    judge.finish(never)
    assert sorted(record.answered) == list(range(9))
    assert EngineState.RESTARTING in record.states
    assert judge.error is None


def test_what_is_withdrawn_is_not_answered_and_what_has_no_sound_is_not_asked(tmp_path: Path) -> None:
    record = Record(_sounds(6))
    judge = record.judge(tmp_path)
    judge.withdraw([0, 4])
    del record.sounds[2]
    judge.start()
    judge.finish(never)
    assert record.answered == [1, 3, 5]
    assert judge.waiting == 0


def test_what_nobody_waits_for_stays_unanswered(tmp_path: Path) -> None:
    record = Record(_sounds(1))
    judge = record.judge(tmp_path)
    judge.start()
    judge.finish(lambda: True)
    assert (record.answered, record.dropped, judge.waiting) == ([], [], 1)


def test_a_bundle_that_is_none_is_set_aside_for_the_built_in_one(tmp_path: Path) -> None:
    record = Record(_sounds(2))
    judge = record.judge(tmp_path, QUICK.model_copy(update={"bundle": str(tmp_path / "gone")}))
    judge.start()
    judge.finish(never)
    assert record.answered == [0, 1]


def _bad_copy(folder: Path) -> Path:
    """A bundle like the built-in one that cannot be loaded, under a version of its own."""
    bad = folder / "bad"
    shutil.copytree(find_bundle("compact"), bad)
    (bad / "mapper.safetensors").write_bytes(b"damaged")
    description = bad / "bundle.json"
    description.write_text(description.read_text().replace(read_manifest(bad).version, "compact-bad00000"))
    return bad


def test_a_bundle_that_cannot_be_used_is_set_aside_for_the_one_before_and_that_is_said(tmp_path: Path) -> None:
    record = Record(_sounds(2))
    config = QUICK.model_copy(update={"bundle": str(_bad_copy(tmp_path))})
    judge = record.judge(tmp_path, config)
    judge.start()
    judge.finish(never)
    assert record.answered == [0, 1]
    assert {judgement.prediction.bundle_version for _, judgement in record.judgements} == {STORED}
    assert any("set aside" in detail for detail in record.details)
    assert BundleChoice(config.bundle, tmp_path / "bundles.json").aside, "and that is remembered"


def test_an_engine_that_never_starts_is_tried_three_times_and_its_last_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A torch that dies while it is imported, as one built for another machine does.
    (tmp_path / "torch.py").write_text("import sys, os\nprint('illegal instruction in kernel', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("monitor.judging.judge._BACKOFF_S", (0.01,))
    record = Record(_sounds(1))
    judge = record.judge(tmp_path)
    judge.start()
    judge.finish(never)
    assert isinstance(judge.error, EngineUnavailable)
    assert "illegal instruction in kernel" in str(judge.error)
    assert "SIGABRT" in str(judge.error)
    assert record.states.count(EngineState.LOADING) == 3
    assert judge.waiting == 1, "it is judged when an engine is there again"
    assert not BundleChoice("compact", tmp_path / "bundles.json").aside, "where there is no other, the bundle is not to blame"


def test_a_tireless_judge_goes_on_until_the_engine_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{broken}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("monitor.judging.judge._BACKOFF_S", (0.01,))
    record = Record(_sounds(3))
    judge = record.judge(tmp_path, tireless=True)
    judge.start()
    _wait(lambda: record.states.count(EngineState.LOADING) > 4)
    (broken / "torch.py").unlink()
    judge.finish(never)
    assert record.answered == [0, 1, 2]


def test_a_judging_process_does_not_outlive_its_daemon(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, time; from pathlib import Path\n"
        "from monitor.judging.bundle_choice import BundleChoice\n"
        "from monitor.config import EngineConfig; from monitor.judging.judge import Judge; from monitor.judging.listener import Listener\n"
        "log = Path(sys.argv[1]); choice = BundleChoice('compact', log.with_name('bundles.json'))\n"
        "j = Judge(EngineConfig(kind='transformers', bundle='compact'), choice, log, Listener(print, print, print, print), False)\n"
        "j.start(); time.sleep(1)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "engine.log")], check=False, cwd=Path(__file__).parent.parent)

    def gone() -> bool:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"monitor.judging.worker" in entry.read_bytes() and int(Path(entry.parent / "stat").read_text().split()[3]) == 1:
                    return False
            except OSError:
                continue
        return True

    _wait(gone, 30)


def test_a_judging_process_is_told_how_its_libraries_wait_unless_somebody_else_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("EMOSLLM_STORE_KEY", "ab" * 32)
    process = JudgingProcess(QUICK, tmp_path / "engine.log")
    child = psutil.Process(process._process.pid)
    _wait(child.environ)  # for a moment after its start there is nothing to be read
    told = child.environ()
    process.end()
    assert told["OMP_WAIT_POLICY"] == "PASSIVE"
    assert told["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert "EMOSLLM_STORE_KEY" not in told


def test_who_waits_for_a_process_is_woken_as_often_as_there_is_reason_to(tmp_path: Path) -> None:
    process, wakeup = JudgingProcess(QUICK, tmp_path / "engine.log"), Wakeup()
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
