"""SpeechLLM: where the speech goes, what the loss sees, and that one answer does not depend on its neighbours."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.errors import BundleError
from model.prompts import Rendered, Task, emotion_prefix, letter_ids, messages, render
from model.request import Request
from model.speech_llm import IGNORED, LORA_TARGETS, SpeechLLM
from model.types import Emotion
from tests import tiny

LETTERS = list(Emotion)


def _llm() -> SpeechLLM:
    return SpeechLLM(tiny.llama(), tiny.tokenizer())


def _request(speech: torch.Tensor, prompt: int, prefix: str | None) -> Request:
    return Request(tuple(messages(Task.SER, prompt, prefix)), speech)


def test_speech_stands_between_the_tokens_and_only_the_answer_is_predicted() -> None:
    llm, speech = _llm(), torch.randn(2, 4, 64)
    prompts = [Rendered((1, 5, 6), (7, 8)), Rendered((1,), (9,))]
    answers = [(20, 21, 22), (30,)]
    logits, targets = llm(speech, prompts, answers)
    assert logits.shape == (2, 3, llm.llm.config.vocab_size)
    assert targets.tolist() == [[20, 21, 22], [30, IGNORED, IGNORED]]
    embed = llm.llm.get_input_embeddings()
    whole = torch.cat([embed(torch.tensor([1, 5, 6])), speech[0], embed(torch.tensor([7, 8, 20, 21, 22]))])
    expected = llm.llm(inputs_embeds=whole[None]).logits[0, 8:11]
    assert torch.allclose(logits[0], expected, atol=1e-5)


def test_a_beginning_that_all_requests_share_is_read_once_and_changes_neither_answers_nor_gradients() -> None:
    llm, prompts, answers = _llm(), [Rendered((1, 5, 6, 9), (7, 8)), Rendered((1, 5, 6, 9), (9,))], [(20, 21), (30,)]
    once, apart = (torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    shared, _ = llm(once, prompts, answers)
    llm.train()
    llm.llm.gradient_checkpointing_enable({"use_reentrant": False})  # under which nothing can be shared
    whole, _ = llm(apart, prompts, answers)
    assert torch.allclose(shared[0], whole[0], atol=1e-5)
    assert torch.allclose(shared[1, :1], whole[1, :1], atol=1e-5)
    for logits in (shared, whole):
        logits[0].square().sum().backward()
    assert once.grad is not None
    assert apart.grad is not None
    assert once.grad.abs().max() > 0
    assert torch.allclose(once.grad, apart.grad, rtol=1e-3, atol=1e-5)


def test_letters_alone_and_beside_longer_requests_are_the_same() -> None:
    llm, speech = _llm(), torch.randn(3, 4, 64)
    requests = [_request(speech[n], n, emotion_prefix("word " * n)) for n in range(3)]
    together = llm.letter_log_probs(requests, LETTERS)
    for request, row in zip(requests, together, strict=True):
        assert sum(math.exp(value) for value in row) == pytest.approx(1)
        assert llm.letter_log_probs([request], LETTERS)[0] == pytest.approx(row, abs=1e-5)


def test_a_letter_has_the_probability_that_the_language_model_gives_it() -> None:
    llm, speech = _llm(), torch.randn(1, 4, 64)
    request = _request(speech[0], 0, emotion_prefix())
    ids = list(letter_ids(llm.tokenizer, LETTERS).values())
    logits, _ = llm(speech, [render(llm.tokenizer, request.turns)], [(ids[0],)])
    assert logits[0, 0, ids].log_softmax(dim=0).tolist() == pytest.approx(llm.letter_log_probs([request], LETTERS)[0], abs=1e-5)


def test_writing_takes_the_most_probable_token_each_time_until_the_stop() -> None:
    llm, speech = _llm(), torch.randn(4, 64)
    request = _request(speech, 0, None)
    rendered, written = render(llm.tokenizer, request.turns), []
    for _ in range(6):
        logits, _ = llm(speech[None], [rendered], [(*written, 0)])
        written.append(int(logits[0, -1].argmax()))
    text = llm.tokenizer.decode(written)
    stop = text[len(text) // 2 :][:3]
    assert llm.write([request], stop) == [text[: text.index(stop)] + stop]


def test_what_is_written_alone_and_beside_longer_requests_is_the_same() -> None:
    llm, speech = _llm(), torch.randn(3, 4, 64)
    requests = [_request(speech[n], n, "| ASR: " + "word " * 9 * n) for n in range(3)]
    together = llm.write(requests, " |")
    assert len(set(together)) == 3
    assert [llm.write([request], " |")[0] for request in requests] == together


def test_lora_sits_on_attention_and_ffn_with_the_papers_rank_and_starts_as_nothing() -> None:
    llm, speech = _llm(), torch.randn(1, 4, 64)
    prompt, answer = [Rendered((1,), (2,))], [(3,)]
    before = llm(speech, prompt, answer)[0]
    llm.add_lora()
    assert torch.allclose(llm(speech, prompt, answer)[0], before, atol=1e-6)
    config = llm.llm.peft_config["default"]
    assert (config.r, config.lora_alpha, set(config.target_modules)) == (8, 16, set(LORA_TARGETS))
    learning = [name for name, parameter in llm.named_parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 7 * tiny.LLM.layers
    assert all("lora_" in name for name in learning)


def test_a_language_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = tiny.llama_folder(tmp_path / "llm")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(BundleError, match="instruct"):
        SpeechLLM.load(str(folder))


def test_a_language_model_that_is_nowhere_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        SpeechLLM.load(str(tmp_path / "llm"))


@pytest.mark.parametrize("publish", [tiny.llama_folder, tiny.qwen3_folder])
def test_an_adapter_on_published_weights_comes_back_as_it_was(publish: Callable[[Path], Path], tmp_path: Path) -> None:
    source = str(publish(tmp_path / "llm"))
    llm, request = SpeechLLM.load(source), _request(torch.randn(4, 64), 0, emotion_prefix())
    untrained = llm.letter_log_probs([request], LETTERS)[0]
    llm.add_lora()
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    trained = llm.letter_log_probs([request], LETTERS)[0]
    assert trained != pytest.approx(untrained, abs=1e-3)
    llm.save(None, tmp_path / "adapter")
    assert SpeechLLM.load(source, tmp_path / "adapter").letter_log_probs([request], LETTERS)[0] == pytest.approx(trained, abs=1e-5)
    assert not [path for path in (tmp_path / "adapter").iterdir() if path.suffix not in {".json", ".safetensors"}]
