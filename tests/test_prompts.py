"""The words of requests and answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from model.errors import BundleError
from model.prompts import (
    AUDIO,
    PROMPTS,
    SHOTS,
    SYSTEM_PROMPT,
    Answer,
    Task,
    clean,
    emotion_prefix,
    format_answer,
    letter_ids,
    messages,
    parse_answer,
    render,
    written_transcript,
)
from model.types import Emotion
from tests import tiny


def test_there_are_ten_prompts_a_task_and_the_system_prompt_names_every_letter() -> None:
    assert all(len(set(PROMPTS[task])) == 10 for task in Task)
    for emotion in Emotion:
        assert f"{emotion.value} {emotion.word}" in SYSTEM_PROMPT
    assert "| ASR: <text> | Emotion: <letter> |" in SYSTEM_PROMPT


@given(st.sampled_from([None, *Emotion]), st.none() | st.text(alphabet="abc ',.?|<>é\n", max_size=30))
def test_what_is_formatted_is_parsed(emotion: Emotion | None, transcript: str | None) -> None:
    if emotion is None and transcript is None:
        return
    assert parse_answer(format_answer(emotion, transcript)) == Answer(None if transcript is None else clean(transcript), emotion)


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
    cleaned = clean(text)
    assert "|" not in cleaned
    assert len(cleaned.splitlines()) <= 1
    assert clean(cleaned) == cleaned


def test_the_instruction_holds_features_then_words_then_examples_in_the_tasks_own_form() -> None:
    turns = messages(Task.JOINT, 2, None, features="- pitch: high", shots=SHOTS[:2], hint="a | b")
    lines = turns[-1]["content"].splitlines()
    assert lines[:3] == [AUDIO, PROMPTS[Task.JOINT][2], "- pitch: high"]
    assert lines[3].endswith(" a b")
    assert [parse_answer(line.removeprefix("- ")) for line in lines[-2:]] == [Answer(shot.words, shot.emotion) for shot in SHOTS[:2]]
    assert parse_answer(_last_line(Task.ASR)) == Answer(SHOTS[0].words, None)
    assert parse_answer(_last_line(Task.SER)) == Answer(None, SHOTS[0].emotion)


def _last_line(task: Task) -> str:
    return messages(task, shots=SHOTS[:1])[-1]["content"].splitlines()[-1].removeprefix("- ")


@pytest.mark.parametrize("template", [None, tiny.LLAMA_TEMPLATE, tiny.QWEN3_TEMPLATE])
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
