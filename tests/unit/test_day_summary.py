"""One day's coverage and summary: every moment has one kind, time adds up, and unknown never looks like an answer."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.emotions import Emotion, Prediction
from monitor.analysis.days import Day
from monitor.analysis.summarize import summarize
from monitor.analysis.summary import Amount, DayState, DaySummary, Gap
from monitor.storage.coverage import CoverageTile, CoverageTracker, tile_coverage
from monitor.storage.records import Coverage, CoverageInterval, SegmentRecord, SegmentState

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
STORED = [kind for kind in Coverage if kind is not Coverage.NOT_RUNNING]


def at_second(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def interval(kind: Coverage, start: float, end: float, reason: str = "") -> CoverageInterval:
    return CoverageInterval("s", kind, at_second(start), at_second(end), "UTC", reason)


def spoken(start: float, end: float) -> SegmentRecord:
    return SegmentRecord(1, "s", 0, 1, at_second(start), at_second(end), "UTC", SegmentState.WAITING)


def kinds(tiles: list[CoverageTile]) -> list[tuple[Coverage, float, float]]:
    return [(part.kind, (part.start_at - NOON).total_seconds(), (part.end_at - NOON).total_seconds()) for part in tiles]


def test_a_day_without_anything_is_one_tile_of_not_running() -> None:
    assert kinds(tile_coverage(at_second(0), at_second(10), [])) == [(Coverage.NOT_RUNNING, 0, 10)]
    assert tile_coverage(at_second(10), at_second(10), []) == []


def test_holes_are_not_running_and_what_lies_outside_is_cut_off() -> None:
    tiles = tile_coverage(at_second(0), at_second(10), [interval(Coverage.HEARD, -5, 3), interval(Coverage.PAUSED, 4, 99)])
    assert kinds(tiles) == [(Coverage.HEARD, 0, 3), (Coverage.NOT_RUNNING, 3, 4), (Coverage.PAUSED, 4, 10)]


def test_speech_that_was_given_up_is_cut_out_of_what_was_heard() -> None:
    tiles = tile_coverage(at_second(0), at_second(9), [interval(Coverage.HEARD, 0, 9), interval(Coverage.ENGINE_DOWN, 3, 5)])
    assert kinds(tiles) == [(Coverage.HEARD, 0, 3), (Coverage.ENGINE_DOWN, 3, 5), (Coverage.HEARD, 5, 9)]


def test_a_segment_of_a_killed_monitor_was_heard_though_nobody_could_say_so() -> None:
    tiles = tile_coverage(at_second(0), at_second(9), [interval(Coverage.HEARD, 0, 3)], [spoken(2, 5)])
    assert kinds(tiles) == [(Coverage.HEARD, 0, 5), (Coverage.NOT_RUNNING, 5, 9)]


def test_neighbours_with_another_reason_stay_apart() -> None:
    tiles = tile_coverage(
        at_second(0), at_second(4), [interval(Coverage.DEVICE_LOST, 0, 2, "stalled"), interval(Coverage.DEVICE_LOST, 2, 4, "unplugged")]
    )
    assert [part.reason for part in tiles] == ["stalled", "unplugged"]


moments = st.integers(-50, 150)
stored = st.builds(
    lambda kind, start, length, reason: interval(kind, start, start + length, reason),
    st.sampled_from(list(Coverage)),
    moments,
    st.integers(1, 60),
    st.sampled_from(["", "why"]),
)
segments = st.builds(lambda start, length: spoken(start, start + length), moments, st.integers(1, 15))


@given(st.lists(stored, max_size=12), st.lists(segments, max_size=6))
def test_tiles_of_any_history_cover_the_day_without_overlap_or_hole(coverage: list[CoverageInterval], speech: list[SegmentRecord]) -> None:
    tiles = tile_coverage(at_second(0), at_second(100), coverage, speech)
    assert tiles[0].start_at == at_second(0)
    assert tiles[-1].end_at == at_second(100)
    assert all(left.end_at == right.start_at for left, right in pairwise(tiles))
    assert all((left.kind, left.reason) != (right.kind, right.reason) for left, right in pairwise(tiles))
    for second in range(100):
        middle = at_second(second + 0.5)
        said = {part.kind for part in coverage if part.start_at <= middle < part.end_at}
        said |= {Coverage.HEARD for part in speech if part.start_at <= middle < part.end_at}
        (told,) = [part.kind for part in tiles if part.start_at <= middle < part.end_at]
        assert told in (said or {Coverage.NOT_RUNNING}), "a kind that nobody stored"
        assert Coverage.HEARD not in said or told in (Coverage.HEARD, Coverage.ENGINE_DOWN)


@given(st.lists(st.tuples(st.sampled_from(["become", "progress", "reach"]), st.sampled_from(STORED), st.integers(0, 20)), min_size=1))
def test_whatever_happens_in_a_run_its_account_has_no_overlap_and_no_hole(steps: list[tuple[str, Coverage, int]]) -> None:
    written: list[tuple[Coverage, datetime, datetime]] = []
    coverage_tracker = CoverageTracker(lambda kind, start, end, _reason: written.append((kind, start, end)))
    now, kind_of = NOON, {}
    coverage_tracker.become(Coverage.HEARD, now)
    present = Coverage.HEARD
    for step, kind, seconds in steps:
        for _ in range(seconds):
            kind_of[now] = present
            now += timedelta(seconds=1)
        if step == "become":
            coverage_tracker.become(kind, now)
            present = kind
        elif step == "progress":
            coverage_tracker.progress(now)
        else:
            coverage_tracker.reach(now)
    coverage_tracker.reach(now)
    assert all(left[2] == right[1] for left, right in pairwise(written))
    assert now == NOON or (written[0][1], written[-1][2]) == (NOON, now)
    for moment, kind in kind_of.items():
        assert [entry[0] for entry in written if entry[1] <= moment < entry[2]] == [kind]


def test_progress_is_stored_every_few_seconds_only() -> None:
    written: list[float] = []
    coverage_tracker = CoverageTracker(lambda _kind, _start, end, _reason: written.append((end - NOON).total_seconds()))
    coverage_tracker.become(Coverage.HEARD, at_second(0))
    for tenth in range(200):
        coverage_tracker.progress(at_second(tenth / 10))
    assert written == [5, 10, 15]


def test_a_clock_that_was_set_leaves_what_lies_between_to_nobody() -> None:
    written: list[tuple[float, float]] = []
    coverage_tracker = CoverageTracker(
        lambda _kind, start, end, _reason: written.append(((start - NOON).total_seconds(), (end - NOON).total_seconds()))
    )
    coverage_tracker.become(Coverage.HEARD, at_second(0))
    coverage_tracker.reach(at_second(10))
    coverage_tracker.clock_changed(at_second(3600))
    coverage_tracker.reach(at_second(3605))
    coverage_tracker.clock_changed(at_second(5))
    coverage_tracker.reach(at_second(8))
    assert written == [(0, 10), (3600, 3605), (5, 8)]


PARIS = ZoneInfo("Europe/Paris")
DAY = Day(date(2026, 7, 14), PARIS)
AFTERWARDS = DAY.end + timedelta(hours=1)
N, H, S = Emotion.NEUTRAL, Emotion.HAPPY, Emotion.SAD
THREE = {N: 0.2, H: 0.3, S: 0.5}


def judged(posterior: Mapping[Emotion, float] = THREE, unsure: bool = False, bundle: str = "compact-1") -> Prediction:
    return Prediction(posterior, unsure, bundle)


def segment(start: datetime, seconds: float, outcome: Prediction | str | None, number: int = 0) -> SegmentRecord:
    """outcome: a prediction, the reason why there will be none, or None while it waits."""
    end = start + timedelta(seconds=seconds)
    place = (number, "s", number, number + 1, start, end, "Europe/Paris")
    if isinstance(outcome, Prediction):
        return SegmentRecord(*place, SegmentState.JUDGED, None, outcome, end)
    return SegmentRecord(*place, SegmentState.UNJUDGED if outcome else SegmentState.WAITING, outcome)


def covered(start: datetime, hours: float, kind: Coverage = Coverage.HEARD) -> CoverageInterval:
    return CoverageInterval("s", kind, start, start + timedelta(hours=hours), "Europe/Paris")


def at_hour(hour: float) -> datetime:
    return DAY.start + timedelta(hours=hour)


def test_a_day_in_full() -> None:
    entries = [
        segment(at_hour(9), 10, judged()),
        segment(at_hour(9.5), 5, judged({N: 0.9, H: 0.1, S: 0.0})),
        segment(at_hour(10), 15, judged()),
        segment(at_hour(10.5), 6, judged(unsure=True)),
        segment(at_hour(11), 4, "the engine did not start"),
        segment(at_hour(12), 3, "the engine did not start"),
        segment(at_hour(13), 2, None),
    ]
    coverage = [covered(at_hour(8), 6), covered(at_hour(14), 0.5, Coverage.DEVICE_LOST), covered(at_hour(15), 0.25, Coverage.OVERFLOW)]
    day = summarize(DAY, entries, coverage, AFTERWARDS)
    assert day.heard_s == 6 * 3600
    off_s = 24 * 3600 - 6 * 3600 - 1800 - 900
    assert day.coverage_s == {
        Coverage.HEARD: 6 * 3600,
        Coverage.DEVICE_LOST: 1800,
        Coverage.OVERFLOW: 900,
        Coverage.NOT_RUNNING: off_s,
    }
    assert day.passed_s == 24 * 3600
    speech = day.speech
    assert speech.total == Amount(7, 45)
    assert speech.emotions == {S: Amount(2, 25), N: Amount(1, 5), H: Amount()}
    assert speech.shares == {S: 25 / 30, N: 5 / 30, H: 0}
    assert (speech.unsure, speech.unsure_share) == (Amount(1, 6), 6 / 36)
    assert (speech.waiting, speech.unjudged) == (Amount(1, 2), {"the engine did not start": Amount(2, 7)})
    assert day.bundles == {"compact-1": 4}
    assert (day.state, day.gaps) == (DayState.PARTIAL, (Gap.WAITING, Gap.UNJUDGED))
    nine = day.hours[9]
    assert (nine.label, nine.heard_s, nine.speech.total, nine.speech.leading) == ("09:00", 3600, Amount(2, 15), S)


def test_a_letter_the_model_cannot_answer_is_not_a_zero() -> None:
    speech = summarize(DAY, [segment(at_hour(9), 5, judged())], [], AFTERWARDS).speech
    assert Emotion.CONTEMPT not in speech.emotions
    assert Emotion.CONTEMPT not in speech.shares
    assert speech.shares[H] == 0


def test_unsure_speech_is_in_no_share_but_its_letters_were_possible() -> None:
    speech = summarize(DAY, [segment(at_hour(9), 5, judged(unsure=True))], [], AFTERWARDS).speech
    assert (speech.shares, speech.leading, speech.unsure_share) == ({}, None, 1.0)
    assert speech.emotions == {N: Amount(), H: Amount(), S: Amount()}


@pytest.mark.parametrize("lost", [[], [covered(at_hour(9), 3, Coverage.DEVICE_LOST)]])
def test_a_day_without_sound_is_no_data(lost: list[CoverageInterval]) -> None:
    day = summarize(DAY, [], lost, AFTERWARDS)
    assert (day.state, day.gaps, day.heard_s) == (DayState.NO_DATA, (), 0)
    assert (day.speech.shares, day.speech.leading, day.speech.unsure_share) == ({}, None, None)
    assert len(day.hours) == 24


@pytest.mark.parametrize(
    ("hours", "entries", "now", "gaps"),
    [
        (4, [], AFTERWARDS, ()),
        (3.99, [], AFTERWARDS, (Gap.HEARD_LITTLE,)),
        (4, [], DAY.end, ()),
        (4, [], DAY.end - timedelta(seconds=1), (Gap.NOT_OVER,)),
        (4, [segment(at_hour(9), 5, None)], AFTERWARDS, (Gap.WAITING,)),
        (4, [segment(at_hour(9), 9, judged()), segment(at_hour(9.1), 1, "stopped")], AFTERWARDS, ()),
        (4, [segment(at_hour(9), 9, judged()), segment(at_hour(9.1), 1.1, "stopped")], AFTERWARDS, (Gap.UNJUDGED,)),
    ],
)
def test_what_makes_a_day_partial(hours: float, entries: list[SegmentRecord], now: datetime, gaps: tuple[Gap]) -> None:
    day = summarize(DAY, entries, [covered(at_hour(8), hours)], now)
    assert day.gaps == gaps
    assert day.state is (DayState.PARTIAL if gaps else DayState.COVERED)


def test_a_segment_over_midnight_is_shared_between_the_days() -> None:
    entry = segment(DAY.end - timedelta(seconds=4), 10, judged())
    tomorrow = Day(DAY.on + timedelta(days=1), PARIS)
    today_s, tomorrow_s = (summarize(day, [entry], [], AFTERWARDS).speech.total.seconds for day in (DAY, tomorrow))
    assert (today_s, tomorrow_s) == (4, 6)


def test_what_lies_outside_the_day_is_ignored() -> None:
    entries = [segment(DAY.start - timedelta(seconds=5), 5, judged()), segment(DAY.end, 5, judged())]
    coverage = [covered(DAY.start - timedelta(hours=1), 1), covered(DAY.end, 1), covered(DAY.end, 1, Coverage.OVERFLOW)]
    day = summarize(DAY, entries, coverage, AFTERWARDS)
    assert (day.state, day.bundles, day.coverage_s) == (DayState.NO_DATA, {}, {Coverage.NOT_RUNNING: 86_400})


def test_speech_that_was_given_up_was_listened_to_but_is_told_apart() -> None:
    entries = [segment(at_hour(9), 60, "the spool was full")]
    coverage = [covered(at_hour(8), 6), covered(at_hour(9), 60 / 3600, Coverage.ENGINE_DOWN), covered(at_hour(14), 2, Coverage.PAUSED)]
    day = summarize(DAY, entries, coverage, AFTERWARDS)
    assert day.heard_s == 6 * 3600
    assert (day.coverage_s[Coverage.HEARD], day.coverage_s[Coverage.ENGINE_DOWN]) == (6 * 3600 - 60, 60)
    assert day.coverage_s[Coverage.PAUSED] == 2 * 3600


def test_speech_was_heard_even_where_a_killed_monitor_stored_no_coverage() -> None:
    entries = [segment(at_hour(8.5), 10, judged()), segment(at_hour(9), 10, judged())]
    day = summarize(DAY, entries, [covered(at_hour(8), 1), covered(at_hour(8.25), 0.75)], AFTERWARDS)
    assert day.heard_s == 3610


@st.composite
def days(draw: st.DrawFn) -> DaySummary:
    """A random history around a day, also one whose clock changes."""
    zone, on = draw(
        st.sampled_from(
            [
                ("Europe/Paris", date(2026, 7, 14)),
                ("Europe/Paris", date(2026, 3, 29)),
                ("Europe/Paris", date(2026, 10, 25)),
                ("Australia/Lord_Howe", date(2026, 4, 5)),
                ("America/St_Johns", date(2008, 11, 2)),
                ("Asia/Kolkata", date(2026, 7, 14)),
            ]
        )
    )
    day = Day(on, ZoneInfo(zone))
    outcomes = [judged(), judged(unsure=True), judged({N: 1.0}, bundle="compact-2"), None, "stopped"]
    clock, entries = day.start - timedelta(hours=1), []
    for pause_ms, length_ms in draw(st.lists(st.tuples(st.integers(0, 9_000_000), st.integers(1, 60_000)), max_size=40)):
        clock += timedelta(milliseconds=pause_ms)
        entries.append(segment(clock, length_ms / 1000, draw(st.sampled_from(outcomes)), len(entries)))
        clock = entries[-1].end_at
    spans = st.tuples(st.integers(-3600, 90_000), st.integers(1, 40_000), st.sampled_from(Coverage))
    coverage = [
        covered(day.start + timedelta(seconds=start_s), length_s / 3600, kind)
        for start_s, length_s, kind in draw(st.lists(spans, max_size=6))
    ]
    return summarize(day, entries, coverage, day.end + timedelta(seconds=draw(st.integers(-90_000, 10))))


@given(days())
def test_hours_add_up_to_the_day(day: DaySummary) -> None:
    def seconds(speeches: list) -> dict[str, float]:
        totals: dict[str, float] = {}
        for speech in speeches:
            kinds = {**speech.emotions, "unsure": speech.unsure, "waiting": speech.waiting, **speech.unjudged}
            for kind, amount in kinds.items():
                totals[kind] = totals.get(kind, 0) + amount.seconds
        return {kind: total for kind, total in totals.items() if total}

    assert seconds([hour.speech for hour in day.hours]) == pytest.approx(seconds([day.speech]), abs=1e-6)
    assert sum(hour.heard_s for hour in day.hours) == pytest.approx(day.heard_s, abs=1e-6)
    assert sum(hour.length_s for hour in day.hours) == pytest.approx(day.length_s)
    assert sum(part.seconds for part in day.coverage if part.end_at <= day.now) <= day.passed_s + 1e-6 <= day.length_s + 2e-6
    assert sum(day.coverage_s.values()) >= day.passed_s - 1e-6
    assert all(hour.speech.total.seconds <= hour.heard_s + 1e-6 <= hour.length_s + 2e-6 for hour in day.hours)


@given(days())
def test_shares_sum_to_one_or_there_are_none(day: DaySummary) -> None:
    for speech in [day.speech, *(hour.speech for hour in day.hours)]:
        assert all(0 <= share <= 1 for share in speech.shares.values())
        assert sum(speech.shares.values()) == pytest.approx(1 if speech.sure.segments else 0)
        assert (speech.unsure_share is None) == (speech.judged.segments == 0)
        assert (speech.leading is None) == (speech.sure.segments == 0)


@given(days())
def test_a_day_is_no_data_exactly_when_nothing_was_heard(day: DaySummary) -> None:
    assert (day.state is DayState.NO_DATA) == (day.heard_s == 0)
    assert (day.state is DayState.PARTIAL) == bool(day.gaps)
    assert sum(day.bundles.values()) == day.speech.judged.segments
    if day.state is DayState.NO_DATA:
        assert day.speech.total == Amount()


@pytest.mark.parametrize(("hours_passed", "passed_h", "off_h"), [(-1, 0, 0), (6, 6, 4), (9, 9, 5.5), (30, 24, 20.5)])
def test_only_time_that_has_passed_can_be_off(hours_passed: float, passed_h: float, off_h: float) -> None:
    coverage = [covered(at_hour(4), 3), covered(at_hour(6), 1.5, Coverage.DEVICE_LOST)]
    day = summarize(DAY, [], coverage, at_hour(hours_passed))
    assert (day.passed_s, day.coverage_s.get(Coverage.NOT_RUNNING, 0)) == (passed_h * 3600, off_h * 3600)


def test_the_order_of_rows_does_not_matter() -> None:
    entries = [segment(at_hour(9 + index / 10), 5, judged(unsure=index % 2 == 0), index) for index in range(6)]
    coverage = [covered(at_hour(8), 2), covered(at_hour(9), 3)]
    first = summarize(DAY, entries, coverage, datetime(2026, 7, 16, tzinfo=UTC))
    assert first == summarize(DAY, entries[::-1], coverage[::-1], datetime(2026, 7, 16, tzinfo=UTC))
