"""SpeechLLM: where the speech goes, what the loss sees, and that one answer does not depend on its neighbours."""

import torch

from model.prompts import Rendered, Task, emotion_prefix, letter_ids, messages, render
from model.speech_llm import IGNORED, LORA_TARGETS, SpeechLLM
from model.types import Emotion
from tests import tiny


def _llm() -> SpeechLLM:
    return SpeechLLM(tiny.llama(), tiny.tokenizer())


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


def test_letters_alone_and_beside_longer_requests_are_the_same() -> None:
    llm, speech = _llm(), torch.randn(3, 4, 64)
    ids = list(letter_ids(llm.tokenizer, Emotion).values())
    prompts = [render(llm.tokenizer, messages(Task.SER, n, emotion_prefix("word " * n))) for n in range(3)]
    together = llm.letter_log_probs(speech, prompts, ids)
    assert torch.allclose(together.exp().sum(dim=1), torch.ones(3))
    for n in range(3):
        assert torch.allclose(llm.letter_log_probs(speech[n : n + 1], prompts[n : n + 1], ids)[0], together[n], atol=1e-5)


def test_a_letter_has_the_probability_that_the_language_model_gives_it() -> None:
    llm, speech = _llm(), torch.randn(1, 4, 64)
    prompt = render(llm.tokenizer, messages(Task.SER, 0, emotion_prefix()))
    ids = list(letter_ids(llm.tokenizer, Emotion).values())
    logits, _ = llm(speech, [prompt], [(ids[0],)])
    assert torch.allclose(logits[0, 0, ids].log_softmax(dim=0), llm.letter_log_probs(speech, [prompt], ids)[0], atol=1e-5)


def test_generation_continues_the_request() -> None:
    llm, speech = _llm(), torch.randn(4, 64)
    prompt = render(llm.tokenizer, messages(Task.SER, 0))
    logits, _ = llm(speech[None], [prompt], [(0,)])
    first = llm.tokenizer.decode([int(logits[0, 0].argmax())], skip_special_tokens=True)
    assert llm.generate(speech, prompt, max_new_tokens=1) == first


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
