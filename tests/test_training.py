"""Training for real, small: a corpus of three voices' tones is learned from random weights, released, loaded and scored."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from model.bundle import open_bundle
from model.errors import TrainingError
from model.manifest import read_manifest as read_bundle_manifest
from model.manifest import verify
from tests.commands import run
from train.corpora import of_speakers, read_manifest, require_disjoint

RATE = 16000
# Letter to pitch in Hz at the utterance's begin and end: falling, level, rising.
CONTOURS = {"S": (190, 110), "N": (150, 150), "U": (150, 300)}

RECIPE = """
name = "tones"
license = "CC0-1.0"
limits = ["It knows tones."]
letters = ["S", "N", "U"]
speeds = [1.0, 1.1]
trusted_accuracy = 0.8
[[corpora]]
name = "tones"
share = 1
train = ["t0", "t1", "t2"]
validation = ["t3"]
test = ["t4", "t5"]
[encoder]
steps = 120
learning_rate = 2e-3
weight_decay = 0.01
label_smoothing = 0.05
mixup = 0.2
average_decay = 0.95
dropout = 0.1
[mapper]
queries = 4
layers = 1
heads = 4
width = 32
[llm]
vocabulary = 600
hidden = 64
layers = 2
heads = 1
intermediate = 96
[[phases]]
name = "base"
trainable = ["llm"]
input = "noise"
steps = 30
batch = 12
learning_rate = 3e-3
weight_decay = 0.01
warmup = 0.1
teacher_share = 0.5
[[phases]]
name = "adapter"
trainable = ["mapper", "lora"]
input = "speech"
steps = 60
batch = 12
learning_rate = 3e-3
weight_decay = 0.01
warmup = 0.1
teacher_share = 0.5
"""


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers, each with a pitch of their own, four utterances a letter."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(6):
        for letter, (begin, end) in CONTOURS.items():
            for take in range(4):
                hz = np.linspace(begin, end, int(RATE * rng.uniform(0.8, 1.2))) * (0.8 + 0.1 * speaker)
                phase = 2 * np.pi * np.cumsum(hz) / RATE
                sound = sum(np.sin(k * phase) / k for k in range(1, 6)) * 0.1 + rng.normal(scale=0.003, size=len(hz))
                name = f"t{speaker}-{letter}-{take}.wav"
                soundfile.write(folder / name, sound, RATE)
                rows.append([name, "tones", f"t{speaker}", letter, "CC0-1.0"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "corpus", "speaker", "emotion", "license"], *rows])
    (folder / "tones.toml").write_text(RECIPE)
    return folder


def test_one_command_trains_releases_and_scores_a_bundle(tones: Path, tmp_path: Path) -> None:
    arguments = ["train", "--recipe", str(tones / "tones.toml"), "--data", str(tones), "--work", str(tmp_path / "work")]
    done = run(*arguments, "--out", str(tmp_path / "bundle"))
    assert done.returncode == 0, done.stderr
    (score,) = json.loads(done.stdout)["scores"]
    assert score["unweighted_accuracy"] > 0.75, "tones are easy; chance is 0.33"
    manifest = read_bundle_manifest(tmp_path / "bundle")
    verify(tmp_path / "bundle", manifest)
    open_bundle(tmp_path / "bundle")
    assert manifest.scores[0].unweighted_accuracy == score["unweighted_accuracy"]
    assert manifest.scores[0].clips == 2 * 3 * 4
    assert 0 < manifest.unsure_below <= 1
    assert json.loads((tmp_path / "bundle/training.json").read_text())["recipe"]["name"] == "tones"
    for text in ("first training", "trainable: llm,", "trainable: lora+mapper"):
        assert text in done.stderr

    scored = run("evaluate", "--recipe", str(tones / "tones.toml"), "--bundle", str(tmp_path / "bundle"), "--data", str(tones))
    assert json.loads(scored.stdout)["scores"] == [score]
    again = run(*arguments, "--out", str(tmp_path / "bundle"))
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_a_speaker_on_both_sides_is_refused(tones: Path) -> None:
    utterances = read_manifest(tones / "manifest.csv")
    some, other = of_speakers(utterances, "tones", ["t0", "t1"]), of_speakers(utterances, "tones", ["t1", "t2"])
    with pytest.raises(TrainingError, match="t1"):
        require_disjoint(some, other)
    require_disjoint(some, of_speakers(utterances, "tones", ["t2"]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,speaker\n", "no column corpus, emotion, license"),
        ("path,corpus,speaker,emotion,license\ntones.toml,c,s,Q,CC0\n", "line 2: 'Q' is no emotion"),
        ("path,corpus,speaker,emotion,license\nnone.wav,c,s,A,CC0\n", "line 2: none.wav is not there"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_line(tones: Path, text: str, reason: str) -> None:
    (tones / "wrong.csv").write_text(text)
    with pytest.raises(TrainingError, match=reason):
        read_manifest(tones / "wrong.csv")


def test_a_speaker_who_is_not_there_is_named(tones: Path) -> None:
    with pytest.raises(TrainingError, match="t9"):
        of_speakers(read_manifest(tones / "manifest.csv"), "tones", ["t0", "t9"])
