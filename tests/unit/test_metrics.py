"""Metrics against scikit-learn, against values worked out by hand and against their definitions."""

import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import example, given
from hypothesis import strategies as st

from train.evaluation.metrics import (
    NO_PREDICTION,
    Ints,
    Metric,
    area_under_risk_coverage,
    average_recall,
    calibrate,
    calibration_error_by_chance,
    confidence_threshold,
    confusion_matrix,
    expected_calibration_error,
    fit_temperature,
    macro_f1,
    normalise_transcript,
    precision,
    recalls,
    reliability_bins,
    resample_pairs,
    resample_speakers,
    risk_coverage,
    speaker_interval,
    unweighted_accuracy,
    weighted_accuracy,
    word_error_rate,
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
    assert confidence_threshold(confidence, correct, 0.75) == 0.6
    assert confidence_threshold(confidence, correct, 1.0) == 0.8
    assert confidence_threshold(confidence, ~correct, 0.9) == 1.0


CLASSES = 4
ANSWERS = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(NO_PREDICTION, CLASSES - 1)), min_size=1, max_size=60)


@given(ANSWERS)
@example([(2, 2)])
@example([(0, NO_PREDICTION), (1, NO_PREDICTION)])
@example([(3, 0), (3, 1), (3, NO_PREDICTION)])
def test_figures_of_counts_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array(pairs).T
    counts = confusion_matrix(true, predicted, CLASSES)
    present = np.unique(true)
    assert (counts == sklearn.metrics.confusion_matrix(true, predicted, labels=[*range(CLASSES), NO_PREDICTION])[:-1]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what is meant here: answers of classes that do not occur
        assert average_recall(counts) == pytest.approx(sklearn.metrics.balanced_accuracy_score(true, predicted))
    assert average_recall(counts) == pytest.approx(
        sklearn.metrics.recall_score(true, predicted, labels=present, average="macro", zero_division=0)
    )
    assert weighted_accuracy(counts) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    assert macro_f1(counts) == pytest.approx(sklearn.metrics.f1_score(true, predicted, labels=present, average="macro", zero_division=0))
    theirs = sklearn.metrics.precision_score(true, predicted, labels=range(CLASSES), average=None, zero_division=np.nan)
    assert precision(counts) == pytest.approx(theirs, nan_ok=True)


def test_an_answer_that_names_no_class_is_wrong_but_nobodys_false_alarm() -> None:
    counts = confusion_matrix(np.array([0, 0, 1]), np.array([0, NO_PREDICTION, 1]), 2)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert average_recall(counts) == 0.75
    assert precision(counts).tolist() == [1.0, 1.0]


def test_figures_of_a_stack_of_matrices_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    stack = rng.integers(3, size=(20, 3, 4)) * rng.integers(2, size=(20, 3, 1))
    stack[0] = 0
    for metric in (average_recall, weighted_accuracy, macro_f1):
        assert metric(stack) == pytest.approx([float(metric(counts)) for counts in stack], nan_ok=True)
        assert np.isnan(metric(stack)[0])


def _direct_interval(true: Ints, predicted: Ints, speakers: list[str], metric: Metric) -> tuple[float, float]:
    """The same bootstrap clip by clip."""
    rng = np.random.default_rng(1)
    clips = [np.flatnonzero(np.array(speakers) == name) for name in sorted(set(speakers))]
    values = []
    for _ in range(4000):
        chosen = np.concatenate([rng.choice(clips[i], size=len(clips[i])) for i in rng.integers(len(clips), size=len(clips))])
        values.append(float(metric(confusion_matrix(true[chosen], predicted[chosen], 3))))
    return tuple(np.quantile(values, [0.025, 0.975]))


@pytest.mark.parametrize("metric", [average_recall, weighted_accuracy, macro_f1])
def test_drawing_counts_gives_the_interval_of_drawing_clips(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    speakers = [f"s{i}" for i in rng.choice(6, size=150, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])]
    skill = {f"s{i}": share for i, share in enumerate((0.9, 0.3, 0.6, 0.5, 0.8, 0.2))}
    true = rng.choice(3, size=150, p=[0.7, 0.2, 0.1])
    right = rng.random(150) < np.array([skill[name] for name in speakers])
    predicted = np.where(right, true, rng.integers(NO_PREDICTION, 3, size=150))
    drawn = speaker_interval(true, predicted, speakers, 3, metric=metric, draws=4000)
    assert drawn == pytest.approx(_direct_interval(true, predicted, speakers, metric), abs=0.02)


def test_a_draw_has_whole_speakers_and_only_what_they_said() -> None:
    true, predicted = np.array([0, 0, 0, 1]), np.array([0, 1, 0, NO_PREDICTION])
    draws = resample_speakers(true, predicted, ["a", "a", "a", "b"], 2, draws=500)
    assert set(draws.sum(axis=(1, 2)).tolist()) == {2, 4, 6}  # b twice, one of each, a twice
    assert draws[:, confusion_matrix(true, predicted, 2) == 0].sum() == 0
    assert (draws == resample_speakers(true, predicted, ["a", "a", "a", "b"], 2, draws=500)).all()


def test_calibration_error_of_a_worked_example() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.5, 0.5, 0.2])
    correct = np.array([True, True, True, False, True, False, True])
    # (4 * |0.75 - 0.95| + 2 * |0.5 - 0.5| + 1 * |1 - 0.2|) / 7
    assert expected_calibration_error(confidence, correct) == pytest.approx(1.6 / 7)
    counts, mean_confidence, accuracy = reliability_bins(confidence, correct)
    assert {int(m): int(counts[m]) for m in np.flatnonzero(counts)} == {2: 1, 7: 2, 14: 4}  # 0.2 is 3/15, the upper end of bin 2
    assert mean_confidence[[2, 7, 14]] == pytest.approx([0.2, 0.5, 0.95])
    assert accuracy[[2, 7, 14]].tolist() == [1.0, 0.5, 0.75]
    assert np.isnan(accuracy[0])


def test_confidences_of_0_and_1_have_a_bin() -> None:
    assert reliability_bins(np.array([0.0, 1.0]), np.array([False, True]), bins=5)[0].tolist() == [1, 0, 0, 0, 1]


def test_risk_and_coverage_of_a_worked_example() -> None:
    confidence = np.array([0.6, 0.9, 0.7, 0.8])
    correct = np.array([True, True, True, False])
    coverage, risk = risk_coverage(confidence, correct)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert area_under_risk_coverage(confidence, correct) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=20), st.integers(0, 99))
def test_risk_does_not_depend_on_the_order_of_equal_confidences(pairs: list[tuple[float, bool]], seed: int) -> None:
    confidence, correct = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    order = np.random.default_rng(seed).permutation(len(pairs))
    _, risk = risk_coverage(confidence, correct)
    assert risk_coverage(confidence[order], correct[order])[1] == pytest.approx(risk)
    assert risk[-1] == pytest.approx(1 - correct.mean())
    first = confidence == confidence.max()
    assert risk[: first.sum()] == pytest.approx(1 - correct[first].mean())


def test_of_no_answers_there_is_no_calibration_and_no_risk() -> None:
    nothing = np.array([]), np.array([], bool)
    with pytest.raises(ValueError, match="no answers"):
        expected_calibration_error(*nothing)
    with pytest.raises(ValueError, match="no answers"):
        area_under_risk_coverage(*nothing)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Don't STOP,  now! ", "dont stop now"),
        ("well-known – isn’t it?", "well known isnt it"),
        ("CZEŚĆ, Świecie…", "cześć świecie"),
        ("नमस्ते।", "नमस्ते"),
        ("$ 5 + 5", "5 5"),
    ],
)
def test_transcripts_are_compared_without_case_and_punctuation(text: str, normal: str) -> None:
    assert normalise_transcript(text) == normal


def test_word_errors_are_substituted_missing_and_added_words_per_word_said() -> None:
    said = ["The cat sat.", "One two", "Stop!"]
    wrote = ["the bat sat down", "two", "stop"]
    assert word_error_rate(said, wrote) == (pytest.approx(3 / 6), 6)
    assert word_error_rate(["a b", "..."], ["", "c"]) == (pytest.approx(3 / 2), 2)  # words written where nobody spoke are errors too
    with pytest.raises(ValueError, match="no words"):
        word_error_rate(["!"], ["a"])


def test_two_answers_to_the_same_clips_are_resampled_together() -> None:
    """A second answer that differs from the first in one speaker's clips differs in a draw by that speaker's part of it, or not at all."""
    rng = np.random.default_rng(0)
    true, first = rng.integers(3, size=60), rng.integers(3, size=60)
    speakers = ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    second = first.copy()
    second[:20] = NO_PREDICTION
    one, other = resample_pairs(true, first, second, speakers, 3)
    assert (one.sum(axis=(1, 2)) == other.sum(axis=(1, 2))).all()
    assert (one.sum(axis=2) == other.sum(axis=2)).all(), "the same clips are drawn for both"
    nothing = other[:, :, 3].sum(axis=1)
    assert set(nothing.tolist()) <= {0, 20, 40, 60}


def test_a_calibrated_model_shows_an_error_by_chance_that_shrinks_with_clips() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.uniform(0.2, 1, size=240), rng.uniform(0.2, 1, size=24_000)
    assert 0.05 < calibration_error_by_chance(few) < 0.12
    assert calibration_error_by_chance(many) < 0.012
    assert calibration_error_by_chance(np.ones(50)) == 0
