"""The language model on a vLLM server elsewhere, asked over HTTP. This file owns HTTP.

Only speech embeds leave this machine, never sound.
"""

import asyncio
import base64
import io
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
from transformers import AutoTokenizer

from model.bundle import Bundle, resolve
from model.errors import BundleError, EngineRejected, EngineUnavailable
from model.prompts import AUDIO, TEMPLATE_SETTINGS, letter_ids
from model.request import MAX_WRITTEN_TOKENS, Request
from model.server_key import KEY_VARIABLE
from model.speech_llm import LORA_TARGETS
from model.types import Emotion
from monitor.judging.fitting import adapter_rank, check_fit

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# What stands before the speech embeds is the same for every request; vLLM shares it in whole blocks, so blocks are small.
BLOCK_TOKENS = 32
_REQUEST_TIMEOUT_S = 60.0
_CONNECTIONS = 32


class ServerEngine:
    """A vLLM OpenAI server that serves the bundle's adapter, or may load it: chat requests whose user message holds the speech embeds.

    Only speech embeds leave this machine, never sound. Requests of a batch are in flight together; the server batches them.
    """

    def __init__(self, bundle: Bundle, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._bundle = bundle
        self._tokenizer = _tokenizer(bundle)
        self._loop = asyncio.Runner()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=_CONNECTIONS)
        self._client = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_REQUEST_TIMEOUT_S, limits=limits)
        self._loaded: set[str] = set()  # adapters that the server loaded for this engine
        self._loop.run(self._ensure_served(bundle))

    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        ids = list(letter_ids(self._tokenizer, letters).values())
        return self._loop.run(_all_of([self._letters(request, ids) for request in requests]))

    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """See LanguageModel."""
        return self._loop.run(_all_of([self._text(request, stop) for request in requests]))

    def adopt(self, bundle: Bundle) -> None:
        """See Engine. What was served without this engine's doing stays: others may use it."""
        check_fit(self._bundle.manifest, bundle.manifest)
        self._loop.run(self._ensure_served(bundle))
        before, self._bundle = self._bundle.manifest.version, bundle
        if before in self._loaded and before != bundle.manifest.version:
            self._loop.run(self._unload(before))

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._client.aclose())
        self._loop.close()

    async def _ensure_served(self, bundle: Bundle) -> None:
        """Have the server load the bundle's adapter unless it serves it already. Raises EngineRejected with what to do."""
        version, adapter = bundle.manifest.version, (bundle.folder / "adapter").resolve()
        reply = await self._send("GET", "/v1/models")
        served = [str(model["id"]) for model in reply["data"]]
        if version in served:
            return
        answer = await self._reply("POST", "/v1/load_lora_adapter", {"lora_name": version, "lora_path": str(adapter)})
        if answer.status_code != 200:
            raise EngineRejected(
                f"the server at {self._url} serves {', '.join(served)}, but not the adapter {version} of this bundle,"
                f" and did not load it: {_why_not_loaded(answer, adapter)}"
            )
        self._loaded.add(version)

    async def _unload(self, version: str) -> None:
        """What cannot be unloaded is left to the server, whose memory for adapters is bounded."""
        self._loaded.discard(version)
        try:
            answer = await self._reply("POST", "/v1/unload_lora_adapter", {"lora_name": version})
        except EngineUnavailable as error:
            logger.warning("the adapter %s was not unloaded: %s", version, error)
            return
        if answer.status_code != 200:
            logger.warning("the adapter %s was not unloaded: status %d", version, answer.status_code)

    async def _letters(self, request: Request, ids: list[int]) -> list[float]:
        wanted = {
            "max_tokens": 1,
            "temperature": 1.0,
            "allowed_token_ids": ids,
            "logprobs": True,
            "top_logprobs": len(ids),
            "return_tokens_as_token_ids": True,
        }
        choice = await self._ask(request, wanted)
        try:
            table = {
                int(entry["token"].removeprefix("token_id:")): float(entry["logprob"])
                for entry in choice["logprobs"]["content"][0]["top_logprobs"]
            }
            return [table[letter] for letter in ids]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineRejected(
                f"the server at {self._url} did not give the letters' probabilities; start it with --logprobs-mode processed_logprobs"
            ) from error

    async def _text(self, request: Request, stop: str) -> str:
        wanted = {"max_tokens": MAX_WRITTEN_TOKENS, "temperature": 0.0, "stop": [stop], "include_stop_str_in_output": True}
        choice = await self._ask(request, wanted)
        try:
            return str(choice["message"]["content"])
        except (KeyError, TypeError) as error:
            raise EngineRejected(f"the server at {self._url} did not give a text") from error

    async def _ask(self, request: Request, wanted: dict[str, Any]) -> Any:
        begun = request.turns[-1]["role"] == "assistant"
        body = {
            "model": self._bundle.manifest.version,
            "messages": _chat_messages(request),
            "add_generation_prompt": not begun,
            "continue_final_message": begun,
            "chat_template_kwargs": TEMPLATE_SETTINGS,
            # A checkpoint brings sampling defaults of its own, which would cut letters off or punish those that the instruction names.
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            **wanted,
        }
        reply = await self._send("POST", "/v1/chat/completions", body)
        try:
            return reply["choices"][0]
        except (KeyError, IndexError, TypeError) as error:
            raise EngineRejected(f"the server at {self._url} did not answer as a chat server does") from error

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        reply = await self._reply(method, path, body)
        if reply.status_code >= 500 or reply.status_code == 429:
            raise EngineUnavailable(f"the vLLM server at {self._url} answered with status {reply.status_code}")
        if reply.status_code == 404 and body is not None and str(body.get("model")) in reply.text:
            # It was started anew since, without what it had been told to load: the next engine tells it again.
            raise EngineUnavailable(f"the vLLM server at {self._url} does not serve the adapter {body['model']} any more")
        if reply.status_code != 200:
            raise EngineRejected(f"the vLLM server at {self._url} answered with status {reply.status_code}: {reply.text[:300]}")
        return reply.json()

    async def _reply(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            reply = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"no answer from the vLLM server at {self._url} ({type(error).__name__})") from error
        if reply.status_code in (401, 403):
            raise EngineRejected(f"the server at {self._url} refused the key; set [engine] key_file or the variable {KEY_VARIABLE}")
        return reply


def _why_not_loaded(answer: httpx.Response, adapter: Path) -> str:
    """Why a server did not load an adapter, and what to do."""
    if answer.status_code in (404, 405) and str(adapter) not in answer.text:
        return f"it may not; start it with --lora-modules VERSION={adapter}, or with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
    if answer.status_code == 404:
        return f"it does not see the folder {adapter}; make it readable there, under the same path"
    return f"status {answer.status_code}: {answer.text[:300]}"


async def _all_of(questions: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Everything at once; the first failure is the failure of all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except ExceptionGroup as errors:
        # One reason is enough: the whole batch will be asked again.
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


def server_arguments(bundle_folder: Path, llm: str, version: str) -> list[str]:
    """The arguments with which `python -m vllm.entrypoints.openai.api_server` serves a bundle to ServerEngine."""
    return [
        *("--model", llm, "--enable-prompt-embeds", "--enable-prefix-caching"),
        *("--enable-lora", "--max-lora-rank", str(adapter_rank(bundle_folder)), "--lora-target-modules", *LORA_TARGETS),
        *("--lora-modules", f"{version}={bundle_folder / 'adapter'}"),
        *("--logprobs-mode", "processed_logprobs", "--max-logprobs", str(len(Emotion))),
        *("--chat-template-content-format", "string", "--block-size", str(BLOCK_TOKENS)),
    ]


def _chat_messages(request: Request) -> Sequence[dict[str, Any]]:
    """The same request as chat messages. The server joins the parts of a message with a newline, which is what follows AUDIO."""
    buffer = io.BytesIO()
    torch.save(request.speech.clone(), buffer)
    speech = {"type": "prompt_embeds", "data": base64.b64encode(buffer.getvalue()).decode()}
    turns: list[dict[str, Any]] = []
    for turn in request.turns:
        before, found, after = turn["content"].partition(f"{AUDIO}\n")
        turns.append({"role": turn["role"], "content": [speech, {"type": "text", "text": after}] if found else before})
    return turns


def _tokenizer(bundle: Bundle) -> Any:
    source = resolve(bundle.folder, bundle.manifest.llm)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise BundleError(f"the tokenizer of {source} cannot be loaded: {error}") from error
