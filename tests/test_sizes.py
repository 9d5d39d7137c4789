"""Sizes without weights are held against the published totals, against arithmetic, and against models that are really built."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from model.errors import TrainingError
from model.manifest import MapperSettings
from model.mapper import QPMapper
from model.speech_llm import SpeechLLM
from train.dry.sizes import PartSize, count_parts, known_config, memory_estimate
from train.learning.curriculum import set_trainable

PAPER = MapperSettings(queries=32, layers=2, heads=8, width=768)
WAVLM, LLAMA = "microsoft/wavlm-base-plus", "meta-llama/Llama-3.2-3B-Instruct"
LLMS = {
    LLAMA: 3_212_749_824,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-0.6B": 596_049_920,
}


def sizes(encoder: str = WAVLM, llm: str = LLAMA, trainable: tuple[str, ...] = ()) -> dict[str, PartSize]:
    return {part.name: part for part in count_parts(known_config(encoder), known_config(llm), PAPER, trainable)}


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
    parts = count_parts(known_config(WAVLM), config, PAPER, (), rank=rank)
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
        count_parts(known_config(WAVLM), known_config(WAVLM), PAPER, ())
