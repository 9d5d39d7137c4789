"""The language model: prompts and answers, where the speech goes, what the loss sees, and weights that cannot be loaded."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from model.emotions import Emotion
from model.encoders import TransformersEncoder
from model.errors import BundleError
from model.language_model import IGNORE_INDEX, LORA_TARGETS, LanguageModelRequest, SpeechLLM
from model.prompts import (
    AUDIO_PLACEHOLDER,
    PROMPTS,
    SHOTS,
    SYSTEM_PROMPT,
    ParsedAnswer,
    RenderedPrompt,
    Task,
    chat_messages,
    clean_transcript,
    emotion_prefix,
    format_answer,
    letter_ids,
    parse_answer,
    render_prompt,
    written_transcript,
)
from model.remote import explain_load_error
from tests.support import tiny


def test_there_are_ten_prompts_a_task_and_the_system_prompt_names_every_letter() -> None:
    assert all(len(set(PROMPTS[task])) == 10 for task in Task)
    for emotion in Emotion:
        assert f"{emotion.value} {emotion.word}" in SYSTEM_PROMPT
    assert "| ASR: <text> | Emotion: <letter> |" in SYSTEM_PROMPT


@given(st.sampled_from([None, *Emotion]), st.none() | st.text(alphabet="abc ',.?|<>é\n", max_size=30))
def test_what_is_formatted_is_parsed(emotion: Emotion | None, transcript: str | None) -> None:
    if emotion is None and transcript is None:
        return
    assert parse_answer(format_answer(emotion, transcript)) == ParsedAnswer(
        None if transcript is None else clean_transcript(transcript), emotion
    )


@pytest.mark.parametrize(
    "text", ["", "sad", "| Emotion: Sad |", "| Emotion: X |", "| Emotion: S", "|", "The speaker is sad | Emotion: S |"]
)
def test_what_is_not_in_the_grammar_is_no_answer(text: str) -> None:
    assert parse_answer(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("| ASR: so it is | Emotion:", "so it is"),
        (" | ASR:so it is| Emotion: S |", "so it is"),
        ("| ASR:  | Emotion:", ""),
        ("| ASR: so it is", None),
        ("| ASR: so it | is | Emotion:", None),
        ("| Emotion:", None),
        ("so it is | Emotion:", None),
    ],
)
def test_words_are_taken_from_an_answer_that_is_in_the_grammar_up_to_its_emotion(text: str, words: str | None) -> None:
    assert written_transcript(text) == words


@given(st.text())
def test_a_clean_transcript_is_one_line_without_bars_and_stays_as_it_is(text: str) -> None:
    cleaned = clean_transcript(text)
    assert "|" not in cleaned
    assert len(cleaned.splitlines()) <= 1
    assert clean_transcript(cleaned) == cleaned


def test_the_instruction_holds_features_then_words_then_examples_in_the_tasks_own_form() -> None:
    turns = chat_messages(Task.JOINT, 2, None, features="- pitch: high", shots=SHOTS[:2], hint="a | b")
    lines = turns[-1]["content"].splitlines()
    assert lines[:3] == [AUDIO_PLACEHOLDER, PROMPTS[Task.JOINT][2], "- pitch: high"]
    assert lines[3].endswith(" a b")
    assert [parse_answer(line.removeprefix("- ")) for line in lines[-2:]] == [ParsedAnswer(shot.words, shot.emotion) for shot in SHOTS[:2]]
    assert parse_answer(_last_line(Task.ASR)) == ParsedAnswer(SHOTS[0].words, None)
    assert parse_answer(_last_line(Task.SER)) == ParsedAnswer(None, SHOTS[0].emotion)


def _last_line(task: Task) -> str:
    return chat_messages(task, shots=SHOTS[:1])[-1]["content"].splitlines()[-1].removeprefix("- ")


@pytest.mark.parametrize("template", [None, tiny.LLAMA_TEMPLATE, tiny.QWEN3_TEMPLATE])
def test_a_request_reads_back_as_its_template_says(template: str | None) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    turns = chat_messages(Task.SER, 3, emotion_prefix())
    rendered = render_prompt(tokenizer, turns)
    before, after = tokenizer.decode(rendered.before), tokenizer.decode(rendered.after)
    assert SYSTEM_PROMPT in before
    assert AUDIO_PLACEHOLDER not in before + after
    assert after.startswith(f"\n{PROMPTS[Task.SER][3]}")
    assert after.endswith("| Emotion:")


def test_everything_before_the_audio_is_the_same_for_all_requests() -> None:
    tokenizer = tiny.tokenizer()
    assert len({render_prompt(tokenizer, chat_messages(task, n)).before for task in Task for n in range(10)}) == 1


def test_every_letter_is_one_token_of_its_own() -> None:
    ids = letter_ids(tiny.tokenizer(), Emotion)
    assert len(set(ids.values())) == 9
    assert tiny.tokenizer().decode([ids[Emotion.SAD]]) == " S"


def test_a_tokenizer_that_splits_letters_is_refused() -> None:
    tokenizer = tiny.tokenizer()
    characters = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([characters, pre_tokenizers.ByteLevel(False, use_regex=False)])
    with pytest.raises(BundleError, match="one token"):
        letter_ids(tokenizer, Emotion)


def test_a_template_that_drops_the_audio_is_refused() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(BundleError, match="drops"):
        render_prompt(tokenizer, chat_messages(Task.SER))


LETTERS = list(Emotion)


def _llm() -> SpeechLLM:
    return SpeechLLM(tiny.llama(), tiny.tokenizer())


def _request(speech: torch.Tensor, prompt: int, prefix: str | None) -> LanguageModelRequest:
    return LanguageModelRequest(tuple(chat_messages(Task.SER, prompt, prefix)), speech)


def test_speech_stands_between_the_tokens_and_only_the_answer_is_predicted() -> None:
    llm, speech = _llm(), torch.randn(2, 4, 64)
    prompts = [RenderedPrompt((1, 5, 6), (7, 8)), RenderedPrompt((1,), (9,))]
    answers = [(20, 21, 22), (30,)]
    logits, targets = llm(speech, prompts, answers)
    assert logits.shape == (2, 3, llm.llm.config.vocab_size)
    assert targets.tolist() == [[20, 21, 22], [30, IGNORE_INDEX, IGNORE_INDEX]]
    embed = llm.llm.get_input_embeddings()
    whole = torch.cat([embed(torch.tensor([1, 5, 6])), speech[0], embed(torch.tensor([7, 8, 20, 21, 22]))])
    expected = llm.llm(inputs_embeds=whole[None]).logits[0, 8:11]
    assert torch.allclose(logits[0], expected, atol=1e-5)


def test_a_beginning_that_all_requests_share_is_read_once_and_changes_neither_answers_nor_gradients() -> None:
    llm, prompts, answers = _llm(), [RenderedPrompt((1, 5, 6, 9), (7, 8)), RenderedPrompt((1, 5, 6, 9), (9,))], [(20, 21), (30,)]
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
    logits, _ = llm(speech, [render_prompt(llm.tokenizer, request.turns)], [(ids[0],)])
    assert logits[0, 0, ids].log_softmax(dim=0).tolist() == pytest.approx(llm.letter_log_probs([request], LETTERS)[0], abs=1e-5)


def test_writing_takes_the_most_probable_token_each_time_until_the_stop() -> None:
    llm, speech = _llm(), torch.randn(4, 64)
    request = _request(speech, 0, None)
    rendered, written = render_prompt(llm.tokenizer, request.turns), []
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
    prompt, answer = [RenderedPrompt((1,), (2,))], [(3,)]
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


def test_gated_weights_are_told_with_the_page_where_their_licence_is_accepted() -> None:
    # As transformers words it; nobody's licence can be refused without a network.
    error = OSError(
        "You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/meta-llama/x.\n401 Client Error."
    )
    text = explain_load_error("meta-llama/Llama-3.2-3B-Instruct", error)
    assert "https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct" in text
    assert "hf auth login" in text


@pytest.mark.parametrize("load", [SpeechLLM.load, TransformersEncoder.load])
def test_a_name_that_the_hub_does_not_give_is_told_as_such(load: object) -> None:
    assert callable(load)
    with pytest.raises(BundleError, match="check the name and the network"):
        load("no-such-laboratory/no-such-model")


def test_a_folder_without_weights_is_told_by_what_is_missing(tmp_path: Path) -> None:
    folder = tiny.llama_folder(tmp_path / "llm")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="safetensors"):
        SpeechLLM.load(str(folder))


def test_a_hub_folder_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = tiny.llama_folder(tmp_path / "llm")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    for file in folder.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    with pytest.raises(BundleError, match="instruct"):
        SpeechLLM.load(str(folder))
