"""The paper's recipe as a laboratory runs it, on tiny folders of the same classes and corpora in the same layouts: manifests, three
phases, a bundle, every strategy of Table 3, and the same posterior from vLLM."""

import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle, load_llm, open_bundle
from model.errors import BundleError
from model.manifest import digests, read_manifest
from model.predictor import Predictor, Sound, Style
from model.prompts import Strategy
from model.speech_llm import SpeechLLM
from model.types import Emotion
from monitor.judging.engine import EmbeddedEngine
from tests import corpora, tiny
from tests.commands import run
from tests.persons import clips, evidence
from train.corpora.manifest import of_splits
from train.corpora.manifest import read_manifest as read_utterances
from train.corpora.splits import Part
from train.nightly.night import Night
from train.nightly.settings import NightSettings
from train.public_set import write_public_set
from train.recipe import SHIPPED
from train.release import write_manifest
from train.scoring.evaluate import Asked, evaluate_bundle

FAMILIES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Path]]] = {
    "wavlm-llama": (tiny.wavlm, tiny.llama_folder),
    "wav2vec2-qwen3": (tiny.wav2vec2, tiny.qwen3_folder),
}


def _toml(values: dict[str, Any]) -> str:
    """Enough TOML for a recipe: JSON's scalars and lists are TOML's."""
    plain = [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict) and not _tables(v)]
    for name, value in values.items():
        if isinstance(value, dict):
            plain += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in value.items())]
        elif _tables(value):
            for row in value:
                plain += [f"[[{name}]]", *(f"{k} = {json.dumps(v)}" for k, v in row.items())]
    return "\n".join(plain)


def _tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _recipe(encoder: Path, llm: Path) -> str:
    """paper.toml with other weights, less data a step, and the subsets that the miniature corpora have."""
    values = tomllib.loads((SHIPPED / "paper.toml").read_text())
    values["encoder"]["source"], values["llm"]["source"] = str(encoder), str(llm)
    values["corpora"][0].update(train=["train-clean-100"], validation=["dev-clean"], test=[])
    values["mapper"].update(queries=4, heads=4, width=32)
    values["loop"].update(micro_batch=2, cache_states=True)
    for phase in values["phases"]:
        phase["batch"] = 4
    # Nine steps teach nobody the grammar, and without it a joint answer calibrates nothing.
    values["release"]["strategy"] = "ser"
    values["phases"][-1]["features"] = values["release"]["features"] = True
    return _toml(values)


@pytest.fixture(scope="module", params=FAMILIES)
def laboratory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, corpora, manifests and a recipe."""
    folder = tmp_path_factory.mktemp(request.param)
    make_encoder, make_llm = FAMILIES[request.param]
    (folder / "recipe.toml").write_text(_recipe(make_encoder(folder / "encoder"), make_llm(folder / "llm")))
    rows = {
        f"MSP-PODCAST_{number:04d}_{letter}": f"{letter},{number},{'Male' if number % 2 else 'Female'},{split}"
        for number, split in enumerate(("Train", "Development", "Test1"))
        for letter in Emotion
    }
    corpora.librispeech(folder / "libri")
    corpora.msp_podcast(folder / "msp", rows)
    for name, place in (("librispeech", "libri"), ("msp-podcast", "msp")):
        done = run("corpus", "prepare", name, str(folder / place), "--out", str(folder / f"{place}.csv"))
        assert done.returncode == 0, done.stderr
    return folder


def _train(folder: Path, *more: str) -> Any:
    manifests = [argument for place in ("libri", "msp") for argument in ("--manifest", str(folder / f"{place}.csv"))]
    return run("train", "--recipe", str(folder / "recipe.toml"), *manifests, "--work", str(folder / "work"), *more)


@pytest.fixture(scope="module")
def released(laboratory: Path) -> Path:
    """The bundle, trained phase by phase with two commands."""
    first = _train(laboratory, "--phase", "P1")
    assert first.returncode == 0, first.stderr
    assert "trainable: mapper," in first.stderr
    done = _train(laboratory, "--out", str(laboratory / "bundle"))
    assert done.returncode == 0, done.stderr
    assert "trainable: lora+mapper" in done.stderr
    assert "trainable: mapper," not in done.stderr, "P1 was there already"
    return laboratory / "bundle"


def test_the_bundle_names_its_weights_and_brings_mapper_adapter_and_terciles(released: Path) -> None:
    manifest = read_manifest(released)
    assert manifest.encoder == str(released.parent / "encoder")
    assert not (released / "llm").exists()
    assert manifest.features is not None
    assert (manifest.strategy, manifest.shots) == ("ser", 1)
    assert manifest.scores[0].split.startswith("MSP-Podcast, split test1")
    assert set(manifest.scores[0].recalls) == set(Emotion)
    record = json.loads((released / "training.json").read_text())
    assert record["recipe"]["phases"][2]["tasks"] == ["asr", "ser", "joint"]
    assert len(record["data"]["MSP-Podcast"]) == 16


def test_the_official_split_is_scored_from_the_command_line(released: Path, tmp_path: Path) -> None:
    manifest = str(released.parent / "msp.csv")
    arguments = ("--bundle", str(released), "--manifest", manifest, "--split", "test1", "--strategy", "transcript-prefix")
    done = run("evaluate", *arguments, "--out", str(tmp_path / "found"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["about"]["strategy"], found["about"]["features"], found["clips"]) == ("transcript-prefix", True, 9)
    assert (tmp_path / "found/confusion.png").stat().st_size > 5000


def test_a_corpus_without_emotions_is_scored_by_its_words(released: Path) -> None:
    arguments = ("evaluate", "--bundle", str(released), "--manifest", str(released.parent / "libri.csv"), "--split", "dev-clean")
    done = run(*arguments, "--asr", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["utterances"], found["words"]) == (1, 4)
    assert found["word_error_rate"] > 0.5
    calm = run(*arguments, "--json")
    assert calm.returncode == 0, calm.stderr
    assert [(one["corpus"], one["clips"]) for one in json.loads(calm.stdout)["outliers"]] == [("LibriSpeech", 2)]


def test_every_strategy_gives_figures_with_and_without_features_and_shots(released: Path) -> None:
    test1 = of_splits(read_utterances(released.parent / "msp.csv"), ["test1"])
    asked = Asked.of_bundle(released)
    for strategy in Strategy:
        for shots, features in ((0, False), (2, True)):
            found = evaluate_bundle(asked.restyled(strategy, shots, features), test1, "test1", "0" * 64)
            assert found.clips == 9
            assert (found.word_error_rate is not None) == (strategy is Strategy.JOINT and found.unparsable_share < 1)
            assert strategy is Strategy.JOINT or found.unparsable_share == 0


def test_a_person_teaches_it_at_night(released: Path, tmp_path: Path) -> None:
    """With an encoder and a language model that lie elsewhere, with examples in the instruction and the voice described in words."""
    folder = shutil.copytree(released, tmp_path / "bundle")
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="no voices to be measured with"):
        Night(folder, tmp_path / "work")
    # The miniature corpus has one voice to train on; those of the other splits stand for a corpus that has more.
    everyone = Part("MSP-Podcast", 1, read_utterances(released.parent / "msp.csv"))
    write_public_set(bundle, load_llm(bundle), [everyone], 24, folder)
    write_manifest(folder, bundle.manifest.model_copy(update={"files": digests(folder)}))
    settings = NightSettings.load()
    settings = settings.model_copy(update={"views": 2, "phase": settings.phase.model_copy(update={"steps": 2})})
    night = Night(folder, tmp_path / "work", settings=settings)
    pieces = evidence(clips(20), [Emotion.ANGRY] * 20, lambda number, _shown: list(Emotion)[number % 9])
    before = [answer.prediction for answer in night.answers(pieces)]
    decision = night.learn(pieces, tmp_path / "new")
    assert decision.own is not None
    assert decision.public is not None
    assert (decision.own.segments, decision.learned.corrections, decision.public.speakers) == (15, 17, 1)
    changed = [answer.prediction != was for answer, was in zip(night.answers(pieces), before, strict=True)]
    assert all(changed) == (decision.steps > 0)


@pytest.fixture(scope="module")
def asked(released: Path) -> Iterator[tuple[Bundle, SpeechLLM, EmbeddedEngine]]:
    """The bundle, its language model through transformers, and real vLLM."""
    bundle = open_bundle(released)
    engine = EmbeddedEngine(bundle, kv_cache_mib=64)
    yield bundle, load_llm(bundle), engine
    engine.close()


def test_vllm_gives_the_posterior_of_transformers_in_every_strategy(asked: tuple[Bundle, SpeechLLM, EmbeddedEngine]) -> None:
    bundle, llm, engine = asked
    rng = np.random.default_rng(0)
    sounds = [Sound(rng.normal(scale=0.05, size=n).astype(np.float32), "so it goes", "female") for n in (9000, 16000, 40000)]
    for strategy in (Strategy.SER, Strategy.PROMPT_HINT, Strategy.TRANSCRIPT_PREFIX):
        style = Style(strategy, shots=2, features=bundle.manifest.features)
        rows = [Predictor(bundle, model, style).predict(sounds) for model in (llm, engine)]
        for plain, served in zip(*rows, strict=True):
            assert plain.prediction is not None
            assert served.prediction is not None
            for letter in Emotion:
                assert abs(plain.prediction.posterior[letter] - served.prediction.posterior[letter]) < 0.01


def test_weights_that_are_not_there_are_told_with_what_to_do(laboratory: Path) -> None:
    with pytest.raises(BundleError, match="check the name and the network"):
        SpeechLLM.load("no-such-laboratory/no-such-model")
    text = (laboratory / "recipe.toml").read_text().replace(str(laboratory / "encoder"), "microsoft/no-such-wavlm")
    (laboratory / "elsewhere.toml").write_text(text)
    done = run("train", "--recipe", str(laboratory / "elsewhere.toml"), "--manifest", str(laboratory / "msp.csv"), "--out", "unused")
    assert done.returncode == 1
    assert "LibriSpeech" in done.stderr
    assert "add its --manifest" in done.stderr
