"""What reports and pages look through: every day of the calendar, with trends from before, of timelines of every kind."""

import json
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.bundle_format import CONFUSION_FILE, PosteriorConfusion, SpeakerPosteriors, find_bundle, read_bundle_manifest, write_confusion
from model.emotions import EVERYDAY, Emotion, balanced, version_with_prior
from monitor.analysis.days import Day
from monitor.analysis.summary import DayState
from monitor.analysis.timeline_query import TimelineQuery, store_missing_summaries
from monitor.analysis.trend import LASTING, MEASURES
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, EngineConfig, TimelineConfig
from monitor.paths import bundles_file, state_dir
from monitor.storage.writer import TimelineWriter
from tests.support.days import SimulatedPerson, write_days
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
FIRST = date(2026, 4, 1)
DAYS = 90  # April to June
FALLS = 80
SEVEN = read_bundle_manifest(find_bundle("compact")).letters


@pytest.fixture
def settings(home: Path) -> TimelineConfig:
    return TimelineConfig(zone="Europe/Paris")


@pytest.fixture
def lived(settings: TimelineConfig) -> TimelineConfig:
    """A person of 90 days whose mood falls ten days before their end."""
    TimelineWriter.open(settings.database_path(), PARIS, keys()).close()
    with closing(raw(settings.database_path())) as connection:
        write_days(connection, PARIS, FIRST, DAYS, SimulatedPerson(segments=60, change=FALLS, fall=2))
    return settings


def test_without_a_timeline_every_day_is_without_data(settings: TimelineConfig) -> None:
    with TimelineQuery.open(settings, NOW) as look:
        assert look.day(Day(FIRST, look.zone)).state is DayState.NO_DATA
        story = look.story(FIRST, FIRST + timedelta(days=6))
        assert [day.state for day in story.days] == [DayState.NO_DATA] * 7
        assert all(trend.change is None and len(trend.points) == 7 for trend in story.trends.values())
        assert (look.entries(Day(FIRST, look.zone)), look.checkins(FIRST, FIRST), look.segment(1)) == ([], [], None)
    assert not settings.database_path().exists(), "looking makes nothing"


def test_an_empty_timeline_is_one_without_data(settings: TimelineConfig) -> None:
    TimelineWriter.open(settings.database_path(), PARIS, keys()).close()
    with TimelineQuery.open(settings, NOW) as look:
        assert look.day(Day(FIRST, look.zone)).state is DayState.NO_DATA
    store_missing_summaries(settings, NOW)


def test_a_story_has_every_day_of_the_calendar_and_every_measure(lived: TimelineConfig) -> None:
    with TimelineQuery.open(lived, NOW) as look:
        story = look.story(date(2026, 6, 1), date(2026, 6, 30))
    assert [day.day.on for day in story.days] == [date(2026, 6, 1 + i) for i in range(30)]
    assert set(story.trends) == {measure.key for measure in MEASURES}
    for trend in story.trends.values():
        assert [point.on for point in trend.points] == [day.day.on for day in story.days]
    assert {day.state for day in story.days} >= {DayState.COVERED}


def test_what_is_usual_comes_from_before_the_days_that_are_shown(lived: TimelineConfig) -> None:
    with TimelineQuery.open(lived, NOW) as look:
        week = look.story(date(2026, 6, 1), date(2026, 6, 7))
        month = look.story(date(2026, 6, 1), date(2026, 6, 30))
    assert week.trends["valence"].points[0].band is not None
    assert week.trends["valence"].points == month.trends["valence"].points[:7]


def test_a_mood_that_falls_and_stays_low_is_told(lived: TimelineConfig) -> None:
    with TimelineQuery.open(lived, NOW) as look:
        before = look.story(FIRST + timedelta(days=50), FIRST + timedelta(days=FALLS - 1)).trends["valence"].change
        after = look.story(FIRST + timedelta(days=FALLS), FIRST + timedelta(days=DAYS - 1)).trends["valence"].change
    assert before is None
    assert after is not None
    assert (after.direction, after.days_outside >= LASTING) == (-1, True)


def test_looking_twice_shows_the_same(lived: TimelineConfig) -> None:
    def story() -> object:
        with TimelineQuery.open(lived, NOW) as look:
            return look.story(date(2026, 6, 1), date(2026, 6, 30))

    assert story() == story()


def test_a_date_the_calendar_jumped_over_is_no_day(home: Path) -> None:
    apia = TimelineConfig(zone="Pacific/Apia")
    with TimelineQuery.open(apia, NOW) as look:
        assert [day.day.on.day for day in look.days(date(2011, 12, 29), date(2011, 12, 31))] == [29, 31]
        assert look.day(Day(date(2011, 12, 30), look.zone)).state is DayState.NO_DATA


def test_segments_and_check_ins_are_those_of_the_days_asked_for(lived: TimelineConfig) -> None:
    on = date(2026, 6, 2)
    with TimelineQuery.open(lived, NOW) as look:
        day = Day(on, look.zone)
        entries = look.entries(day)
        assert len(entries) == look.day(day).speech.total.segments
        assert look.segment(entries[0].id) == entries[0]
        week = look.checkins(date(2026, 6, 1), date(2026, 6, 7))
        assert week == sorted(week, key=lambda checkin: checkin.at)
        assert all(date(2026, 6, 1) <= checkin.at.astimezone(PARIS).date() <= date(2026, 6, 7) for checkin in week)
        assert len(week) > 5


def test_the_monitor_makes_summaries_nobody_asked_for_and_each_once(lived: TimelineConfig) -> None:
    def kept() -> dict[str, str]:
        with closing(raw(lived.database_path())) as connection:
            return dict(connection.execute("SELECT on_date, summary FROM day_summary").fetchall())

    store_missing_summaries(lived, NOW)
    first = kept()
    assert max(first) == "2026-06-29", "yesterday, and not today"
    assert len(first) == 60, "the latest first, and not all at once"
    store_missing_summaries(lived, NOW)
    second = kept()
    assert min(second) >= "2026-04-01"
    assert {on: second[on] for on in first} == first
    with TimelineQuery.open(lived, NOW) as look:
        assert look.store_missing(1000) == 0


def _bundle(folder: Path, version: str, prior: dict[Emotion, float] | None = None) -> list[Emotion]:
    """A bundle of that version, without weights; returns its letters."""
    manifest = read_bundle_manifest(find_bundle("compact")).model_copy(update={"version": version, "training_prior": prior})
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest.letters


def _measured(folder: Path, version: str) -> Path:
    """A bundle of before that answered twelve voices mostly as they acted."""
    letters = _bundle(folder, version)
    sure = {one: {other: 18 if other is one else 1 for other in letters} for one in letters}
    (folder / CONFUSION_FILE).write_text(json.dumps([{"sure": sure, "unsure": {}}] * 12), encoding="utf-8")
    return folder


def test_shares_are_estimated_where_the_model_in_use_says_how_it_answers(settings: TimelineConfig, tmp_path: Path) -> None:
    """Also for predictions that were corrected to a prior, which is part of the version that they name."""
    folder = tmp_path / "mine"
    letters = _bundle(folder, "mine-1", balanced(SEVEN))
    posterior = {one: tuple(0.7 if other is one else 0.05 for other in letters) for one in letters}
    voice = SpeakerPosteriors(corpus="one", clips=dict.fromkeys(letters, 10), posterior=posterior)
    write_confusion(PosteriorConfusion(letters=tuple(letters), spread=0.2, blur=0.0, voices=(voice,) * 6), folder)
    TimelineWriter.open(settings.database_path(), PARIS, keys()).close()
    with closing(raw(settings.database_path())) as connection:
        write_days(
            connection, PARIS, FIRST, 10, SimulatedPerson(segments=60, no_data=0, little=0, version=version_with_prior("mine-1", EVERYDAY))
        )
    with TimelineQuery.open(settings, NOW, str(folder)) as look:
        made = look.days(FIRST, FIRST + timedelta(days=9))
    with TimelineQuery.open(settings, NOW, str(folder)) as look:
        kept = look.days(FIRST, FIRST + timedelta(days=9))
    assert kept == made
    for day in made:
        assert day.speech.basis == day.speech.judged
        assert sum(day.speech.shares.values()) == pytest.approx(1)
        assert set(day.speech.shares) == set(day.speech.emotions) == set(day.speech.intervals)
        assert all(low <= day.speech.shares[letter] <= high for letter, (low, high) in day.speech.intervals.items())
        assert all(hour.speech.estimated == {} for hour in day.hours)


def test_shares_have_intervals_where_the_confusion_of_the_model_in_use_is_known(settings: TimelineConfig, tmp_path: Path) -> None:
    TimelineWriter.open(settings.database_path(), PARIS, keys()).close()
    with closing(raw(settings.database_path())) as connection:
        write_days(connection, PARIS, FIRST, DAYS, SimulatedPerson(segments=60, version="mine-1"))
    bundle = str(_measured(tmp_path / "mine", "mine-1"))
    with TimelineQuery.open(settings, NOW, bundle) as look:
        days = [day for day in look.days(date(2026, 6, 1), date(2026, 6, 30)) if day.speech.sure.segments > 10]
    assert len(days) >= 10
    for day in days:
        assert set(day.speech.intervals) >= set(read_bundle_manifest(Path(bundle)).letters)
        assert all(0 <= low <= high <= 1 for low, high in day.speech.intervals.values())
        low, high = day.speech.intervals[Emotion.NEUTRAL]
        assert low < day.speech.shares[Emotion.NEUTRAL] + 0.2
        assert high > day.speech.shares[Emotion.NEUTRAL] - 0.2


@pytest.mark.parametrize(("version", "bundle"), [("", "compact"), ("", "no such folder"), ("gone-1", "compact")])
def test_the_built_in_model_has_intervals_and_one_that_is_gone_has_none(settings: TimelineConfig, version: str, bundle: str) -> None:
    TimelineWriter.open(settings.database_path(), PARIS, keys()).close()
    with closing(raw(settings.database_path())) as connection:
        write_days(connection, PARIS, FIRST, 10, SimulatedPerson(segments=60, no_data=0, little=0, version=version))
    with TimelineQuery.open(settings, NOW, bundle) as look:
        (day,) = look.days(FIRST, FIRST)
    assert day.speech.sure.segments
    assert bool(day.speech.intervals) is not bool(version)


def test_days_judged_by_a_model_of_before_keep_their_intervals(settings: TimelineConfig, tmp_path: Path) -> None:
    """The model in use is another one by now; that of those days lies in the library."""
    _measured(state_dir() / "bundles" / "mine-1", "mine-1")
    TimelineWriter.open(settings.database_path(), PARIS, keys()).close()
    with closing(raw(settings.database_path())) as connection:
        write_days(connection, PARIS, FIRST, 10, SimulatedPerson(segments=60, no_data=0, little=0, version="mine-1"))
    with TimelineQuery.open(settings, NOW, str(_measured(tmp_path / "mine", "mine-2"))) as look:
        (day,) = look.days(FIRST, FIRST)
    assert day.speech.intervals


def test_the_model_in_use_is_the_one_that_took_the_place_of_the_configured_one(tmp_path: Path) -> None:
    config = Config()
    assert BundleRegistry.of(config).active() == "compact"
    mine = str(_measured(tmp_path / "mine", "mine-1"))
    BundleRegistry("compact", bundles_file()).activate(mine, "", NOW)
    assert BundleRegistry.of(config).active() == mine
    other = str(_measured(tmp_path / "other", "other-1"))
    assert BundleRegistry.of(Config(engine=EngineConfig(bundle=other))).active() == other
