"""Valence and arousal of posteriors, and variability, instability, inertia and transitions over a day."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.emotions import Emotion
from monitor.analysis.affect import (
    EMOTION_AFFECT,
    MIN_SEGMENTS_FOR_SD,
    MIN_SUCCESSIVE_PAIRS,
    NEIGHBOURS_S,
    AffectPoint,
    affect_dynamics,
    expected_affect,
    follows,
    longest_run,
    segment_affect,
    transitions,
)
from monitor.analysis.summary import AffectDynamics
from monitor.storage.records import SegmentRecord
from tests.support.days import A, H, N, S, judged

C, O = Emotion.CONTEMPT, Emotion.OTHER  # noqa: E741


def test_a_certain_posterior_lies_at_its_emotion() -> None:
    for emotion, place in EMOTION_AFFECT.items():
        assert expected_affect({emotion: 1.0}) == place


def test_neutral_is_the_origin_and_the_signs_are_those_of_the_circumplex() -> None:
    assert EMOTION_AFFECT[N] == AffectPoint(0, 0)
    assert [EMOTION_AFFECT[emotion].valence > 0 for emotion in (H, S, A, Emotion.FEAR, Emotion.DISGUST)] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert [EMOTION_AFFECT[emotion].arousal > 0 for emotion in (H, S, A, Emotion.FEAR, Emotion.SURPRISE)] == [True, False, True, True, True]


def test_the_expectation_by_hand() -> None:
    place = expected_affect({H: 0.5, S: 0.3, N: 0.2})
    assert place is not None
    assert place.valence == pytest.approx(0.5 * 0.81 + 0.3 * -0.63)
    assert place.arousal == pytest.approx(0.5 * 0.51 + 0.3 * -0.27)


def test_what_has_no_place_is_left_out_and_too_much_of_it_leaves_nothing() -> None:
    assert expected_affect({H: 0.5, C: 0.5}) == EMOTION_AFFECT[H]
    assert expected_affect({H: 0.4, C: 0.4, O: 0.2}) is None


@given(st.lists(st.floats(0.001, 1), min_size=9, max_size=9))
def test_every_posterior_lies_among_the_emotions(weights: list[float]) -> None:
    posterior = {emotion: weight / sum(weights) for emotion, weight in zip(Emotion, weights, strict=True)}
    place = expected_affect(posterior)
    if place is not None:
        assert (
            min(p.valence for p in EMOTION_AFFECT.values()) - 1e-9
            <= place.valence
            <= max(p.valence for p in EMOTION_AFFECT.values()) + 1e-9
        )
        assert -1 <= place.arousal <= 1


def test_the_persons_word_goes_before_the_models() -> None:
    assert segment_affect(judged(0, 2, S, corrected=H)) == EMOTION_AFFECT[H]
    assert segment_affect(judged(0, 2, S, corrected=O)) is None


def test_agreeing_with_the_model_does_not_make_a_mixed_voice_pure() -> None:
    mixed = judged(0, 2, {S: 0.6, N: 0.4}, corrected=S)
    assert segment_affect(mixed) == expected_affect({S: 0.6, N: 0.4})


def test_unsure_segments_have_a_place_too() -> None:
    assert segment_affect(judged(0, 2, {S: 0.4, N: 0.3, H: 0.3}, unsure=True)) is not None


def even(values: list[float]) -> AffectDynamics:
    """Equally long segments, all neighbours."""
    return affect_dynamics(values, [1.0] * len(values), [False] + [True] * (len(values) - 1))


def test_by_hand() -> None:
    values = [0.0, 1.0, 0.0, -1.0] * 3
    figures = even(values)
    assert figures.mean == 0
    assert figures.sd == pytest.approx(0.5**0.5)
    # Every step is one.
    assert figures.mssd == 1
    # The 11 pairs: six times (0, 1) or (0, -1), five times (1, 0) or (-1, 0); products about the means of either side.
    first, second = values[:-1], values[1:]
    mean_1, mean_2 = sum(first) / 11, sum(second) / 11
    covariance = sum((a - mean_1) * (b - mean_2) for a, b in zip(first, second, strict=True))
    deviation = (sum((a - mean_1) ** 2 for a in first) * sum((b - mean_2) ** 2 for b in second)) ** 0.5
    assert figures.inertia == pytest.approx(covariance / deviation)


def test_long_segments_weigh_more_in_mean_and_sd() -> None:
    figures = affect_dynamics([1.0, 0.0, 0.0, 0.0, 0.0], [6.0, 1.0, 1.0, 1.0, 1.0], [False] + [True] * 4)
    assert figures.mean == pytest.approx(0.6)
    assert figures.sd == pytest.approx((0.6 * 0.4) ** 0.5)


def test_what_lies_between_strangers_is_no_step() -> None:
    """Two conversations, each without a change: there is no instability, however far apart they lie."""
    values = [0.5] * 11 + [-0.5] * 11
    linked = [False] + [True] * 10 + [False] + [True] * 10
    figures = affect_dynamics(values, [1.0] * 22, linked)
    assert (figures.mssd, figures.sd) == (0, 0.5)
    assert figures.inertia == pytest.approx(1)


def test_too_few_segments_give_no_figure() -> None:
    assert even([0.1, 0.2]) == AffectDynamics(pytest.approx(0.15), None, None, None)
    assert even([0.1, 0.2] * 3).sd is not None
    assert even([0.1] * (MIN_SEGMENTS_FOR_SD - 1)).sd is None
    assert even([0.1, 0.2] * MIN_SUCCESSIVE_PAIRS).mssd is not None
    apart = affect_dynamics([0.1, 0.2] * MIN_SUCCESSIVE_PAIRS, [1.0] * 2 * MIN_SUCCESSIVE_PAIRS, [False] * 2 * MIN_SUCCESSIVE_PAIRS)
    assert (apart.mssd, apart.inertia) == (None, None)


@given(st.floats(-1, 1), st.integers(MIN_SUCCESSIVE_PAIRS + 1, 50))
def test_what_never_changes_has_no_spread_and_no_inertia(value: float, number: int) -> None:
    figures = even([value] * number)
    assert figures.mean == pytest.approx(value)
    assert figures.sd == pytest.approx(0, abs=1e-9)
    assert (figures.mssd, figures.inertia) == (0, None)


@given(st.lists(st.floats(-1, 1), min_size=12, max_size=40), st.floats(-3, 3))
def test_shifting_everything_changes_nothing_but_the_mean(values: list[float], shift: float) -> None:
    before, after = even(values), even([value + shift for value in values])
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
    assert after.sd == pytest.approx(before.sd, abs=1e-9)
    assert after.mssd == pytest.approx(before.mssd, abs=1e-9)
    if before.inertia is not None and after.inertia is not None and before.mssd and before.mssd > 1e-6:
        assert after.inertia == pytest.approx(before.inertia, abs=1e-4)


@given(st.lists(st.floats(-1, 1), min_size=12, max_size=40))
def test_ranges(values: list[float]) -> None:
    figures = even(values)
    assert figures.sd is not None
    assert figures.mssd is not None
    assert 0 <= figures.sd <= 1 + 1e-9
    assert 0 <= figures.mssd <= 4 + 1e-9
    assert figures.inertia is None or -1 <= figures.inertia <= 1


@given(st.lists(st.floats(-1, 1), min_size=12, max_size=40))
def test_time_reversed_the_figures_are_the_same(values: list[float]) -> None:
    before, after = even(values), even(values[::-1])
    assert after.mssd == pytest.approx(before.mssd, abs=1e-12)
    assert (after.inertia is None) == (before.inertia is None)
    if before.inertia is not None:
        assert after.inertia == pytest.approx(before.inertia, abs=1e-6)


@pytest.mark.parametrize("carried", [0.0, 0.3, 0.6, 0.9])
def test_inertia_recovers_what_is_carried_over(carried: float) -> None:
    """A first-order autoregressive process: white noise where nothing is carried over."""
    dice = random.Random(1)
    values = [0.0]
    for _ in range(20_000):
        values.append(carried * values[-1] + dice.gauss(0, (1 - carried**2) ** 0.5))
    figures = even(values)
    assert figures.inertia == pytest.approx(carried, abs=0.03)
    # For such a process the mean squared successive difference is twice the variance times what is not carried over.
    assert figures.mssd == pytest.approx(2 * (1 - carried), rel=0.05)


def test_neighbours_are_at_most_five_minutes_apart() -> None:
    first = judged(0, 10, N)
    assert follows(first, judged(10 + NEIGHBOURS_S, 5, N))
    assert not follows(first, judged(10.1 + NEIGHBOURS_S, 5, N))
    assert follows(first, judged(5, 10, N))


def named(*entries: SegmentRecord) -> list[tuple[SegmentRecord, Emotion]]:
    return [(entry, entry.named) for entry in entries if entry.named is not None]


def test_transitions_count_neighbours_only_and_staying_too() -> None:
    entries = named(judged(0, 5, N), judged(10, 5, N), judged(20, 5, S), judged(30, 5, N), judged(1000, 5, S), judged(1010, 5, H))
    assert transitions(entries) == {(N, N): 1, (N, S): 1, (S, N): 1, (S, H): 1}
    assert transitions([]) == {}


def test_the_longest_run_is_that_of_most_speech() -> None:
    entries = named(judged(0, 5, N), judged(10, 5, N), judged(20, 11, S), judged(40, 5, N), judged(50, 7, N), judged(9000, 9, N))
    run = longest_run(entries)
    assert run is not None
    assert (run.emotion, run.segments, run.seconds) == (N, 2, 12)
    assert (run.start_at, run.end_at) == (entries[3][0].start_at, entries[4][0].end_at)
    assert longest_run([]) is None


def test_unsure_segments_break_no_run() -> None:
    entries = named(judged(0, 5, S), judged(10, 5, {N: 0.5, H: 0.5}, unsure=True), judged(20, 5, S))
    run = longest_run(entries)
    assert run is not None
    assert run.segments == 2


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 15), st.sampled_from([S, H, N])), min_size=1, max_size=40))
def test_transitions_and_runs_agree(parts: list[tuple[int, int, Emotion]]) -> None:
    clock, entries = 0, []
    for pause, length, emotion in parts:
        clock += pause
        entries.append(judged(clock, length, emotion))
        clock += length
    pairs = sum(follows(before, after) for before, after in pairwise(entries))
    assert sum(transitions(named(*entries)).values()) == pairs
    run = longest_run(named(*entries))
    assert run is not None
    assert run.seconds >= max(length for _, length, _ in parts)
    assert run.seconds <= (run.end_at - run.start_at).total_seconds() + 1e-9
