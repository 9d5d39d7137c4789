"""The engines that hold the language model: vLLM in this process, a vLLM server elsewhere, or transformers. One protocol, one answer.

B batch, Q queries, H hidden size, L letters. An engine answers requests (model.request); it knows nothing of audio, strategies,
calibration or the timeline. This file owns vllm and HTTP.
"""

import asyncio
import base64
import io
import json
import logging
import os
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import torch
from transformers import AutoTokenizer

from model.bundle import Bundle, load_llm, resolve
from model.errors import BundleError, EngineRejected, EngineUnavailable
from model.prompts import AUDIO, TEMPLATE_SETTINGS, letter_ids, render
from model.request import MAX_WRITTEN_TOKENS, LanguageModel, Request
from model.server_key import KEY_VARIABLE, read_key
from model.speech_llm import LORA_TARGETS
from model.types import Emotion
from monitor.config import EngineConfig

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# What stands before the speech embeds is the same for every request; vLLM shares it in whole blocks, so blocks are small.
_BLOCK_TOKENS = 32
_REQUEST_TIMEOUT_S = 60.0
_CONNECTIONS = 32
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class Engine(LanguageModel, Protocol):
    """A language model with the adapter of one bundle, and something to let go of."""

    def close(self) -> None:
        """Let go of memory, processes and connections."""


def open_engine(config: EngineConfig, bundle: Bundle) -> Engine:
    """The engine of the configured kind, ready to answer."""
    if config.kind == "embedded":
        return EmbeddedEngine(bundle, config.kv_cache_mib)
    if config.kind == "server":
        return ServerEngine(bundle, config.url, read_key(config.key_file))
    return TransformersEngine(bundle)


class TransformersEngine:
    """The language model in this process through transformers and PEFT: slower, but it runs wherever torch does."""

    def __init__(self, bundle: Bundle) -> None:
        self._llm = load_llm(bundle)

    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        return self._llm.letter_log_probs(requests, letters)

    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """See LanguageModel."""
        return self._llm.write(requests, stop)

    def close(self) -> None:
        """Nothing to let go of."""


class EmbeddedEngine:
    """vLLM in this process, without a server: prompts of tokens and speech embeds mixed, the adapter as LoRA."""

    def __init__(self, bundle: Bundle, kv_cache_mib: int) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("DO_NOT_TRACK", "1")
        try:
            from vllm import LLM, SamplingParams
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise EngineRejected(f'vLLM cannot be imported ({error}); run `make setup`, or set [engine] kind = "transformers"') from error
        source = resolve(bundle.folder, bundle.manifest.llm)
        self._llm = LLM(
            source,
            dtype="auto" if torch.cuda.is_available() else "float32",
            enforce_eager=not torch.cuda.is_available(),
            distributed_executor_backend="uni",
            kv_cache_memory_bytes=kv_cache_mib * 2**20,
            block_size=_BLOCK_TOKENS,
            enable_prefix_caching=True,
            enable_prompt_embeds=True,
            enable_lora=True,
            max_lora_rank=adapter_rank(bundle.folder),
            lora_target_modules=list(LORA_TARGETS),
            logprobs_mode="processed_logprobs",
            max_logprobs=len(Emotion),
        )
        self._tokenizer = self._llm.get_tokenizer()
        self._sampling = SamplingParams
        self._adapter = LoRARequest(bundle.manifest.version, 1, str(bundle.folder / "adapter"))

    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        ids = list(letter_ids(self._tokenizer, letters).values())
        sampling = self._sampling(max_tokens=1, temperature=1.0, allowed_token_ids=ids, logprobs=len(ids), detokenize=False)
        tables = [output.logprobs[0] for output in self._generate(requests, sampling)]
        return [[table[letter].logprob for letter in ids] for table in tables]

    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """See LanguageModel."""
        sampling = self._sampling(max_tokens=MAX_WRITTEN_TOKENS, temperature=0.0, stop=[stop], include_stop_str_in_output=True)
        return [output.text for output in self._generate(requests, sampling)]

    def _generate(self, requests: Sequence[Request], sampling: Any) -> list[Any]:
        prompts = [_mixed_prompt(self._tokenizer, request) for request in requests]
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False, lora_request=self._adapter)
        return [output.outputs[0] for output in outputs]

    def close(self) -> None:
        """Stop vLLM; its memory goes with this process."""
        self._llm.llm_engine.engine_core.shutdown()


class ServerEngine:
    """A vLLM OpenAI server that was started for the same bundle: chat requests whose user message holds the speech embeds.

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
        self._loop.run(self._check_model())

    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        ids = list(letter_ids(self._tokenizer, letters).values())
        return self._loop.run(_all_of([self._letters(request, ids) for request in requests]))

    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """See LanguageModel."""
        return self._loop.run(_all_of([self._text(request, stop) for request in requests]))

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._client.aclose())
        self._loop.close()

    async def _check_model(self) -> None:
        reply = await self._send("GET", "/v1/models")
        served = [str(model["id"]) for model in reply["data"]]
        if self._bundle.manifest.version not in served:
            raise EngineRejected(
                f"the server at {self._url} serves {', '.join(served)}, but not the adapter {self._bundle.manifest.version} of this bundle;"
                f" start it with --lora-modules {self._bundle.manifest.version}=FOLDER/adapter"
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
        try:
            reply = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"no answer from the vLLM server at {self._url} ({type(error).__name__})") from error
        if reply.status_code in (401, 403):
            raise EngineRejected(f"the server at {self._url} refused the key; set [engine] key_file or the variable {KEY_VARIABLE}")
        if reply.status_code >= 500 or reply.status_code == 429:
            raise EngineUnavailable(f"the vLLM server at {self._url} answered with status {reply.status_code}")
        if reply.status_code != 200:
            raise EngineRejected(f"the vLLM server at {self._url} answered with status {reply.status_code}: {reply.text[:300]}")
        return reply.json()


async def _all_of(questions: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Everything at once; the first failure is the failure of all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except ExceptionGroup as errors:
        # One reason is enough: the whole batch will be asked again.
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


def adapter_rank(folder: Path) -> int:
    """The LoRA rank of a bundle's adapter, rounded up to what vLLM has kernels for. Raises BundleError."""
    try:
        rank = int(json.loads((folder / "adapter/adapter_config.json").read_text(encoding="utf-8"))["r"])
        return next(size for size in _LORA_RANKS if size >= rank)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise BundleError(f"the adapter of {folder} has no rank that can be served (at most {_LORA_RANKS[-1]})") from error


def server_arguments(bundle_folder: Path, llm: str, version: str) -> list[str]:
    """The arguments with which `python -m vllm.entrypoints.openai.api_server` serves a bundle to ServerEngine."""
    return [
        *("--model", llm, "--enable-prompt-embeds", "--enable-prefix-caching"),
        *("--enable-lora", "--max-lora-rank", str(adapter_rank(bundle_folder)), "--lora-target-modules", *LORA_TARGETS),
        *("--lora-modules", f"{version}={bundle_folder / 'adapter'}"),
        *("--logprobs-mode", "processed_logprobs", "--max-logprobs", str(len(Emotion))),
        *("--chat-template-content-format", "string", "--block-size", str(_BLOCK_TOKENS)),
    ]


def _mixed_prompt(tokenizer: Any, request: Request) -> dict[str, Any]:
    """One request as vLLM takes it: token ids, and rows of embeddings that stand in for the tokens where the mask is False."""
    rendered, embeds = render(tokenizer, request.turns), request.speech
    before, after = rendered.before, rendered.after
    rows = torch.zeros(len(before) + len(embeds) + len(after), embeds.shape[1])
    rows[len(before) : len(before) + len(embeds)] = embeds
    return {
        "prompt_token_ids": [*before, *([0] * len(embeds)), *after],
        "prompt_embeds": rows,
        "prompt_is_token_ids": [True] * len(before) + [False] * len(embeds) + [True] * len(after),
    }


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
