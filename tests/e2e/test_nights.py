"""Real nights with the built-in bundle: killed, stopped, out of memory or disk, and continued to a decision."""

import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil
import pytest

from model.audio import pcm16_to_float
from model.bundle import Bundle, load_llm, open_bundle
from model.bundle_format import (
    DECISION_FILE,
    LEARNED_FROM_FILE,
    MANIFEST_FILE,
    LabelCounts,
    PromotionDecision,
    PromotionVerdict,
    Stage,
    find_bundle,
    read_bundle_manifest,
)
from model.emotions import Emotion
from model.labelled_segment import HeardWith, LabelledSegment, write_labelled_segments
from model.predictor import Predictor, SpeechInput
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, EngineConfig, PrivacyConfig, RetrainConfig
from monitor.paths import state_dir
from monitor.personalization.retraining import retrain
from monitor.personalization.training_process import TrainingFolder
from monitor.scheduler.jobs import JobOutcome, JobResult
from tests.support.nights import NIGHT, Said, clips, evidence, quiet, write_kept_speech
from train.nightly.night import write_new_bundle
from train.nightly.vector_scaling import CalibrationFit

NUMBER = 24


@pytest.fixture(scope="module")
def pieces(packaged: Bundle) -> list[LabelledSegment]:
    """A person who calls sad what packaged takes for fear, and half of what it takes for happy surprise."""
    pcms = clips(NUMBER)
    answers = Predictor(packaged, load_llm(packaged)).predict([SpeechInput(pcm16_to_float(pcm)) for pcm in pcms])
    words = {Emotion.FEAR: Emotion.SAD, Emotion.HAPPY: Emotion.SURPRISE, Emotion.SURPRISE: Emotion.HAPPY}
    return evidence(pcms, [one.prediction.emotion for one in answers if one.prediction], lambda _number, shown: words.get(shown, shown))


def command(folder: Path, bundle: str = "compact") -> list[str]:
    places = ("--out", str(folder / "new"), "--work", str(folder / "work"))
    return [sys.executable, "-P", "-m", "train", "nightly", "--bundle", bundle, *places]


def as_bytes(pieces: list[LabelledSegment]) -> bytes:
    file = io.BytesIO()
    write_labelled_segments(file, pieces)
    return file.getvalue()


def held(folder: Path, pieces: list[LabelledSegment], bundle: str = "compact") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command(folder, bundle), input=as_bytes(pieces), capture_output=True, check=False, timeout=600)


@pytest.mark.slow
def test_a_night_that_was_killed_goes_on_and_decides_as_one_that_was_not(tmp_path: Path, pieces: list[LabelledSegment]) -> None:
    whole = held(tmp_path / "whole", pieces)
    assert whole.returncode == 0, whole.stderr.decode()
    decided = PromotionDecision.model_validate_json(whole.stdout)
    assert decided.own is not None
    assert decided.public is not None
    assert decided.own.segments == NUMBER
    assert decided.learned.trained == NUMBER
    assert decided.stage is (Stage.WEIGHTS if decided.steps else Stage.BIASES)
    assert set(decided.letter_bias) == set(read_bundle_manifest(find_bundle("compact")).letters)
    assert sum(decided.letter_bias.values()) == pytest.approx(0, abs=1e-3)
    assert decided.public.clips > 200
    assert decided.verdict is PromotionVerdict.REFUSED or (tmp_path / "whole/new" / MANIFEST_FILE).is_file()
    killed = tmp_path / "killed"
    for begun in ("fold-1/checkpoints", "fold-2/looks.json"):
        process = subprocess.Popen(command(killed), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin is not None
        process.stdin.write(as_bytes(pieces))
        process.stdin.close()
        while not any(killed.glob(f"work/*/{begun}")) and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL if "1" in begun else signal.SIGTERM)
        process.wait(60)
    again = held(killed, pieces)
    assert again.returncode == 0, again.stderr.decode()
    assert PromotionDecision.model_validate_json(again.stdout).model_copy(update={"seconds": decided.seconds}) == decided


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "words"), [(slice(10), "too few"), (slice(0), "too few")])
def test_too_little_is_decided_at_once(tmp_path: Path, pieces: list[LabelledSegment], kept: slice, words: str) -> None:
    done = held(tmp_path, pieces[kept])
    decision = PromotionDecision.model_validate_json(done.stdout)
    assert (decision.verdict, done.returncode) == (PromotionVerdict.TOO_LITTLE, 0)
    assert words in decision.reason
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_broken_evidence_and_bundles_are_refused(tmp_path: Path, pieces: list[LabelledSegment]) -> None:
    done = subprocess.run(command(tmp_path), input=as_bytes(pieces)[:-3000], capture_output=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"nothing was learned" in done.stderr
    done = held(tmp_path, pieces, bundle=str(tmp_path / "nobody"))
    assert done.returncode == 1
    assert b"no bundle at" in done.stderr
    file = io.BytesIO()
    write_labelled_segments(file, pieces, HeardWith(b"of a voice"))
    done = subprocess.run(command(tmp_path), input=file.getvalue(), capture_output=True, check=False, timeout=600)
    assert done.returncode == 1
    assert b"are no sums of a voice" in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_said_and_nothing_is_written(tmp_path: Path, pieces: list[LabelledSegment]) -> None:
    limit = (2**20, 2**20)
    done = subprocess.run(
        command(tmp_path),
        input=as_bytes(pieces),
        capture_output=True,
        check=False,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"cannot keep the night's weights" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_new_bundle_is_whole_knows_where_it_is_from_and_answers_differently(
    tmp_path: Path, packaged: Bundle, pieces: list[LabelledSegment]
) -> None:
    parent = open_bundle(find_bundle("compact"))
    llm = load_llm(parent)
    parent.mapper.leave.bias.data += 0.1
    decision = PromotionDecision(verdict=PromotionVerdict.PROMOTED, reason="", parent=packaged.manifest.version, learned=_learned())
    told = write_new_bundle(parent, llm, CalibrationFit(1.2, 0.5, 0.6), pieces[:6], decision, tmp_path / "new")
    fresh = open_bundle(tmp_path / "new")
    assert fresh.manifest.version == told.version
    assert fresh.manifest.version.startswith("compact-own-")
    assert (fresh.manifest.temperature, fresh.manifest.unsure_below) == (1.2, 0.5)
    assert PromotionDecision.model_validate_json((fresh.folder / DECISION_FILE).read_text()) == told
    learned = json.loads((fresh.folder / LEARNED_FROM_FILE).read_text())
    assert learned["segments"] == [1, 2, 3, 4, 5, 6]
    assert (learned["from"], learned["to"]) == (pieces[0].at.isoformat(), pieces[5].at.isoformat())
    child = write_new_bundle(fresh, load_llm(fresh), CalibrationFit(1.0, 0.5, 0.6), pieces[4:8], decision, tmp_path / "child")
    assert json.loads((tmp_path / "child" / LEARNED_FROM_FILE).read_text())["segments"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert str(child.version).count("-own") == 1
    sound = [SpeechInput(pcm16_to_float(pieces[0].pcm))]
    (before,), (after,) = Predictor(packaged, load_llm(packaged)).predict(sound), Predictor(fresh, load_llm(fresh)).predict(sound)
    assert before.prediction is not None
    assert after.prediction is not None
    assert before.prediction.posterior != after.prediction.posterior


def test_biases_alone_make_another_bundle_that_answers_by_them(tmp_path: Path, packaged: Bundle, pieces: list[LabelledSegment]) -> None:
    """Nothing of mapper and adapter changes; what the person says is one emotion more often is answered more often."""
    letters, llm = packaged.manifest.letters, load_llm(packaged)
    sounds = [SpeechInput(pcm16_to_float(one.pcm)) for one in pieces[:6]]
    versions = set()
    for bias in (0.0, 8.0):
        by_letter = {letter: bias * (letter is Emotion.DISGUST) for letter in letters}
        learned = {"learned": _learned(), "stage": Stage.BIASES, "letter_bias": by_letter}
        decision = PromotionDecision(verdict=PromotionVerdict.PROMOTED, reason="", parent="compact", **learned)
        fit = CalibrationFit(packaged.manifest.temperature, packaged.manifest.unsure_below, 0.6)
        told = write_new_bundle(packaged, llm, fit, pieces[:6], decision, tmp_path / f"{bias}")
        fresh = open_bundle(tmp_path / f"{bias}")
        versions.add(told.version)
        assert fresh.manifest.version == told.version
        assert fresh.manifest.letter_bias == by_letter
        assert fresh.manifest.files["mapper.safetensors"] == packaged.manifest.files["mapper.safetensors"]
        answers = [one.prediction for one in Predictor(fresh, load_llm(fresh)).predict(sounds)]
        before = [one.prediction for one in Predictor(packaged, llm).predict(sounds)]
        for now, then in zip(answers, before, strict=True):
            assert now is not None
            assert then is not None
            odds = [one.posterior[Emotion.DISGUST] / one.posterior[Emotion.NEUTRAL] for one in (now, then)]
            assert np.log(odds[0] / odds[1]) == pytest.approx(bias, abs=1e-3)
    assert len(versions) == 2, "what answers otherwise has a version of its own"


def _learned() -> LabelCounts:
    return LabelCounts(corrections=4, confirmations=2, checkins=0, trained=6, held_out=6)


SAD, NEUTRAL, HAPPY, ANGRY = Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY, Emotion.ANGRY
RETRAIN = RetrainConfig(min_labels=20, min_new_labels=5)
CONFIG = Config(privacy=PrivacyConfig(keep_audio=True), retrain=RETRAIN)


@pytest.fixture(autouse=True)
def ordinary_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that tests, a process of the lowest rank would wait for ever."""
    monkeypatch.setattr("monitor.personalization.training_process._low_priority_command", lambda _cores: [])


def month(said: Sequence[Emotion], count: int = 30) -> list[Said]:
    """Pieces that were estimated as angry, and what they are said to be, in turns."""
    return [Said(n, ANGRY, said[n % len(said)]) for n in range(count)]


def night(config: Config = CONFIG, stop: Event | None = None, told: list[str] | None = None) -> JobResult:
    work, lines = TrainingFolder.of_this_machine().folder, told if told is not None else []
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
    return BundleRegistry.of(CONFIG).active() == "compact" and not list((state_dir() / "bundles").glob("*"))


def test_corrections_to_one_emotion_teach_nothing() -> None:
    write_kept_speech(month([SAD]))
    result = night()
    assert (result.outcome, result.details["decision"]["verdict"]) == (JobOutcome.NOTHING, "too-little")
    assert "all corrections name the same emotion" in result.reason
    assert the_old_one_stays()


@pytest.mark.slow
def test_a_damaged_bundle_is_not_learned_with(tmp_path: Path) -> None:
    folder = shutil.copytree(find_bundle("compact"), tmp_path / "mine")
    with (folder / "mapper.safetensors").open("r+b") as file:
        file.seek(300)
        file.write(b"xx")
    write_kept_speech(month([SAD, HAPPY]))
    result = night(CONFIG.model_copy(update={"engine": EngineConfig(bundle=str(folder))}))
    assert result.outcome is JobOutcome.FAILED
    assert "is damaged: mapper.safetensors is not the file it was released with" in result.reason
    assert the_old_one_stays()


def test_it_is_killed_and_the_old_one_stays() -> None:
    write_kept_speech(month([SAD, HAPPY, NEUTRAL]))
    result = ended_by(lambda _stop: _the_training().kill(), lambda told: bool(told))
    assert result.outcome is JobOutcome.FAILED
    assert result.reason.startswith("the training was ended by the signal SIGKILL")
    assert (TrainingFolder.of_this_machine().folder / LEARNED_FROM_FILE).exists(), "the next time goes on with the same"
    assert the_old_one_stays()


@pytest.mark.slow
def test_memory_that_it_may_not_take_ends_it() -> None:
    write_kept_speech(month([SAD, HAPPY, NEUTRAL]))
    result = night(CONFIG.model_copy(update={"retrain": RETRAIN.model_copy(update={"max_memory_mib": 500})}))
    assert result.outcome is JobOutcome.FAILED
    assert "more than the 500 that it may take" in result.reason
    assert the_old_one_stays()


@pytest.mark.slow
def test_it_is_stopped_and_goes_on_to_a_decision() -> None:
    write_kept_speech(month([SAD, HAPPY, NEUTRAL]))
    assert ended_by(lambda stop: stop.set(), lambda _told: bool(saved())).outcome is JobOutcome.STOPPED
    kept, told = saved(), list[str]()
    assert kept
    result = night(told=told)
    decision = result.details["decision"]
    assert decision["own"]["segments"] == 30
    # Noise that is named in turns holds nothing to be learned.
    assert (result.outcome, decision["verdict"]) == (JobOutcome.REFUSED, "refused")
    assert json.loads(json.dumps(result.details)) == result.details
    assert the_old_one_stays()


def _the_training() -> psutil.Process:
    """Among the processes that tests have started."""
    return next(process for process in psutil.Process().children(recursive=True) if "nightly" in process.cmdline())


def saved() -> list[Path]:
    """Files of weights that an interrupted training can go on from."""
    return sorted(TrainingFolder.of_this_machine().weights.rglob("*.safetensors"))


def ended_by(end: Callable[[Event], object], when: Callable[[Sequence[str]], bool]) -> JobResult:
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
