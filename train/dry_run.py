"""The dry run of a recipe: the plan's tables, and real optimizer steps at the model's real size with random weights and input.

The steps run the classes that are trained, on noise and random token ids: they tell how long a step takes and how much memory it needs,
and nothing about accuracy.
"""

import logging
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from model.audio import SAMPLE_RATE
from model.language_model import SpeechLLM
from model.mapper import QPMapper
from model.prompts import RenderedPrompt
from train.dry_plan import PAPER_SPEECH, CorpusSize, DryPlan, RequestSize, random_encoder
from train.learning.encoder_states import StateBatch
from train.learning.examples import TokenizedExample
from train.learning.trainer import EmoSLLM, make_accelerator, set_trainable
from train.model_sizes import text_table
from train.recipe import PhaseRecipe, Recipe

logger = logging.getLogger(__name__)

_SHORT_SECONDS = 2.0
_TIMED_STEPS = 3
# Of a recipe whose states of every view are made first.
_ONCE = "once a view of an utterance, before the first phase"
# The interpreter with its libraries, and what an estimate of tensors leaves out.
_PROCESS_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class StepTime:
    """One micro-batch and one AdamW update, measured: seconds of each part, bytes at the peak, loss per answer token."""

    tokens: int
    encode: float
    learn: float
    update: float
    peak: int
    loss: float


def run_real_steps(plan: DryPlan) -> str:
    accelerator = make_accelerator(plan.recipe)
    return _on_gpu(plan, accelerator) if accelerator.device.type == "cuda" else _on_cpu(plan, accelerator)


def _on_cpu(plan: DryPlan, accelerator: Accelerator) -> str:
    phase, loop = plan.recipe.phases[-1], plan.recipe.loop
    task, request = plan.longest(phase, _SHORT_SECONDS)
    needed = plan.memory(phase, 1, request.total, checkpointing=loop.gradient_checkpointing).total + _PROCESS_BYTES
    available = psutil.virtual_memory().available
    if needed > available:
        return f"Real steps: none. There is no GPU, and one step takes {needed / 1e9:.1f} GB of memory; {available / 1e9:.1f} GB are free."
    took = _Trial(plan, accelerator).time(phase, 1, _SHORT_SECONDS, counted=1, warm=0)
    threads, checkpointing = torch.get_num_threads(), "on" if loop.gradient_checkpointing else "off"
    once = f" ({_ONCE})" if plan.views is not None else ""
    return "\n".join(
        [
            f"One real step on the CPU ({threads} threads, {torch.backends.cpu.get_cpu_capability()}); there is no GPU",
            f"  phase {phase.name}, one example: {_SHORT_SECONDS:g} s of noise, {request.total} tokens of a {task} request, of which"
            f" {request.answer} are learned",
            f'  random weights, precision "{loop.precision}", gradient checkpointing {checkpointing}; nothing ran before it to warm up',
            f"  encoder {took.encode:.2f} s{once}, forward and backward {took.learn:.2f} s, clipping and AdamW {took.update:.2f} s",
            f"  loss per answer token {took.loss:.2f}, where ln(vocabulary) is {math.log(plan.llm.vocab_size):.2f}",
            f"  peak memory of the process {took.peak / 1e9:.2f} GB; {needed / 1e9:.2f} GB were asked for before",
        ]
    )


def _on_gpu(plan: DryPlan, accelerator: Accelerator) -> str:
    size = plan.recipe.loop.micro_batch
    rows = [["phase", "tokens", "encoder s", "learn s", "AdamW s", "peak GB", "batch s", "examples/s", "hours"]]
    try:
        trial = _Trial(plan, accelerator)
        for phase in plan.recipe.phases:
            took = trial.time(phase, size, plan.seconds(phase), counted=_TIMED_STEPS, warm=1)
            rows.append([phase.name, *_timings(took, phase, plan, size)])
    except torch.OutOfMemoryError as error:
        return (
            f"Real steps: the GPU's memory does not do for micro-batches of {size} ({str(error).splitlines()[0]}); lower [loop] micro_batch"
        )
    note = (
        f"Measured: encoder, learn (forward and backward), AdamW, peak: {_TIMED_STEPS} optimizer steps of one micro-batch of {size} each,"
        f" after one to warm up.\nRandom weights, noise of the mean length, precision {plan.recipe.loop.precision}."
        "\nComputed from these: a whole batch, micro-batch after micro-batch on this one device, and hours of the phase"
        + ("." if plan.views is None else f",\nboth without the encoder: {_ONCE}.")
    )
    return text_table(f"Real steps on {torch.cuda.get_device_name(accelerator.device)}", rows, note)


def _timings(took: StepTime, phase: PhaseRecipe, plan: DryPlan, micro_batch: int) -> list[str]:
    in_steps = took.encode if plan.views is None else 0.0
    batch, steps = phase.batch / micro_batch * (in_steps + took.learn) + took.update, plan.steps(phase)
    hours = "?" if steps is None else f"{steps * batch / 3600:.1f}"
    measured = [f"{took.tokens}", f"{took.encode:.3f}", f"{took.learn:.3f}", f"{took.update:.3f}", f"{took.peak / 1e9:.1f}"]
    return [*measured, f"{batch:.1f}", f"{phase.batch / batch:.1f}", hours]


class _Trial:
    """The whole model with random weights on one device, trained for a moment as the trainer does it."""

    def __init__(self, plan: DryPlan, accelerator: Accelerator) -> None:
        logger.info("building %s from random weights; a model of billions takes minutes on a CPU", plan.recipe.name)
        self._plan, self._accelerator = plan, accelerator
        torch.manual_seed(0)
        with accelerator.device:
            self._encoder = plan.own_encoder.freeze() if plan.own_encoder else random_encoder(plan.encoder)
            if self._encoder.gains_from_gpu:
                self._encoder.to(accelerator.device)
            dtype = torch.bfloat16 if plan.recipe.loop.precision == "bf16" else torch.float32
            llm = SpeechLLM(AutoModelForCausalLM.from_config(plan.llm, dtype=dtype), tokenizer=None)
            llm.add_lora(plan.recipe.lora.rank, plan.recipe.lora.alpha)
            mapper = QPMapper(self._encoder.width, llm.hidden_size, **plan.recipe.mapper.model_dump())
        if plan.recipe.loop.gradient_checkpointing:
            llm.llm.gradient_checkpointing_enable({"use_reentrant": False})
        self._network = EmoSLLM(mapper, llm)

    def time(self, phase: PhaseRecipe, examples: int, seconds: float, *, counted: int, warm: int) -> StepTime:
        """Optimizer steps of one micro-batch; the mean of `counted` after `warm` others."""
        device = self._accelerator.device
        parameters = set_trainable(phase.trainable, self._network.mapper, self._network.llm)
        optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=phase.weight_decay)
        network, optimizer = self._accelerator.prepare(self._network, optimizer)
        network.train()
        _, request = self._plan.longest(phase, seconds)
        asked = [_random_request(request, self._plan.llm.vocab_size) for _ in range(examples)]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        found = [self._step(phase, network, optimizer, parameters, asked, seconds) for _ in range(warm + counted)][warm:]
        self._accelerator.free_memory()
        encode, learn, update, loss = (sum(values) / counted for values in zip(*found, strict=True))
        return StepTime(request.total, encode, learn, update, _peak(device), loss)

    def _step(
        self,
        phase: PhaseRecipe,
        network: nn.Module,
        optimizer: Any,
        parameters: Sequence[nn.Parameter],
        asked: Sequence[TokenizedExample],
        seconds: float,
    ) -> tuple[float, float, float, float]:
        """Seconds of encoder, forward with backward, and update; loss per answer token."""
        device, letters = self._accelerator.device, len(self._plan.recipe.letters)
        began = _synchronised_time(device)
        heard = self._hear(len(asked), seconds) if phase.input == "speech" else None
        encoded = _synchronised_time(device)
        with self._accelerator.autocast():
            loss: Tensor = network(heard, asked, torch.full((len(asked), letters), 1 / letters), range(letters), phase.letter_weight)
        loss = loss / sum(one.weight(phase.letter_weight) for one in asked)
        self._accelerator.backward(loss)
        learned = _synchronised_time(device)
        self._accelerator.clip_grad_norm_(parameters, self._plan.recipe.loop.gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        return encoded - began, learned - encoded, _synchronised_time(device) - learned, float(loss.detach())

    def _hear(self, examples: int, seconds: float) -> StateBatch:
        states, mask = self._encoder([0.1 * torch.randn(int(seconds * SAMPLE_RATE)) for _ in range(examples)])
        return StateBatch(states.to(self._accelerator.device), mask.to(self._accelerator.device), None)


def _random_request(size: RequestSize, vocabulary: int) -> TokenizedExample:
    """Token ids without meaning; the letter stands where an answer of this length would have it."""
    before, after, answer = (tuple(torch.randint(vocabulary, (n,)).tolist()) for n in (size.before, size.after, size.answer))
    return TokenizedExample(RenderedPrompt(before, after), answer, letter_at=max(0, len(answer) - 3) if size.has_letter else -1)


def _synchronised_time(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak(device: torch.device) -> int:
    """Bytes: of tensors on a GPU, else of this process since it began."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def dry_run(recipe: Recipe, speech: Sequence[CorpusSize] = PAPER_SPEECH, *, real_steps: bool = True) -> str:
    """Everything as plain text. speech: the sizes of the recipe's corpora; where one is not among them, steps of epochs stay unknown.

    real_steps: also build the model with random weights and train for a moment: a few steps of every phase on a GPU, one step of the
    last phase with one short example on a CPU whose memory allows it. Raises TrainingError for models whose sizes are not known.
    """
    sizes = {one.corpus: one for one in speech}
    names = [corpus.name for corpus in recipe.corpora]
    plan = DryPlan(recipe, [sizes[name] for name in names] if sizes.keys() >= set(names) else [])
    sections = [plan.parameters(), plan.steps_table(), plan.requests_table(), plan.memory_table(), plan.disk()]
    return "\n\n".join([*sections, *([run_real_steps(plan)] if real_steps else [])])
