"""A running monitor told to use another bundle: what it answers, what its status says, and which bundle judged what."""

import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model.audio import float_to_pcm16, read_audio, s_to_samples
from model.errors import EmosllmError
from model.manifest import find_bundle, read_manifest
from monitor.config import Config
from monitor.control import ask
from monitor.judging.listener import EngineState
from monitor.recorder import Recorder
from monitor.status_text import status_text
from monitor.switching import Switched, Switching
from tests.bundles import STORED
from tests.commands import Running, configure, stored
from tests.conftest import DEMO
from tests.test_recorder import UTC_ZONE, record
from tests.variants import MAPPER, variant

PACKAGED = read_manifest(find_bundle("compact")).version


def database(home: Path) -> Path:
    return home / "state" / "emosllm-monitor" / "timeline.db"


def say(running: Running, start_s: float, end_s: float) -> None:
    assert running.process.stdin is not None
    running.process.stdin.write(float_to_pcm16(read_audio(DEMO)[s_to_samples(start_s) : s_to_samples(end_s)]).tobytes())
    running.process.stdin.flush()


def test_what_is_said_from_then_on_is_judged_by_the_other_bundle(home: Path, tmp_path: Path) -> None:
    mine, bad = variant(tmp_path / "mine"), variant(tmp_path / "bad", 2)
    (bad / MAPPER).write_bytes(b"damaged")
    version = read_manifest(mine).version
    configure(home, engine={"kind": "transformers", "bundle": "compact"})
    running = Running(home, "--source", "-", "--at", datetime(2026, 1, 5, 9, tzinfo=UTC).isoformat(), stdin=subprocess.PIPE)
    running.until(lambda: "listening to" in running.output)
    # While it loads there is nobody to switch, and who asks is not kept waiting.
    first = ask(database(home), "use-bundle", name="compact")
    assert first == {"version": PACKAGED, "state": "switching"} or first["state"] == "in use"
    running.until(lambda: ask(database(home), "status")["bundle"] == PACKAGED)
    running.until(lambda: ask(database(home), "status")["next_bundle"] is None)
    say(running, 0, 20)
    running.until(lambda: ask(database(home), "status")["judged"] == 3)

    _until_in_use(running, home, mine, version)
    with pytest.raises(EmosllmError, match="is damaged"):
        _until_in_use(running, home, bad, "")
    with pytest.raises(EmosllmError, match="no bundle at"):
        ask(database(home), "use-bundle", name=str(tmp_path / "nothing"))
    with pytest.raises(EmosllmError, match="needs name"):
        ask(database(home), "use-bundle")
    status = ask(database(home), "status")
    assert (status["bundle"], status["next_bundle"], status["problems"]) == (version, None, [])
    assert status["engine_detail"] == f"transformers, {version}"

    say(running, 20, 40)
    assert running.process.stdin is not None
    running.process.stdin.close()
    assert running.process.wait(120) == 0
    versions = [entry.prediction.bundle_version for entry in stored(home)[0] if entry.prediction]
    assert versions[:3] == [STORED] * 3
    assert len(versions) > 3
    assert set(versions[3:]) == {f"{version}+everyday"}


def _until_in_use(running: Running, home: Path, bundle: Path, version: str) -> None:
    """A machine that is busy may need more than the four seconds that are waited for: asked again until it is settled."""
    deadline = time.monotonic() + 120
    while (answer := ask(database(home), "use-bundle", name=str(bundle)))["state"] == "switching":
        assert time.monotonic() < deadline
    assert answer == {"version": version, "state": "in use"}


def test_who_asks_is_told_what_became_of_it_and_nobody_else_is_kept(tmp_path: Path) -> None:
    switching = Switching()
    assert not switching.tell("a", Switched("a-0", "")), "nobody waits"
    assert switching.wait("a", lambda: None, 0.01) is None, "that was an earlier change"
    later = threading.Timer(0.05, lambda: switching.tell("b", Switched("", "no")))
    later.start()
    assert switching.wait("b", lambda: None, 30) == Switched("", "no")
    assert switching.wait("c", lambda: switching.tell("c", Switched("c-1", "")) and None, 30) == Switched("c-1", "")


def test_a_change_that_takes_long_is_in_the_status_until_it_is_over_and_what_failed_then_is_a_problem(tmp_path: Path) -> None:
    def act(recorder: Recorder) -> None:
        status = recorder._status
        assert recorder.use_bundle("compact", 0.01) == ""
        assert (status.next_bundle, status.problems) == ("compact", [])
        told = status_text({**status.as_json(), "pid": 1}, UTC_ZONE)
        assert "Bundle      none yet, changing to compact" in told
        recorder._on_switched("compact", "", "it is damaged")
        assert status.next_bundle == ""
        assert status.problems == ["the bundle compact is not used: it is damaged"]
        recorder._on_switched("compact", PACKAGED, "")
        assert status.problems == []
        with pytest.raises(EmosllmError, match="no bundle at"):
            recorder.use_bundle(str(tmp_path / "nothing"), 0.01)
        assert status.next_bundle == ""

    record(tmp_path, Config(), act)


def test_status_names_the_bundle_only_while_one_judges(tmp_path: Path) -> None:
    def act(recorder: Recorder) -> None:
        recorder.judge._in_use = PACKAGED
        recorder._on_engine(EngineState.READY, f"embedded, {PACKAGED}")
        assert recorder._status.as_json()["bundle"] == PACKAGED
        recorder.judge._in_use = ""
        recorder._on_engine(EngineState.RESTARTING, "it died")
        assert recorder._status.as_json()["bundle"] is None

    record(tmp_path, Config(), act)
