"""The training's process: fed, heard, of the lowest rank, without keys, and gone when it has to go, with all it started."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
import pytest

from model.bundle_format import PromotionDecision, PromotionVerdict
from model.emotions import Emotion
from model.errors import TrainingError
from model.labelled_segment import LabelKind, LabelledSegment, write_labelled_segments
from monitor.config import RetrainConfig
from monitor.personalization.training_process import TrainingHalted, TrainingProcess
from tests.support.nights import EVENING, StandIn, decision
from tests.support.paths import ROOT


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


class Run:
    """One process with three pieces to learn from."""

    def __init__(self, folder: Path, limits: RetrainConfig | None = None, pieces: int = 3) -> None:
        self.log = folder / "retrain.log"
        self.told: list[str] = []
        self.feed = self._three
        self._folder, self._limits, self._pieces = folder, limits or RetrainConfig(), pieces

    def __call__(self, watch: object = None) -> bytes:
        arguments = ["nightly", "--bundle", "b", "--out", str(self._folder / "new"), "--work", str(self._folder / "work")]
        process = TrainingProcess(
            arguments,
            self._limits,
            self.log,
            self.feed,
            self.told.append,
            watch or (lambda: None),  # type: ignore[arg-type]
        )
        return process.run()

    def _three(self, file: BinaryIO) -> None:
        pcm = np.arange(16_000, dtype=np.int16)
        write_labelled_segments(
            file,
            (LabelledSegment(n, EVENING, pcm, Emotion.SAD, LabelKind.CORRECTION, Emotion.HAPPY) for n in range(self._pieces)),
        )


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def until(happened: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_evidence_goes_in_progress_and_an_answer_come_out(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    run = Run(tmp_path)
    assert PromotionDecision.model_validate_json(run()) == decision(PromotionVerdict.REFUSED)
    assert [one[0] for one in stand_in.seen["got"]] == [0, 1, 2]
    assert run.told == ["learning"]
    assert run.log.read_text() == "learning\n"
    assert run.log.stat().st_mode & 0o777 == 0o600


def test_much_more_evidence_than_a_pipe_holds_gets_through(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    Run(tmp_path, pieces=400)()
    assert len(stand_in.seen["got"]) == 400


_LOOKS_AT_ITSELF = """
import json, os, resource
def read(name):
    with open("/proc/self/" + name) as file:
        return file.read().strip()
autogroup = read("autogroup") if os.path.exists("/proc/self/autogroup") else "nice 19"
print(json.dumps({
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "policy": os.sched_getscheduler(0), "processors": len(os.sched_getaffinity(0)),
    "group": autogroup.split()[-1], "oom": read("oom_score_adj"), "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "filter": int(read("coredump_filter"), 16), "session": os.getsid(0) == os.getpid(), "threads": os.environ["OMP_NUM_THREADS"],
}))
"""


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `train` that costs next to nothing, for those that run at the true rank; a file to be written."""
    package = tmp_path / "instead" / "train"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")
    return package / "__main__.py"


def test_it_has_the_lowest_rank_of_all_and_few_processors_and_leaves_no_dump(instead: Path, tmp_path: Path) -> None:
    instead.write_text(_LOOKS_AT_ITSELF)
    before = (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
    assert json.loads(Run(tmp_path, RetrainConfig(max_cores=1), pieces=0)()) == {
        "nice": 19,
        "policy": os.SCHED_IDLE,
        "processors": 1,
        "group": "19",
        "oom": "1000",
        "core": 0,
        "filter": 0,
        "session": True,
        "threads": "1",
    }
    assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == before, "only the child stepped back"


def test_it_does_not_survive_its_parent_however_that_ends(instead: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    instead.write_text(
        f"import os, signal, time; signal.signal(15, signal.SIG_IGN); open({str(there)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    code = f"from pathlib import Path; from tests.integration.test_training_process import Run; Run(Path({str(tmp_path)!r}))()"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until(lambda: there.exists() and there.read_text(), 120)
    child = int(there.read_text())
    assert not gone(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: gone(child))


def test_it_gets_no_key_and_looks_for_nothing_on_the_network(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_KEY", "ab" * 32)
    monkeypatch.setenv("EMOSLLM_API_KEY", "secret")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    Run(tmp_path)()
    environment = stand_in.seen["environment"]
    assert "ab" * 32 not in json.dumps(stand_in.seen)
    assert "secret" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "GLIBC_TUNABLES" not in environment, "its memory is bounded: no large pages"


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("fail", "the bundle is damaged: mapper.safetensors is not the file it was released with"),
        ("crash", "the training was ended by the signal SIGSEGV; the last it said was: learning"),
        ("raise", "the training ended with status 1; the last it said was: RuntimeError: a bug"),
    ],
)
def test_its_end_is_told_in_words(stand_in: StandIn, tmp_path: Path, does: str, reason: str) -> None:
    stand_in.does(does)
    with pytest.raises(TrainingError) as raised:
        Run(tmp_path)()
    assert str(raised.value).startswith(reason)


def test_evidence_that_breaks_off_is_not_taken_for_the_whole(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.does(decides=decision(PromotionVerdict.PROMOTED))
    run = Run(tmp_path)

    def break_off(file: BinaryIO) -> None:
        file.write(b'{"segment": 1')
        raise TrainingError("its sound is gone")

    run.feed = break_off
    with pytest.raises(TrainingError, match="its sound is gone"):
        run()
    assert any("incomplete or damaged" in line for line in run.told)
    assert not stand_in.began


def test_one_that_takes_too_much_memory_is_stopped(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.does("eat")
    with pytest.raises(
        TrainingError, match=r"it took \d+ MiB of memory, more than the 500 that it may take \(\[retrain\] max_memory_mib\)"
    ):
        Run(tmp_path, RetrainConfig(max_memory_mib=500))()
    assert gone(stand_in.seen["pid"])


def test_one_that_takes_too_long_is_stopped_and_goes_on_next_time(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.does("hang")
    began = time.monotonic()
    # A minute is the shortest that the settings know, so its beginning lies in the past here.
    monkeypatch.setattr("monitor.personalization.training_process.time.monotonic", lambda: began + 61 * stand_in.began)
    with pytest.raises(TrainingHalted, match=r"after 1 minutes \(\[retrain\] max_minutes\)"):
        Run(tmp_path, RetrainConfig(max_minutes=1))()
    assert gone(stand_in.seen["pid"])


@pytest.mark.parametrize("does", ["hang", "deaf"])
def test_whoever_watches_ends_it_whether_it_listens_or_not(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr("monitor.personalization.training_process._TERMINATE_TIMEOUT_S", 2.0)
    stand_in.does(does)

    def watch() -> None:
        if stand_in.began:
            raise TrainingHalted("enough")

    with pytest.raises(TrainingHalted, match="enough"):
        Run(tmp_path)(watch)
    assert gone(stand_in.seen["pid"])


def test_a_full_disk_costs_the_log_and_not_the_training(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    run = Run(tmp_path)
    run.log = Path("/dev/full/retrain.log")
    assert run()


def test_it_may_be_run_in_a_thread_of_its_own(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(Run(tmp_path)()))
    thread.start()
    thread.join(60)
    assert len(answers) == 1
