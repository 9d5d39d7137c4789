"""Which examples each step of a phase sees, and how they are worded as token ids.

B examples, A answer length. Everything is a function of seed, phase and step, so that a resumed run sees the same examples.
Paralinguistic features are measured once per utterance and kept on disk (A.3).
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.audio import read_audio
from model.emotions import Emotion
from model.errors import TrainingError
from model.paralinguistics import (
    DESCRIPTION_INTRODUCTIONS,
    VOICE_FEATURES,
    FeatureLevel,
    Terciles,
    VoiceMeasurement,
    describe_voice,
    measure_voice,
)
from model.prompts import (
    PROMPTS,
    FewShotExample,
    RenderedPrompt,
    Task,
    chat_messages,
    emotion_prefix,
    format_answer,
    letter_ids,
    render_prompt,
    shots_for,
)
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart
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


class PhaseExamples:
    """The examples of a phase, batch by batch."""

    def __init__(self, phase: PhaseRecipe, parts: Sequence[CorpusPart], letters: Sequence[Emotion], sampling: str, seed: int) -> None:
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

    def _tasks(self, utterance: Utterance, part: CorpusPart) -> list[Task]:
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


logger = logging.getLogger(__name__)

_MEASURED_AT_ONCE = 256


class VoiceLevels:
    """Low, medium or high, for every feature of every utterance that was measured."""

    def __init__(self, measured: Mapping[Path, VoiceMeasurement], terciles: Terciles) -> None:
        self._measured = measured
        self.terciles = terciles

    @classmethod
    def of(cls, utterances: Sequence[Utterance], kept: Path) -> "VoiceLevels":
        """Measure what `kept` (JSON lines) does not hold yet, and fit the terciles on all of them. Raises TrainingError, FormatError."""
        measured = _stored(kept)
        missing = [u.path for u in utterances if str(u.path.absolute()) not in measured]
        kept.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool, kept.open("a", encoding="utf-8") as file:
            for first in range(0, len(missing), _MEASURED_AT_ONCE):
                paths = missing[first : first + _MEASURED_AT_ONCE]
                for path, found in zip(paths, pool.map(_measure, paths, chunksize=16), strict=True):
                    measured[str(path.absolute())] = found
                    file.write(json.dumps({"path": str(path.absolute()), **asdict(found)}) + "\n")
                file.flush()
                logger.info("voices: %d of %d measured", first + len(paths), len(missing))
        own = {u.path: measured[str(u.path.absolute())] for u in utterances}
        return cls(own, Terciles.fit(list(own.values())))

    def levels(self, utterance: Utterance) -> Mapping[str, FeatureLevel]:
        """See Terciles.levels."""
        return self.terciles.levels(self._measured[utterance.path])


def _measure(path: Path) -> VoiceMeasurement:
    return measure_voice(read_audio(path))


def _stored(path: Path) -> dict[str, VoiceMeasurement]:
    if not path.exists():
        return {}
    return dict(_whole_lines(path.read_text(encoding="utf-8").splitlines()))


def _whole_lines(lines: Iterable[str]) -> Iterable[tuple[str, VoiceMeasurement]]:
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # a kill in the middle of a write leaves half a line, at the end or before later ones; it is measured again
        yield row.pop("path"), VoiceMeasurement(**row)


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One example for the language model. letter_at: where in the answer's ids the letter stands, -1 without one."""

    prompt: RenderedPrompt
    answer: tuple[int, ...]
    letter_at: int

    def weight(self, letter_weight: float) -> float:
        """Sum of the answer's tokens' weights in the loss."""
        return len(self.answer) + (letter_weight - 1 if self.letter_at >= 0 else 0)


class ExampleTokenizer:
    """How a phase words its requests, for one tokenizer."""

    def __init__(self, tokenizer: Any, letters: Sequence[Emotion], phase: PhaseRecipe, voices: VoiceLevels | None) -> None:
        """voices: what is known of the utterances' voices, needed where the phase asks for features."""
        self._tokenizer, self._phase = tokenizer, phase
        self._voices = voices if phase.features else None
        self._emotions = list(letters)
        self.letters = list(letter_ids(tokenizer, letters).values())
        self._shots = shots_for(letters)

    def asked(self, example: Example) -> TokenizedExample:
        """Tokens of one example; wording, order of features and choice of shots are drawn by the example's seed."""
        rng = np.random.default_rng((example.seed, 1))
        turns = chat_messages(example.task, example.prompt, features=self._description(example, rng), shots=self._drawn_shots(rng))
        utterance = example.utterance
        transcript = utterance.transcript if example.task is not Task.SER else None
        emotion = self._letter(example, rng) if example.task is not Task.ASR else None
        # The end of the turn is part of the answer: a model that does not learn it never stops.
        answer = (*self._ids(format_answer(emotion, transcript)), self._tokenizer.eos_token_id)
        letter_at = -1 if emotion is None else len(self._ids(emotion_prefix(transcript)))
        if letter_at >= 0 and answer[letter_at] not in self.letters:
            raise TrainingError(f"this tokenizer joins the letter with the words before it in {utterance.path}; it cannot be trained on")
        return TokenizedExample(render_prompt(self._tokenizer, turns), answer, letter_at)

    def _letter(self, example: Example, rng: np.random.Generator) -> Emotion | None:
        """What stands in the answer; where any letter would do, one is drawn, so that what follows it is learned."""
        if example.outlier is None:
            return example.utterance.emotion
        return self._emotions[int(rng.choice(len(self._emotions), p=example.outlier))]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _drawn_shots(self, rng: np.random.Generator) -> list[FewShotExample]:
        chosen = rng.choice(len(self._shots), size=min(self._phase.shots, len(self._shots)), replace=False)
        return [self._shots[i] for i in chosen]

    def _description(self, example: Example, rng: np.random.Generator) -> str:
        """The voice in words, in one of the introductions and in random order (paper, A.3)."""
        if self._voices is None:
            return ""
        levels = self._voices.levels(example.utterance)
        order = [VOICE_FEATURES[i] for i in rng.permutation(len(VOICE_FEATURES))]
        return describe_voice(levels, example.utterance.gender, int(rng.integers(len(DESCRIPTION_INTRODUCTIONS))), order)
