"""A whole night with the built-in model and a real voice, as a process: decided alike however often killed, written whole or not at all."""

import io
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model.audio import pcm16_to_float
from model.bundle import Bundle, load_llm, open_bundle
from model.decision import DECISION, Decision, Learned, Stage, Verdict
from model.evidence import Evidence, HeardWith, write_evidence
from model.manifest import LEARNED_FROM, MANIFEST, find_bundle, read_manifest
from model.predictor import Predictor, Sound
from model.types import Emotion
from tests.persons import clips, evidence
from train.nightly.new_bundle import write_new_bundle
from train.nightly.recalibration import Fit

NUMBER = 24


@pytest.fixture(scope="module")
def pieces(packaged: Bundle) -> list[Evidence]:
    """A person who calls sad what packaged takes for fear, and half of what it takes for happy surprise."""
    pcms = clips(NUMBER)
    answers = Predictor(packaged, load_llm(packaged)).predict([Sound(pcm16_to_float(pcm)) for pcm in pcms])
    words = {Emotion.FEAR: Emotion.SAD, Emotion.HAPPY: Emotion.SURPRISE, Emotion.SURPRISE: Emotion.HAPPY}
    return evidence(pcms, [one.prediction.emotion for one in answers if one.prediction], lambda _number, shown: words.get(shown, shown))


def command(folder: Path, bundle: str = "compact") -> list[str]:
    places = ("--out", str(folder / "new"), "--work", str(folder / "work"))
    return [sys.executable, "-P", "-m", "train", "nightly", "--bundle", bundle, *places]


def as_bytes(pieces: list[Evidence]) -> bytes:
    file = io.BytesIO()
    write_evidence(file, pieces)
    return file.getvalue()


def held(folder: Path, pieces: list[Evidence], bundle: str = "compact") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command(folder, bundle), input=as_bytes(pieces), capture_output=True, check=False, timeout=600)


def test_a_night_that_was_killed_goes_on_and_decides_as_one_that_was_not(tmp_path: Path, pieces: list[Evidence]) -> None:
    whole = held(tmp_path / "whole", pieces)
    assert whole.returncode == 0, whole.stderr.decode()
    decided = Decision.model_validate_json(whole.stdout)
    assert decided.own is not None
    assert decided.public is not None
    assert decided.own.segments == NUMBER
    assert decided.learned.trained == NUMBER
    assert decided.stage is (Stage.WEIGHTS if decided.steps else Stage.BIASES)
    assert set(decided.letter_bias) == set(read_manifest(find_bundle("compact")).letters)
    assert sum(decided.letter_bias.values()) == pytest.approx(0, abs=1e-3)
    assert decided.public.clips > 200
    assert decided.verdict is Verdict.REFUSED or (tmp_path / "whole/new" / MANIFEST).is_file()
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
    assert Decision.model_validate_json(again.stdout).model_copy(update={"seconds": decided.seconds}) == decided


@pytest.mark.parametrize(("kept", "words"), [(slice(10), "too few"), (slice(0), "too few")])
def test_too_little_is_decided_at_once(tmp_path: Path, pieces: list[Evidence], kept: slice, words: str) -> None:
    done = held(tmp_path, pieces[kept])
    decision = Decision.model_validate_json(done.stdout)
    assert (decision.verdict, done.returncode) == (Verdict.TOO_LITTLE, 0)
    assert words in decision.reason
    assert not (tmp_path / "new").exists()


def test_broken_evidence_and_bundles_are_refused(tmp_path: Path, pieces: list[Evidence]) -> None:
    done = subprocess.run(command(tmp_path), input=as_bytes(pieces)[:-3000], capture_output=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"nothing was learned" in done.stderr
    done = held(tmp_path, pieces, bundle=str(tmp_path / "nobody"))
    assert done.returncode == 1
    assert b"no bundle at" in done.stderr
    file = io.BytesIO()
    write_evidence(file, pieces, HeardWith(b"of a voice"))
    done = subprocess.run(command(tmp_path), input=file.getvalue(), capture_output=True, check=False, timeout=600)
    assert done.returncode == 1
    assert b"does not normalise voices" in done.stderr


def test_a_full_disk_is_said_and_nothing_is_written(tmp_path: Path, pieces: list[Evidence]) -> None:
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
    tmp_path: Path, packaged: Bundle, pieces: list[Evidence]
) -> None:
    parent = open_bundle(find_bundle("compact"))
    llm = load_llm(parent)
    parent.mapper.leave.bias.data += 0.1
    decision = Decision(verdict=Verdict.PROMOTED, reason="", parent=packaged.manifest.version, learned=_learned())
    told = write_new_bundle(parent, llm, Fit(1.2, 0.5, 0.6), pieces[:6], decision, tmp_path / "new")
    fresh = open_bundle(tmp_path / "new")
    assert fresh.manifest.version == told.version
    assert fresh.manifest.version.startswith("compact-own-")
    assert (fresh.manifest.temperature, fresh.manifest.unsure_below) == (1.2, 0.5)
    assert Decision.model_validate_json((fresh.folder / DECISION).read_text()) == told
    learned = json.loads((fresh.folder / LEARNED_FROM).read_text())
    assert learned["segments"] == [1, 2, 3, 4, 5, 6]
    assert (learned["from"], learned["to"]) == (pieces[0].at.isoformat(), pieces[5].at.isoformat())
    child = write_new_bundle(fresh, load_llm(fresh), Fit(1.0, 0.5, 0.6), pieces[4:8], decision, tmp_path / "child")
    assert json.loads((tmp_path / "child" / LEARNED_FROM).read_text())["segments"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert str(child.version).count("-own") == 1
    sound = [Sound(pcm16_to_float(pieces[0].pcm))]
    (before,), (after,) = Predictor(packaged, load_llm(packaged)).predict(sound), Predictor(fresh, load_llm(fresh)).predict(sound)
    assert before.prediction is not None
    assert after.prediction is not None
    assert before.prediction.posterior != after.prediction.posterior


def test_biases_alone_make_another_bundle_that_answers_by_them(tmp_path: Path, nano: Bundle, pieces: list[Evidence]) -> None:
    """Nothing of mapper and adapter changes; what the person says is one emotion more often is answered more often."""
    letters, llm = nano.manifest.letters, load_llm(nano)
    sounds = [Sound(pcm16_to_float(one.pcm)) for one in pieces[:6]]
    versions = set()
    for bias in (0.0, 8.0):
        by_letter = {letter: bias * (letter is Emotion.DISGUST) for letter in letters}
        learned = {"learned": _learned(), "stage": Stage.BIASES, "letter_bias": by_letter}
        decision = Decision(verdict=Verdict.PROMOTED, reason="", parent="compact", **learned)
        fit = Fit(nano.manifest.temperature, nano.manifest.unsure_below, 0.6)
        told = write_new_bundle(nano, llm, fit, pieces[:6], decision, tmp_path / f"{bias}")
        fresh = open_bundle(tmp_path / f"{bias}")
        versions.add(told.version)
        assert fresh.manifest.version == told.version
        assert fresh.manifest.letter_bias == by_letter
        assert fresh.manifest.files["mapper.safetensors"] == nano.manifest.files["mapper.safetensors"]
        answers = [one.prediction for one in Predictor(fresh, load_llm(fresh)).predict(sounds)]
        before = [one.prediction for one in Predictor(nano, llm).predict(sounds)]
        for now, then in zip(answers, before, strict=True):
            assert now is not None
            assert then is not None
            odds = [one.posterior[Emotion.DISGUST] / one.posterior[Emotion.NEUTRAL] for one in (now, then)]
            assert np.log(odds[0] / odds[1]) == pytest.approx(bias, abs=1e-3)
    assert len(versions) == 2, "what answers otherwise has a version of its own"


def _learned() -> Learned:
    return Learned(corrections=4, confirmations=2, checkins=0, trained=6, held_out=6)
