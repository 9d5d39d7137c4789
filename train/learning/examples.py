"""Which examples each step of a phase sees. Everything is a function of seed, phase and step, so a resumed run sees what it would have."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model.errors import TrainingError
from model.prompts import PROMPTS, Task
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.recipe import PhaseRecipe


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance asked about in one way.

    seed: of whatever else is drawn for it (view of the sound, wording, examples). outlier: probabilities of the recipe's letters that are
    to be answered to a recording without an emotion; None where it has one, or is not asked for one.
    """

    utterance: Utterance
    task: Task
    prompt: int
    seed: int
    outlier: tuple[float, ...] | None = None


class Plan:
    """The examples of a phase, batch by batch."""

    def __init__(self, phase: PhaseRecipe, parts: Sequence[Part], letters: Sequence[Emotion], sampling: str, seed: int) -> None:
        """Raises TrainingError when no utterance can teach any of the phase's tasks."""
        self._phase, self._seed = phase, seed
        self._letters = set(letters)
        wanted = [part for part in parts if not phase.corpora or part.corpus in phase.corpora]
        able = [replace(part, utterances=[u for u in part.utterances if self._tasks(u, part)]) for part in wanted]
        self._parts = [part for part in able if part.utterances]
        if not self._parts:
            raise TrainingError(
                f"phase {phase.name}: no utterance has what {' or '.join(phase.tasks)} needs;"
                " asr needs transcripts, ser needs emotions, joint needs both"
            )
        self._outliers = [tuple(soft) if (soft := part.soft_answer(letters)) else None for part in self._parts]
        self._everyone = [(utterance, number) for number, part in enumerate(self._parts) for utterance in part.utterances]
        self._balanced = sampling == "balanced"
        self._by_letter = [_by_letter(part.utterances) for part in self._parts]
        self._orders: dict[int, npt.NDArray[np.int64]] = {}
        self.steps = phase.steps or max(1, math.ceil((phase.epochs or 0) * len(self._everyone) / phase.batch))

    def batch(self, step: int) -> list[Example]:
        """The examples of one step."""
        first = step * self._phase.batch
        return [self._example(place) for place in range(first, first + self._phase.batch)]

    def _example(self, place: int) -> Example:
        rng = np.random.default_rng((self._seed, place))
        utterance, part = self._balanced_draw(rng) if self._balanced else self._shuffled(place)
        tasks = self._tasks(utterance, self._parts[part])
        task = tasks[int(rng.integers(len(tasks)))]
        outlier = self._outliers[part] if task is not Task.ASR else None
        return Example(utterance, task, int(rng.integers(len(PROMPTS[task]))), int(rng.integers(2**31)), outlier)

    def _shuffled(self, place: int) -> tuple[Utterance, int]:
        epoch, within = divmod(place, len(self._everyone))
        if epoch not in self._orders:
            self._orders = {epoch: np.random.default_rng((self._seed, epoch, 1)).permutation(len(self._everyone))}
        return self._everyone[int(self._orders[epoch][within])]

    def _balanced_draw(self, rng: np.random.Generator) -> tuple[Utterance, int]:
        """A corpus by its share, then a letter uniformly, so that neutral does not drown the rest, then one of its utterances."""
        shares = np.array([part.share for part in self._parts], dtype=float)
        part = int(rng.choice(len(shares), p=shares / shares.sum()))
        groups = self._by_letter[part]
        group = groups[int(rng.integers(len(groups)))]
        return group[int(rng.integers(len(group)))], part

    def _tasks(self, utterance: Utterance, part: Part) -> list[Task]:
        """Those of the phase's tasks for which there is an answer."""
        emotion = utterance.emotion in self._letters or part.answer is not None
        has: Mapping[Task, bool] = {
            Task.ASR: utterance.transcript is not None,
            Task.SER: emotion,
            Task.JOINT: utterance.transcript is not None and emotion,
        }
        return [task for task in self._phase.tasks if has[task]]


def _by_letter(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    groups: dict[Emotion | None, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[utterance.emotion].append(utterance)
    return list(groups.values())
