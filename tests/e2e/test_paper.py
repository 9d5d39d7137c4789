"""The paper's recipe and tables on tiny folders of the same classes: manifests, phases, a bundle, strategies, a night, and vLLM."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.audio import pcm16_to_float
from model.bundle import Bundle, load_llm, open_bundle
from model.bundle_format import file_checksums, read_bundle_manifest
from model.emotions import Emotion
from model.errors import BundleError, TrainingError
from model.language_model import SpeechLLM
from model.predictor import Predictor, PromptStyle, SpeechInput
from model.prompts import Strategy
from monitor.inference.engines.vllm import EmbeddedEngine
from tests.support import corpora, tiny
from tests.support.commands import run
from tests.support.corpora import QUICK, write_corpus
from tests.support.nights import clips, evidence
from train.corpora.manifest import of_splits
from train.corpora.manifest import read_corpus_manifest as read_utterances
from train.corpora.splits import CorpusPart
from train.evaluation.evaluate import EvaluatedBundle, evaluate_bundle
from train.nightly.night import NightlyRetraining
from train.nightly.training_set import NightlySettings
from train.paper_tables import PaperTables, TableCell
from train.recipe import RECIPES_FOLDER, load_recipe
from train.rehearsal_set import write_rehearsal_set
from train.release import write_bundle_manifest

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
    values = tomllib.loads((RECIPES_FOLDER / "paper.toml").read_text())
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


@pytest.fixture(scope="module", params=["wavlm-llama", pytest.param("wav2vec2-qwen3", marks=pytest.mark.slow)])
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
    manifest = read_bundle_manifest(released)
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


@pytest.mark.slow
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
    asked = EvaluatedBundle.of_bundle(released)
    for strategy in Strategy:
        for shots, features in ((0, False), (2, True)):
            found = evaluate_bundle(asked.with_style(strategy, shots, features), test1, "test1", "0" * 64)
            assert found.clips == 9
            assert (found.word_error_rate is not None) == (strategy is Strategy.JOINT and found.unparsable_share < 1)
            assert strategy is Strategy.JOINT or found.unparsable_share == 0


def test_a_person_teaches_it_at_night(released: Path, tmp_path: Path) -> None:
    """With an encoder and a language model that lie elsewhere, with examples in the instruction and the voice described in words."""
    folder = shutil.copytree(released, tmp_path / "bundle")
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="no voices to be measured with"):
        NightlyRetraining(folder, tmp_path / "work")
    # The miniature corpus has one voice to train on; those of the other splits stand for a corpus that has more.
    everyone = CorpusPart("MSP-Podcast", 1, read_utterances(released.parent / "msp.csv"))
    write_rehearsal_set(bundle, load_llm(bundle), [everyone], 24, folder)
    write_bundle_manifest(folder, bundle.manifest.model_copy(update={"files": file_checksums(folder)}))
    settings = NightlySettings.load()
    settings = settings.model_copy(update={"views": 2, "phase": settings.phase.model_copy(update={"steps": 2})})
    night = NightlyRetraining(folder, tmp_path / "work", settings=settings)
    pieces = evidence(clips(20), [Emotion.ANGRY] * 20, lambda number, _shown: list(Emotion)[number % 9])
    sounds = [SpeechInput(pcm16_to_float(piece.pcm)) for piece in pieces]
    before = [answer.prediction for answer in Predictor(night.bundle, night.llm).predict(sounds)]
    decision = night.learn(pieces, tmp_path / "new")
    assert decision.own is not None
    assert decision.public is not None
    assert (decision.own.segments, decision.learned.corrections, decision.public.speakers) == (20, 17, 1)
    after = [answer.prediction for answer in Predictor(night.bundle, night.llm).predict(sounds)]
    assert all(now != was for now, was in zip(after, before, strict=True)) == (decision.steps > 0)


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
    sounds = [SpeechInput(rng.normal(scale=0.05, size=n).astype(np.float32), "so it goes", "female") for n in (9000, 16000, 40000)]
    for strategy in (Strategy.SER, Strategy.PROMPT_HINT, Strategy.TRANSCRIPT_PREFIX):
        style = PromptStyle(strategy, shots=2, features=bundle.manifest.features)
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


CELLS = """
[encoders.small]
kind = "wav2vec2"
steps = 2
learning_rate = 1e-3
weight_decay = 0.01
label_smoothing = 0.05
mixup = 0.2
average_decay = 0.9
dropout = 0.1
[[cells]]
table = "Strategies"
row = "ser"
paper = 0.417
strategy = "ser"
[[cells]]
table = "Strategies"
row = "transcript-prefix"
paper = 0.497
[[cells]]
table = "Shots"
row = "0"
shots = 0
[[cells]]
table = "Features"
row = "with"
features = true
shots = 2
[[cells]]
table = "Parts"
row = "other encoder and language model"
encoder = "small"
llm = "qwen3"
"""


@pytest.fixture
def tables(tmp_path: Path) -> PaperTables:
    manifest = write_corpus(tmp_path)
    nested = re.sub(r"(?m)^(\[+)", r"\1recipe.", QUICK)
    (tmp_path / "tones-tables.toml").write_text(f"[recipe]\n{nested}\n{CELLS}")
    return PaperTables.load(str(tmp_path / "tones-tables.toml"), [manifest], tmp_path / "work", 0)


@pytest.mark.slow
def test_every_cell_is_trained_once_measured_and_set_beside_the_papers_figure(tables: PaperTables, tmp_path: Path) -> None:
    tables.run(tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    for text in ("may not be compared", "| ser |", "0.417", "0.497", "## Parts", "Tested on tones"):
        assert text in page
    runs = [path for path in (tmp_path / "work").glob("quick-*") if (path / "log.jsonl").exists()]
    phases = sorted(len({json.loads(line)["number"] for line in (path / "log.jsonl").read_text().splitlines()}) for path in runs)
    assert phases == [1] * 6, "the first phase twice, for both kinds of parts; the last for 0 and 1 example, features and the other parts"
    assert sum((path / "checkpoints").exists() for path in runs) == 6
    one_of_them = (tmp_path / "work").glob("cell-*.json")
    kept = {path: path.stat().st_mtime_ns for path in one_of_them}
    assert len(kept) == 5
    tables.run(tmp_path / "RESULTS.md")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "nothing is measured twice"


def test_a_cell_changes_what_it_says_and_nothing_else(tables: PaperTables) -> None:
    plain = tables.recipe_of(TableCell(table="t", row="r", shots=0))
    assert tables.recipe_of(TableCell(table="t", row="r", shots=0, strategy=Strategy.SER)) == plain
    features = tables.recipe_of(TableCell(table="t", row="r", shots=0, features=True))
    assert features.phases[-1].features
    assert features.phases[:-1] == plain.phases[:-1]
    with pytest.raises(TrainingError, match="small"):
        tables.recipe_of(TableCell(table="t", row="r", encoder="large"))


def test_the_shipped_tables_hold_the_papers_figures() -> None:
    import tomllib

    from train.recipe import to_recipe

    values = tomllib.loads((RECIPES_FOLDER / "nano-tables.toml").read_text())
    figures = {(cell["table"].split(":")[0], cell["row"].split(" (")[0]): cell.get("paper") for cell in values["cells"]}
    assert figures["Table 1", "with"] == 0.469
    assert figures["Table 2", "2 shots"] == 0.474
    assert figures["Table 3", "transcript-prefix"] == 0.497
    assert figures["Table 4", "wav2vec 2.0"] == 0.471
    recipe, nano = to_recipe(values["recipe"], "nano-tables"), load_recipe("nano")
    assert recipe.corpora[0].test == nano.corpora[0].test
    assert [phase.name for phase in recipe.phases] == ["base", "P1", "P2", "P3"]
