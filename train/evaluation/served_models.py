"""Other audio language models in the same evaluation (paper, section 4 and Figure 2): over HTTP, zero-shot, one letter a clip.

It knows the chat-completions protocol as vLLM's server speaks it, and how an answer is parsed; it knows no metric, corpus or
bundle. This file owns HTTP inside train. Audio of the clips goes to the named server and nothing else does. Answers are
kept on disk as they come, without audio or file names, so that a broken run can be resumed.
"""

import asyncio
import base64
import hashlib
import io
import json
import logging
import math
import random
import re
import wave
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from model.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from model.emotions import Emotion
from model.errors import EngineRejected, EngineUnavailable, TrainingError
from train.corpora.manifest import Utterance

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
class ServedReply:
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


def read_choice(choice: Mapping[str, Any]) -> ServedReply:
    """The first choice of a chat completion. Raises KeyError, TypeError or the like when it is none."""
    content = (choice.get("logprobs") or {}).get("content") or []
    measured = letter_posterior(content[0].get("top_logprobs") or []) if content else None
    if measured is not None:
        return ServedReply(measured, True)
    named = read_letter(choice["message"]["content"] or "")
    return ServedReply({emotion: float(emotion is named) for emotion in Emotion} if named else None, False)


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


logger = logging.getLogger(__name__)

_LOGGED_EVERY = 100


class AnswerLog:
    """Replies by the hash of their clip's path, one JSON line each, under a first line that says what was asked of which model.

    A last line that was cut off in writing is dropped, and its clip asked again. Without a path the replies are in memory only.
    Raises TrainingError when the file cannot be used or holds anything else; such a file is left as it is.
    """

    def __init__(self, path: Path | None, model: str) -> None:
        self.replies: dict[str, ServedReply] = {}
        self._path = path
        if path:
            try:
                self._restore(path, _log_line({"model": model, "instruction": hashlib.sha256(INSTRUCTION.encode()).hexdigest()}))
            except OSError as error:
                raise TrainingError(f"the progress file {path} cannot be used: {error}") from error

    def add(self, clip: str, reply: ServedReply) -> None:
        """Keep one reply."""
        self.replies[clip] = reply
        if len(self.replies) % _LOGGED_EVERY == 0:
            logger.info("answered: %d clips", len(self.replies))
        if self._path:
            try:
                with self._path.open("ab") as file:
                    file.write(_log_line({"clip": clip, "posterior": reply.posterior, "measured": reply.measured}))
            except OSError as error:
                raise TrainingError(f"an answer cannot be kept in {self._path}: {error}") from error

    def _restore(self, path: Path, header: bytes) -> None:
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if not whole.startswith(header) and not header.startswith(content):
            raise TrainingError(f"{path} holds something else than this model's answers to this instruction; name another file")
        for number, row in enumerate(whole.splitlines()[1:], start=2):
            try:
                kept = json.loads(row)
                self.replies[kept["clip"]] = ServedReply(_kept_posterior(kept["posterior"]), bool(kept["measured"]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise TrainingError(f"{path}, line {number} is no kept answer; take the line out, and its clip is asked again") from error
        with path.open("ab") as file:
            file.truncate(len(whole))
            if not whole:
                file.write(header)


def clip_hash(path: Path) -> str:
    """What a clip is kept under: 128 bits of a hash of its absolute path, in hexadecimal."""
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]


def _kept_posterior(kept: Mapping[str, float] | None) -> dict[Emotion, float] | None:
    return None if kept is None else {Emotion(letter): float(probability) for letter, probability in kept.items()}


def _log_line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row).encode() + b"\n"


# It tells every request, which would bury everything else.
logging.getLogger("httpx").setLevel(logging.WARNING)

# The checkpoints of Figure 2 that vLLM serves, by the last part of their name. Counted in the class that transformers builds from the
# published configuration; the technical report (Chu et al., 2024, arXiv:2407.10759) says 8.2 billion.
KNOWN_PARAMETERS = {"Qwen2-Audio-7B-Instruct": 8_397_094_912}

_CONNECT_TIMEOUT_S = 10.0
_FIRST_PAUSE_S = 0.5
_FEWEST_PARAMETERS = 1e5
_TAKES_NO_AUDIO = re.compile(r"multimodal|at most 0 audio|not support\w* audio|audio\b.{0,20}\bnot supported", re.IGNORECASE)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """An utterance and the served model's posterior over the nine letters, summing to 1; None: the answer named no emotion."""

    utterance: Utterance
    posterior: Mapping[Emotion, float] | None


class ServedModel:
    """A model behind an OpenAI-compatible server: one chat request a clip, `parallel` of them in flight.

    url: the server, with or without /v1 at its end; model: a name it serves; key: its API key, if it wants one.
    attempts: how often a request is sent while the server is busy (429), fails (5xx) or cannot be reached; pauses double from 0.5 s.

    A clip goes as an `input_audio` part, a 16 kHz mono int16 WAV in base64. vLLM also takes the same bytes as
    {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,..."}}, which OpenAI's own protocol does not have.
    """

    def __init__(
        self, url: str, model: str, key: str | None = None, *, parallel: int = 8, attempts: int = 5, timeout_s: float = 120.0
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise EngineRejected(f"{url!r} is no address of a server; write it as http://HOST:PORT")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._parallel = parallel
        self._attempts = attempts
        self._timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
        self._has_probabilities = False

    @property
    def has_probabilities(self) -> bool:
        """Whether all answers of the last `answer` came with probabilities; if not, one-hot posteriors say nothing of confidence."""
        return self._has_probabilities

    def answer(self, utterances: Sequence[Utterance], progress: Path | None = None) -> list[ServedAnswer]:
        """One answer for each utterance, in their order.

        progress: a JSON-lines file in which answers are kept as they come, under a hash of the clip's path; what it holds is not asked
        again. Raises EngineUnavailable when the server cannot be reached or keeps failing, EngineRejected when it refuses, FormatError
        for a clip that is no sound, TrainingError as `AnswerLog` does.
        """
        clips = {clip_hash(utterance.path): utterance.path for utterance in utterances}
        kept = AnswerLog(progress, self._model)
        missing = {clip: path for clip, path in clips.items() if clip not in kept.replies}
        logger.info("%s: %d clips to ask, %d answered before", self._model, len(missing), len(clips) - len(missing))
        if missing:
            _run(self._ask_all(missing, kept))
        replies = [kept.replies[clip_hash(utterance.path)] for utterance in utterances]
        self._has_probabilities = bool(replies) and all(reply.measured for reply in replies)
        return [ServedAnswer(utterance, reply.posterior) for utterance, reply in zip(utterances, replies, strict=True)]

    def parameter_count(self, stated: float | None = None) -> int | None:
        """The model's number of parameters: the stated one, else that of a checkpoint in KNOWN_PARAMETERS, else None.

        Servers do not tell the number, but vLLM tells the checkpoint behind a served name. Raises TrainingError for a stated number
        that can be none, and EngineUnavailable or EngineRejected as `answer` does.
        """
        if stated is None:
            checkpoint = _run(self._ask_checkpoint())
            return KNOWN_PARAMETERS.get(checkpoint.rstrip("/").split("/")[-1])
        if not _FEWEST_PARAMETERS <= stated < math.inf:
            raise TrainingError(f"{stated:g} is no number of parameters of an audio language model; write it out, such as 8.4e9")
        return round(stated)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=self._timeout)

    async def _ask_checkpoint(self) -> str:
        async with self._client() as client:
            return await self._checkpoint(client)

    async def _checkpoint(self, client: httpx.AsyncClient) -> str:
        """What the server says it serves under the model's name. Raises EngineRejected when that name is not served."""
        reply = await self._send(client, "GET", "/v1/models")
        try:
            served = {str(entry["id"]): str(entry.get("root") or entry["id"]) for entry in reply.json()["data"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineRejected(f"{self._url} does not list its models at /v1/models; is it an OpenAI-compatible server?") from error
        if self._model not in served:
            raise EngineRejected(f"the server at {self._url} does not serve {self._model!r} but {', '.join(served)}; name one of these")
        return served[self._model]

    async def _ask_all(self, clips: Mapping[str, Path], kept: "AnswerLog") -> None:
        waiting = iter(clips.items())
        async with self._client() as client:
            await self._checkpoint(client)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._parallel, len(clips))):
                    group.create_task(self._ask_in_turn(client, waiting, kept))

    async def _ask_in_turn(self, client: httpx.AsyncClient, waiting: Iterator[tuple[str, Path]], kept: "AnswerLog") -> None:
        for clip, path in waiting:
            sound = await asyncio.to_thread(wav_base64, path)
            reply = await self._send(client, "POST", "/v1/chat/completions", request_body(self._model, sound), path)
            try:
                read = read_choice(reply.json()["choices"][0])
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                raise EngineRejected(f"{self._url} sent no chat completion for {path}; is it an OpenAI-compatible server?") from error
            kept.add(clip, read)

    async def _send(
        self, client: httpx.AsyncClient, method: str, path: str, body: object = None, clip: Path | None = None
    ) -> httpx.Response:
        failure = ""
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(1.0, 1.5))
            try:
                reply = await client.request(method, path, json=body)
            except httpx.HTTPError as error:
                failure = f"no answer ({type(error).__name__})"
                continue
            if reply.status_code != 429 and reply.status_code < 500:
                self._require_accepted(reply, clip)
                return reply
            failure = f"status {reply.status_code}"
        raise EngineUnavailable(
            f"the server at {self._url} gave {failure}, {self._attempts} times over; look whether it runs, then ask again:"
            " what a progress file holds is not asked twice"
        )

    def _require_accepted(self, reply: httpx.Response, clip: Path | None) -> None:
        if reply.status_code == 200:
            return
        if reply.status_code in (401, 403):
            raise EngineRejected(f"the server at {self._url} refused the key; set EMOSLLM_API_KEY or name a file with --key-file")
        said = _message(reply)
        if _TAKES_NO_AUDIO.search(said):
            raise EngineRejected(f"{self._model!r} at {self._url} takes no audio ({said}); serve an audio language model")
        about = f" for {clip}" if clip else ""
        raise EngineRejected(f"the server at {self._url} answered with status {reply.status_code}{about}: {said}")


def _message(reply: httpx.Response) -> str:
    """What the server says is wrong, without any sound that it quotes."""
    try:
        said = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = reply.text
    return re.sub(r"[A-Za-z0-9+/=]{64,}", "...", said)[:300]


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(work)
    except ExceptionGroup as errors:
        # Requests in flight together mostly fail for one reason.
        raise errors.exceptions[0] from errors
