"""Metrics against values worked out by hand and against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.metrics import (
    calibrate,
    fit_temperature,
    recalls,
    speaker_interval,
    threshold_for,
    unweighted_accuracy,
)

TRUE = np.array([0, 0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 3])


def test_unweighted_accuracy_is_the_mean_of_recalls_over_classes_that_occur() -> None:
    found = recalls(TRUE, PREDICTED, 4)
    assert found[:3].tolist() == [0.75, 0.5, 0.0]
    assert np.isnan(found[3])  # predicted once, but without examples it has no recall and does not count
    assert unweighted_accuracy(TRUE, PREDICTED, 4) == pytest.approx(1.25 / 3)


def test_of_nothing_there_is_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no examples"):
        unweighted_accuracy(np.array([], int), np.array([], int), 4)


@given(st.integers(0, 1000))
def test_guessing_one_class_is_chance(seed: int) -> None:
    true = np.concatenate([np.arange(5), np.random.default_rng(seed).integers(5, size=30)])
    assert unweighted_accuracy(true, np.zeros_like(true), 5) == pytest.approx(0.2)


def test_the_interval_is_by_speaker_so_speakers_who_differ_widen_it() -> None:
    true = np.tile([0, 1], 40)
    speakers = [f"s{i // 20}" for i in range(80)]
    wrong = np.arange(80) % 4 == 0  # a quarter wrong for everyone
    even = speaker_interval(true, np.where(wrong, 1 - true, true), speakers, 2)
    one = np.array([speaker == "s0" for speaker in speakers])  # the same number of errors, all of one speaker
    uneven = speaker_interval(true, np.where(one, 1 - true, true), speakers, 2)
    assert even[0] < 0.75 < even[1]
    assert uneven[1] - uneven[0] > 1.5 * (even[1] - even[0])


def test_temperature_finds_back_what_was_overstated() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 1.5
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = np.array([rng.choice(5, p=row) for row in honest])
    assert fit_temperature(logits * 2, true) == pytest.approx(2.0, rel=0.1)
    assert calibrate(logits * 2, 2.0) == pytest.approx(honest)


def test_the_threshold_is_the_lowest_that_reaches_what_is_wanted() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    correct = np.array([True, True, False, True, False])
    assert threshold_for(confidence, correct, 0.75) == 0.6
    assert threshold_for(confidence, correct, 1.0) == 0.8
    assert threshold_for(confidence, ~correct, 0.9) == 1.0
