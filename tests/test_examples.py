"""Which utterances a step sees, and how fast it learns from them: functions of seed and step alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import TrainingError
from model.prompts import Task
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.learning.examples import Example, Plan
from train.learning.trainer import learning_rate
from train.recipe import PhaseRecipe

LETTERS = [Emotion.SAD, Emotion.NEUTRAL, Emotion.SURPRISE]


def phase(**changes: Any) -> PhaseRecipe:
    """A phase of batches of four."""
    values = {"name": "p", "trainable": ["mapper"], "tasks": ["ser"], "batch": 4, "learning_rate": 0.8, "weight_decay": 0.0, "warmup": 0.2}
    length = {} if "epochs" in changes else {"steps": 10}
    return PhaseRecipe(**{**values, **length, **changes})


def said(number: int, emotion: str | None = "N", transcript: str | None = None, corpus: str = "c") -> Utterance:
    """One utterance; nobody looks for its file here."""
    letter = Emotion(emotion) if emotion else None
    return Utterance(Path(f"{corpus}-{number}.wav"), corpus, "s", None, letter, transcript, None, None, "CC0-1.0")


def plan(utterances: list[Utterance], sampling: str = "shuffle", seed: int = 0, **changes: Any) -> Plan:
    """A plan over one corpus."""
    return Plan(phase(**changes), [Part("c", 1, utterances)], LETTERS, sampling, seed)


def drawn(a_plan: Plan, steps: int) -> list[Example]:
    """All examples of the first steps."""
    return [example for step in range(steps) for example in a_plan.batch(step)]


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_a_step_sees_the_same_examples_whatever_was_seen_before(sampling: str) -> None:
    utterances = [said(i, "SNU"[i % 3]) for i in range(10)]
    in_order = [plan(utterances, sampling).batch(step) for step in range(6)]
    resumed = plan(utterances, sampling)
    assert [resumed.batch(step) for step in (5, 0, 3)] == [in_order[5], in_order[0], in_order[3]]
    assert plan(utterances, sampling, seed=1).batch(0) != in_order[0]
    assert len({example.seed for batch in in_order for example in batch}) == 24


def test_shuffle_goes_through_everyone_once_per_epoch_in_a_new_order() -> None:
    utterances = [said(i) for i in range(10)]
    seen = [example.utterance for example in drawn(plan(utterances), 5)]
    assert set(seen[:10]) == set(seen[10:]) == set(utterances)
    assert seen[:10] != seen[10:]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 5), (0.1, 1)])
def test_epochs_become_as_many_steps_as_it_takes(epochs: float, steps: int) -> None:
    assert plan([said(i) for i in range(10)], epochs=epochs).steps == steps


def test_balanced_draws_corpora_by_share_and_letters_uniformly() -> None:
    many = [said(i, "N", corpus="many") for i in range(90)] + [said(90, "S", corpus="many"), said(91, "U", corpus="many")]
    few = [said(0, "S", corpus="few"), said(1, "U", corpus="few")]
    a_plan = Plan(phase(), [Part("many", 3, many), Part("few", 1, few)], LETTERS, "balanced", 0)
    seen = drawn(a_plan, 1500)
    corpora = Counter(example.utterance.corpus for example in seen)
    # Six standard errors of a share of 6000 draws.
    assert corpora["many"] / len(seen) == pytest.approx(0.75, abs=0.034)
    letters = Counter(example.utterance.emotion for example in seen if example.utterance.corpus == "many")
    assert [letters[letter] / corpora["many"] for letter in LETTERS] == pytest.approx([1 / 3] * 3, abs=0.042)


def test_an_utterance_is_asked_only_what_it_can_answer() -> None:
    words, mood, both, foreign = said(0, None, "yes"), said(1, "N"), said(2, "N", "yes"), said(3, "F", "yes")
    seen = drawn(plan([words, mood, both, foreign, said(4, None), said(5, "F")], tasks=["asr", "ser", "joint"]), 40)
    asked = {utterance: {example.task for example in seen if example.utterance == utterance} for utterance in {e.utterance for e in seen}}
    assert asked == {words: {Task.ASR}, mood: {Task.SER}, both: {Task.ASR, Task.SER, Task.JOINT}, foreign: {Task.ASR}}
    assert {example.prompt for example in seen} == set(range(10)), "all ten wordings of a task are used"


def test_a_phase_that_nobody_can_teach_is_refused() -> None:
    with pytest.raises(TrainingError, match="phase p: no utterance has what asr or joint needs"):
        plan([said(0), said(1)], tasks=["asr", "joint"])


def test_the_learning_rate_warms_up_and_decays_linearly() -> None:
    rates = [learning_rate(phase(), step, 10) for step in range(10)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    paper = [learning_rate(phase(warmup=0.1, learning_rate=5e-4), step, 1000) for step in range(1000)]
    assert paper[99] == paper[100] == 5e-4 == max(paper)
    assert np.ptp(np.diff(paper[:100])) < 1e-12
    assert np.ptp(np.diff(paper[100:])) < 1e-12
    assert learning_rate(phase(), 0, 1) == 0.8
