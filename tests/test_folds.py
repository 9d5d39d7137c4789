"""Every label is held out once, from what learned of other times."""

from datetime import timedelta

import numpy as np
import pytest

from model.evidence import Evidence, Kind
from model.types import Emotion
from tests.persons import BEGIN
from train.nightly.folds import divide
from train.nightly.settings import NightSettings

SETTINGS = NightSettings.load()
LETTERS = [Emotion.ANGRY, Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY]
SOUND = np.zeros(16_000, np.int16)


def piece(number: int, emotion: Emotion, kind: Kind = Kind.CORRECTION, hours: float | None = None) -> Evidence:
    at = BEGIN + timedelta(hours=number if hours is None else hours)
    return Evidence(number, at, SOUND, emotion, kind, Emotion.NEUTRAL, 0.2 if kind is Kind.CHECKIN else 1.0)


def labels(count: int) -> list[Evidence]:
    return [piece(number, LETTERS[number % 4]) for number in range(count)]


@pytest.mark.parametrize("count", [20, 21, 40, 200])
def test_each_label_is_held_out_once_from_what_learned_of_other_times(count: int) -> None:
    pieces = labels(count)
    division = divide(np.random.default_rng(0).permutation(np.array(pieces, dtype=object)), LETTERS, SETTINGS)
    assert len(division.folds) == SETTINGS.folds
    for fold in division.folds:
        start, end = fold.held_out[0].at, fold.held_out[-1].at
        others = [*fold.trained, *fold.stopping]
        assert not any(start <= one.at <= end for one in others)
        assert {one.segment for one in (*others, *fold.held_out)} == set(range(count))
        assert len(fold.held_out) == pytest.approx(count / SETTINGS.folds, abs=1)
        assert len(fold.stopping) == pytest.approx(SETTINGS.stopping * len(others), abs=1)
    assert [one.segment for one in division.held_out] == list(range(count))
    assert {one.segment for one in division.everything} == set(range(count))
    assert division.lacking(SETTINGS) == ""


def test_a_checkin_teaches_what_was_said_at_other_times_and_is_never_held_out() -> None:
    near = [piece(100 + number, Emotion.HAPPY, Kind.CHECKIN, hours=10 * number + 0.5) for number in range(4)]
    division = divide([*labels(40), *near], LETTERS, SETTINGS)
    for number, fold in enumerate(division.folds):
        assert all(one.kind is not Kind.CHECKIN for one in (*fold.stopping, *fold.held_out))
        checkins = {one.segment for one in fold.trained if one.kind is Kind.CHECKIN}
        assert checkins == {100, 101, 102, 103} - {100 + number}
    assert division.learned.checkins == 4
    assert division.learned.left_out == {}


def test_what_the_bundle_cannot_answer_is_left_out_and_told() -> None:
    division = divide([*labels(30), piece(90, Emotion.CONTEMPT)], LETTERS, SETTINGS)
    assert division.learned.left_out == {"the bundle cannot answer contempt": 1}
    assert division.learned.corrections == 30


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "0 corrections and confirmations are too few"),
        (labels(19), "19 corrections and confirmations are too few; at least 20 are needed"),
        ([piece(number, Emotion.SAD) for number in range(40)], "all corrections name the same emotion"),
        ([piece(n, LETTERS[n % 4], Kind.CORRECTION if n < 4 else Kind.CONFIRMATION) for n in range(40)], "only 4 labels are corrections"),
    ],
)
def test_too_little_is_said(pieces: list[Evidence], words: str) -> None:
    assert words in divide(pieces, LETTERS, SETTINGS).lacking(SETTINGS)
