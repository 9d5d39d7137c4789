"""Dry runs: sizes, steps and memory against published totals and against models that are really built."""

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
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from model.bundle_format import MapperSettings
from model.emotions import Emotion
from model.encoders import load_encoder
from model.errors import TrainingError
from model.language_model import SpeechLLM
from model.mapper import QPMapper
from tests.support import tiny
from tests.support.bundles import NANO
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart
from train.dry_plan import PAPER_SPEECH, CorpusSize
from train.dry_run import dry_run
from train.learning.examples import PhaseExamples
from train.learning.trainer import set_trainable
from train.model_sizes import PartSize, count_parts, known_config, memory_estimate
from train.recipe import RECIPES_FOLDER, CombinedRecipe, Pretrained, Recipe, WhisperRecipe, load_recipe

PAPER_MAPPER = MapperSettings(queries=32, layers=2, heads=8, width=768)
WAVLM, LLAMA = "microsoft/wavlm-base-plus", "meta-llama/Llama-3.2-3B-Instruct"
LLMS = {
    LLAMA: 3_212_749_824,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-0.6B": 596_049_920,
}


def sizes(encoder: str = WAVLM, llm: str = LLAMA, trainable: tuple[str, ...] = ()) -> dict[str, PartSize]:
    return {part.name: part for part in count_parts(known_config(encoder), known_config(llm), PAPER_MAPPER, trainable)}


@pytest.mark.parametrize("name", LLMS)
def test_a_language_model_has_its_published_number_of_parameters(name: str) -> None:
    assert sizes(llm=name)["llm"].total == LLMS[name]


@pytest.mark.parametrize(("name", "millions"), [(WAVLM, 94.4), ("microsoft/wavlm-large", 315.5), ("facebook/wav2vec2-large-robust", 315.4)])
def test_an_encoder_has_its_published_size_to_a_tenth_of_a_million(name: str, millions: float) -> None:
    assert sizes(encoder=name)["encoder"].total / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_name_that_is_not_known_has_no_config() -> None:
    assert known_config("somebody/something") is None


def test_the_papers_mapper_has_the_size_of_two_transformer_layers_queries_and_a_projection() -> None:
    width, hidden = 768, 3072
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * 4 * width + 4 * width + width
    norm = 2 * width
    layer = attention + feed_forward + 2 * norm
    assert sizes()["mapper"].total == 2 * layer + norm + 32 * width + width * hidden + hidden


@pytest.mark.parametrize("rank", [8, 16])
@pytest.mark.parametrize("name", LLMS)
def test_lora_adds_rank_times_inputs_and_outputs_of_every_attention_and_ffn_matrix(name: str, rank: int) -> None:
    config = known_config(name)
    h, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or h // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = 2 * (h + queries) + 2 * (h + keys) + 3 * (h + inner)
    parts = count_parts(known_config(WAVLM), config, PAPER_MAPPER, (), rank=rank)
    assert parts[3] == PartSize("lora", rank * config.num_hidden_layers * layer, 0)


def test_the_papers_three_billion_are_the_language_model() -> None:
    total = sum(part.total for part in sizes().values())
    assert LLMS[LLAMA] / 1e9 == pytest.approx(3.2, abs=0.05)
    assert total / 1e9 == pytest.approx(3.34, abs=0.005), "with encoder, mapper and adapter"


@pytest.mark.parametrize("trainable", [(), ("mapper",), ("mapper", "lora"), ("llm",)])
def test_exactly_the_parts_that_are_named_learn(trainable: tuple[str, ...]) -> None:
    found = sizes(trainable=trainable)
    assert list(found) == ["encoder", "mapper", "llm", "lora"]
    assert {name: part.trainable for name, part in found.items()} == {
        name: part.total if name in trainable else 0 for name, part in found.items()
    }


def built() -> tuple[QPMapper, SpeechLLM, list[PartSize]]:
    """A small model with weights, and what is counted for it without."""
    encoder, language = known_config(WAVLM), known_config(LLAMA)
    encoder.update({"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": [16] * 7})
    language.update({"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 96})
    settings = MapperSettings(queries=4, layers=1, heads=4, width=32)
    parts = count_parts(encoder, language, settings, ("mapper", "lora"))
    llm = SpeechLLM(AutoModelForCausalLM.from_config(language), None)
    llm.add_lora()
    assert parts[0].total == sum(parameter.numel() for parameter in AutoModel.from_config(encoder).parameters())
    return QPMapper(48, 64, **settings.model_dump()), llm, parts


def test_what_is_counted_is_what_is_built_and_trained() -> None:
    mapper, llm, parts = built()
    learning = set_trainable({"mapper", "lora"}, mapper, llm)
    assert sum(part.trainable for part in parts) == sum(parameter.numel() for parameter in learning)
    assert sum(part.total for part in parts[1:]) == sum(p.numel() for module in (mapper, llm) for p in module.parameters())


def test_gradients_and_adamw_take_the_bytes_that_are_estimated() -> None:
    mapper, llm, parts = built()
    learning = set_trainable({"mapper", "lora"}, mapper, llm)
    optimizer = torch.optim.AdamW(learning)
    speech = mapper(torch.randn(2, 5, 48), torch.ones(2, 5, dtype=torch.bool))
    llm.llm(inputs_embeds=speech).logits.square().mean().backward()
    optimizer.step()
    found = estimate(parts)
    assert found.gradients == sum(parameter.grad.nbytes for parameter in learning)
    # AdamW also counts its steps, in one number a tensor.
    assert found.optimizer == sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim())


def estimate(parts: list[PartSize], **changes: int) -> object:
    usual = {
        "weight_bytes": 2,
        "optimizer_bytes_per_trainable": 8,
        "micro_batch": 4,
        "sequence_length": 300,
        "layers": 28,
        "hidden": 3072,
        "vocabulary": 128_256,
        "gradient_checkpointing": False,
    }
    return memory_estimate(parts, **(usual | changes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", LLMS)
def test_estimated_activations_are_within_a_quarter_of_what_autograd_keeps(name: str, dtype: torch.dtype) -> None:
    config, tokens = known_config(name), 64
    kept = kept_bytes(name, dtype, 4, tokens) - kept_bytes(name, dtype, 2, tokens)
    scores = 2 * 4 * config.num_attention_heads * tokens**2  # the meta device has no fused attention
    found = estimate([], weight_bytes=dtype.itemsize, micro_batch=1, sequence_length=tokens, layers=2, hidden=config.hidden_size)
    assert found.activations == pytest.approx(kept - scores, rel=0.25)


def kept_bytes(name: str, dtype: torch.dtype, layers: int, tokens: int) -> int:
    """Bytes of all tensors that autograd saves in a forward pass of one sequence with LoRA, weights not counted."""
    config = known_config(name)
    config.num_hidden_layers = layers
    config.layer_types = ["full_attention"] * layers
    with torch.device("meta"):
        llm = SpeechLLM(AutoModelForCausalLM.from_config(config).to(dtype), None)
        llm.add_lora()
        embeds = torch.empty(1, tokens, config.hidden_size, dtype=dtype, requires_grad=True)
    weights = {id(parameter) for parameter in llm.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights and id(tensor._base) not in weights:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        llm.train().llm(inputs_embeds=embeds)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_the_batch_sets_activations_and_logits_and_nothing_else() -> None:
    parts = [PartSize("llm", 1000, 0), PartSize("lora", 100, 100)]
    one, two = estimate(parts, micro_batch=1), estimate(parts, micro_batch=2)
    assert (two.weights, two.gradients, two.optimizer) == (one.weights, one.gradients, one.optimizer) == (2400, 400, 800)
    assert (two.activations, two.logits) == (2 * one.activations, 2 * one.logits)
    assert two.total == 3600 + two.activations + two.logits


def test_checkpointing_saves_most_activations_of_a_deep_model() -> None:
    kept, checkpointed = estimate([]), estimate([], gradient_checkpointing=True)
    assert checkpointed.activations < kept.activations / 10
    assert checkpointed.logits == kept.logits


def test_parts_that_cannot_learn_are_refused() -> None:
    with pytest.raises(TrainingError, match="encoder cannot learn; name some of llm, lora, mapper"):
        sizes(trainable=("mapper", "encoder"))


def test_sizes_of_which_no_model_can_be_made_are_refused() -> None:
    with pytest.raises(ValidationError, match="768 is not divisible by its 7 heads"):
        MapperSettings(queries=4, layers=1, heads=7, width=768)
    with pytest.raises(TrainingError, match="do not make a model"):
        count_parts(known_config(WAVLM), known_config(WAVLM), PAPER_MAPPER, ())


PAPER_RECIPE = (RECIPES_FOLDER / "paper.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The paper's recipe over tiny folders of the same architectures; written with changes."""
    folder = tmp_path_factory.mktemp("small")
    tiny.wavlm(folder / "encoder", norm="group")
    tiny.llama().save_pretrained(folder / "llm")
    tiny.tokenizer().save_pretrained(folder / "llm")

    def written(**changes: str) -> Path:
        text = PAPER_RECIPE.replace("microsoft/wavlm-base-plus", str(folder / "encoder"))
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
    speech = (CorpusSize("LibriSpeech", 3, 1800, emotions=False), CorpusSize("MSP-Podcast", 1, 700, emotions=True))
    parts = [CorpusPart(one.corpus, 1, [utterance(one.emotions)] * one.utterances) for one in speech]
    text = dry_run(paper, speech, real_steps=False)
    for phase in paper.phases:
        found = row(text, "Optimizer steps", phase.name)
        assert int(found[-1]) == PhaseExamples(phase, parts, paper.letters, "shuffle", 0).steps
        assert float(found[2]) == pytest.approx(4 * 3600 / 2500, abs=0.05)


def test_a_phase_without_transcription_hears_labelled_corpora_only() -> None:
    paper = load_recipe("paper")
    asked = paper.phases[-1].model_copy(update={"tasks": ["ser"]})
    text = dry_run(paper.model_copy(update={"phases": [asked]}), real_steps=False)
    assert row(text, "Optimizer steps", "P3") == ["84,030", "132", "5.6", "2", "512", f"{math.ceil(2 * 84_030 / 512)}"]


def utterance(labelled: bool) -> Utterance:
    return Utterance(Path("none.wav"), "c", "s", None, Emotion.SAD if labelled else None, "words", "train", "en", "CC0-1.0")


@pytest.mark.parametrize("speech", [(), PAPER_SPEECH[:1]])
def test_epochs_of_corpora_of_unknown_size_are_not_guessed(speech: tuple[CorpusSize, ...]) -> None:
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
    speech = [CorpusSize(corpus.name, 2.0, 1000, emotions=True) for corpus in compact.corpora]
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
