"""What is usual for a person, and what is told as a change: false alarms no more often than stated, and no mood read out of a new model."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.emotions import Emotion
from monitor.analysis.days import Day
from monitor.analysis.summary import Affect, AffectDynamics, Amount, DayState, DaySummary, Gap, SpeechSummary
from monitor.analysis.trend import (
    BASELINE_MAX_DAYS,
    BASELINE_MIN_DAYS,
    FALSE_ALARMS,
    LASTING,
    LASTING_OF,
    MEASURES,
    MIN_BASELINE_DAYS,
    REACH_DAYS,
    Trend,
    compute_trends,
    usual_range,
)
from monitor.storage.coverage import CoverageTile
from monitor.storage.records import Coverage

UTC_ZONE = ZoneInfo("UTC")
FIRST = date(2026, 1, 1)
N, S = Emotion.NEUTRAL, Emotion.SAD
Draw = Callable[[random.Random], Iterator[float]]


def a_day(
    number: int,
    sadness: float | None = 0.2,
    *,
    heard_h: float = 10,
    sure_s: float = 3600,
    segments: int = 300,
    bundles: tuple[str, ...] = ("compact-1",),
    gaps: tuple[Gap, ...] = (),
) -> DaySummary:
    """Day `number` from FIRST on; sadness: its share, None for a day without data."""
    day = Day(FIRST + timedelta(days=number), UTC_ZONE)
    if sadness is None:
        return DaySummary(day, day.end, DayState.NO_DATA, (), (), SpeechSummary({}, Amount(), Amount(), {}), {}, ())
    still = AffectDynamics(0.8 - sadness, 0.2, 0.05, 0.1)
    emotions = {S: Amount(segments // 4, sadness * sure_s), N: Amount(segments, (1 - sadness) * sure_s)}
    return DaySummary(
        day=day,
        now=day.end,
        state=DayState.PARTIAL if gaps else DayState.COVERED,
        gaps=gaps,
        coverage=(CoverageTile(Coverage.HEARD, day.start, day.start + timedelta(hours=heard_h)),),
        speech=SpeechSummary(emotions, Amount(), Amount(), {}, affect=Affect(segments, sure_s, still, still)),
        bundles=dict.fromkeys(bundles, 100),
        hours=(),
    )


def sadness(days: list[DaySummary]) -> Trend:
    return compute_trends(days)["share_S"]


def wobbling(number: int, middle: float = 0.2) -> list[float]:
    dice = random.Random(3)
    return [middle + dice.uniform(-0.05, 0.05) for _ in range(number)]


# Days in which nothing changes.


def independent(dice: random.Random) -> Iterator[float]:
    while True:
        yield dice.gauss(0, 1)


def heavy_tailed(dice: random.Random) -> Iterator[float]:
    """Student's t with five degrees of freedom."""
    while True:
        yield dice.gauss(0, 1) / (dice.gammavariate(2.5, 2) / 5) ** 0.5


def skewed(dice: random.Random) -> Iterator[float]:
    while True:
        yield dice.gammavariate(4, 1)


def carried_over(dice: random.Random) -> Iterator[float]:
    """What today is, tomorrow is by half."""
    value = dice.gauss(0, 1)
    while True:
        yield value
        value = 0.5 * value + 0.75**0.5 * dice.gauss(0, 1)


@pytest.mark.parametrize("draw", [independent, heavy_tailed, skewed, carried_over])
@pytest.mark.parametrize("days", [BASELINE_MIN_DAYS, 14, BASELINE_MAX_DAYS])
def test_a_usual_day_is_outside_no_more_often_than_stated(draw: Draw, days: int) -> None:
    dice, outside, tries = random.Random(1), 0, 5000
    for _ in range(tries):
        stream = draw(dice)
        band = usual_range([next(stream) for _ in range(days)])
        assert band is not None
        outside += band.side(next(stream)) != 0
    # Two standard errors of room; and not so wide that nothing could be found.
    assert 0.02 < outside / tries < FALSE_ALARMS + 0.006


@pytest.mark.parametrize(("draw", "at_most"), [(independent, 0.003), (heavy_tailed, 0.003), (skewed, 0.004), (carried_over, 0.03)])
def test_a_month_without_change_hardly_ever_tells_of_one(draw: Draw, at_most: float) -> None:
    dice, told, tries = random.Random(4), 0, 300
    for _ in range(tries):
        stream = draw(dice)
        values = [next(stream) for _ in range(BASELINE_MAX_DAYS + LASTING_OF + 29)]
        told += any(_lasts(values[: end + 1]) for end in range(len(values) - 30, len(values)))
    assert told / tries <= at_most + 2 * (at_most / tries) ** 0.5


def _lasts(values: list[float]) -> bool:
    band = usual_range(values[:-LASTING_OF])
    assert band is not None
    sides = [band.side(value) for value in values[-LASTING_OF:]]
    return max(sides.count(1), sides.count(-1)) >= LASTING


@given(st.lists(st.floats(-100, 100), min_size=BASELINE_MIN_DAYS, max_size=60), st.floats(-50, 50), st.floats(0.1, 10))
def test_a_range_moves_and_grows_with_its_values(values: list[float], shift: float, scale: float) -> None:
    band, moved = usual_range(values), usual_range([scale * value + shift for value in values])
    assert band is not None
    assert moved is not None
    for before, after in ((band.low, moved.low), (band.middle, moved.middle), (band.high, moved.high)):
        assert after == pytest.approx(scale * before + shift, abs=1e-6)
    assert band.low <= band.middle <= band.high
    assert band.days == min(BASELINE_MAX_DAYS, len(values))


def test_a_few_wild_days_hardly_change_what_is_usual() -> None:
    calm = wobbling(BASELINE_MAX_DAYS)
    wild = [*calm[:5], 0.9, *calm[6:15], 1.0, *calm[16:25], 0.95, *calm[26:]]
    before, after = usual_range(calm), usual_range(wild)
    assert before is not None
    assert after is not None
    assert after.high - after.low < 1.5 * (before.high - before.low)
    assert after.high < 0.5


def test_fewer_than_seven_days_are_nothing_to_compare_with() -> None:
    points = sadness([a_day(i, value) for i, value in enumerate(wobbling(8))]).points
    assert [point.band is None for point in points] == [True] * 7 + [False]
    assert points[7].band is not None
    assert points[7].band.days == 7


def test_a_day_far_from_what_is_usual_is_outside_and_a_usual_one_is_not() -> None:
    values = [*wobbling(30), 0.6, 0.2, 0.0]
    assert [point.outside for point in sadness([a_day(i, value) for i, value in enumerate(values)]).points[30:]] == [1, 0, -1]


def test_hardly_anything_more_than_nothing_is_not_outside() -> None:
    """On days that are all alike the range would have no width."""
    points = sadness([a_day(i, value) for i, value in enumerate([0.0] * 20 + [0.015, 0.03])]).points
    assert [point.outside for point in points[20:]] == [0, 1]


@pytest.mark.parametrize(
    "strange",
    [
        a_day(30, None),
        a_day(30, 0.9, gaps=(Gap.NOT_OVER,)),
        a_day(30, 0.9, heard_h=1, gaps=(Gap.HEARD_LITTLE,)),
        a_day(30, 0.9, sure_s=30),
    ],
)
def test_days_that_tell_too_little_are_never_outside_and_never_usual(strange: DaySummary) -> None:
    days = [a_day(i, value) for i, value in enumerate(wobbling(30))]
    following = a_day(31, 0.2)
    with_it, without = sadness([*days, strange, following]), sadness([*days, a_day(30, None), following])
    assert with_it.points[30].outside == 0
    assert with_it.points[31].band == without.points[31].band


def test_a_day_without_data_has_no_value_of_anything() -> None:
    days = [a_day(i, value) for i, value in enumerate(wobbling(20))] + [a_day(20, None)]
    for trend in compute_trends(days).values():
        assert (trend.points[20].value, trend.points[20].outside, trend.points[20].state) == (None, 0, DayState.NO_DATA)


def test_some_speech_that_waits_or_was_not_judged_does_not_keep_a_day_from_counting() -> None:
    days = [a_day(i, value, gaps=(Gap.WAITING, Gap.UNJUDGED)) for i, value in enumerate([*wobbling(20), 0.7])]
    assert sadness(days).points[20].outside == 1


def test_what_was_long_ago_is_not_usual_any_more() -> None:
    days = [a_day(i, value) for i, value in enumerate(wobbling(20))]
    assert sadness([*days, a_day(19 + REACH_DAYS - 10, 0.2)]).points[-1].band is not None
    assert sadness([*days, a_day(20 + REACH_DAYS, 0.2)]).points[-1].band is None


def test_another_model_is_no_mood() -> None:
    """A new model that hears twice the sadness: nothing is outside, the point says so, and what is usual begins anew."""
    old = [a_day(i, value) for i, value in enumerate(wobbling(30))]
    mixed = a_day(30, 0.4, bundles=("compact-1", "compact-2"))
    new = [a_day(31 + i, value, bundles=("compact-2",)) for i, value in enumerate(wobbling(12, 0.6))]
    trend = sadness([*old, mixed, *new])
    assert [point.model_changed for point in trend.points] == [False] * 30 + [True] + [False] * 12
    assert all(point.outside == 0 for point in trend.points[30:])
    assert all(point.band is None for point in trend.points[30:38])
    assert trend.points[38].band is not None
    assert trend.points[38].band.middle == pytest.approx(0.6, abs=0.05)
    assert trend.change is None


def test_what_no_model_has_a_say_in_goes_on_through_a_new_model() -> None:
    days = [a_day(i, 0.2, bundles=("compact-1",) if i < 20 else ("compact-2",)) for i in range(22)]
    points = compute_trends(days)["speech_per_hour"].points
    assert points[20].model_changed
    assert points[20].band is not None
    assert points[20].value == pytest.approx(6)


def test_going_back_to_the_old_model_goes_back_to_what_was_usual_for_it() -> None:
    versions = ["compact-1"] * 20 + ["compact-2"] * 2 + ["compact-1"]
    points = sadness([a_day(i, 0.2, bundles=(version,)) for i, version in enumerate(versions)]).points
    assert points[22].model_changed
    assert points[22].band is not None


@pytest.mark.parametrize(("high_days", "told"), [(4, None), (5, 5), (6, 6), (7, 7)])
def test_a_change_that_lasts_is_named_in_plain_words(high_days: int, told: int | None) -> None:
    values = wobbling(40) + [0.2] * (LASTING_OF - high_days) + [0.5] * high_days
    days = [a_day(i, value) for i, value in enumerate(values)]
    # Days that do not count lie between.
    days = [*days[:43], a_day(43, None), *(replace(day, day=Day(day.day.on + timedelta(days=1), UTC_ZONE)) for day in days[43:])]
    change = sadness(days).change
    if told is None:
        assert change is None
        return
    assert change is not None
    assert (change.direction, change.days_outside, change.of_days) == (1, told, 7)
    assert change.sentence == f"Sadness was above your usual range on {told} of the last 7 covered days."
    assert change.band.high < 0.5


def test_a_change_needs_a_range_of_enough_days_before_it() -> None:
    short = [a_day(i, value) for i, value in enumerate(wobbling(MIN_BASELINE_DAYS - 1) + [0.6] * 7)]
    long = [a_day(i, value) for i, value in enumerate(wobbling(MIN_BASELINE_DAYS) + [0.6] * 7)]
    assert sadness(short).change is None
    assert sadness(long).change is not None


def test_a_change_is_over_when_its_days_are_usual_again() -> None:
    values = [*wobbling(30), *[0.6] * 7, *[0.2] * 5]
    assert sadness([a_day(i, value) for i, value in enumerate(values)]).change is None


def test_no_sentence_is_a_diagnosis() -> None:
    values = [*wobbling(30), *[0.9] * 7]
    sentences = [trend.change.sentence for trend in compute_trends([a_day(i, v) for i, v in enumerate(values)]).values() if trend.change]
    assert len(sentences) >= 3
    for sentence in sentences:
        assert sentence[0].isupper()
        assert "your usual range" in sentence
        assert not any(word in sentence.lower() for word in ("depress", "disorder", "episode", "symptom", "abnormal", "risk"))


def test_measures_have_the_keys_that_reports_ask_for() -> None:
    keys = {measure.key for measure in MEASURES}
    assert keys == {"valence", "arousal", "valence_sd", "valence_mssd", "valence_inertia", "speech_per_hour", "loudness_db", "pitch_hz"} | {
        f"share_{emotion.value}" for emotion in Emotion
    }
    assert set(compute_trends([])) == keys


def test_a_letter_the_model_cannot_answer_has_no_trend() -> None:
    assert all(point.value is None for point in compute_trends([a_day(i) for i in range(10)])["share_C"].points)


def test_it_does_not_matter_how_long_ago_the_days_begin() -> None:
    values = [*wobbling(90), 0.6]
    days = [a_day(i, value) for i, value in enumerate(values)]
    assert sadness(days).points[-1] == sadness(days[-REACH_DAYS - 1 :]).points[-1]


def test_today_is_shown_but_not_compared() -> None:
    today = replace(a_day(30, 0.9, gaps=(Gap.NOT_OVER,)), now=datetime(2026, 1, 31, 12, tzinfo=UTC_ZONE))
    point = sadness([*(a_day(i, value) for i, value in enumerate(wobbling(30))), today]).points[-1]
    assert (point.value, point.outside) == (pytest.approx(0.9), 0)
    assert point.band is not None


def test_points_from_a_day_on_are_those_of_the_whole_and_need_no_hours_before() -> None:
    days = [a_day(i, 0.3 + 0.01 * (i % 7)) for i in range(60)]
    first = days[50].day.on
    whole, some = compute_trends(days), compute_trends([replace(day, hours=()) for day in days[:50]] + days[50:], first)
    for key, trend in whole.items():
        assert some[key].points == trend.points[50:]
        assert some[key].change == trend.change
