"""The engines that hold the language model: vLLM in this process, a vLLM server elsewhere, or transformers. One protocol, one answer.

B batch, Q queries, H hidden size, L letters. An engine answers requests (model.request) with the adapter of one bundle at a time; it
knows nothing of audio, strategies, calibration or the timeline. This file owns vllm.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch

from model.bundle import Bundle, load_llm, resolve
from model.errors import BundleError, EngineRejected
from model.prompts import letter_ids, render
from model.request import MAX_WRITTEN_TOKENS, LanguageModel, Request
from model.server_key import read_key
from model.speech_llm import LORA_TARGETS
from model.types import Emotion
from monitor.config import EngineConfig
from monitor.judging.fitting import adapter_rank, check_fit, check_rank
from monitor.judging.served_engine import BLOCK_TOKENS, ServerEngine
from monitor.judging.server import ServerConnection


class Engine(LanguageModel, Protocol):
    """A language model with the adapter of one bundle, and something to let go of."""

    def adopt(self, bundle: Bundle) -> None:
        """Answer with this bundle's adapter from now on, and let go of the one before.

        Raises NeedsRestart for a bundle that only an engine started for it can serve; BundleError, EngineRejected or EngineUnavailable
        where its adapter cannot be loaded. The adapter that was there then stays.
        """

    def close(self) -> None:
        """Let go of memory, processes and connections."""


def open_engine(config: EngineConfig, bundle: Bundle) -> Engine:
    """The engine of the configured kind, ready to answer."""
    if config.kind == "embedded":
        return EmbeddedEngine(bundle, config.kv_cache_mib)
    if config.kind == "server":
        return ServerEngine(bundle, ServerConnection(config.url, read_key(config.key_file), config.ca_file))
    return TransformersEngine(bundle)


class TransformersEngine:
    """The language model in this process through transformers and PEFT: slower, but it runs wherever torch does."""

    def __init__(self, bundle: Bundle) -> None:
        self._llm = load_llm(bundle)
        self._manifest = bundle.manifest

    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        return self._llm.letter_log_probs(requests, letters)

    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """See LanguageModel."""
        return self._llm.write(requests, stop)

    def adopt(self, bundle: Bundle) -> None:
        """See Engine."""
        check_fit(self._manifest, bundle.manifest)
        self._llm.adopt(bundle.folder / "adapter")
        self._manifest = bundle.manifest

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
        self._rank = adapter_rank(bundle.folder)
        self._llm = LLM(
            source,
            dtype="auto" if torch.cuda.is_available() else "float32",
            enforce_eager=not torch.cuda.is_available(),
            distributed_executor_backend="uni",
            kv_cache_memory_bytes=kv_cache_mib * 2**20,
            block_size=BLOCK_TOKENS,
            enable_prefix_caching=True,
            enable_prompt_embeds=True,
            enable_lora=True,
            max_lora_rank=self._rank,
            lora_target_modules=list(LORA_TARGETS),
            logprobs_mode="processed_logprobs",
            max_logprobs=len(Emotion),
        )
        self._tokenizer = self._llm.get_tokenizer()
        self._sampling = SamplingParams
        self._lora_request = LoRARequest
        self._manifest = bundle.manifest
        self._number = 1
        self._adapter = self._adapter_of(bundle, self._number)

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

    def adopt(self, bundle: Bundle) -> None:
        """See Engine."""
        check_fit(self._manifest, bundle.manifest)
        check_rank(bundle.folder, self._rank)
        engine, before = self._llm.llm_engine, self._adapter
        # vLLM takes an adapter with a number that it knows for loaded.
        self._number += 1
        fresh = self._adapter_of(bundle, self._number)
        try:
            engine.add_lora(fresh)
        except Exception as error:
            # vLLM raises whatever it meets; what it holds of the new one goes, and the old one is loaded again where it is asked for.
            with suppress(Exception):
                engine.remove_lora(fresh.lora_int_id)
            raise BundleError(f"the adapter of {bundle.folder} cannot be loaded: {error}") from error
        self._manifest, self._adapter = bundle.manifest, fresh
        engine.remove_lora(before.lora_int_id)
        # What was read with the old adapter is of no use any more, and wrong where a folder has new weights under an old name.
        self._llm.reset_prefix_cache()

    def _adapter_of(self, bundle: Bundle, number: int) -> Any:
        return self._lora_request(bundle.manifest.version, number, str(bundle.folder / "adapter"))

    def close(self) -> None:
        """Stop vLLM; its memory goes with this process."""
        self._llm.llm_engine.engine_core.shutdown()


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
