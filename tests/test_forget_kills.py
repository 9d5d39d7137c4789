"""Forgetting that is killed at any step is finished by the next one: nothing of the stretch is left, and nothing else is lost."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monitor.config import Config
from monitor.forgetting import finish, forget, interrupted
from tests.test_forgetting import GONE, Life, traces

ROOT = Path(__file__).parents[1]
KILLED = """
import os, shutil, signal, sys, time
from pathlib import Path

work, whole = Path(sys.argv[1]), sys.argv[2] == "all"
os.environ["XDG_STATE_HOME"] = str(work / "warm" / "state")
from monitor.config import Config
from monitor.forgetting import forget, forget_all
from tests.test_forgetting import GONE

def act():
    forget_all(Config()) if whole else forget(Config(), GONE)

def forgetting(folder, step):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.wait()[1])
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    seen = 0
    def step_taken():
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
    def count(event, arguments):
        if event in ("os.rename", "os.remove", "os.chmod") or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            step_taken()
    def statement(_frame, event, called):
        if event == "c_call" and getattr(called, "__name__", "") in ("execute", "fsync"):
            step_taken()
    sys.addaudithook(count)
    sys.setprofile(statement)
    act()
    os._exit(0)

shutil.copytree(work / "begin", work / "warm")
act()  # imports everything
step = 1
while True:
    folder = work / f"step-{step}"
    shutil.copytree(work / "begin", folder)
    if forgetting(folder, step) == 0:
        break
    step += 1
print(step)
"""


@pytest.fixture
def begin(home: Path, tmp_path: Path) -> Path:
    """A life with a backup and an older timeline put aside, to be copied."""
    life = Life(home)
    life.live()
    life.summarize()
    life.backups.make(GONE.start)
    shutil.copytree(home / "state", tmp_path / "begin" / "state")
    return tmp_path


def killed_at_each_step(work: Path, what: str) -> list[Path]:
    told = subprocess.check_output([sys.executable, "-c", KILLED, str(work), what], cwd=ROOT, text=True)
    steps = int(told)
    assert steps > 20
    return [work / f"step-{step}" for step in range(1, steps)]


def life_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    return Life(folder)


def test_a_stretch_is_gone_after_a_kill_at_any_step_and_a_second_go(begin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = None
    for folder in killed_at_each_step(begin, "stretch"):
        life = life_in(folder, monkeypatch)
        if interrupted(life.config.timeline):
            assert finish(life.config) is not None
        else:
            forget(life.config, GONE)
        assert not interrupted(life.config.timeline)
        everywhere = life.all_bytes()
        assert not [trace for trace in traces("within") if trace in everywhere], folder
        assert all(trace in everywhere for name in ("before", "after") for trace in traces(name)), folder
        kept = kept or life.rows()
        assert life.rows() == kept, folder
        assert len(life.backups.found()) == 1
        assert not [path for path in life.folder.rglob("*") if path.name.endswith((".part", "-journal", ".new", ".forgetting"))], folder


def test_everything_is_gone_after_a_kill_at_any_step_and_the_next_start(begin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in killed_at_each_step(begin, "all"):
        life = life_in(folder, monkeypatch)
        if not interrupted(life.config.timeline):
            continue  # killed before the first step, or after the last
        finish(life.config, locked=True)
        left = [path.name for path in life.folder.rglob("*") if path.is_file()]
        assert left == ["timeline.db.lock"], folder


def test_a_kill_at_any_moment_leaves_a_timeline_that_can_be_used(begin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from tests.test_forgetting import *; print('go', flush=True); forget(Config(), GONE)"
    for number in range(5):
        folder = begin / f"moment-{number}"
        shutil.copytree(begin / "begin", folder)
        life = life_in(folder, monkeypatch)
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, env=dict(os.environ))
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(random.Random(number).uniform(0, 0.2))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        assert "before-note" in str(life.rows()["checkin"])
        finish(Config())
        forget(Config(), GONE)
        assert not [trace for trace in traces("within") if trace in life.all_bytes()]
