"""The monitor and the real training together, with compact: what ends it, what goes on, and what is not learned from."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from model.manifest import LEARNED_FROM, find_bundle
from model.types import Emotion
from monitor.config import Config, EngineConfig, PrivacyConfig, RetrainConfig, state_dir
from monitor.jobs.job import Outcome, Result
from monitor.look import in_use_of
from monitor.retraining.retrain import retrain
from monitor.retraining.work import Work
from tests.nights import NIGHT, Said, live, quiet

SAD, NEUTRAL, HAPPY, ANGRY = Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY, Emotion.ANGRY
RETRAIN = RetrainConfig(min_labels=20, min_new_labels=5)
CONFIG = Config(privacy=PrivacyConfig(keep_audio=True), retrain=RETRAIN)


@pytest.fixture(autouse=True)
def ordinary_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that tests, a process of the lowest rank would wait for ever."""
    monkeypatch.setattr("monitor.retraining.process._lowly", lambda _cores: [])


def month(said: Sequence[Emotion], count: int = 30) -> list[Said]:
    """Pieces that were estimated as angry, and what they are said to be, in turns."""
    return [Said(n, ANGRY, said[n % len(said)]) for n in range(count)]


def night(config: Config = CONFIG, stop: Event | None = None, told: list[str] | None = None) -> Result:
    work, lines = Work.of_this_machine().folder, told if told is not None else []
    return retrain(
        config,
        now=NIGHT,
        regardless=True,
        dry_run=False,
        tell=lines.append,
        stop=stop or Event(),
        conditions=quiet(config, work),
    )


def the_old_one_stays() -> bool:
    return in_use_of(CONFIG) == "compact" and not list((state_dir() / "bundles").glob("*"))


def test_corrections_to_one_emotion_teach_nothing() -> None:
    live(month([SAD]))
    result = night()
    assert (result.outcome, result.details["decision"]["verdict"]) == (Outcome.NOTHING, "too-little")
    assert "all corrections name the same emotion" in result.reason
    assert the_old_one_stays()


def test_a_damaged_bundle_is_not_learned_with(tmp_path: Path) -> None:
    folder = shutil.copytree(find_bundle("compact"), tmp_path / "mine")
    with (folder / "mapper.safetensors").open("r+b") as file:
        file.seek(300)
        file.write(b"xx")
    live(month([SAD, HAPPY]))
    result = night(CONFIG.model_copy(update={"engine": EngineConfig(bundle=str(folder))}))
    assert result.outcome is Outcome.FAILED
    assert "is damaged: mapper.safetensors is not the file it was released with" in result.reason
    assert the_old_one_stays()


def test_it_is_killed_and_the_old_one_stays() -> None:
    live(month([SAD, HAPPY, NEUTRAL]))
    result = ended_by(lambda _stop: _the_training().kill(), lambda told: bool(told))
    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith("the training was ended by the signal SIGKILL")
    assert (Work.of_this_machine().folder / LEARNED_FROM).exists(), "the next time goes on with the same"
    assert the_old_one_stays()


def test_memory_that_it_may_not_take_ends_it() -> None:
    live(month([SAD, HAPPY, NEUTRAL]))
    result = night(CONFIG.model_copy(update={"retrain": RETRAIN.model_copy(update={"max_memory_mib": 500})}))
    assert result.outcome is Outcome.FAILED
    assert "more than the 500 that it may take" in result.reason
    assert the_old_one_stays()


def test_it_is_stopped_and_goes_on_to_a_decision() -> None:
    live(month([SAD, HAPPY, NEUTRAL]))
    assert ended_by(lambda stop: stop.set(), lambda _told: bool(saved())).outcome is Outcome.STOPPED
    kept, told = saved(), list[str]()
    assert kept
    result = night(told=told)
    decision = result.details["decision"]
    assert decision["own"]["segments"] == 30
    # Noise that is named in turns holds nothing to be learned.
    assert (result.outcome, decision["verdict"]) == (Outcome.REFUSED, "refused")
    assert json.loads(json.dumps(result.details)) == result.details
    assert the_old_one_stays()


def _the_training() -> psutil.Process:
    """Among the processes that tests have started."""
    return next(process for process in psutil.Process().children(recursive=True) if "nightly" in process.cmdline())


def saved() -> list[Path]:
    """Files of weights that an interrupted training can go on from."""
    return sorted(Work.of_this_machine().weights.rglob("*.safetensors"))


def ended_by(end: Callable[[Event], object], when: Callable[[Sequence[str]], bool]) -> Result:
    """What comes of a night that is ended in this way at a moment that is told from its progress."""
    stop, told = Event(), list[str]()

    def wait() -> None:
        deadline = time.monotonic() + 900
        # The first lines say what there is to learn from, before the process is there.
        while not when([line for line in told if not line.startswith(("To learn", "Left out"))]) and time.monotonic() < deadline:
            time.sleep(0.05)
        end(stop)

    thread = Thread(target=wait)
    thread.start()
    result = night(stop=stop, told=told)
    thread.join()
    return result
