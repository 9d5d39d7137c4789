"""The one loop that all phases share: draw, encode, map, ask the language model, learn from the answer."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from model.errors import TrainingError
from model.mapper import QPMapper
from model.prompts import PROMPTS, Rendered, Task, emotion_prefix, format_answer, letter_ids, messages, render
from model.speech_llm import IGNORED, SpeechLLM
from model.types import Emotion
from train.curriculum import set_trainable
from train.dataset import Sampler
from train.nano_encoder import Classifier
from train.recipe import PhaseRecipe

logger = logging.getLogger(__name__)

_GRADIENT_NORM = 1.0
_AVERAGED_TAIL = 0.25


class EmotionTask:
    """The ten emotion prompts and the answers, as token ids. Every answer is as long as the others and has its letter in one place."""

    def __init__(self, tokenizer: object, letters: Sequence[Emotion]) -> None:
        self.prompts = [render(tokenizer, messages(Task.SER, number)) for number in range(len(PROMPTS[Task.SER]))]
        self.letters = list(letter_ids(tokenizer, letters).values())
        self.answers = [self._answer(tokenizer, format_answer(letter)) for letter in letters]
        self.letter_at = len(self._answer(tokenizer, emotion_prefix())) - 1

    def _answer(self, tokenizer: object, text: str) -> tuple[int, ...]:
        """What the assistant's turn adds to an open request, and the token that ends it."""
        opened, whole = self.prompts[0], render(tokenizer, messages(Task.SER, 0, text))
        if whole.after[: len(opened.after)] != opened.after:
            raise TrainingError("this tokenizer joins the chat template's last word with the answer's first; it cannot be trained on")
        return (*whole.after[len(opened.after) :], tokenizer.eos_token_id)  # type: ignore[attr-defined]


def run_phase(
    phase: PhaseRecipe,
    sampler: Sampler,
    teacher: Classifier,
    mapper: QPMapper,
    llm: SpeechLLM,
    task: EmotionTask,
    seed: int,
) -> None:
    """Train one phase in place. The weights left behind are the average over the last quarter of the steps."""
    parameters = set_trainable(phase.trainable, mapper, llm)
    optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=phase.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _linear(step, phase))
    rng = np.random.default_rng(seed)
    tail, averages = max(1, int(phase.steps * _AVERAGED_TAIL)), [torch.zeros_like(p) for p in parameters]
    mapper.train()
    llm.train()
    for step in range(phase.steps):
        loss = _loss(phase, sampler, teacher, mapper, llm, task, rng)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, _GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        if step >= phase.steps - tail:
            for average, parameter in zip(averages, parameters, strict=True):
                average.add_(parameter.detach(), alpha=1 / tail)
        if step % 20 == 0:
            logger.info("phase %s: step %d of %d, loss %.3f", phase.name, step, phase.steps, loss.item())
    for average, parameter in zip(averages, parameters, strict=True):
        parameter.data.copy_(average)
    mapper.eval()
    llm.eval()


def _linear(step: int, phase: PhaseRecipe) -> float:
    """Linear warm-up over a share of the phase, then linear decay (paper, 3.1)."""
    warmup = max(1, int(phase.warmup * phase.steps))
    return min((step + 1) / warmup, (phase.steps - step) / max(1, phase.steps - warmup))


def _loss(
    phase: PhaseRecipe,
    sampler: Sampler,
    teacher: Classifier,
    mapper: QPMapper,
    llm: SpeechLLM,
    task: EmotionTask,
    rng: np.random.Generator,
) -> Tensor:
    """Cross-entropy on the answer's tokens; at the letter, against the label blended with what the teacher hears."""
    if phase.input == "noise":
        speech, soft = _noise(phase.batch, mapper, llm, len(task.letters))
    else:
        speech, soft = _speech(phase, sampler, teacher, mapper)
    prompts: list[Rendered] = [task.prompts[i] for i in rng.integers(len(task.prompts), size=phase.batch)]
    answers = [task.answers[i] for i in soft.argmax(dim=1).tolist()]
    logits, targets = llm(speech, prompts, answers)
    letter = -(soft * logits[:, task.letter_at].log_softmax(dim=1)[:, task.letters]).sum(dim=1).mean()
    form = targets.clone()
    form[:, task.letter_at] = IGNORED
    loss: Tensor = letter + nn.functional.cross_entropy(logits.flatten(0, 1), form.flatten(), ignore_index=IGNORED)
    return loss


def _speech(phase: PhaseRecipe, sampler: Sampler, teacher: Classifier, mapper: QPMapper) -> tuple[Tensor, Tensor]:
    """Speech embeds (B, Q, H) of a drawn batch, and its letters (B, L) blended with what the teacher hears in it."""
    batch = sampler.draw(phase.batch)
    with torch.no_grad():
        states, mask = teacher.encoder.states(batch.features, batch.lengths)
        heard = teacher.classify(states, mask).softmax(dim=1)
    return mapper(states, mask), (1 - phase.teacher_share) * batch.targets + phase.teacher_share * heard


def _noise(size: int, mapper: QPMapper, llm: SpeechLLM, letters: int) -> tuple[Tensor, Tensor]:
    """Embeds (B, Q, H) without any meaning, and no letter likelier than another: what teaches the form of an answer alone."""
    spread = llm.llm.get_input_embeddings().weight.std().item()
    return torch.randn(size, len(mapper.queries), llm.hidden_size) * spread, torch.full((size, letters), 1 / letters)
