"""Agreement of the person's word with the estimates: figures against other libraries, intervals against simulated persons, plain words."""

import math
import random
from collections.abc import Sequence
from contextlib import closing
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from model.emotions import Emotion, Prediction
from monitor.analysis.affect import EMOTION_AFFECT
from monitor.analysis.agreement import (
    MIN_DAYS,
    MIN_PAIRS,
    CheckInAgreement,
    PromptCompliance,
    SelfReport,
    Statistic,
    checkin_agreement,
    checkin_windows,
    cohen_kappa,
    expected_hits,
    hit_rate,
    label_agreement,
    pair_checkin,
    prompt_compliance,
    rank_correlation,
)
from monitor.analysis.timeline_query import TimelineQuery
from monitor.config import TimelineConfig
from monitor.storage.feedback import FeedbackStore
from monitor.storage.records import CheckIn, InferenceResult, Prompt
from monitor.storage.writer import TimelineWriter
from tests.support.days import NOON, estimates, judged

PARIS = ZoneInfo("Europe/Paris")
DAY_S = 86_400.0
ANSWERS = tuple(EMOTION_AFFECT)


def said(at_s: float, valence: float = 0.0, emotion: Emotion = Emotion.SAD) -> CheckIn:
    return CheckIn(round(at_s), NOON + timedelta(seconds=at_s), "UTC", valence, emotion)


def days_of(count: int, a_day: int) -> list[int]:
    return [number // a_day for number in range(count)]


def test_rank_correlation_and_kappa_are_those_of_other_libraries() -> None:
    chance = random.Random(0)
    for size in (2, 3, 10, 50, 300):
        first = [chance.randint(-3, 3) / 3 for _ in range(size - 1)] + [2.0]
        second = [value + chance.gauss(0, 0.7) for value in first]
        found = rank_correlation(first, second, days_of(size, 3))
        assert found is not None
        assert found.value == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)
        names = [chance.choice("SHN") for _ in range(size)]
        others = [name if chance.random() < 0.5 else chance.choice("SHN") for name in names]
        agreed = cohen_kappa(names, others, days_of(size, 3))
        if agreed is not None:
            assert agreed.value == pytest.approx(cohen_kappa_score(names, others), abs=1e-12)
            assert agreed.low <= agreed.value <= agreed.high


def test_intervals_are_never_narrower_than_nothing_and_hold_their_value() -> None:
    perfect = rank_correlation([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], range(10))
    assert perfect is not None
    assert perfect.low < 0.999 < perfect.value <= perfect.high <= 1
    opposite = rank_correlation([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [10, 9, 8, 7, 6, 5, 4, 3, 2, 1], range(10))
    assert opposite is not None
    assert -1 <= opposite.low <= opposite.value < -0.999 < opposite.high
    few = rank_correlation([1, 2, 3], [3, 1, 2], range(3))
    assert few is not None
    assert (few.low, few.high) == (-1, 1)
    none_right, all_right = hit_rate([False] * 10, range(10)), hit_rate([True] * 10, range(10))
    assert none_right is not None
    assert all_right is not None
    assert (none_right.low, none_right.high) == (pytest.approx(0, abs=1e-9), pytest.approx(0.2775, abs=1e-3)), "Wilson's"
    assert (all_right.low, all_right.high) == (pytest.approx(0.7225, abs=1e-3), pytest.approx(1))


def test_where_nothing_varies_there_is_no_figure() -> None:
    assert rank_correlation([1, 1, 1], [1, 2, 3], range(3)) is None
    assert rank_correlation([], [], []) is None
    assert cohen_kappa("SSS", "SSS", range(3)) is None
    assert cohen_kappa("", "", []) is None
    assert hit_rate([], []) is None
    assert expected_hits("SSHH", "SHHH") == pytest.approx(2)


def test_five_alike_on_one_day_count_as_less_than_five() -> None:
    first = [value for value in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) for _ in range(5)]
    second = [value for value in (2, 1, 5, 3, 4, 8, 6, 7, 10, 9) for _ in range(5)]
    by_day, as_if_apart = rank_correlation(first, second, days_of(50, 5)), rank_correlation(first, second, range(50))
    assert by_day is not None
    assert as_if_apart is not None
    assert by_day.low < as_if_apart.low < as_if_apart.high < by_day.high
    hits = [True] * 20 + [False] * 30
    whole_days, apart = hit_rate(hits, days_of(50, 5)), hit_rate(hits, range(50))
    assert whole_days is not None
    assert apart is not None
    assert whole_days.low < apart.low < apart.high < whole_days.high


@pytest.mark.parametrize("between_days", [0.0, 0.5])
@pytest.mark.parametrize("relation", [0.0, 0.6, -0.6])
def test_the_interval_holds_the_true_rank_correlation_about_as_often_as_it_says(relation: float, between_days: float) -> None:
    chance = random.Random(f"{relation} {between_days}")
    true = 6 / math.pi * math.asin(relation / 2)
    held = 0
    for _ in range(200):
        first, second, days = _series(chance, relation, between_days)
        found = rank_correlation(first, second, days)
        assert found is not None
        held += found.low <= true <= found.high
    assert 0.91 <= held / 200 <= 0.99


def _series(chance: random.Random, relation: float, between_days: float) -> tuple[list[float], list[float], list[int]]:
    """Three pairs on each of 14 days, related as much from day to day as within one."""

    def pair() -> tuple[float, float]:
        one = chance.gauss()
        return one, relation * one + math.sqrt(1 - relation**2) * chance.gauss()

    first, second = [], []
    for _ in range(14):
        day = pair()
        for moment in (pair() for _ in range(3)):
            one, other = (math.sqrt(between_days) * a + math.sqrt(1 - between_days) * b for a, b in zip(day, moment, strict=True))
            first.append(one)
            second.append(other)
    return first, second, days_of(42, 3)


def person(chance: random.Random, sign: float, checkins: int = 40) -> CheckInAgreement:
    """Somebody who checks in four times a day, and whose voice follows (1), ignores (0) or contradicts (-1) what they say."""
    words, entries = [], []
    for number in range(checkins):
        at_s = number // 4 * DAY_S + number % 4 * 7200
        felt = max(-1.0, min(1.0, chance.gauss(0, 0.6)))
        names = sorted(ANSWERS, key=lambda emotion: abs(EMOTION_AFFECT[emotion].valence - felt))
        words.append(said(at_s, round(felt * 3) / 3, names[0]))
        for piece in range(3):
            shown = sign * felt + chance.gauss(0, 0.5)
            heard = min(ANSWERS, key=lambda emotion: abs(EMOTION_AFFECT[emotion].valence - shown) + chance.random() * 0.2)
            rest = {emotion: 0.4 / len(ANSWERS) for emotion in ANSWERS}
            entries.append(judged(at_s - 1200 + 900 * piece, 5, rest | {heard: 0.6 + 0.4 / len(ANSWERS)}))
    return checkin_agreement(words, estimates(entries), PARIS)


def test_agreeing_random_and_opposite_persons_are_told_apart() -> None:
    chance = random.Random(6)
    valences: dict[float, list[Statistic]] = {}
    kappas: dict[float, list[Statistic]] = {}
    for sign in (1.0, 0.0, -1.0):
        found = [person(chance, sign) for _ in range(25)]
        valences[sign] = [one.valence for one in found if one.valence]
        kappas[sign] = [one.kappa for one in found if one.kappa]
        assert len(valences[sign]) == len(kappas[sign]) == 25
    assert all(figure.low > 0 for figure in valences[1])
    assert all(figure.high < 0 for figure in valences[-1])
    assert sum(figure.low <= 0 <= figure.high for figure in valences[0]) >= 21
    assert sum(figure.low > 0 for figure in kappas[1]) >= 20
    assert sum(figure.low <= 0 <= figure.high for figure in kappas[0]) >= 21


def test_a_check_in_is_compared_with_the_judged_speech_near_it_weighted_by_time() -> None:
    entries = [
        judged(-1810, 20, Emotion.SAD),  # half of it lies within the half hour
        judged(60, 30, Emotion.HAPPY),
        judged(1795, 20, Emotion.ANGRY, unsure=True),
        judged(1801, 20, Emotion.FEAR),
        judged(100, 3, Emotion.CONTEMPT),  # has no place between unpleasant and pleasant
    ]
    pair = pair_checkin(said(0, 1.0, Emotion.OTHER), estimates(entries), NOON.date())
    assert pair is not None
    assert pair.estimated == pytest.approx((10 * -0.63 + 30 * 0.81 + 5 * -0.51) / 45)
    assert (pair.on, pair.said, pair.named, pair.heard, pair.nameable) == (NOON.date(), 1.0, Emotion.OTHER, Emotion.HAPPY, False)
    unsure = pair_checkin(said(0), estimates([judged(0, 20, Emotion.SAD, unsure=True)]), NOON.date())
    assert unsure is not None
    assert (unsure.heard, unsure.nameable) == (None, True)


def test_the_same_segment_in_two_windows_is_one_piece_of_speech_near_each() -> None:
    long, short = estimates([judged(0, 12, Emotion.SAD), judged(0, 6, Emotion.SAD)])
    assert checkin_agreement([said(0), said(60)], [long, long], PARIS).pairs == 2
    assert checkin_agreement([said(0)], [short, short], PARIS).pairs == 0


@pytest.mark.parametrize(
    ("count", "a_day", "told"),
    [(0, 1, "there are none"), (1, 1, "there is 1 on 1 day."), (9, 1, "there are 9 on 9 days."), (12, 3, "there are 12 on 4 days.")],
)
def test_with_too_little_nothing_is_told_but_that(count: int, a_day: int, told: str) -> None:
    at_s = [number // a_day * DAY_S + number % a_day * 7200 for number in range(count)]
    found = checkin_agreement([said(at) for at in at_s], estimates(judged(at, 20, Emotion.SAD) for at in at_s), PARIS)
    assert (found.valence, found.hits, found.kappa) == (None, None, None)
    (sentence,) = found.sentences
    assert sentence.startswith("Not enough data to compare your check-ins with the estimates")
    assert f"{MIN_PAIRS} on {MIN_DAYS} days" in sentence
    assert sentence.endswith(told if told.endswith(".") else f"{told}.")


@pytest.mark.parametrize("speech", [[], [(5000.0, 60.0)], [(0.0, 9.0)]])
def test_a_check_in_without_enough_speech_near_it_is_counted_but_not_compared(speech: Sequence[tuple[float, float]]) -> None:
    found = checkin_agreement([said(0)], estimates(judged(at, seconds, Emotion.SAD) for at, seconds in speech), PARIS)
    assert (found.checkins, found.pairs) == (1, 0)


def _told(sign: float) -> str:
    return " ".join(person(random.Random(2), sign).sentences)


def test_what_is_found_is_said_in_plain_words_with_its_uncertainty() -> None:
    assert _told(1).startswith("When you felt better, your voice was estimated to be more pleasant: rank correlation 0.")
    assert "95 % interval 0." in _told(1)
    assert "from 40 check-ins on 10 days." in _told(1)
    assert "are expected by chance (Cohen's kappa 0." in _told(1)
    assert _told(0).startswith("There is no visible agreement")
    assert "so do not rely on the estimates" in _told(-1)
    never_other = estimates(judged(DAY_S * day, 20, Emotion.SAD) for day in range(12))
    same = checkin_agreement([said(DAY_S * day) for day in range(12)], never_other, PARIS)
    assert "one of them never changed (12 check-ins on 12 days)" in same.sentences[0]
    assert "the same emotion in 12 of 12 (76 to 100 %); 12 are expected by chance." in same.sentences[1]


def test_windows_touching_each_other_are_one() -> None:
    half = timedelta(minutes=30)
    assert checkin_windows([said(7200), said(0), said(3600)]) == [(NOON - half, NOON + timedelta(hours=2) + half)]
    assert len(checkin_windows([said(0), said(3601)])) == 2
    assert checkin_windows([]) == []


def test_labels_are_compared_with_what_the_model_had_answered() -> None:
    entries = [
        judged(0, 2, Emotion.SAD, corrected=Emotion.SAD),
        judged(5, 2, {Emotion.SAD: 0.6, Emotion.HAPPY: 0.4}, corrected=Emotion.HAPPY),
        judged(10, 2, Emotion.SAD, corrected=Emotion.OTHER),
        judged(15, 2, Emotion.SAD),
    ]
    found = label_agreement(entries, PARIS)
    assert (found.same, found.other, found.unanswerable) == (1, 2, 1)
    assert found.share is not None
    assert found.share.value == pytest.approx(1 / 3)
    assert "You labelled 3 segments: the estimate agreed in 1 and differed in 2." in found.sentence
    assert label_agreement([], PARIS).sentence == ""


def test_a_prompt_that_may_still_be_answered_does_not_count_yet() -> None:
    asked = [Prompt(number, NOON + timedelta(hours=number), "UTC", answer) for number, answer in enumerate((7, None, 8, None))]
    assert prompt_compliance(asked, NOON + timedelta(hours=3, minutes=20)) == PromptCompliance(3, 2)
    assert prompt_compliance(asked, NOON + timedelta(hours=3, minutes=31)) == PromptCompliance(4, 2)
    assert PromptCompliance(4, 2).sentence == "You answered 2 of 4 check-in prompts."
    assert PromptCompliance(0, 0).sentence == ""


def test_who_never_said_anything_is_told_nothing() -> None:
    assert SelfReport(checkin_agreement([], [], PARIS), label_agreement([], PARIS), PromptCompliance(0, 0)).sentences == ()


def test_a_look_finds_check_ins_labels_prompts_and_the_speech_around_them() -> None:
    settings = TimelineConfig(zone="Europe/Paris")
    path, keys = settings.database_path(), settings.keys()
    now = NOON + timedelta(days=20)
    with closing(TimelineWriter.open(path, PARIS, keys)) as timeline, FeedbackStore.open(path, PARIS, keys, lambda: clock[0]) as words:
        for number in range(12):
            at = NOON + timedelta(days=number)
            answer = Emotion.HAPPY if number % 2 else Emotion.SAD
            prediction = Prediction({answer: 0.8, Emotion.NEUTRAL: 0.2}, False, "compact-1")
            segment_id = timeline.add_segment(
                start_sample=number, end_sample=number + 1, start_at=at, end_at=at + timedelta(seconds=12), sound=b"12"
            )
            timeline.judge({segment_id: InferenceResult(prediction)})
            clock = [at + timedelta(minutes=5)]
            words.asked(at)
            if number != 3:
                words.check_in(clock[0], 0.5 if number % 2 else -0.5, answer)
            if number < 4:
                words.confirm(segment_id)
            if number > 9:
                words.correct(segment_id, Emotion.FEAR)
        words.undo(1)
    with TimelineQuery.open(settings, now) as look:
        found = look.self_report(date(2026, 7, 14), date(2026, 7, 25))
        assert (found.agreement.checkins, found.agreement.pairs, found.agreement.compared) == (11, 11, 11)
        assert found.agreement.valence is not None
        assert found.agreement.valence.value == pytest.approx(1)
        assert found.agreement.kappa is not None
        assert found.agreement.kappa.value == pytest.approx(1), "the model as it answered, not as it was corrected"
        assert (found.labels.same, found.labels.other) == (3, 2)
        assert found.compliance == PromptCompliance(12, 11)
        assert look.self_report(date(2026, 7, 26), date(2026, 7, 27)).sentences == ()
        assert look.self_report(date(2026, 7, 15), date(2026, 7, 15)).labels.same == 1
