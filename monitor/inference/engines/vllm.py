"""The engine embedded in this process: vLLM without a server. This file owns vllm."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from model.bundle import Bundle, weights_source
from model.emotions import Emotion
from model.errors import EngineRejected
from model.language_model import MAX_NEW_TOKENS, LanguageModelRequest, LoraAdapter
from model.prompts import letter_ids, render_prompt
from monitor.config import Precision
from monitor.inference.engines.base import check_compatible, has_gpu, precision_arguments
from monitor.inference.engines.server import BLOCK_TOKENS

_T = TypeVar("_T")


def open_embedded(bundle: Bundle, kv_cache_mib: int, precision: Precision) -> "EmbeddedEngine":
    """The engine for a process of its own, which sleeps while nobody asks."""
    engine = EmbeddedEngine(bundle, kv_cache_mib, precision)
    if not has_gpu():
        _release_process_groups()
    return engine


class EmbeddedEngine:
    """vLLM in this process, without a server: prompts of tokens and speech embeds mixed, the adapter in the language model's weights.

    vLLM can also work out an adapter beside the weights, for several at a time; on a CPU that costs two to three times as much.
    """

    def __init__(self, bundle: Bundle, kv_cache_mib: int, precision: Precision = "auto") -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("DO_NOT_TRACK", "1")
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise EngineRejected(f'vLLM cannot be imported ({error}); run `make setup`, or set [engine] kind = "transformers"') from error
        adapter = LoraAdapter.load(bundle.folder / "adapter")
        self._llm = LLM(
            weights_source(bundle.folder, bundle.manifest.llm),
            **precision_arguments(precision),
            enforce_eager=not has_gpu(),
            distributed_executor_backend="uni",
            kv_cache_memory_bytes=kv_cache_mib * 2**20,
            block_size=BLOCK_TOKENS,
            enable_prefix_caching=True,
            enable_prompt_embeds=True,
            logprobs_mode="processed_logprobs",
            max_logprobs=len(Emotion),
        )
        self._tokenizer = self._llm.get_tokenizer()
        self._sampling = SamplingParams
        self._shapes = self._with_weights(_shapes)
        self._load_adapter(adapter)
        self._manifest = bundle.manifest

    def letter_log_probs(self, requests: Sequence[LanguageModelRequest], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        ids = list(letter_ids(self._tokenizer, letters).values())
        sampling = self._sampling(max_tokens=1, temperature=1.0, allowed_token_ids=ids, logprobs=len(ids), detokenize=False)
        tables = [output.logprobs[0] for output in self._generate(requests, sampling)]
        return [[table[letter].logprob for letter in ids] for table in tables]

    def write(self, requests: Sequence[LanguageModelRequest], stop: str) -> list[str]:
        """See LanguageModel."""
        sampling = self._sampling(max_tokens=MAX_NEW_TOKENS, temperature=0.0, stop=[stop], include_stop_str_in_output=True)
        return [output.text for output in self._generate(requests, sampling)]

    def _generate(self, requests: Sequence[LanguageModelRequest], sampling: Any) -> list[Any]:
        prompts = [mixed_prompt(self._tokenizer, request) for request in requests]
        return [output.outputs[0] for output in self._llm.generate(prompts, sampling, use_tqdm=False)]

    def switch_to(self, bundle: Bundle) -> None:
        """See Engine. A tenth of a second for a small language model; for a large one as long as its files take to be read again."""
        check_compatible(self._manifest, bundle.manifest)
        self._load_adapter(LoraAdapter.load(bundle.folder / "adapter"))
        self._manifest = bundle.manifest

    def _load_adapter(self, adapter: LoraAdapter) -> None:
        """Nothing is changed before all of it is known to fit; what vLLM raises after that is no fault of the bundle."""
        adapter.check(self._shapes)
        self._with_weights(lambda runner, weights: runner.reload_weights(weights_iterator=adapter.merged(weights)))
        # What was read with the old weights is wrong now.
        self._llm.reset_prefix_cache()

    def _with_weights(self, work: Callable[[Any, Iterator[tuple[str, Tensor]]], _T]) -> _T:
        """Do something with vLLM's model runner and the language model's weights as they are in its files."""
        from vllm.model_executor.model_loader import get_model_loader

        def in_worker(worker: Any) -> _T:
            runner = worker.model_runner
            loader = get_model_loader(runner.vllm_config.load_config)
            return work(runner, loader.get_all_weights(runner.model_config, runner.model))

        done: list[_T] = self._llm.collective_rpc(in_worker)
        return done[0]

    def close(self) -> None:
        """Stop vLLM; its memory goes with this process."""
        self._llm.llm_engine.engine_core.shutdown()


def _release_process_groups() -> None:
    """Let go of vLLM's groups of workers, which are this one process.

    On a CPU each keeps threads that look a hundred times a second whether another worker says something, 1,300 times in all: an idle
    laptop would hardly sleep. A group of one never asks anybody, and nothing else of it is needed.
    """
    from vllm.distributed import parallel_state

    for reference in list(parallel_state._groups.values()):
        group = reference()
        if group is not None:
            group.destroy()
    torch.distributed.destroy_process_group()


def _shapes(_runner: Any, weights: Iterator[tuple[str, Tensor]]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights}


def mixed_prompt(tokenizer: Any, request: LanguageModelRequest) -> dict[str, Any]:
    """One request as vLLM takes it: token ids, and rows of embeddings that stand in for the tokens where the mask is False."""
    rendered, embeds = render_prompt(tokenizer, request.turns), request.speech
    before, after = rendered.before, rendered.after
    rows = torch.zeros(len(before) + len(embeds) + len(after), embeds.shape[1])
    rows[len(before) : len(before) + len(embeds)] = embeds
    return {
        "prompt_token_ids": [*before, *([0] * len(embeds)), *after],
        "prompt_embeds": rows,
        "prompt_is_token_ids": [True] * len(before) + [False] * len(embeds) + [True] * len(after),
    }
