"""What the program is compared with: a plain transformers loop, the roofline from shapes alone, and open-loop arrivals.

The plain loop is EmoSLLM as most people would write it: one segment after another through transformers and PEFT, without caches.
Open-loop arrivals come when people speak, whether the engine is ready or not.

The roofline is the least time that operations and bytes allow for a batch. With P parameters of the language model's layers and its output,
l layers, h hidden size, k keys' and values' width, T tokens computed for a request (without those in the prefix cache), C tokens that they
attend to, B requests together, w bytes of a weight:
    operations  B (2 P T + 4 l h T C / 2)      a token attends to half of its context on average, two products of h each
    bytes       P w + B (2 l k C w)            weights once a batch, keys and values of each request once
Encoder and mapper: 2 operations for each weight and frame; convolutions 2 for each weight and output. Time is at least the larger of
operations / peak and bytes / bandwidth.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.bundle import Bundle, weights_source
from model.emotions import Emotion
from model.predictor import PromptStyle, SpeechInput
from model.prompts import AUDIO_PLACEHOLDER, TEMPLATE_SETTINGS, Task, parse_answer

_MOST_TOKENS = 12


class PlainLoop:
    """The bundle's language model with its adapter beside it; encoder and mapper are those of the bundle."""

    def __init__(self, bundle: Bundle, device: str = "cpu", dtype: str = "float32") -> None:
        source = weights_source(bundle.folder, bundle.manifest.llm)
        self._bundle = bundle
        self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
        llm = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        self._llm: Any = PeftModel.from_pretrained(llm, str(bundle.folder / "adapter")).eval().to(device)

    @torch.no_grad()
    def answer(self, sound: SpeechInput) -> Emotion | None:
        """What the model writes of its own accord, read; None where that is not in the grammar."""
        speech = self._bundle.mapper(*self._bundle.encoder([torch.from_numpy(sound.audio)]))
        turns = PromptStyle.of(self._bundle).turns(sound, None, Task.SER)
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **TEMPLATE_SETTINGS)
        before, _, after = text.partition(AUDIO_PLACEHOLDER)
        inputs = torch.cat([self._embedded(before), speech.to(self._llm.device, self._llm.dtype), self._embedded(after)], dim=1)
        written = self._llm.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device),
            max_new_tokens=_MOST_TOKENS,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id,
        )
        answer = parse_answer(self._tokenizer.decode(written[0], skip_special_tokens=True))
        return answer.emotion if answer else None

    def _embedded(self, text: str) -> torch.Tensor:
        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(self._llm.device)
        return self._llm.get_input_embeddings()(ids)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class DevicePeaks:
    """Operations and bytes in a second; peaks as they are known or measured."""

    operations_s: float
    bytes_s: float

    def least_s(self, work: "ComputeWork") -> float:
        """Seconds that the work takes at least."""
        return max(work.operations / self.operations_s, work.bytes / self.bytes_s)


@dataclass(frozen=True, slots=True)
class ComputeWork:
    """Of one batch."""

    operations: float
    bytes: float

    def __add__(self, other: "ComputeWork") -> "ComputeWork":
        return ComputeWork(self.operations + other.operations, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class LlmShape:
    """Shapes of a language model. parameters: of layers and output layer; kv_width: of keys, and of values."""

    parameters: int
    layers: int
    hidden: int
    kv_width: int
    weight_bytes: int


def llm_work(llm: LlmShape, requests: int, computed: int, context: int) -> ComputeWork:
    """Of requests that compute so many tokens each and look at `context` in all."""
    attention = 2 * llm.layers * llm.hidden * computed * context
    kept = 2 * llm.layers * llm.kv_width * context * llm.weight_bytes
    return ComputeWork(requests * (2.0 * llm.parameters * computed + attention), llm.parameters * llm.weight_bytes + float(requests * kept))


def frames_work(parameters: int, frames: int, requests: int, weight_bytes: int) -> ComputeWork:
    """Of layers that all frames of all requests pass."""
    return ComputeWork(2.0 * parameters * frames * requests, float(parameters * weight_bytes))


def convolutions_work(dims: Sequence[int], kernels: Sequence[int], strides: Sequence[int], samples: int, requests: int) -> ComputeWork:
    """Of the convolutions over raw sound with which speech encoders begin; their weights are few, so only operations count."""
    operations, width, length = 0, 1, samples
    for dim, kernel, stride in zip(dims, kernels, strides, strict=True):
        length = (length - kernel) // stride + 1
        operations += 2 * kernel * width * dim * length
        width = dim
    return ComputeWork(float(operations * requests), 0.0)


@dataclass(frozen=True, slots=True)
class Clock:
    """Of the machine, unless a test has one of its own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


def arrivals(monitors: int, every_s: float, lasts_s: float, seed: int = 0) -> list[float]:
    """Seconds at which segments close, in order: each monitor has one every so often on average, none knows of another (Poisson)."""
    generator, at, found = random.Random(seed), 0.0, []
    while (at := at + generator.expovariate(monitors / every_s)) < lasts_s:
        found.append(at)
    return found


def delays(judge: Callable[[int], object], due: Sequence[float], most: int, clock: Clock = Clock()) -> list[float]:
    """Seconds from the closing of each segment to its answer. judge: is told how many are judged now, at most `most`: all that wait."""
    began, waited, done = clock.now(), [], 0
    while done < len(due):
        passed = clock.now() - began
        if due[done] > passed:
            clock.sleep(due[done] - passed)
            continue
        waiting = sum(1 for at in due[done : done + most] if at <= passed)
        judge(waiting)
        answered = clock.now() - began
        waited += [answered - at for at in due[done : done + waiting]]
        done += waiting
    return waited


def most_monitors(p95_s: Callable[[int], float], limit_s: float, start: int = 1) -> int:
    """The largest number of monitors found whose 95th percentile is under the limit, to a tenth; 0 where one is too many."""
    good, bad = 0, start
    while p95_s(bad) < limit_s:
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 10):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if p95_s(middle) < limit_s else (good, middle)
    return good


def percentile_95(values: Sequence[float]) -> float:
    """Of at least two values; of fewer the value, or 0."""
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else sum(values)
