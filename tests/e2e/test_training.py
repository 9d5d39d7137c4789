"""Training for real, small: a corpus of six voices' tones is learned from random weights, released, loaded, and scored in every way."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from model.bundle import open_bundle
from model.bundle_format import (
    NORMALISER_FILE,
    Normalisation,
    PosteriorConfusion,
    compute_version,
    file_checksums,
    read_bundle_manifest,
    read_confusion,
    verify_checksums,
)
from tests.support.commands import run
from tests.support.corpora import CONTOURS, HISSES, RECIPE, SPEAKERS, TAKES, write_corpus
from train.__main__ import main
from train.corpora.manifest import Utterance, read_corpus_manifest, write_corpus_manifest
from train.corpora.splits import CorpusSplits
from train.evaluation.figures import Evaluation
from train.pipeline import cross_fit
from train.recipe import load_recipe
from train.release import add_scores, write_bundle_manifest

CLIPS = SPEAKERS * len(CONTOURS) * TAKES
ROWS = CLIPS + HISSES
OF_A_SPEAKER = len(CONTOURS) * TAKES


@dataclass(frozen=True)
class Trained:
    """What one `train` command left behind."""

    manifest: Path
    recipe: Path
    bundle: Path
    arguments: Sequence[str]
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The tones, learned by the installed command."""
    folder = tmp_path_factory.mktemp("tones")
    manifest = write_corpus(folder, hisses=True)
    (folder / "tones.toml").write_text(RECIPE)
    bundle = folder / "bundle"
    arguments = ["train", "--recipe", str(folder / "tones.toml"), "--manifest", str(manifest), "--work", str(folder / "work")]
    arguments += ["--out", str(bundle)]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return Trained(manifest, folder / "tones.toml", bundle, arguments, done.stdout, done.stderr)


def _rewritten(trained: Trained, name: str, change: dict[str, object]) -> Path:
    """The tones' manifest with some columns changed, beside it."""
    path = trained.manifest.with_name(name)
    write_corpus_manifest(path, [replace(utterance, **change) for utterance in read_corpus_manifest(trained.manifest)])
    return path


@pytest.mark.slow
def test_one_command_trains_releases_and_scores_a_bundle(trained: Trained) -> None:
    manifest = read_bundle_manifest(trained.bundle)
    verify_checksums(trained.bundle, manifest)
    open_bundle(trained.bundle)
    (score,) = manifest.scores
    assert score.unweighted_accuracy > 0.75, "tones are easy; chance is 0.33"
    assert f"UAR {score.unweighted_accuracy:.3f}" in trained.stdout
    assert manifest.version in trained.stdout
    assert (score.clips, score.speakers) == (2 * OF_A_SPEAKER, 2)
    assert 0 < manifest.unsure_below <= 1
    assert json.loads((trained.bundle / "training.json").read_text())["recipe"]["name"] == "tones"
    for text in (
        "2 trainings, each without some speakers",
        "fold 1: trainable: lora+mapper",
        "fold 2: trainable: lora+mapper",
        "trainable: llm,",
    ):
        assert text in trained.stderr


@pytest.mark.slow
def test_every_speaker_calibrates_and_is_judged_by_a_training_without_them(trained: Trained) -> None:
    (validation,) = json.loads((trained.bundle / "training.json").read_text())["validation"]
    assert (validation["clips"], validation["speakers"]) == (4 * OF_A_SPEAKER, 4)
    assert "never heard them" in validation["about"]["split"]
    assert validation["uar"]["value"] > 0.7


@pytest.mark.slow
def test_a_bundle_tells_how_it_answered_each_voice_that_its_training_left_out(trained: Trained) -> None:
    (validation,) = json.loads((trained.bundle / "training.json").read_text())["validation"]
    confusion = read_confusion(trained.bundle)
    assert isinstance(confusion, PosteriorConfusion)
    assert len(confusion.voices) == validation["speakers"] > 1
    clips = {letter: sum(voice.clips[letter] for voice in confusion.voices) for letter in confusion.letters}
    assert sum(clips.values()) == validation["clips"]
    for place, letter in enumerate(confusion.letters):
        found = sum(voice.posterior[letter][place] * voice.clips[letter] for voice in confusion.voices) / clips[letter]
        assert found > 0.5, "tones are easy"


@pytest.mark.slow
def test_a_bundle_tells_how_often_its_training_heard_each_letter(trained: Trained) -> None:
    manifest = read_bundle_manifest(trained.bundle)
    assert manifest.training_prior == pytest.approx(dict.fromkeys(manifest.letters, 1 / 3), abs=1e-3)


@pytest.mark.slow
def test_what_the_folds_answered_is_used_again_from_a_corpus_that_was_moved(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.manifest.parent, tmp_path / "moved", ignore=shutil.ignore_patterns("work", "bundle"))
    recipe, manifests = load_recipe(str(trained.recipe)), [tmp_path / "moved" / trained.manifest.name]
    judged = cross_fit(recipe, CorpusSplits.load(recipe, manifests), manifests, trained.manifest.parent / "work", 0)
    (validation,) = json.loads((trained.bundle / "training.json").read_text())["validation"]
    right = sum(one.emotion == one.utterance.emotion for one in judged["tones"])
    assert right / len(judged["tones"]) == pytest.approx(validation["weighted_accuracy"]["value"], abs=1e-4)
    assert {one.utterance.path.parent.name for one in judged["tones"]} == {"moved"}


@pytest.mark.slow
def test_a_killed_training_leaves_no_process_behind(trained: Trained, tmp_path: Path) -> None:
    arguments = [*trained.arguments, "--seed", "7"]
    arguments[arguments.index("--work") + 1], arguments[arguments.index("--out") + 1] = str(tmp_path / "work"), str(tmp_path / "bundle")
    with subprocess.Popen([sys.executable, "-m", "train", *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "fold 1: " in line:
                break
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


@pytest.mark.slow
def test_conditions_and_outliers_are_released_and_told_again_by_evaluate(trained: Trained) -> None:
    (score,) = read_bundle_manifest(trained.bundle).scores
    assert list(score.conditions) == [
        "hiss, 10 dB SNR",
        "small room, 0.35 s reverberation",
        "telephone",
        "20 dB quieter",
        "the loudest 1 s alone",
    ]
    assert score.conditions["20 dB quieter"] > 0.7
    assert set(score.outliers) == {"hisses"}
    chosen = ["--recipe", str(trained.recipe), "--manifest", str(trained.manifest), "--bundle", str(trained.bundle)]
    done = run("evaluate", *chosen, "--conditions", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["condition"]: one["uar"]["value"] for one in found["conditions"]} == score.conditions
    assert {one["corpus"]: one["sure_share"] for one in found["outliers"]} == score.outliers
    assert found["outliers"][0]["clips"] == 2
    one_speaker = run("evaluate", *chosen, "--conditions", "--speakers", "t4", "--json")
    assert one_speaker.returncode == 0, one_speaker.stderr
    other = json.loads(one_speaker.stdout)
    assert (other["clips"], len(other["conditions"]), other["outliers"]) == (OF_A_SPEAKER, len(score.conditions), [])


@pytest.mark.slow
def test_the_model_card_holds_the_figures_and_changes_no_version(trained: Trained) -> None:
    manifest, card = read_bundle_manifest(trained.bundle), (trained.bundle / "README.md").read_text()
    (score,) = manifest.scores
    assert manifest.version == compute_version("tones", manifest.files)
    assert f"Unweighted accuracy {score.unweighted_accuracy:.3f}" in card
    for text in ("It knows tones.", "CC0-1.0", "tones, 4 speakers", "hiss, 10 dB SNR", "Female minus male", manifest.version):
        assert text in card
    for text in (
        "What it must not be used for",
        "To diagnose",
        "It hears every voice alike",
        "gender female",
        "UAR of the worst",
        "chance",
    ):
        assert text in card
    assert [(one.by, one.name) for one in score.groups] == [("all", ""), ("corpus", "tones"), ("gender", "female"), ("gender", "male")]
    assert {one.name: one.unweighted_accuracy for one in score.groups if one.by == "gender"} == score.genders
    assert score.groups[0].unweighted_accuracy == score.unweighted_accuracy
    assert [(one.corpus, one.people) for one in score.people] == [("tones", 2)]
    assert score.people[0].worst <= score.people[0].median
    assert set(score.emotional) == {"hisses"}
    assert score.personal == []


@pytest.mark.slow
def test_a_bundle_with_a_normaliser_is_scored_with_and_without_knowing_the_person(trained: Trained, tmp_path: Path) -> None:
    bundle = shutil.copytree(trained.bundle, tmp_path / "bundle")
    width, letters = open_bundle(bundle).encoder.width, len(read_bundle_manifest(bundle).letters)
    numbers = {"population_mean": torch.zeros(width), "emotion_offsets": torch.zeros(letters, width), "ratio": torch.ones(width)}
    save_file(numbers, bundle / NORMALISER_FILE)
    changed = {"normalisation": Normalisation(prior_segments=8.0), "files": file_checksums(bundle)}
    write_bundle_manifest(bundle, read_bundle_manifest(bundle).model_copy(update=changed))
    chosen = ["--manifest", str(trained.manifest), "--bundle", str(bundle), "--person-minutes", "10,0", "--draws", "2"]
    done = run("evaluate", *chosen, "--out", str(tmp_path / "figures"))
    assert done.returncode == 0, done.stderr
    found = Evaluation.model_validate_json((tmp_path / "figures/evaluation.json").read_text())
    assert found.clips == CLIPS
    stranger, known = found.personal
    assert (stranger.minutes, known.minutes, known.draws) == (0, 10, 2)
    assert 0.5 * found.uar.value < stranger.groups[0].uar.value
    reference = known.groups[0].reference
    assert reference is not None
    assert 0 < reference.minutes < 10
    assert {one.name for one in known.groups if one.by == "gender"} == {"female", "male"}
    assert known.people == [], "nobody has ten clips that are not part of the reference"
    assert "After so many minutes" in done.stdout
    add_scores(bundle, [found], [])
    (score,) = read_bundle_manifest(bundle).scores
    assert [one.minutes for one in score.personal] == [0, 10]
    assert score.personal[1].minutes_found == reference.minutes
    assert score.personal[1].groups[0].unweighted_accuracy == known.groups[0].uar.value
    card = (bundle / "README.md").read_text()
    assert "It gets to know the person's voice" in card
    assert "After so many minutes" in card
    (row,) = (line for line in card.splitlines() if line.startswith(f"| tones | {CLIPS} |"))
    assert row.endswith(f"| {known.groups[0].uar.value:.3f} |")
    open_bundle(bundle)


@pytest.mark.slow
def test_recordings_without_an_emotion_are_judged_apart(trained: Trained, tmp_path: Path) -> None:
    asked = ["evaluate", "--bundle", str(trained.bundle), "--manifest", str(trained.manifest)]
    everything = json.loads(run(*asked, "--json").stdout)
    assert everything["clips"] == CLIPS
    assert [(one["corpus"], one["clips"]) for one in everything["outliers"]] == [("hisses", HISSES)]
    done = run(*asked, "--corpus", "hisses", "--out", str(tmp_path / "figures"))
    assert done.returncode == 0, done.stderr
    assert f"| hisses | {HISSES} |" in done.stdout
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"evaluation.json", "evaluation.md"}
    assert json.loads((tmp_path / "figures/evaluation.json").read_text())["outliers"] == everything["outliers"]
    served = ["--server", "http://127.0.0.1:9", "--model", "x", "--corpus", "hisses"]
    assert "a served model is scored on the column emotion" in run("evaluate", "--manifest", str(trained.manifest), *served).stderr


@pytest.mark.slow
def test_a_bundle_is_never_overwritten(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained.bundle / "bundle.json").read_bytes()
    assert main(list(trained.arguments)) == 1
    assert "exists already" in capsys.readouterr().err
    assert (trained.bundle / "bundle.json").read_bytes() == before


@pytest.mark.slow
def test_evaluating_those_whom_the_recipe_never_trained_on_gives_the_released_score_again(trained: Trained) -> None:
    done = run("evaluate", "--recipe", str(trained.recipe), "--bundle", str(trained.bundle), "--manifest", str(trained.manifest), "--json")
    assert done.returncode == 0, done.stderr
    found, (score,) = json.loads(done.stdout), read_bundle_manifest(trained.bundle).scores
    assert found["uar"]["value"] == score.unweighted_accuracy
    assert tuple(found["uar"]["interval_95"]) == score.interval_95
    assert {letter: figures["recall"] for letter, figures in found["classes"].items()} == score.recalls
    assert "never trained or tuned on" in found["about"]["split"]


@pytest.mark.slow
def test_speakers_and_style_are_chosen_and_the_figures_written(trained: Trained, tmp_path: Path) -> None:
    chosen = ["--manifest", str(trained.manifest), "--speakers", "t4,t5", "--strategy", "transcript-prefix", "--shots", "2"]
    done = run("evaluate", "--bundle", str(trained.bundle), *chosen, "--out", str(tmp_path / "figures"))
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "figures/evaluation.json").read_text())
    assert (written["clips"], written["speakers"]) == (2 * OF_A_SPEAKER, 2)
    assert (written["about"]["strategy"], written["about"]["shots"], written["about"]["features"]) == ("transcript-prefix", 2, False)
    assert written["about"]["system"] == read_bundle_manifest(trained.bundle).version
    assert "speaker t4,t5" in written["about"]["split"]
    assert done.stdout.strip() in (tmp_path / "figures/evaluation.md").read_text()
    for name in ("confusion.png", "reliability.png", "risk-coverage.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")
    for said in (words for _, words in CONTOURS.values()):
        assert said not in done.stdout + done.stderr + (tmp_path / "figures/evaluation.json").read_text()


@pytest.mark.slow
def test_a_split_is_chosen_by_its_name(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = trained.manifest.with_name("divided.csv")
    write_corpus_manifest(manifest, [replace(u, split=_split_of(u)) for u in read_corpus_manifest(trained.manifest)])
    assert main(["evaluate", "--bundle", str(trained.bundle), "--manifest", str(manifest), "--split", "test1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["clips"], found["speakers"]) == (OF_A_SPEAKER, 1)
    assert "split test1" in found["about"]["split"]


def _split_of(utterance: Utterance) -> str:
    return "test1" if utterance.speaker == "t5" else "train"


@pytest.mark.slow
def test_a_model_that_was_never_taught_words_gives_no_answer_when_it_shall_write_them(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--bundle", str(trained.bundle), "--manifest", str(trained.manifest), "--speakers", "t4", "--strategy", "joint", "--json"]
    assert main(["evaluate", *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unparsable_share"] == 1
    assert found["uar"]["value"] == 0
    assert found["sure_share"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({}, ["--split", "test1"], "no utterance of the split test1"),
        ({}, ["--corpus", "bells"], "no utterance of the corpus bells in this manifest; it has hisses, tones"),
        ({}, ["--speakers", "t4,t9"], "no utterance of the speaker t9 in this manifest; it has t0, t1"),
        ({}, ["--features"], "no terciles"),
        ({}, ["--bundle", "no-such-bundle"], "no bundle at 'no-such-bundle'"),
        ({}, ["--conditions"], "--conditions needs --recipe"),
        ({}, ["--recipe", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        ({}, ["--recipe", "{recipe}", "--speakers", "t0,t4"], "both trained on and held out: t0"),
        ({}, ["--server", "http://127.0.0.1:9"], "--server needs --model"),
        ({"transcript": None}, ["--strategy", "transcript-prefix"], f"{CLIPS} of {CLIPS} utterances have none"),
        ({"transcript": None}, ["--strategy", "prompt-hint"], "take --strategy ser or joint"),
        ({"emotion": None, "transcript": None}, ["--asr"], "has no emotions and no transcripts there"),
    ],
)
def test_what_cannot_be_evaluated_is_said_with_the_value(
    trained: Trained, change: dict[str, object], options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = _rewritten(trained, "changed.csv", change)
    options = [option.format(recipe=trained.recipe) for option in options]
    assert main(["evaluate", "--bundle", str(trained.bundle), "--manifest", str(manifest), *options]) == 1
    said = capsys.readouterr()
    assert reason in said.err
    assert said.err.startswith("error: ")
    assert said.out == ""


@pytest.mark.slow
def test_a_manifest_that_is_not_there_is_one_message_of_the_command(trained: Trained, tmp_path: Path) -> None:
    done = run("evaluate", "--bundle", str(trained.bundle), "--manifest", str(tmp_path / "gone.csv"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot read the manifest {tmp_path / 'gone.csv'}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_training_without_a_manifest_or_a_place_for_the_bundle_is_refused(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", str(trained.recipe), "--manifest", str(trained.manifest)]) == 1
    assert "--out" in capsys.readouterr().err
    assert main(["train", "--recipe", str(trained.recipe), "--out", str(trained.bundle.with_name("other"))]) == 1
    assert "--manifest" in capsys.readouterr().err
