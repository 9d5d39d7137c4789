"""What teaches is always earlier than what it is asked about."""

from datetime import timedelta

import numpy as np
import pytest

from model.evidence import Evidence, Kind
from model.types import Emotion
from tests.persons import BEGIN
from train.nightly.division import divide
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
def test_each_round_is_asked_about_what_came_after_all_it_learned_from(count: int) -> None:
    pieces = labels(count)
    division = divide(np.random.default_rng(0).permutation(np.array(pieces, dtype=object)), LETTERS, SETTINGS)
    assert len(division.rounds) == SETTINGS.rounds
    for turn in division.rounds:
        learned = [one.at for one in (*turn.trained, *turn.stopping)]
        assert max(learned) < min(one.at for one in turn.held_out)
        assert max(one.at for one in turn.trained) < min(one.at for one in turn.stopping)
    numbers = [one.segment for one in division.held_out]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == pytest.approx(0.75 * count, abs=1)
    assert {one.segment for one in division.everything} == set(range(count))
    assert division.lacking(SETTINGS) == ""


def test_a_checkin_teaches_only_what_came_later_and_is_never_held_out() -> None:
    near = [piece(100 + number, Emotion.HAPPY, Kind.CHECKIN, hours=10 * number + 0.5) for number in range(4)]
    division = divide([*labels(40), *near], LETTERS, SETTINGS)
    for turn in division.rounds:
        assert all(one.kind is not Kind.CHECKIN for one in (*turn.stopping, *turn.held_out))
        assert all(one.at < turn.held_out[0].at for one in turn.trained)
    assert division.learned.checkins == 3
    assert division.learned.left_out == {"check-ins of the latest days": 1}


def test_what_the_bundle_cannot_answer_is_left_out_and_told() -> None:
    division = divide([*labels(30), piece(90, Emotion.CONTEMPT)], LETTERS, SETTINGS)
    assert division.learned.left_out == {"the bundle cannot answer contempt": 1}
    assert division.learned.corrections == 30


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "0 corrections and confirmations are too few"),
        (labels(19), "19 corrections and confirmations are too few; 20 are needed"),
        ([piece(number, Emotion.SAD) for number in range(40)], "all corrections name the same emotion"),
        ([piece(n, LETTERS[n % 4], Kind.CORRECTION if n < 12 else Kind.CONFIRMATION) for n in range(40)], "only 2 of the later labels"),
    ],
)
def test_too_little_is_said(pieces: list[Evidence], words: str) -> None:
    assert words in divide(pieces, LETTERS, SETTINGS).lacking(SETTINGS)
