"""One zero-shot question to an audio language model, and how its answer is read; no network here."""

import base64
import io
import math
import re
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from model.types import Emotion

INSTRUCTION = (
    "Listen to how the speaker sounds in this recording. Which one of these emotions does the voice express? "
    + ", ".join(f"{emotion} = {emotion.word}" for emotion in Emotion)
    + ". Reply with the one letter of your choice and nothing else."
)

_TOP_LOGPROBS = 20  # as many as vLLM gives unless it was started with another number
_LETTERS_MASS = 0.99
_ANSWER_TOKENS = 16  # room for a word or a short sentence, where the server does not restrict the answer
_AROUND_A_LETTER = " \t\r\n.,:;!?()[]\"'`*"


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer was read as. measured: the posterior comes from the server's probabilities; otherwise it is one-hot or None."""

    posterior: Mapping[Emotion, float] | None
    measured: bool


def wav_base64(path: Path) -> str:
    """A clip as the request carries it. Raises FormatError for a file that is no sound."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(float_to_pcm16(read_audio(path)).astype("<i2").tobytes())
    return base64.b64encode(buffer.getvalue()).decode()


def request_body(model: str, sound: str) -> dict[str, object]:
    """The chat request about one clip. vLLM restricts the answer to the nine letters; other servers pass over what they do not know."""
    clip = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    return {
        "model": model,
        "messages": [{"role": "user", "content": [clip, {"type": "text", "text": INSTRUCTION}]}],
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0.0,
        # A checkpoint's own generation settings may punish the letters, because the instruction has them already.
        "repetition_penalty": 1.0,
        "structured_outputs": {"choice": [str(emotion) for emotion in Emotion]},
        "logprobs": True,
        "top_logprobs": _TOP_LOGPROBS,
    }


def read_choice(choice: Mapping[str, Any]) -> Reply:
    """The first choice of a chat completion. Raises KeyError, TypeError or the like when it is none."""
    content = (choice.get("logprobs") or {}).get("content") or []
    measured = letter_posterior(content[0].get("top_logprobs") or []) if content else None
    if measured is not None:
        return Reply(measured, True)
    named = read_letter(choice["message"]["content"] or "")
    return Reply({emotion: float(emotion is named) for emotion in Emotion} if named else None, False)


def letter_posterior(top: Sequence[Mapping[str, Any]]) -> dict[Emotion, float] | None:
    """Probabilities of the letters, summing to 1, from the most likely first tokens of an answer.

    None unless all nine letters are among them and hold 0.99 of the probability. With vLLM they hold all of it: what its structured
    outputs forbid is taken out before the log-probabilities are made, whatever the server's --logprobs-mode.
    """
    found: dict[Emotion, float] = {}
    for entry in top:
        token = str(entry["token"]).strip()
        if token in set(Emotion):
            found[Emotion(token)] = found.get(Emotion(token), 0.0) + math.exp(float(entry["logprob"]))
    mass = sum(found.values())
    if len(found) < len(Emotion) or mass < _LETTERS_MASS:
        return None
    return {emotion: found[emotion] / mass for emotion in Emotion}


def read_letter(text: str) -> Emotion | None:
    """The emotion that an unrestricted answer names: a lone letter of the nine, in either case and with any punctuation around it, or
    a text with exactly one of the nine words in it. None for everything else."""
    lone = text.strip(_AROUND_A_LETTER).upper()
    if lone in set(Emotion):
        return Emotion(lone)
    words = set(re.findall(r"[a-z]+", text.lower()))
    named = [emotion for emotion in Emotion if emotion.word in words]
    return named[0] if len(named) == 1 else None
