"""A dry run is held against the paper's published sizes, against what training itself counts, and against a model that is really built."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from model.encoder import load_encoder
from model.errors import TrainingError
from model.types import Emotion
from tests import tiny
from tests.bundles import NANO
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.dry.plan import PAPER_SPEECH, Speech
from train.dry.run import dry_run
from train.learning.examples import Plan
from train.recipe import SHIPPED, CombinedRecipe, Pretrained, Recipe, WhisperRecipe, load_recipe

PAPER = (SHIPPED / "paper.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The paper's recipe over tiny folders of the same architectures; written with changes."""
    folder = tmp_path_factory.mktemp("small")
    tiny.wavlm(folder / "encoder", norm="group")
    tiny.llama().save_pretrained(folder / "llm")
    tiny.tokenizer().save_pretrained(folder / "llm")

    def written(**changes: str) -> Path:
        text = PAPER.replace("microsoft/wavlm-base-plus", str(folder / "encoder"))
        text = text.replace("meta-llama/Llama-3.2-3B-Instruct", str(folder / "llm"))
        for old, new in {"width = 768": "width = 64", **changes}.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "small.toml").write_text(text, encoding="utf-8")
        return folder / "small.toml"

    return written


@pytest.fixture
def recipe(small: Callable[..., Path]) -> Recipe:
    return load_recipe(str(small(**{'precision = "bf16"': 'precision = "no"'})))


def row(text: str, section: str, name: str) -> list[str]:
    """The cells of one row of one table."""
    (part,) = [part for part in text.split("\n\n") if part.startswith(section)]
    (line,) = [line for line in part.splitlines() if line.strip().startswith(name)]
    return line.split()[len(name.split()) :]


def test_the_papers_sizes_are_those_that_were_published() -> None:
    text = dry_run(load_recipe("paper"), real_steps=False)
    assert row(text, "Parameters", "llm") == ["3,212,749,824", "frozen", "frozen", "frozen"]
    assert row(text, "Parameters", "lora")[1:] == ["frozen", "learns", "learns"]
    assert row(text, "Parameters", "together")[1:] == ["16,564,224", "28,721,152", "28,721,152"]
    assert "3.34 B together. The paper's 3.2 B is the language model alone, here 3.21 B." in text


def test_steps_are_those_that_training_would_take() -> None:
    paper = load_recipe("paper")
    speech = (Speech("LibriSpeech", 3, 1800, emotions=False), Speech("MSP-Podcast", 1, 700, emotions=True))
    parts = [Part(one.corpus, 1, [utterance(one.emotions)] * one.utterances) for one in speech]
    text = dry_run(paper, speech, real_steps=False)
    for phase in paper.phases:
        found = row(text, "Optimizer steps", phase.name)
        assert int(found[-1]) == Plan(phase, parts, paper.letters, "shuffle", 0).steps
        assert float(found[2]) == pytest.approx(4 * 3600 / 2500, abs=0.05)


def test_a_phase_without_transcription_hears_labelled_corpora_only() -> None:
    paper = load_recipe("paper")
    asked = paper.phases[-1].model_copy(update={"tasks": ["ser"]})
    text = dry_run(paper.model_copy(update={"phases": [asked]}), real_steps=False)
    assert row(text, "Optimizer steps", "P3") == ["84,030", "132", "5.6", "2", "512", f"{math.ceil(2 * 84_030 / 512)}"]


def utterance(labelled: bool) -> Utterance:
    return Utterance(Path("none.wav"), "c", "s", None, Emotion.SAD if labelled else None, "words", "train", "en", "CC0-1.0")


@pytest.mark.parametrize("speech", [(), PAPER_SPEECH[:1]])
def test_epochs_of_corpora_of_unknown_size_are_not_guessed(speech: tuple[Speech, ...]) -> None:
    text = dry_run(load_recipe("paper"), speech, real_steps=False)
    assert row(text, "Optimizer steps", "P1") == ["?", "?", "5.0", "1", "512", "?"]
    assert "the sizes of this recipe's corpora are not all known" in text


def test_kept_states_take_frames_times_width_times_two_bytes() -> None:
    text = dry_run(load_recipe("paper"), real_steps=False)
    hours = sum(one.hours for one in PAPER_SPEECH)
    assert row(text, "Disk", "encoder states of 1,093 h, with cache_states") == [f"{hours * 3600 * 50 * 768 * 2 / 1e9:.1f}"]


def test_gradient_checkpointing_saves_activations_and_nothing_else() -> None:
    text = dry_run(load_recipe("paper"), real_steps=False)
    (memory,) = [part for part in text.split("\n\n") if part.startswith("Memory")]
    on, off = ([float(cell) for cell in line.split()[2:]] for line in memory.splitlines() if line.strip().startswith("P3"))
    assert on[:3] == off[:3]
    assert on[4] == off[4]
    assert on[3] < off[3] / 10


def test_a_recipe_whose_models_start_here_is_counted_and_run_too() -> None:
    text = dry_run(load_recipe("nano"))
    assert row(text, "Parameters", "encoder")[1:] == ["frozen", "frozen"]
    assert row(text, "Parameters", "llm")[1:] == ["learns", "frozen"]
    assert "counted with the language model's tokenizer" in text
    assert "One real step on the CPU" in text or "Real steps on" in text


def test_a_whisper_is_counted_by_the_layers_that_are_used(recipe: Recipe) -> None:
    whisper = WhisperRecipe(kind="whisper", source="openai/whisper-base", license="MIT")
    text = dry_run(recipe.model_copy(update={"encoder": whisper}), real_steps=False)
    # Two convolutions, positions for 30 s and four of six transformer blocks.
    blocks = 4 * (4 * 512 * 512 + 3 * 512 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512)
    assert row(text, "Parameters", "encoder")[0] == f"{(80 * 3 + 1) * 512 + (512 * 3 + 1) * 512 + 1500 * 512 + blocks:,}"
    assert "States: 12.5 a second, 1024 values of 2 bytes, 0.092 GB an hour." in text


def test_the_recipe_of_statistics_is_counted_by_views_and_run() -> None:
    compact = load_recipe("compact")
    speech = [Speech(corpus.name, 2.0, 1000, emotions=True) for corpus in compact.corpora]
    text = dry_run(compact, speech)
    # Three speeds and two rooms; mean and deviation of three layers, each 512 wide.
    assert row(text, "Disk", "states of 5 views of every utterance") == [f"{1000 * len(speech) * 5 * 3072 * 2 / 1e9:.1f}"]
    assert "one a view, 3072 values of 2 bytes, 30.7 kB an utterance" in text
    assert "cache_states" not in text
    assert row(text, "Parameters", "encoder")[1:] == ["frozen", "frozen"]
    assert "before the first phase" in text.split("One real step on the CPU" if "One real step on the CPU" in text else "Real steps on")[1]


def test_what_hangs_on_corpora_of_unknown_size_is_not_told(recipe: Recipe) -> None:
    assert row(dry_run(load_recipe("compact"), real_steps=False), "Disk", "states of 5 views of every utterance") == ["?"]
    assert row(dry_run(recipe, [], real_steps=False), "Disk", "encoder states of ? h, with cache_states") == ["?"]


def test_encoders_side_by_side_are_counted_together_and_run(recipe: Recipe) -> None:
    whisper = WhisperRecipe(kind="whisper", source="openai/whisper-tiny", license="MIT")
    nano = Pretrained(source=str(NANO / "encoder"))
    counts = []
    for parts in ([whisper, whisper], [whisper, nano]):
        text = dry_run(recipe.model_copy(update={"encoder": CombinedRecipe(kind="combined", parts=parts)}))
        assert "loss per answer token" in text or "Real steps on" in text
        counts.append(int(row(text, "Parameters", "encoder")[0].replace(",", "")))
    of_nano = sum(parameter.numel() for parameter in load_encoder(nano.source).parameters())
    assert counts[1] == counts[0] / 2 + of_nano


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is used where there is one")
def test_a_real_step_of_a_model_that_knows_nothing_has_the_loss_of_a_blind_guess(recipe: Recipe) -> None:
    text = dry_run(recipe)
    assert "phase P3, one example: 2 s of noise" in text
    found = re.search(r"loss per answer token ([\d.]+), where ln\(vocabulary\) is ([\d.]+)", text)
    assert found
    assert float(found[1]) == pytest.approx(float(found[2]), rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory of a GPU is not asked for before")
def test_a_step_that_memory_does_not_do_for_is_left_out_with_the_figures(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    assert re.search(r"Real steps: none\. .* takes 2\.\d GB of memory; 1\.0 GB are free", dry_run(recipe))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_every_phase_is_timed(recipe: Recipe) -> None:
    text = dry_run(recipe)
    for phase in recipe.phases:
        assert all(float(cell.replace(",", "")) > 0 for cell in row(text, "Real steps on", phase.name))


def test_the_command_prints_it_in_the_recipes_precision(small: Callable[..., Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "train", "--recipe", str(small()), "--dry-run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "bf16" in done.stdout
    assert "loss per answer token" in done.stdout or "Real steps on" in done.stdout


def test_a_model_of_which_nothing_is_known_is_refused_by_name(recipe: Recipe) -> None:
    unknown = recipe.model_copy(update={"llm": recipe.llm.model_copy(update={"source": "somebody/something"})})
    with pytest.raises(TrainingError, match="how large somebody/something is cannot be told"):
        dry_run(unknown, real_steps=False)
