"""Summaries of days that are over: as text without loss, kept once, made anew when anything beneath them changes, and never stale."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.emotions import Emotion, Prediction
from monitor.analysis.days import Day
from monitor.analysis.summary import (
    SUMMARY_FORMAT,
    Affect,
    AffectDynamics,
    Amount,
    DayState,
    DaySummary,
    EmotionRun,
    Gap,
    HourSummary,
    Quartiles,
    SpeechSummary,
    VoiceStatistics,
    dump_summary,
    load_summary,
)
from monitor.analysis.timeline_query import TimelineQuery
from monitor.config import TimelineConfig
from monitor.storage.coverage import CoverageTile
from monitor.storage.records import Coverage, InferenceResult
from monitor.storage.summary_cache import SummaryCache
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
ON = date(2026, 1, 5)
NINE = datetime(2026, 1, 5, 8, tzinfo=UTC)
NOW = datetime(2026, 1, 7, 12, tzinfo=UTC)
SAD = InferenceResult(Prediction({Emotion.SAD: 0.8, Emotion.NEUTRAL: 0.2}, False, "compact-1"))

number = st.floats(-1e6, 1e6)
letters = st.sampled_from(Emotion)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001
amounts = st.builds(Amount, st.integers(0, 10_000), number)
spreads = st.builds(AffectDynamics, number, st.none() | number, st.none() | number, st.none() | number)
quartiles = st.none() | st.builds(Quartiles, number, number, number)
speeches = st.builds(
    SpeechSummary,
    emotions=st.dictionaries(letters, amounts),
    unsure=amounts,
    waiting=amounts,
    unjudged=st.dictionaries(st.text(), amounts, max_size=3),
    estimated=st.dictionaries(letters, number),
    intervals=st.dictionaries(letters, st.tuples(number, number)),
    affect=st.none() | st.builds(Affect, st.integers(0, 999), number, spreads, spreads),
    corrected=st.integers(0, 99),
    voice=st.none() | st.builds(VoiceStatistics, st.integers(0, 999), quartiles, quartiles),
)
summaries = st.builds(
    DaySummary,
    day=st.just(Day(ON, PARIS)),
    now=st.just(NOW),
    state=st.sampled_from(DayState),
    gaps=st.lists(st.sampled_from(Gap), unique=True).map(tuple),
    coverage=st.lists(st.builds(CoverageTile, st.sampled_from(Coverage), moments, moments, st.text()), max_size=3).map(tuple),
    speech=speeches,
    bundles=st.dictionaries(st.text(), st.integers(0, 9999), max_size=3),
    hours=st.lists(st.builds(HourSummary, st.text(), moments, moments, number, speeches), max_size=3).map(tuple),
    longest_run=st.none() | st.builds(EmotionRun, letters, st.integers(1, 99), number, moments, moments),
    transitions=st.dictionaries(st.tuples(letters, letters), st.integers(1, 99)),
)


@given(summaries)
def test_text_loses_nothing(summary: DaySummary) -> None:
    text = dump_summary(summary)
    again = load_summary(text, summary.day, summary.now)
    assert again == summary
    assert dump_summary(again) == text
    assert list(again.speech.emotions) == list(summary.speech.emotions), "the order is kept, too"


@pytest.fixture
def settings(home: Path) -> TimelineConfig:
    return TimelineConfig(zone="Europe/Paris")


@pytest.fixture
def timeline(settings: TimelineConfig) -> Iterator[TimelineWriter]:
    """Two hours of a day, with three segments: two judged and one that waits."""
    with TimelineWriter.open(settings.database_path(), PARIS, keys()) as timeline:
        timeline.cover(Coverage.HEARD, NINE, NINE + timedelta(hours=5))
        ids = [speak(timeline, minute) for minute in (0, 1, 2)]
        timeline.judge(dict.fromkeys(ids[:2], SAD))
        yield timeline


def speak(timeline: TimelineWriter, minute: float) -> int:
    start = NINE + timedelta(minutes=minute)
    sample = round(minute * 1000)
    return timeline.add_segment(
        start_sample=sample, end_sample=sample + 1, start_at=start, end_at=start + timedelta(seconds=4), sound=b"12"
    )


def kept(settings: TimelineConfig) -> dict[tuple[str, str], str]:
    with closing(raw(settings.database_path())) as connection:
        return {(row[0], row[1]): row[2] for row in connection.execute("SELECT on_date, zone, summary FROM day_summary")}


def look_at(settings: TimelineConfig, on: date = ON, now: datetime = NOW) -> DaySummary:
    with TimelineQuery.open(settings, now) as look:
        return look.day(Day(on, look.zone))


def change(settings: TimelineConfig, statement: str, *values: object) -> None:
    with closing(raw(settings.database_path())) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(statement, values)
        connection.commit()


def test_a_day_that_is_over_is_kept_the_first_time_and_read_the_next(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    first = look_at(settings)
    ((place, text),) = kept(settings).items()
    assert place == ("2026-01-05", "Europe/Paris")
    assert look_at(settings) == first
    # What is read is what is kept: mark it to see that.
    change(settings, "UPDATE day_summary SET summary = replace(summary, 'compact-1', 'marked')")
    assert look_at(settings).bundles == {"marked": 2}
    change(settings, "DELETE FROM day_summary")
    assert look_at(settings) == first
    assert kept(settings)[place] == text, "made anew it is the same to the byte"


def test_today_is_never_kept(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    assert Gap.NOT_OVER in look_at(settings, now=NINE + timedelta(hours=6)).gaps
    assert look_at(settings, date(2027, 1, 1)).state is DayState.NO_DATA
    assert kept(settings) == {}


CHANGES: dict[str, Callable[[TimelineConfig, TimelineWriter], object]] = {
    "a late judgement": lambda _settings, timeline: timeline.judge({3: SAD}),
    "a segment given up": lambda _settings, timeline: timeline.give_up([3], "the engine did not start"),
    "late speech": lambda _settings, timeline: speak(timeline, 30),
    "late coverage": lambda _settings, timeline: timeline.cover(Coverage.PAUSED, NINE + timedelta(hours=6), NINE + timedelta(hours=7)),
    "coverage that grows": lambda _settings, timeline: timeline.cover(Coverage.HEARD, NINE + timedelta(hours=5), NINE + timedelta(hours=6)),
    "a correction": lambda settings, _timeline: change(
        settings, "INSERT INTO correction (segment_id, emotion, confirmed, at) VALUES (1, 'H', 0, '2026-01-06 10:00:00.000000')"
    ),
    "a deletion": lambda settings, _timeline: change(settings, "DELETE FROM segment WHERE id = 2"),
    "forgotten coverage": lambda settings, _timeline: change(settings, "DELETE FROM coverage"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_a_day_changes_its_summary(settings: TimelineConfig, timeline: TimelineWriter, what: str) -> None:
    before = look_at(settings)
    CHANGES[what](settings, timeline)
    assert kept(settings) == {}
    after = look_at(settings)
    assert after != before
    assert look_at(settings) == after
    assert len(kept(settings)) == 1


def test_undoing_a_correction_brings_the_summary_back(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    before = look_at(settings)
    CHANGES["a correction"](settings, timeline)
    corrected = look_at(settings)
    assert corrected.speech.emotions[Emotion.HAPPY] == Amount(1, 4)
    assert corrected.speech.corrected == 1
    change(settings, "UPDATE correction SET undone_at = '2026-01-06 11:00:00.000000'")
    assert look_at(settings) == before


def test_a_correction_that_is_erased_is_undone(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    before = look_at(settings)
    CHANGES["a correction"](settings, timeline)
    look_at(settings)
    change(settings, "DELETE FROM correction")
    assert look_at(settings) == before


def test_a_change_of_one_day_leaves_the_others(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    look_at(settings)
    look_at(settings, date(2026, 1, 4))
    speak(timeline, 30)
    assert {on for on, _ in kept(settings)} == {"2026-01-04"}


def test_a_segment_over_midnight_belongs_to_both_days(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    look_at(settings)
    look_at(settings, date(2026, 1, 6))
    midnight = datetime(2026, 1, 5, 23, tzinfo=UTC)
    timeline.add_segment(
        start_sample=7, end_sample=8, start_at=midnight - timedelta(seconds=1), end_at=midnight + timedelta(seconds=3), sound=b"12"
    )
    assert kept(settings) == {}
    assert look_at(settings, date(2026, 1, 6)).speech.total == Amount(1, 3)


def test_who_moves_to_another_zone_gets_other_days_and_keeps_the_old(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    look_at(settings)
    tokyo = TimelineConfig(zone="Asia/Tokyo")
    there = look_at(tokyo)
    assert there.hours[17].speech.total.segments == 3, "nine in Paris is seventeen in Tokyo"
    assert {zone for _, zone in kept(settings)} == {"Europe/Paris", "Asia/Tokyo"}
    speak(timeline, 30)
    assert kept(settings) == {}


@pytest.mark.parametrize(("on", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_days_of_other_lengths_are_kept_whole(settings: TimelineConfig, timeline: TimelineWriter, on: date, hours: int) -> None:
    later = datetime(2026, 12, 1, tzinfo=UTC)
    first = look_at(settings, on, later)
    assert (len(first.hours), first.length_s) == (hours, hours * 3600)
    assert look_at(settings, on, later) == first
    assert len(kept(settings)) == 1


def test_what_newer_or_older_code_kept_is_made_anew(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    first = look_at(settings)
    change(settings, "UPDATE day_summary SET format = ?, summary = 'another format'", SUMMARY_FORMAT + 1)
    assert look_at(settings) == first
    assert load_summary(kept(settings)["2026-01-05", "Europe/Paris"], first.day, NOW) == first


def test_a_timeline_that_another_program_writes_to_is_looked_at_all_the_same(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    with closing(raw(settings.database_path())) as writing:
        writing.execute("BEGIN IMMEDIATE")
        first = look_at(settings)
    assert first.speech.total.segments == 3
    assert kept(settings) == {}
    assert look_at(settings) == first
    assert len(kept(settings)) == 1


def test_a_summary_that_was_begun_keeps_the_day_from_changing_meanwhile(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    """Whoever writes while it is made has to wait, and so removes it afterwards."""
    path = settings.database_path()
    with closing(SummaryCache(path, keys().find(path), "Europe/Paris", SUMMARY_FORMAT)) as summaries, closing(raw(path)) as other:
        other.execute("PRAGMA busy_timeout = 0")

        def compute(_timeline: object) -> str:
            with pytest.raises(Exception, match="locked"):
                other.execute("DELETE FROM segment")
            return "a summary"

        day = Day(ON, PARIS)
        assert summaries.make(ON, day.start, day.end, compute) == "a summary"
        other.execute("DELETE FROM segment")
        other.commit()
        assert summaries.find(ON, ON) == {}


def test_what_fails_while_it_is_made_leaves_nothing_behind_and_no_lock(settings: TimelineConfig, timeline: TimelineWriter) -> None:
    path = settings.database_path()

    def fail(_timeline: object) -> str:
        raise ValueError("no")

    day = Day(ON, PARIS)
    with closing(SummaryCache(path, keys().find(path), "Europe/Paris", SUMMARY_FORMAT)) as summaries:
        with pytest.raises(ValueError, match="no"):
            summaries.make(ON, day.start, day.end, fail)
        speak(timeline, 30)
        assert summaries.find(ON, ON) == {}
