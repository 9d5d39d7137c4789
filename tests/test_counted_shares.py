"""The intervals of counted shares: they hold the truth as often as they say, where the confusion is the model's."""

from collections.abc import Mapping

import numpy as np
import pytest

from model.confusion import VoiceConfusion
from model.types import Emotion
from monitor.day.counted import CountedConfusion
from monitor.day.shares import shares_of
from monitor.store.records import TimelineEntry
from tests.entries import judged

N, H, S, A = Emotion.NEUTRAL, Emotion.HAPPY, Emotion.SAD, Emotion.ANGRY
FOUR = (N, H, S, A)
# Rows: what was meant; columns: what is answered, in the order of FOUR.
COMMON = np.array([[0.80, 0.08, 0.10, 0.02], [0.12, 0.70, 0.03, 0.15], [0.25, 0.03, 0.70, 0.02], [0.05, 0.20, 0.02, 0.73]])
ALIKE = 30.0


def person(random: np.random.Generator) -> np.ndarray:
    """How one voice is answered: like all, but not quite."""
    return np.array([random.dirichlet(ALIKE * row) for row in COMMON])


def measured(random: np.random.Generator, voices: int = 24, clips: int = 25) -> CountedConfusion:
    """What a bundle would carry of voices it never heard."""
    tables = [[random.multinomial(clips, row) for row in person(random)] for _ in range(voices)]
    return CountedConfusion(
        [
            VoiceConfusion(
                sure={truth: {answer: int(n) for answer, n in zip(FOUR, row, strict=True)} for truth, row in zip(FOUR, table, strict=True)},
                unsure={},
            )
            for table in tables
        ]
    )


def day(
    answers: list[int], seconds: list[float] | None = None, corrected: dict[int, Emotion] | None = None
) -> list[tuple[TimelineEntry, float]]:
    seconds = seconds or [3.0] * len(answers)
    return [
        (judged(10 * i, 3, FOUR[answer], corrected=(corrected or {}).get(i)), length)
        for i, (answer, length) in enumerate(zip(answers, seconds, strict=True))
    ]


def answered(random: np.random.Generator, truth: list[float], segments: int) -> list[int]:
    """What the model says of a person it never heard whose shares are `truth`."""
    meant = random.multinomial(segments, truth)
    counts = sum(random.multinomial(number, row) for number, row in zip(meant, person(random), strict=True))
    return [answer for answer, number in enumerate(counts) for _ in range(number)]


def intervals_of(
    pieces: list[tuple[TimelineEntry, float]], confusions: dict[str, CountedConfusion]
) -> Mapping[Emotion, tuple[float, float]]:
    """The intervals; these shares are counted."""
    shares = shares_of(pieces, confusions)
    assert shares.estimated == {}
    return shares.intervals


CONFUSION = measured(np.random.default_rng(5))


@pytest.mark.parametrize("truth", [[0.7, 0.1, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
def test_it_holds_the_truth_as_often_as_it_says(truth: list[float]) -> None:
    random = np.random.default_rng(1)
    held = []
    for _ in range(150):
        intervals = intervals_of(day(answered(random, truth, 300)), {"compact-1": CONFUSION})
        held += [intervals[emotion][0] <= share <= intervals[emotion][1] for emotion, share in zip(FOUR, truth, strict=True)]
    # 95 % is meant; 600 shares that hang together leave some room. An interval that is too wide would say nothing.
    assert 0.92 <= np.mean(held) <= 0.99


def test_what_is_only_confusion_is_seen_through() -> None:
    """Nothing but neutral speech is heard as sad in a tenth of the cases: the truth may be no sadness at all."""
    random = np.random.default_rng(2)
    answers = answered(random, [1.0, 0.0, 0.0, 0.0], 300)
    assert answers.count(2) > 15
    intervals = intervals_of(day(answers), {"compact-1": CONFUSION})
    assert intervals[S][0] == 0
    assert intervals[N][1] > 0.9


def test_the_same_day_gives_the_same_interval() -> None:
    pieces = day([0] * 50 + [2] * 20)
    assert intervals_of(pieces, {"compact-1": CONFUSION}) == intervals_of(pieces, {"compact-1": CONFUSION})
    assert intervals_of(pieces, {"compact-1": measured(np.random.default_rng(5))}) == intervals_of(pieces, {"compact-1": CONFUSION})


def test_more_speech_narrows_it_but_never_beyond_what_voices_differ() -> None:
    def width(times: int) -> float:
        low, high = intervals_of(day(([0] * 7 + [2] * 3) * times), {"compact-1": CONFUSION})[S]
        return high - low

    assert width(1) > width(10) > width(200) > 0.05


def test_a_few_long_segments_tell_less_than_many_short_ones() -> None:
    answers = [0] * 70 + [2] * 30
    even = intervals_of(day(answers), {"compact-1": CONFUSION})[S]
    # The same share of time, nearly all of it in two segments.
    uneven = intervals_of(day(answers, [0.1] * 69 + [70.0] + [0.1] * 29 + [30.0]), {"compact-1": CONFUSION})[S]
    assert uneven[1] - uneven[0] > 1.5 * (even[1] - even[0])


def test_what_the_person_named_is_taken_as_it_is() -> None:
    answers = [0] * 20
    all_said = intervals_of(day([*answers, 0], corrected=dict.fromkeys(range(20), S)), {"compact-1": CONFUSION})
    low, high = all_said[S]
    assert low >= 20 / 21 - 1e-9
    assert high <= 1


def test_without_knowledge_of_a_model_there_is_no_interval() -> None:
    pieces = day([0, 2, 2])
    assert intervals_of(pieces, {}) == {}
    assert intervals_of([*pieces, (judged(90, 3, S, bundle="other-1"), 3.0)], {"compact-1": CONFUSION}) == {}
    assert intervals_of([], {"compact-1": CONFUSION}) == {}
    assert intervals_of([(judged(0, 3, {N: 0.5, S: 0.5}, unsure=True), 3.0)], {"compact-1": CONFUSION}) == {}
    # An answer that was never seen where the model was measured.
    assert intervals_of([*day([0, 1]), (judged(90, 3, Emotion.FEAR), 3.0)], {"compact-1": CONFUSION}) == {}


def test_two_models_of_one_day_each_have_their_own_confusion() -> None:
    perfect = CountedConfusion([VoiceConfusion(sure={one: {one: 500} for one in FOUR}, unsure={})] * 10)
    pieces = [(judged(10 * i, 3, S, bundle="perfect-1"), 3.0) for i in range(300)]
    low, high = intervals_of(pieces, {"perfect-1": perfect})[S]
    assert (low, high) == (pytest.approx(1, abs=0.03), pytest.approx(1, abs=0.001))
    both = intervals_of(pieces + day([0] * 300), {"perfect-1": perfect, "compact-1": CONFUSION})
    assert both[S][0] == pytest.approx(0.5, abs=0.02)
