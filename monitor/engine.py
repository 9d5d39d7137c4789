"""The engines that hold the language model: vLLM in this process, a vLLM server elsewhere, or transformers. One protocol, one answer.

B batch, Q queries, H hidden size, L letters. An engine gets speech embeds and gives log-probabilities over the bundle's letters; it
knows nothing of audio, calibration or the timeline. This file owns vllm and HTTP.
"""

import asyncio
import base64
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
import torch
from torch import Tensor
from transformers import AutoTokenizer

from model.bundle import Bundle, Question, load_llm, question, resolve
from model.errors import BundleError, EngineRejected, EngineUnavailable
from model.prompts import AUDIO
from model.speech_llm import LORA_RANK, LORA_TARGETS
from monitor.config import EngineConfig

logger = logging.getLogger(__name__)

_KEY_VARIABLE = "EMOSLLM_API_KEY"
# What stands before the speech embeds is the same for every request; vLLM shares it in whole blocks, so blocks are small.
_BLOCK_TOKENS = 32
_REQUEST_TIMEOUT_S = 60.0
_CONNECTIONS = 32


class Engine(Protocol):
    """Answers with the posterior over the letters of one bundle."""

    def log_probs(self, speech: Tensor) -> list[list[float]]:
        """Speech embeds (B, Q, H) to B lists of L log-probabilities. Raises EngineUnavailable or EngineRejected."""

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
        self._question = question(bundle.manifest, self._llm.tokenizer)

    def log_probs(self, speech: Tensor) -> list[list[float]]:
        """See Engine."""
        prompts = [self._question.rendered] * len(speech)
        answers: list[list[float]] = self._llm.letter_log_probs(speech, prompts, self._question.letters).tolist()
        return answers

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
        letters = len(bundle.manifest.letters)
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
            max_lora_rank=LORA_RANK,
            lora_target_modules=list(LORA_TARGETS),
            logprobs_mode="processed_logprobs",
            max_logprobs=letters,
        )
        self._question = question(bundle.manifest, self._llm.get_tokenizer())
        self._sampling = SamplingParams(
            max_tokens=1, temperature=1.0, allowed_token_ids=list(self._question.letters), logprobs=letters, detokenize=False
        )
        self._adapter = LoRARequest(bundle.manifest.version, 1, str(bundle.folder / "adapter"))

    def log_probs(self, speech: Tensor) -> list[list[float]]:
        """See Engine."""
        prompts = [_mixed_prompt(self._question, embeds) for embeds in speech]
        outputs = self._llm.generate(prompts, self._sampling, use_tqdm=False, lora_request=self._adapter)
        tables = [output.outputs[0].logprobs[0] for output in outputs]
        return [[table[letter].logprob for letter in self._question.letters] for table in tables]

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
        self._question = question(bundle.manifest, _tokenizer(bundle))
        self._loop = asyncio.Runner()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=_CONNECTIONS)
        self._client = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_REQUEST_TIMEOUT_S, limits=limits)
        self._loop.run(self._check_model())

    def log_probs(self, speech: Tensor) -> list[list[float]]:
        """See Engine."""
        return self._loop.run(self._ask_all(speech))

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

    async def _ask_all(self, speech: Tensor) -> list[list[float]]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(embeds)) for embeds in speech]
        except ExceptionGroup as errors:
            # One reason is enough: the whole batch will be asked again.
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def _ask(self, embeds: Tensor) -> list[float]:
        body = {
            "model": self._bundle.manifest.version,
            "messages": _chat_messages(self._question, embeds),
            "add_generation_prompt": False,
            "continue_final_message": True,
            "max_tokens": 1,
            "temperature": 1.0,
            "allowed_token_ids": list(self._question.letters),
            "logprobs": True,
            "top_logprobs": len(self._question.letters),
            "return_tokens_as_token_ids": True,
        }
        reply = await self._send("POST", "/v1/chat/completions", body)
        try:
            top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            table = {int(entry["token"].removeprefix("token_id:")): float(entry["logprob"]) for entry in top}
            return [table[letter] for letter in self._question.letters]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineRejected(
                f"the server at {self._url} did not give the letters' probabilities; start it with --logprobs-mode processed_logprobs"
            ) from error

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            reply = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"no answer from the vLLM server at {self._url} ({type(error).__name__})") from error
        if reply.status_code in (401, 403):
            raise EngineRejected(f"the server at {self._url} refused the key; set [engine] key_file or the variable {_KEY_VARIABLE}")
        if reply.status_code >= 500 or reply.status_code == 429:
            raise EngineUnavailable(f"the vLLM server at {self._url} answered with status {reply.status_code}")
        if reply.status_code != 200:
            raise EngineRejected(f"the vLLM server at {self._url} answered with status {reply.status_code}: {reply.text[:300]}")
        return reply.json()


def read_key(key_file: str) -> str | None:
    """The server's API key: the first line of a file, or the environment. Raises EngineRejected when the file cannot be read."""
    if not key_file:
        return os.environ.get(_KEY_VARIABLE)
    try:
        return Path(key_file).expanduser().read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError) as error:
        raise EngineRejected(f"[engine] key_file {key_file} cannot be read or is empty") from error


def server_arguments(bundle_folder: Path, llm: str, version: str, letters: int) -> list[str]:
    """The arguments with which `python -m vllm.entrypoints.openai.api_server` serves a bundle to ServerEngine."""
    return [
        *("--model", llm, "--enable-prompt-embeds", "--enable-prefix-caching"),
        *("--enable-lora", "--max-lora-rank", str(LORA_RANK), "--lora-target-modules", *LORA_TARGETS),
        *("--lora-modules", f"{version}={bundle_folder / 'adapter'}"),
        *("--logprobs-mode", "processed_logprobs", "--max-logprobs", str(letters)),
        *("--chat-template-content-format", "string", "--block-size", str(_BLOCK_TOKENS)),
    ]


def _mixed_prompt(asked: Question, embeds: Tensor) -> dict[str, Any]:
    """One request as vLLM takes it: token ids, and rows of embeddings that stand in for the tokens where the mask is False."""
    before, after = asked.rendered.before, asked.rendered.after
    rows = torch.zeros(len(before) + len(embeds) + len(after), embeds.shape[1])
    rows[len(before) : len(before) + len(embeds)] = embeds
    return {
        "prompt_token_ids": [*before, *([0] * len(embeds)), *after],
        "prompt_embeds": rows,
        "prompt_is_token_ids": [True] * len(before) + [False] * len(embeds) + [True] * len(after),
    }


def _chat_messages(asked: Question, embeds: Tensor) -> Sequence[dict[str, Any]]:
    """The same request as chat messages. The server joins the parts of a message with a newline, which is what follows AUDIO."""
    buffer = io.BytesIO()
    torch.save(embeds.clone(), buffer)
    speech = {"type": "prompt_embeds", "data": base64.b64encode(buffer.getvalue()).decode()}
    turns: list[dict[str, Any]] = []
    for turn in asked.turns:
        before, found, after = turn["content"].partition(f"{AUDIO}\n")
        turns.append({"role": turn["role"], "content": [speech, {"type": "text", "text": after}] if found else before})
    return turns


def _tokenizer(bundle: Bundle) -> Any:
    source = resolve(bundle.folder, bundle.manifest.llm)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise BundleError(f"the tokenizer of {source} cannot be loaded: {error}") from error
