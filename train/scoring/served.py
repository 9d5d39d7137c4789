"""Other audio language models in the same evaluation (paper, section 4 and Figure 2): asked over HTTP, zero-shot, one letter a clip.

It knows the chat-completions protocol as vLLM's server speaks it, and how an answer is read; it knows no metric, corpus or bundle.
This file owns HTTP inside train. Clips go to the named server as sound; nothing else that a manifest holds leaves this machine.
"""

import asyncio
import logging
import math
import random
import re
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from model.errors import EngineRejected, EngineUnavailable, TrainingError
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.scoring.served_answers import read_choice, request_body, wav_base64
from train.scoring.served_progress import Progress, clip_hash

logger = logging.getLogger(__name__)
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
        for a clip that is no sound, TrainingError as `Progress` does.
        """
        clips = {clip_hash(utterance.path): utterance.path for utterance in utterances}
        kept = Progress(progress, self._model)
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

    async def _ask_all(self, clips: Mapping[str, Path], kept: "Progress") -> None:
        waiting = iter(clips.items())
        async with self._client() as client:
            await self._checkpoint(client)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._parallel, len(clips))):
                    group.create_task(self._ask_in_turn(client, waiting, kept))

    async def _ask_in_turn(self, client: httpx.AsyncClient, waiting: Iterator[tuple[str, Path]], kept: "Progress") -> None:
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
