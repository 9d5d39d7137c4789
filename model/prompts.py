"""Every word the language model reads, written once for training, evaluation and serving, and the parser of its answer.

A request is a list of chat messages in which AUDIO_PLACEHOLDER stands where the speech embeds go. `render_prompt` turns it into token ids
with the language model's own chat template, so that vLLM's server builds the same ids from the same messages.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypedDict

from model.emotions import Emotion
from model.errors import BundleError

AUDIO_PLACEHOLDER = "<|speech|>"
# What chat templates may ask for: no thoughts before the answer (Qwen3), and not today's date (Llama 3.2), which would make every day's
# requests different from those of training.
TEMPLATE_SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


class Task(StrEnum):
    """What is asked: the words, the emotion, or both (paper, B.2 to B.4)."""

    ASR = "asr"
    SER = "ser"
    JOINT = "joint"


class Strategy(StrEnum):
    """How the emotion is asked for at inference (paper, A.4 and Table 3).

    ser: without any words. prompt-hint: the transcript stands in the instruction. transcript-prefix: the answer begins with the
    transcript, the paper's EmoLLM. joint: the same, but the model writes the transcript itself, so sound is all it needs.
    """

    SER = "ser"
    PROMPT_HINT = "prompt-hint"
    TRANSCRIPT_PREFIX = "transcript-prefix"
    JOINT = "joint"

    @property
    def needs_transcript(self) -> bool:
        """Whether somebody must bring the words."""
        return self in (Strategy.PROMPT_HINT, Strategy.TRANSCRIPT_PREFIX)


class Message(TypedDict):
    """One chat message."""

    role: str
    content: str


SYSTEM_PROMPT = """You listen to speech. Each request holds one utterance as audio tokens, then an instruction. \
Reply in the given form and add nothing.
To transcribe: | ASR: <text> |
To name the emotion: | Emotion: <letter> |
For both: | ASR: <text> | Emotion: <letter> |
The letter is one of: """ + ", ".join(f"{emotion} {emotion.word}" for emotion in Emotion)

PROMPTS: dict[Task, tuple[str, ...]] = {
    Task.ASR: (
        "Write down what is said in this utterance.",
        "Transcribe the speech above.",
        "Which words does the speaker say? Give the transcript.",
        "Turn the utterance into written text.",
        "Listen to the audio and note every word.",
        "Give a verbatim transcript of the audio above.",
        "Put the spoken words into writing.",
        "Type out the utterance exactly as spoken.",
        "What was said? Answer with the transcript.",
        "Recognise the speech and return its text.",
    ),
    Task.SER: (
        "Name the emotion in the speaker's voice.",
        "How does the speaker feel? Give the letter.",
        "Judge the emotional tone of the utterance above.",
        "Which emotion does the voice carry?",
        "Classify the emotion expressed in this audio.",
        "Listen to how it is said and choose the emotion.",
        "Decide which emotion the speaker expresses.",
        "What feeling can be heard in the voice?",
        "Recognise the emotional state of the speaker.",
        "Pick the letter that fits the tone of voice.",
    ),
    Task.JOINT: (
        "Write down what is said, then name the emotion in the voice.",
        "First the transcript, then the emotion of the speaker.",
        "Transcribe the utterance and judge its emotional tone.",
        "Give the spoken words and the letter of the emotion.",
        "Note every word, then decide how the speaker feels.",
        "Return the text of the speech and the emotion it carries.",
        "What is said, and with which feeling? Answer both.",
        "Recognise first the speech and then the emotion.",
        "Put the words into writing and classify the emotion.",
        "Type out the utterance, then pick the letter that fits its tone.",
    ),
}


@dataclass(frozen=True, slots=True)
class FewShotExample:
    """An example of the expected output; it shows the form and is about no sound (paper, B.6)."""

    words: str
    emotion: Emotion


SHOTS: tuple[FewShotExample, ...] = (
    FewShotExample("Nobody told me you would be here tonight.", Emotion.SURPRISE),
    FewShotExample("The train leaves at a quarter past nine.", Emotion.NEUTRAL),
    FewShotExample("I asked you twice to leave that alone.", Emotion.ANGRY),
    FewShotExample("We finally got the keys to the house.", Emotion.HAPPY),
    FewShotExample("It has been so quiet since he moved out.", Emotion.SAD),
    FewShotExample("Did you hear that noise behind the door?", Emotion.FEAR),
    FewShotExample("There is mould all over the bread.", Emotion.DISGUST),
    FewShotExample("As if someone like that could ever manage it.", Emotion.CONTEMPT),
    FewShotExample("I do not know what to think about it yet.", Emotion.OTHER),
)
_MARKS = re.compile(r"[|<>]")
_SHOTS_INTRODUCTION = "The output has this form, for example:"
_HINT_INTRODUCTION = "The words spoken, to help you judge the emotion:"


def shots_for(letters: Collection[Emotion]) -> list[FewShotExample]:
    """The examples that a model may be shown which answers with these letters alone."""
    return [shot for shot in SHOTS if shot.emotion in letters]


def chat_messages(
    task: Task,
    prompt: int = 0,
    answer: str | None = None,
    *,
    features: str = "",
    shots: Sequence[FewShotExample] = (),
    hint: str | None = None,
) -> list[Message]:
    """The request for one utterance. `answer` begins (or is) the assistant's turn; None leaves the turn open.

    features: what `paralinguistics.describe_voice` says about the voice (paper, B.5). shots: examples of the output (B.6). hint: the
    transcript (B.7). The audio comes before the instruction (paper, B), so that everything before it is the same for all requests.
    """
    lines = [f"{AUDIO_PLACEHOLDER}\n{PROMPTS[task][prompt]}"]
    if features:
        lines.append(features)
    if hint is not None:
        lines.append(f"{_HINT_INTRODUCTION} {clean_transcript(hint)}")
    if shots:
        lines += [_SHOTS_INTRODUCTION, *(f"- {_shown(task, shot)}" for shot in shots)]
    turns = [Message(role="system", content=SYSTEM_PROMPT), Message(role="user", content="\n".join(lines))]
    return turns if answer is None else [*turns, Message(role="assistant", content=answer)]


def _shown(task: Task, shot: FewShotExample) -> str:
    return format_answer(
        shot.emotion if task is not Task.ASR else None,
        shot.words if task is not Task.SER else None,
    )


def clean_transcript(transcript: str) -> str:
    """A transcript as it may stand in a request or answer: one line, without the bar, which has a meaning there, and without angle
    brackets, in which chat templates, tools and thoughts have their marks."""
    return " ".join(_MARKS.sub(" ", transcript).split())


def emotion_prefix(transcript: str | None = None) -> str:
    """The beginning of an answer after which only the letter is missing (paper, A.4)."""
    return "| Emotion:" if transcript is None else f"| ASR: {clean_transcript(transcript)} | Emotion:"


def format_answer(emotion: Emotion | None = None, transcript: str | None = None) -> str:
    """The whole answer in the output grammar; at least one of the two must be given."""
    if emotion is None and transcript is None:
        raise ValueError("an answer needs an emotion, a transcript or both")
    words = "" if transcript is None else f"| ASR: {clean_transcript(transcript)} "
    return words + ("|" if emotion is None else f"| Emotion: {emotion} |")


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A parsed answer; what it did not contain is None."""

    transcript: str | None
    emotion: Emotion | None


_BEGUN = re.compile(r"^\s*\|\s*ASR:\s*(?P<text>[^|]*?)\s*\|\s*Emotion:")
_ANSWER = re.compile(r"^\s*(?:\|\s*ASR:\s*(?P<text>.*?)\s*)?(?:\|\s*Emotion:\s*(?P<letter>[A-Z])\s*)?\|\s*$", re.DOTALL)


def written_transcript(text: str) -> str | None:
    """The words of an answer that was written up to, or beyond, its emotion; None when it is not in the grammar up to there."""
    match = _BEGUN.match(text)
    return match["text"] if match else None


def parse_answer(text: str) -> ParsedAnswer | None:
    """Read an answer in the output grammar; None when it is not in it."""
    match = _ANSWER.match(text)
    if match is None or (match["text"] is None and match["letter"] is None):
        return None
    letter = match["letter"]
    if letter is not None and letter not in set(Emotion):
        return None
    return ParsedAnswer(match["text"], None if letter is None else Emotion(letter))


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """Token ids before and after the place of the speech embeds."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def render_prompt(tokenizer: Any, turns: Sequence[Message]) -> RenderedPrompt:
    """Messages to token ids by the tokenizer's chat template; an assistant message at the end is left open to be continued.

    Such a message is tokenized apart from what stands before it, so that an answer has the same tokens in training, where it is learned
    as a whole, and in serving, where its beginning is given.
    """
    answer = turns[-1]["content"] if turns[-1]["role"] == "assistant" else ""
    asked = tuple((turn["role"], turn["content"]) for turn in (turns[:-1] if answer else turns))
    # What somebody said, in a hint or an answer, is not remembered longer than its request lives.
    hinted = any(_HINT_INTRODUCTION in content for _, content in asked)
    rendered = _render.__wrapped__(tokenizer, asked) if hinted else _render(tokenizer, asked)
    return RenderedPrompt(rendered.before, rendered.after + tuple(tokenizer.encode(answer, add_special_tokens=False)))


@lru_cache(maxsize=1024)
def _render(tokenizer: Any, asked: tuple[tuple[str, str], ...]) -> RenderedPrompt:
    turns = [Message(role=role, content=content) for role, content in asked]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **TEMPLATE_SETTINGS)
    before, found, after = text.partition(AUDIO_PLACEHOLDER)
    if not found:
        raise BundleError("the chat template of this language model drops a part of the user's message")
    return RenderedPrompt(*(tuple(tokenizer.encode(part, add_special_tokens=False)) for part in (before, after)))


def letter_ids(tokenizer: Any, letters: Iterable[Emotion]) -> dict[Emotion, int]:
    """The one token that each letter is after the answer's prefix. Raises BundleError where a letter is not one token."""
    return dict(_letter_ids(tokenizer, tuple(letters)))


@lru_cache
def _letter_ids(tokenizer: Any, letters: tuple[Emotion, ...]) -> dict[Emotion, int]:
    prefix = tokenizer.encode(emotion_prefix(), add_special_tokens=False)
    ids = {}
    for letter in letters:
        whole = tokenizer.encode(f"{emotion_prefix()} {letter}", add_special_tokens=False)
        if whole[:-1] != prefix:
            raise BundleError(f"this language model's tokenizer does not write the letter {letter} as one token")
        ids[letter] = whole[-1]
    return ids
