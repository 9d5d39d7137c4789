"""The engine on a shared vLLM server: the HTTP connection with its retries, and the requests that go over it. This file owns httpx.

Only speech embeds leave this machine, never audio, and the words where a transcriber writes them for the bundle. Every request may be
sent again: none changes anything at the server but which adapters it has. Retry-After is respected; without an answer the pause grows,
at random, so that many monitors do not come back all at once.
"""

import asyncio
import base64
import io
import random
import re
import ssl
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import AutoTokenizer

from model.bundle import Bundle, weights_source
from model.emotions import Emotion
from model.errors import AccessRefused, BundleError, EngineRejected, EngineUnavailable
from model.language_model import MAX_NEW_TOKENS, LanguageModelRequest, stored_dtype
from model.prompts import AUDIO_PLACEHOLDER, TEMPLATE_SETTINGS, letter_ids
from model.remote import API_KEY_VARIABLE
from monitor.inference.engines.base import check_compatible

MAX_CONNECTIONS = 32
"""Requests of one monitor that are open at once."""

_REQUEST_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 10.0
_RETRY_FOR_S = 10.0
_FIRST_DELAY_S, _MAX_DELAY_S = 0.25, 5.0
# The server is busy or broken, or something in front of it is; what was asked may be asked again.
_RETRYABLE_STATUSES = {408, 429, 500, 502, 503, 504}


class ServerConnection:
    """url: https, or http on this machine. ca_file: certificates that sign the server's, in PEM; empty: those that this machine trusts.

    patience_s: for how long a request is tried again before EngineUnavailable says so. Raises EngineRejected: the file cannot be read.
    """

    def __init__(self, url: str, key: str | None, ca_file: str = "", patience_s: float = _RETRY_FOR_S) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_REQUEST_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
            verify=_ssl_context(ca_file) if ca_file else True,
        )

    async def ask(self, method: str, path: str, json: Mapping[str, Any] | None = None, content: bytes | None = None) -> httpx.Response:
        """An answer that is not a passing fault. Raises EngineUnavailable once patience is over, AccessRefused where we are not let in."""
        until, pause_s = time.monotonic() + self._patience_s, _FIRST_DELAY_S
        # The same for every try, so that the logs of both sides can be held together.
        headers = {"X-Request-Id": uuid.uuid4().hex}
        while True:
            asked_to_wait_s = 0.0
            try:
                reply = await self._client.request(method, path, json=json, content=content, headers=headers)
            except httpx.HTTPError as error:
                self._refuse_certificate(error)
                reason = f"no answer from the vLLM server at {self.url} ({type(error).__name__})"
            else:
                if reply.status_code not in _RETRYABLE_STATUSES:
                    return self._let_in(reply)
                reason = f"the vLLM server at {self.url} answered with status {reply.status_code}"
                asked_to_wait_s = _retry_after_s(reply.headers.get("Retry-After", ""))
            wait_s = asked_to_wait_s + random.uniform(0, pause_s)
            if time.monotonic() + wait_s > until:
                raise EngineUnavailable(reason)
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, _MAX_DELAY_S)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _let_in(self, reply: httpx.Response) -> httpx.Response:
        if reply.status_code in (401, 403):
            raise AccessRefused(f"the server at {self.url} refused the key; set [engine] key_file or the variable {API_KEY_VARIABLE}")
        return reply

    def _refuse_certificate(self, error: BaseException) -> None:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                advice = "set [engine] ca_file to the certificate that signs it, and [engine] url to the name in it"
                raise AccessRefused(f"the certificate of {self.url} is not trusted ({cause.verify_message}); {advice}") from error
            cause = cause.__cause__ or cause.__context__


def _ssl_context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(Path(ca_file).expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise EngineRejected(f"[engine] ca_file: {ca_file} cannot be read as certificates in PEM ({type(error).__name__})") from error


def _retry_after_s(text: str) -> float:
    """What Retry-After says in seconds; it may also hold a date, which vLLM and our door never send."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


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
            self._tokenizer = _load_tokenizer(bundle)
            # A server works in these numbers, so more digits would only make requests longer.
            self._dtype = stored_dtype(weights_source(bundle.folder, bundle.manifest.llm))
            self._loop.run(self._ensure_adapter(bundle))
        except BaseException:
            self.close()
            raise

    def letter_log_probs(self, requests: Sequence[LanguageModelRequest], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        ids = list(letter_ids(self._tokenizer, letters).values())
        return self._loop.run(_gather([self._letters(request, ids) for request in requests]))

    def write(self, requests: Sequence[LanguageModelRequest], stop: str) -> list[str]:
        """See LanguageModel."""
        return self._loop.run(_gather([self._text(request, stop) for request in requests]))

    def switch_to(self, bundle: Bundle) -> None:
        """See Engine. The adapter before is the server's to forget: one may go back to it."""
        check_compatible(self._bundle.manifest, bundle.manifest)
        self._loop.run(self._ensure_adapter(bundle))
        self._bundle = bundle

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._server.close())
        self._loop.close()

    async def _ensure_adapter(self, bundle: Bundle) -> None:
        """Send the bundle's adapter to the server unless it has it. Raises EngineRejected with what to do."""
        version = bundle.manifest.version
        async with self._sending:
            reply = self._accepted(await self._server.ask("GET", "/v1/models"))
            served = [str(model["id"]) for model in reply["data"]]
            if version in served:
                return
            answer = await self._server.ask("PUT", f"/adapters/{version}", content=_pack_adapter(bundle.folder / "adapter"))
            if answer.status_code != 201:
                raise EngineRejected(
                    f"the server at {self._server.url} serves {', '.join(served)}, but not the adapter {version} of this bundle,"
                    f" and did not take it: {_upload_error(answer, version)}"
                )

    async def _letters(self, request: LanguageModelRequest, ids: list[int]) -> list[float]:
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

    async def _text(self, request: LanguageModelRequest, stop: str) -> str:
        wanted = {"max_tokens": MAX_NEW_TOKENS, "temperature": 0.0, "stop": [stop], "include_stop_str_in_output": True}
        choice = await self._ask(request, wanted)
        try:
            return str(choice["message"]["content"])
        except (KeyError, TypeError) as error:
            raise EngineRejected(f"the server at {self._server.url} did not give a text") from error

    async def _ask(self, request: LanguageModelRequest, wanted: dict[str, Any]) -> Any:
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
            await self._ensure_adapter(self._bundle)
            answer = await self._server.ask("POST", "/v1/chat/completions", body)
        return answer

    def _accepted(self, reply: httpx.Response) -> Any:
        if reply.status_code != 200:
            raise EngineRejected(f"the vLLM server at {self._server.url} answered with status {reply.status_code}: {_error_message(reply)}")
        try:
            return reply.json()
        except ValueError as error:
            raise EngineRejected(f"the server at {self._server.url} did not answer as a chat server does") from error


def _upload_error(answer: httpx.Response, version: str) -> str:
    """Why a server did not take an adapter, and what to do."""
    if answer.status_code in (404, 405):
        return f"start it with `emosllm-monitor serve`, which does, or with --lora-modules {version}=FOLDER"
    return f"status {answer.status_code}: {_error_message(answer)}"


def _error_message(reply: httpx.Response) -> str:
    """A server's own message, up to where it quotes the request: that may hold somebody's words."""
    try:
        message = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = reply.text
    return re.split(r"""["']?input["']?\s*[:=]|input_value""", message)[0][:300]


def _pack_adapter(adapter: Path) -> bytes:
    """An adapter in one piece: its weights, with its settings in their metadata."""
    try:
        settings = (adapter / "adapter_config.json").read_text(encoding="utf-8")
        return bytes(save(load_file(adapter / "adapter_model.safetensors"), {"format": "pt", ADAPTER_SETTINGS: settings}))
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"the adapter in {adapter} cannot be read: {error}") from error


async def _gather(questions: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Everything at once; the first failure is the failure of all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except ExceptionGroup as errors:
        # One reason is enough: the whole batch will be asked again.
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


def _chat_messages(request: LanguageModelRequest, dtype: torch.dtype) -> Sequence[dict[str, Any]]:
    """The same request as chat messages. The server joins the parts of a message with a newline, which is what follows AUDIO."""
    buffer = io.BytesIO()
    torch.save(request.speech.to(dtype, copy=True), buffer)
    speech = {"type": "prompt_embeds", "data": base64.b64encode(buffer.getvalue()).decode()}
    turns: list[dict[str, Any]] = []
    for turn in request.turns:
        before, found, after = turn["content"].partition(f"{AUDIO_PLACEHOLDER}\n")
        turns.append({"role": turn["role"], "content": [speech, {"type": "text", "text": after}] if found else before})
    return turns


def _load_tokenizer(bundle: Bundle) -> Any:
    source = weights_source(bundle.folder, bundle.manifest.llm)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise BundleError(f"the tokenizer of {source} cannot be loaded: {error}") from error
