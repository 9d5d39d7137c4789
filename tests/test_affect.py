"""Where emotions lie on valence and arousal, and what a posterior means there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.types import Emotion
from monitor.day.affect import PLACES, Place, expected_place, place_of
from tests.entries import judged

A, S, H, N, C, O = Emotion.ANGRY, Emotion.SAD, Emotion.HAPPY, Emotion.NEUTRAL, Emotion.CONTEMPT, Emotion.OTHER  # noqa: E741


def test_a_certain_posterior_lies_at_its_emotion() -> None:
    for emotion, place in PLACES.items():
        assert expected_place({emotion: 1.0}) == place


def test_neutral_is_the_origin_and_the_signs_are_those_of_the_circumplex() -> None:
    assert PLACES[N] == Place(0, 0)
    assert [PLACES[emotion].valence > 0 for emotion in (H, S, A, Emotion.FEAR, Emotion.DISGUST)] == [True, False, False, False, False]
    assert [PLACES[emotion].arousal > 0 for emotion in (H, S, A, Emotion.FEAR, Emotion.SURPRISE)] == [True, False, True, True, True]


def test_the_expectation_by_hand() -> None:
    place = expected_place({H: 0.5, S: 0.3, N: 0.2})
    assert place is not None
    assert place.valence == pytest.approx(0.5 * 0.81 + 0.3 * -0.63)
    assert place.arousal == pytest.approx(0.5 * 0.51 + 0.3 * -0.27)


def test_what_has_no_place_is_left_out_and_too_much_of_it_leaves_nothing() -> None:
    assert expected_place({H: 0.5, C: 0.5}) == PLACES[H]
    assert expected_place({H: 0.4, C: 0.4, O: 0.2}) is None


@given(st.lists(st.floats(0.001, 1), min_size=9, max_size=9))
def test_every_posterior_lies_among_the_emotions(weights: list[float]) -> None:
    posterior = {emotion: weight / sum(weights) for emotion, weight in zip(Emotion, weights, strict=True)}
    place = expected_place(posterior)
    if place is not None:
        assert min(p.valence for p in PLACES.values()) - 1e-9 <= place.valence <= max(p.valence for p in PLACES.values()) + 1e-9
        assert -1 <= place.arousal <= 1


def test_the_persons_word_goes_before_the_models() -> None:
    assert place_of(judged(0, 2, S, corrected=H)) == PLACES[H]
    assert place_of(judged(0, 2, S, corrected=O)) is None


def test_agreeing_with_the_model_does_not_make_a_mixed_voice_pure() -> None:
    mixed = judged(0, 2, {S: 0.6, N: 0.4}, corrected=S)
    assert place_of(mixed) == expected_place({S: 0.6, N: 0.4})


def test_unsure_segments_have_a_place_too() -> None:
    assert place_of(judged(0, 2, {S: 0.4, N: 0.3, H: 0.3}, unsure=True)) is not None
