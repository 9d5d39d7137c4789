"""The words of requests and answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from model.errors import BundleError
from model.prompts import (
    AUDIO,
    PROMPTS,
    SYSTEM_PROMPT,
    Answer,
    Task,
    emotion_prefix,
    format_answer,
    letter_ids,
    messages,
    parse_answer,
    render,
)
from model.types import Emotion
from tests import tiny

# Llama 3.2's and Qwen 3's templates reduced to what matters here: special tokens, line breaks, trimmed content.
LLAMA_TEMPLATE = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_there_are_ten_prompts_a_task_and_the_system_prompt_names_every_letter() -> None:
    assert all(len(set(PROMPTS[task])) == 10 for task in Task)
    for emotion in Emotion:
        assert f"{emotion.value} {emotion.word}" in SYSTEM_PROMPT
    assert "| ASR: <text> | Emotion: <letter> |" in SYSTEM_PROMPT


@given(st.sampled_from([None, *Emotion]), st.none() | st.text(alphabet="abc ',.?|é", max_size=30).map(str.strip))
def test_what_is_formatted_is_parsed(emotion: Emotion | None, transcript: str | None) -> None:
    if emotion is None and transcript is None:
        return
    if transcript and "|" in transcript:
        return  # the grammar has no escape; a transcript with a bar is read up to it at best
    assert parse_answer(format_answer(emotion, transcript)) == Answer(transcript, emotion)


@pytest.mark.parametrize(
    "text", ["", "sad", "| Emotion: Sad |", "| Emotion: X |", "| Emotion: S", "|", "The speaker is sad | Emotion: S |"]
)
def test_what_is_not_in_the_grammar_is_no_answer(text: str) -> None:
    assert parse_answer(text) is None


@pytest.mark.parametrize("template", [None, LLAMA_TEMPLATE, QWEN_TEMPLATE])
def test_a_request_reads_back_as_its_template_says(template: str | None) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    turns = messages(Task.SER, 3, emotion_prefix())
    rendered = render(tokenizer, turns)
    before, after = tokenizer.decode(rendered.before), tokenizer.decode(rendered.after)
    assert SYSTEM_PROMPT in before
    assert AUDIO not in before + after
    assert after.startswith(f"\n{PROMPTS[Task.SER][3]}")
    assert after.endswith("| Emotion:")


def test_everything_before_the_audio_is_the_same_for_all_requests() -> None:
    tokenizer = tiny.tokenizer()
    assert len({render(tokenizer, messages(task, n)).before for task in Task for n in range(10)}) == 1


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
        render(tokenizer, messages(Task.SER))
