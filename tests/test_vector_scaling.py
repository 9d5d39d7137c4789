"""Biases of letters are found from few labels, also where people label above all what was wrong."""

import numpy as np
import pytest

from train.nightly.labels import NOT_SHOWN, Labels
from train.nightly.vector_scaling import VectorScaling, log_softmax
from train.scoring.metrics import Floats, Ints

LETTERS = 5
BIAS = np.array([1.5, -1.0, -0.5, 0.0, 0.0])


def person(count: int, confirms: float, seed: int) -> tuple[Floats, Labels]:
    """Whose speech is as a bundle's log-probabilities with BIAS say; who corrects all errors and confirms a share of the rest."""
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.normal(size=(8 * count, LETTERS)) * 1.5)
    true = (log_probs + BIAS + rng.gumbel(size=log_probs.shape)).argmax(axis=1)
    shown = log_probs.argmax(axis=1)
    said = np.flatnonzero(rng.random(len(true)) < np.where(shown == true, confirms, 1.0))[:count]
    return log_probs[said], labels_of(true[said], shown[said])


def labels_of(said: Ints, shown: Ints) -> Labels:
    return Labels(said, shown, said != shown, np.ones(len(said)))


def accuracy(found: VectorScaling, seed: int) -> float:
    """On speech that is not chosen by what was said of it."""
    log_probs, labels = person(4000, 1.0, seed)
    return float((found.of_speech(log_probs).argmax(axis=1) == labels.said).mean())


@pytest.mark.parametrize("confirms", [1.0, 0.2, 0.05])
def test_biases_are_found_however_seldom_people_confirm(confirms: float) -> None:
    log_probs, labels = person(2000, confirms, seed=1)
    found = VectorScaling.fit(log_probs, labels, bias_spread=2.0)
    assert found.bias == pytest.approx(BIAS - BIAS.mean(), abs=0.25)
    assert found.scale == pytest.approx(1.0, abs=0.15)
    assert found.shown == pytest.approx(np.log(confirms), abs=0.3)


def test_taken_for_a_sample_such_labels_would_teach_not_to_say_what_was_said() -> None:
    log_probs, labels = person(2000, 0.05, seed=2)
    nowhere = Labels(labels.said, np.full(len(labels), NOT_SHOWN), labels.corrected, labels.weights)
    as_sample, found = (VectorScaling.fit(log_probs, some, bias_spread=2.0) for some in (nowhere, labels))
    nothing = VectorScaling(1.0, np.zeros(LETTERS), 0.0, np.zeros(LETTERS))
    assert accuracy(found, 3) > accuracy(nothing, 3) + 0.05
    assert accuracy(as_sample, 3) < accuracy(found, 3) - 0.02


def test_thirty_labels_help_and_few_labels_stay_near_none() -> None:
    nothing, gains = VectorScaling(1.0, np.zeros(LETTERS), 0.0, np.zeros(LETTERS)), []
    for seed in range(20):
        log_probs, labels = person(30, 0.3, seed)
        gains.append(accuracy(VectorScaling.fit(log_probs, labels, 1.0), 100) - accuracy(nothing, 100))
    assert float(np.mean(gains)) > 0.04
    log_probs, labels = person(3, 0.3, seed=4)
    assert float(np.abs(VectorScaling.fit(log_probs, labels, 0.3).bias).max()) < 0.3
    none = VectorScaling.fit(log_probs, labels, 0.0)
    assert not none.bias.any()


def test_a_label_of_half_weight_counts_as_half_a_label() -> None:
    log_probs, labels = person(40, 0.5, seed=5)
    twice = np.repeat(np.arange(40), 2)
    halved = Labels(labels.said[twice], labels.shown[twice], labels.corrected[twice], np.full(80, 0.5))
    one, other = VectorScaling.fit(log_probs, labels, 1.0), VectorScaling.fit(log_probs[twice], halved, 1.0)
    assert one.bias == pytest.approx(other.bias)
    assert (one.scale, one.shown) == pytest.approx((other.scale, other.shown))


def test_offsets_are_what_labels_have_beyond_scaled_log_probabilities() -> None:
    log_probs, labels = person(50, 0.3, seed=6)
    found = VectorScaling.fit(log_probs, labels, 1.0)
    expected = log_softmax(found.scale * (log_probs + found.offsets(labels.shown)))
    assert found.of_labels(log_probs, labels.shown) == pytest.approx(expected)
    assert np.exp(found.of_speech(log_probs)).sum(axis=1) == pytest.approx(np.ones(50))
