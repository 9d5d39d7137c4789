"""The one training loop of all phases, its objective, and what is trainable in each phase.

Draw examples, encode, map, ask the language model, minimise the negative log-likelihood of the answers' tokens (paper, 2.2). A batch is cut
into micro-batches of like length and spread over processes; the loss is the mean over all the batch's answer tokens, however it is cut.
What a step draws depends on seed, phase and step alone, so a killed run continues on the same curve. `set_trainable` alone decides what a
phase trains. Accelerate handles devices.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from model.bundle import Familiarity
from model.emotions import Emotion
from model.errors import TrainingError
from model.language_model import IGNORE_INDEX, SpeechLLM
from model.mapper import QPMapper
from model.voice_reference import ReferenceSettings
from train.corpora.splits import CorpusPart, NoiseSet
from train.learning.checkpoints import Checkpoints, RunLog, TrainingPosition, WeightAverage
from train.learning.encoder_states import StateBatch, StateSource
from train.learning.examples import Example, ExampleTokenizer, PhaseExamples, TokenizedExample, VoiceLevels
from train.recipe import Curriculum, PhaseRecipe, Recipe
from train.workers import Progress

logger = logging.getLogger(__name__)

_IS_LORA = ".lora_"


def set_trainable(parts: Collection[str], mapper: QPMapper, llm: SpeechLLM) -> list[nn.Parameter]:
    """Let exactly `parts` (mapper, llm, lora) learn; everything else is frozen. Returns the parameters that learn.

    Raises TrainingError when a part has no parameters, such as `lora` before an adapter was added.
    """
    chosen: list[nn.Parameter] = []
    modules: dict[str, nn.Module] = {"mapper": mapper, "lora": llm, "llm": llm}
    mapper.requires_grad_(False)
    llm.requires_grad_(False)
    for part in sorted(parts):
        prefix = "mapper." if part == "mapper" else "llm."
        found = [p for name, p in modules[part].named_parameters() if is_trained_by(prefix + name, {part})]
        if not found:
            raise TrainingError(f"nothing to train in {part!r}: the language model has no such parameters in this phase")
        for parameter in found:
            parameter.requires_grad_(True)
        chosen += found
    logger.info("trainable: %s, %d parameters", "+".join(sorted(parts)), sum(parameter.numel() for parameter in chosen))
    return chosen


def is_trained_by(name: str, parts: Collection[str]) -> bool:
    """Whether a parameter of the whole network (`mapper.…` or `llm.…`) belongs to one of the parts mapper, lora, llm."""
    if name.startswith("mapper."):
        return "mapper" in parts
    return ("lora" if _IS_LORA in name else "llm") in parts


class EmoSLLM(nn.Module):
    """Mapper and language model; the frozen encoder stays outside, so that it is neither wrapped nor kept in checkpoints."""

    def __init__(self, mapper: QPMapper, llm: SpeechLLM) -> None:
        super().__init__()
        self.mapper = mapper
        self.llm = llm

    def forward(
        self, heard: StateBatch | None, asked: Sequence[TokenizedExample], soft: Tensor, letters: Sequence[int], letter_weight: float
    ) -> Tensor:
        """Sum over all answers' tokens of weight times negative log-likelihood, a scalar.

        heard: None puts noise in the place of speech. soft (B, L): the target at the letter, over the token ids `letters`; rows of examples
        without a letter are not looked at. The letter's token weighs `letter_weight`, every other one 1.
        """
        speech = self._noise(len(asked)) if heard is None else self.mapper(heard.states, heard.mask)
        logits, targets = self.llm(speech, [one.prompt for one in asked], [one.answer for one in asked])
        log_probs = logits.float().log_softmax(dim=-1)  # (B, A, V)
        rows = torch.tensor([i for i, one in enumerate(asked) if one.letter_at >= 0], dtype=torch.long, device=targets.device)
        places = torch.tensor([one.letter_at for one in asked if one.letter_at >= 0], dtype=torch.long, device=targets.device)
        at_letters = log_probs[rows, places][:, list(letters)]  # (rows, L)
        if heard is not None and heard.offsets is not None:
            at_letters = _moved(at_letters, heard.offsets.to(at_letters.device)[rows])
        letter_loss = -(soft.to(at_letters.device)[rows] * at_letters).sum()
        plain = targets.clone()
        plain[rows, places] = IGNORE_INDEX
        rest = nn.functional.nll_loss(log_probs.flatten(0, 1), plain.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        total: Tensor = letter_weight * letter_loss + rest
        return total

    def _noise(self, size: int) -> Tensor:
        """Embeds (B, Q, H) without any meaning, as large as the language model's own."""
        table = self.llm.llm.get_input_embeddings().weight
        shape = (size, len(self.mapper.queries), self.llm.hidden_size)
        noise: Tensor = torch.randn(shape, device=table.device) * table.std().detach()
        return noise


def _moved(log_probs: Tensor, offsets: Tensor) -> Tensor:
    """Log-probabilities of letters (B, L) with offsets added; together the letters stay as probable as they were."""
    return (log_probs + offsets).log_softmax(dim=1) + log_probs.logsumexp(dim=1, keepdim=True)


@dataclass(frozen=True, slots=True)
class TrainingMaterials:
    """What a run is made from. voices: only where a phase or the release asks for features. noises: what was laid under speech.

    reference: how the bundle makes references of voices; None where it hears every voice alike. familiarity: of what is trained on.
    """

    parts: Sequence[CorpusPart]
    hearing: StateSource
    mapper: QPMapper
    llm: SpeechLLM
    voices: VoiceLevels | None
    noises: Sequence[NoiseSet] = ()
    reference: ReferenceSettings | None = None
    familiarity: Familiarity | None = None


@dataclass(frozen=True, slots=True)
class _CurrentPhase:
    """The phase that is being trained."""

    number: int
    phase: PhaseRecipe
    plan: PhaseExamples
    phrasing: ExampleTokenizer
    network: nn.Module
    optimizer: Any
    parameters: Sequence[nn.Parameter]
    averages: WeightAverage


class Trainer:
    """One run in one folder: checkpoints/, tensorboard/ and log.jsonl.

    enough: asked at every checkpoint, with the steps done in this phase; True ends the phase there, with the weights as they are.
    """

    def __init__(
        self,
        recipe: Curriculum,
        materials: TrainingMaterials,
        folder: Path,
        seed: int,
        accelerator: Accelerator | None = None,
        enough: Callable[[int], bool] | None = None,
    ) -> None:
        self._recipe, self._materials, self._folder, self._seed = recipe, materials, folder, seed
        self._enough = enough or (lambda _steps: False)
        self._accelerator = accelerator or make_accelerator(recipe)
        self._network = EmoSLLM(materials.mapper, materials.llm)
        everything = {part for phase in recipe.phases for part in phase.trainable}
        self._checkpoints = Checkpoints(folder / "checkpoints", self._accelerator, lambda name: is_trained_by(name, everything))
        self._log = RunLog(folder, self._accelerator.is_main_process)
        if recipe.loop.gradient_checkpointing:
            # Without reentry, because in the first phase no weight of the language model takes a gradient, only its input.
            materials.llm.llm.gradient_checkpointing_enable({"use_reentrant": False})

    def run(self, last_phase: str | None = None) -> None:
        """Train all phases up to `last_phase` (None: all), from wherever an earlier run of the same folder stopped.

        Raises TrainingError: not enough memory or disk, or a loss that is not a number; the last good checkpoint stays.
        """
        done = self._checkpoints.latest()
        for number, phase in enumerate(self._recipe.phases):
            if done is None or (number, True) > (done[1].phase, done[1].finished):
                unfinished = done if done and done[1].phase == number else None
                self._phase(number, phase, done[0] if done and not unfinished else None, unfinished)
                done = self._checkpoints.latest()
            if phase.name == last_phase:
                break
        self._log.close()
        if done is not None:
            self._checkpoints.load_weights(done[0], self._network)
        self._network.eval()

    def _phase(self, number: int, phase: PhaseRecipe, before: Path | None, unfinished: tuple[Path, TrainingPosition] | None) -> None:
        if before is not None:
            self._checkpoints.load_weights(before, self._network)
        current = self._prepared(number, phase)
        first = 0
        if unfinished is not None:
            self._checkpoints.load(unfinished[0])
            first = unfinished[1].step
            logger.info("phase %s continues after step %d", phase.name, first)
        self._log.begin(number, first)
        with Progress(f"phase {phase.name}", current.plan.steps, first, self._accelerator.is_main_process) as progress:
            for step in range(first, current.plan.steps):
                loss = self._step(current, step)
                current.averages.add(step)
                self._log.write(number, phase, step, loss, learning_rate(phase, step, current.plan.steps))
                progress.advance(step, loss)
                if (step + 1) % self._recipe.loop.checkpoint_steps == 0 and step + 1 < current.plan.steps:
                    self._log.flush()
                    self._checkpoints.save(TrainingPosition(number, step + 1, finished=False))
                    if self._enough(step + 1):
                        break
        current.averages.apply()
        self._checkpoints.save(TrainingPosition(number, current.plan.steps, finished=True))
        self._accelerator.free_memory()
        self._accelerator._custom_objects.clear()  # the averages of this phase; Accelerate has no public way to forget them

    def _prepared(self, number: int, phase: PhaseRecipe) -> _CurrentPhase:
        """A phase with what it alone needs: its examples, wording, optimizer, and the network as Accelerate wraps it."""
        recipe, materials = self._recipe, self._materials
        parameters = set_trainable(phase.trainable, self._network.mapper, self._network.llm)
        plan = PhaseExamples(phase, materials.parts, recipe.letters, recipe.loop.sampling, self._seed * 1000 + number)
        optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=phase.weight_decay)
        network, optimizer = self._accelerator.prepare(self._network, optimizer)
        averages = WeightAverage(parameters, first_step=plan.steps - int(phase.average_last * plan.steps))
        self._accelerator.register_for_checkpointing(averages)
        phrasing = ExampleTokenizer(materials.llm.tokenizer, recipe.letters, phase, materials.voices)
        return _CurrentPhase(number, phase, plan, phrasing, network, optimizer, parameters, averages)

    def _step(self, current: _CurrentPhase, step: int) -> float:
        """One optimizer step over one batch; returns the loss per answer token. A batch whose loss is not a number changes nothing."""
        phase = current.phase
        micro_batches = self._micro_batches(current.plan.batch(step))
        asked = [[current.phrasing.asked(example) for example in micro] for micro in micro_batches]
        weight = self._total(sum(one.weight(phase.letter_weight) for micro in asked for one in micro))
        losses = self._gradients(current, step, micro_batches, asked, weight)
        wrong = [micro for loss, micro in zip(losses, micro_batches, strict=True) if not bool(torch.isfinite(loss))]
        if self._total(float(len(wrong))):
            raise self._not_a_number("loss", phase, step, wrong)
        for group in current.optimizer.param_groups:
            group["lr"] = learning_rate(phase, step, current.plan.steps)
        norm = self._accelerator.clip_grad_norm_(current.parameters, self._recipe.loop.gradient_norm)
        if norm is not None and not bool(torch.isfinite(norm)):
            raise self._not_a_number("gradient", phase, step, micro_batches)
        current.optimizer.step()
        current.optimizer.zero_grad()
        return self._total(float(torch.stack(losses).sum())) / weight

    def _gradients(
        self, current: _CurrentPhase, step: int, micro_batches: list[list[Example]], asked: list[list[TokenizedExample]], weight: float
    ) -> list[Tensor]:
        """Accumulate the gradients of the batch's mean loss; returns the summed loss of each of this process's micro-batches."""
        current.network.train()
        losses: list[Tensor] = []
        try:
            for i, (micro, questions) in enumerate(zip(micro_batches, asked, strict=True)):
                heard = self._hear(current.phase, micro)
                # After hearing, which draws numbers too, but not for states that were kept; and by the micro-batch's place in the batch,
                # so that noise and dropout do not depend on which process has it.
                place = i * self._accelerator.num_processes + self._accelerator.process_index
                torch.manual_seed(hash((self._seed, current.number, step, place)) % 2**63)
                last = i == len(micro_batches) - 1
                with nullcontext() if last else self._accelerator.no_sync(current.network):
                    loss = self._loss(current, micro, questions, heard)
                    # Gradients are averaged over processes, so each one's share is scaled up to make their mean the whole.
                    self._accelerator.backward(loss * (self._accelerator.num_processes / weight))
                losses.append(loss.detach())
        except RuntimeError as error:
            _raise_if_memory(error, self._recipe.loop.micro_batch)
            raise
        return losses

    def _hear(self, phase: PhaseRecipe, micro: list[Example]) -> StateBatch | None:
        if phase.input == "noise":
            return None
        heard, device = self._materials.hearing.hear(micro, phase.mixup), self._accelerator.device
        letters, offsets = (part.to(device) if part is not None else None for part in (heard.letters, heard.offsets))
        return StateBatch(heard.states.to(device), heard.mask.to(device), letters, offsets)

    def _loss(self, current: _CurrentPhase, micro: list[Example], asked: list[TokenizedExample], heard: StateBatch | None) -> Tensor:
        soft = _soft_targets(current.phase, micro, self._recipe.letters, heard)
        with self._accelerator.autocast():
            loss: Tensor = current.network(heard, asked, soft, current.phrasing.letters, current.phase.letter_weight)
        return loss

    def _micro_batches(self, examples: Sequence[Example]) -> list[list[Example]]:
        """This process's micro-batches: examples of like length together, so that little is padding."""
        size, processes = self._recipe.loop.micro_batch, self._accelerator.num_processes
        ordered = sorted(examples, key=lambda example: self._materials.hearing.length(example.utterance))
        micro_batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        return micro_batches[self._accelerator.process_index :: processes]

    def _total(self, value: float) -> float:
        """The sum over all processes."""
        if self._accelerator.num_processes == 1:
            return value
        return float(self._accelerator.reduce(torch.tensor(value, device=self._accelerator.device, dtype=torch.float64), "sum"))

    def _not_a_number(self, what: str, phase: PhaseRecipe, step: int, wrong: list[list[Example]]) -> TrainingError:
        kept = self._checkpoints.latest()
        files = ", ".join(str(example.utterance.path) for micro in wrong for example in micro) or "another process names them"
        return TrainingError(
            f"the {what} of phase {phase.name} is not a number at step {step + 1}; the batch held {files}."
            f" Nothing was learned from it; {f'the last good checkpoint is {kept[0]}' if kept else 'there is no checkpoint yet'}."
            ' Look at these files, lower learning_rate, or take precision = "no"'
        )


def make_accelerator(recipe: Curriculum) -> Accelerator:
    """Accelerate as its launcher or environment sets it up, in the recipe's precision. Raises TrainingError for sharded weights."""
    accelerator = Accelerator(mixed_precision=recipe.loop.precision)
    require_whole_weights(accelerator.distributed_type)
    return accelerator


def require_whole_weights(kind: DistributedType) -> None:
    """Raises TrainingError where devices would hold parts of weights: checkpoints are written from whole ones.

    What learns is under a hundredth of the model, so there is nothing worth sharding: every device holds a copy (DDP).
    """
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise TrainingError(
            f"training does not shard weights as {kind.value} does; use plain data parallelism (accelerate launch --multi_gpu). The paper's"
            " model takes about 10 GB a device with gradient checkpointing"
        )


def require_whole_micro_batches(recipe: Recipe, processes: int) -> None:
    """Raises TrainingError for a phase whose batch cannot be spread evenly over so many processes."""
    size = recipe.loop.micro_batch
    for phase in recipe.phases:
        if phase.batch % (size * processes):
            raise TrainingError(
                f"phase {phase.name}: a batch of {phase.batch} does not divide into {processes} processes with micro-batches of {size};"
                " lower [loop] micro_batch, or take another number of processes"
            )


def learning_rate(phase: PhaseRecipe, step: int, steps: int) -> float:
    """Linear warm-up over a share of the phase, then linear decay to nothing (paper, 3.1)."""
    warmup = max(1, int(phase.warmup * steps))
    return phase.learning_rate * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _soft_targets(phase: PhaseRecipe, micro: Sequence[Example], letters: Sequence[Emotion], heard: StateBatch | None) -> Tensor:
    """What the letter should be (B, L): its label or an outlier's distribution, blended with what the encoder's classifier hears; with
    noise in the place of speech, any letter alike."""
    if heard is None:
        return torch.full((len(micro), len(letters)), 1 / len(letters))
    device = heard.states.device
    labels = torch.zeros(len(micro), len(letters), device=device)
    for row, example in enumerate(micro):
        emotion = example.utterance.emotion
        if example.outlier is not None:
            labels[row] = torch.tensor(example.outlier)
        elif emotion is not None and emotion in letters:
            labels[row, list(letters).index(emotion)] = 1.0
    if heard.letters is None or not phase.teacher_share:
        return labels
    return (1 - phase.teacher_share) * labels + phase.teacher_share * heard.letters


def _raise_if_memory(error: RuntimeError, micro_batch: int) -> None:
    """Raises TrainingError where memory is what was missing."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text:
        raise TrainingError(
            f"memory does not do for micro-batches of {micro_batch} ({text.splitlines()[0][:200]}); lower [loop] micro_batch, switch"
            " gradient_checkpointing on, or take more devices. What was saved is still there; run the same command again"
        ) from error
