"""What learns in each phase: exactly what is named, and nothing else moves by one bit."""

from pathlib import Path

import pytest
import torch

from model.errors import TrainingError
from model.mapper import QPMapper
from model.prompts import Rendered
from model.speech_llm import SpeechLLM
from tests import tiny
from train.learning.curriculum import set_trainable
from train.recipe import load_recipe


def _parts() -> tuple[QPMapper, SpeechLLM]:
    torch.manual_seed(0)
    llm = SpeechLLM(tiny.llama(), tiny.tokenizer())
    return QPMapper(48, 64, queries=4, layers=1, heads=4, width=48), llm


@pytest.mark.parametrize(("parts", "with_lora"), [(["mapper"], False), (["mapper", "llm"], False), (["mapper", "lora"], True)])
def test_one_step_changes_exactly_the_parts_named(parts: list[str], with_lora: bool) -> None:
    mapper, llm = _parts()
    if with_lora:
        llm.add_lora()
        with torch.no_grad():  # a fresh adapter's A has no gradient until B is not zero
            for name, parameter in llm.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    named = {**{f"mapper.{n}": p for n, p in mapper.named_parameters()}, **{f"llm.{n}": p for n, p in llm.named_parameters()}}
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    learning = set_trainable(parts, mapper, llm)
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    speech = mapper(torch.randn(2, 6, 48), torch.ones(2, 6, dtype=torch.bool))
    logits, targets = llm(speech, [Rendered(tuple(range(1, 100)), (2,))] * 2, [(3,), (4,)])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    optimizer.step()
    changed = {name for name, parameter in named.items() if not torch.equal(parameter, before[name])}
    expected = {name for name in named if _belongs(name, parts)}
    assert changed == expected
    assert sum(p.numel() for p in learning) == sum(named[name].numel() for name in expected)


def _belongs(name: str, parts: list[str]) -> bool:
    if name.startswith("mapper."):
        return "mapper" in parts
    return ("lora" if ".lora_" in name else "llm") in parts


def test_lora_before_there_is_an_adapter_is_an_error() -> None:
    with pytest.raises(TrainingError, match="lora"):
        set_trainable(["lora"], *_parts())


def test_the_shipped_recipe_trains_what_the_paper_trains_last() -> None:
    last = load_recipe("nano").phases[-1]
    assert set(last.trainable) == {"mapper", "lora"}


@pytest.mark.parametrize(("line", "reason"), [("nmae = 1", "nmae"), ("[encoder]\nsteps = 0", "steps"), ("= 3", "not usable")])
def test_a_recipe_with_an_unknown_or_wrong_key_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "r.toml").write_text(line)
    with pytest.raises(TrainingError, match=reason):
        load_recipe(str(tmp_path / "r.toml"))
    with pytest.raises(TrainingError, match="nano"):
        load_recipe("no-such-recipe")
