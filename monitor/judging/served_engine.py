"""The language model on a vLLM server elsewhere. It makes requests of questions, and has the server know the adapter of its bundle.

Only speech embeds leave this machine, never sound, and the words where a transcriber writes them for the bundle.
"""

import asyncio
import base64
import io
import re
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import AutoTokenizer

from model.bundle import Bundle, resolve
from model.errors import BundleError, EngineRejected
from model.prompts import AUDIO, TEMPLATE_SETTINGS, letter_ids
from model.request import MAX_WRITTEN_TOKENS, Request
from model.speech_llm import stored_dtype
from model.types import Emotion
from monitor.judging.fitting import check_fit
from monitor.judging.server import ServerConnection

_T = TypeVar("_T")

# What stands before the speech embeds is the same for every request; vLLM shares it in whole blocks, so blocks are small.
BLOCK_TOKENS = 32
ADAPTER_SETTINGS = "adapter_config"
"""Under this name the metadata of an adapter that is sent hold its settings."""


class ServerEngine:
    """A vLLM OpenAI server that serves the bundle's adapter, or takes it: chat requests whose user message holds the speech embeds.

    Requests of a batch are in flight together; the server batches them. Raises EngineUnavailable, EngineRejected, AccessRefused.
    """

    def __init__(self, bundle: Bundle, server: ServerConnection) -> None:
        self._server = server
        self._bundle = bundle
        self._loop = asyncio.Runner()
        self._sending = asyncio.Lock()
        try:
            self._tokenizer = _tokenizer(bundle)
            # A server works in these numbers, so more digits would only make requests longer.
            self._dtype = stored_dtype(resolve(bundle.folder, bundle.manifest.llm))
            self._loop.run(self._ensure_served(bundle))
        except BaseException:
            self.close()
            raise

    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        ids = list(letter_ids(self._tokenizer, letters).values())
        return self._loop.run(_all_of([self._letters(request, ids) for request in requests]))

    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """See LanguageModel."""
        return self._loop.run(_all_of([self._text(request, stop) for request in requests]))

    def adopt(self, bundle: Bundle) -> None:
        """See Engine. The adapter before is the server's to forget: one may go back to it."""
        check_fit(self._bundle.manifest, bundle.manifest)
        self._loop.run(self._ensure_served(bundle))
        self._bundle = bundle

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._server.close())
        self._loop.close()

    async def _ensure_served(self, bundle: Bundle) -> None:
        """Send the bundle's adapter to the server unless it has it. Raises EngineRejected with what to do."""
        version = bundle.manifest.version
        async with self._sending:
            reply = self._accepted(await self._server.ask("GET", "/v1/models"))
            served = [str(model["id"]) for model in reply["data"]]
            if version in served:
                return
            answer = await self._server.ask("PUT", f"/adapters/{version}", content=_packed(bundle.folder / "adapter"))
            if answer.status_code != 201:
                raise EngineRejected(
                    f"the server at {self._server.url} serves {', '.join(served)}, but not the adapter {version} of this bundle,"
                    f" and did not take it: {_why_not_taken(answer, version)}"
                )

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
                f"the server at {self._server.url} did not give the letters' probabilities;"
                " start it with `emosllm-monitor serve`, or with --logprobs-mode processed_logprobs"
            ) from error

    async def _text(self, request: Request, stop: str) -> str:
        wanted = {"max_tokens": MAX_WRITTEN_TOKENS, "temperature": 0.0, "stop": [stop], "include_stop_str_in_output": True}
        choice = await self._ask(request, wanted)
        try:
            return str(choice["message"]["content"])
        except (KeyError, TypeError) as error:
            raise EngineRejected(f"the server at {self._server.url} did not give a text") from error

    async def _ask(self, request: Request, wanted: dict[str, Any]) -> Any:
        begun = request.turns[-1]["role"] == "assistant"
        body = {
            "model": self._bundle.manifest.version,
            "messages": _chat_messages(request, self._dtype),
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
        reply = self._accepted(await self._answer(body))
        try:
            return reply["choices"][0]
        except (KeyError, IndexError, TypeError) as error:
            raise EngineRejected(f"the server at {self._server.url} did not answer as a chat server does") from error

    async def _answer(self, body: dict[str, Any]) -> httpx.Response:
        answer = await self._server.ask("POST", "/v1/chat/completions", body)
        if answer.status_code == 404:
            # The adapter had to make room for others since, or the server lost its disk.
            await self._ensure_served(self._bundle)
            answer = await self._server.ask("POST", "/v1/chat/completions", body)
        return answer

    def _accepted(self, reply: httpx.Response) -> Any:
        if reply.status_code != 200:
            raise EngineRejected(f"the vLLM server at {self._server.url} answered with status {reply.status_code}: {_said(reply)}")
        try:
            return reply.json()
        except ValueError as error:
            raise EngineRejected(f"the server at {self._server.url} did not answer as a chat server does") from error


def _why_not_taken(answer: httpx.Response, version: str) -> str:
    """Why a server did not take an adapter, and what to do."""
    if answer.status_code in (404, 405):
        return f"start it with `emosllm-monitor serve`, which does, or with --lora-modules {version}=FOLDER"
    return f"status {answer.status_code}: {_said(answer)}"


def _said(reply: httpx.Response) -> str:
    """A server's own message, up to where it quotes the request: that may hold somebody's words."""
    try:
        message = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = reply.text
    return re.split(r"""["']?input["']?\s*[:=]|input_value""", message)[0][:300]


def _packed(adapter: Path) -> bytes:
    """An adapter in one piece: its weights, with its settings in their metadata."""
    try:
        settings = (adapter / "adapter_config.json").read_text(encoding="utf-8")
        return bytes(save(load_file(adapter / "adapter_model.safetensors"), {"format": "pt", ADAPTER_SETTINGS: settings}))
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"the adapter in {adapter} cannot be read: {error}") from error


async def _all_of(questions: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Everything at once; the first failure is the failure of all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except ExceptionGroup as errors:
        # One reason is enough: the whole batch will be asked again.
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


def _chat_messages(request: Request, dtype: torch.dtype) -> Sequence[dict[str, Any]]:
    """The same request as chat messages. The server joins the parts of a message with a newline, which is what follows AUDIO."""
    buffer = io.BytesIO()
    torch.save(request.speech.to(dtype, copy=True), buffer)
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
