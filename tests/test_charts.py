"""Charts: every kind of day is drawn, nothing that is missing looks like something, and the SVG asks nobody for anything."""

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from xml.etree import ElementTree

import pytest

from model.types import Emotion
from monitor.charts import of_day, of_days, palette
from monitor.charts.frame import Option
from monitor.charts.render import Drawing
from monitor.day.days import Day
from monitor.day.summarizing import summarize
from monitor.store.records import Coverage
from tests.some_days import DAY, PARIS, checkins, coverage, empty_day, entries, full_day, story

DAYS = {
    "full": full_day(),
    "empty": empty_day(),
    "one segment": summarize(DAY, entries(count=1), [], DAY.end),
    "not over": summarize(DAY, entries(), coverage(), DAY.start + timedelta(hours=10)),
    "silent": summarize(DAY, [], coverage(), DAY.end),
    "23 hours": full_day(Day(date(2026, 3, 29), PARIS)),
    "25 hours": full_day(Day(date(2026, 10, 25), PARIS)),
}
STORY = story()
OPTIONS: dict[str, Option] = {
    **{f"strip, {name}": of_day.strip(day, entries(day.day)) for name, day in DAYS.items()},
    **{f"hours, {name}": of_day.hours(day) for name, day in DAYS.items()},
    **{f"valence, {name}": of_day.valence(day, checkins(day.day)) for name, day in DAYS.items()},
    **{f"trend of {key}": of_days.trend(trend) for key, trend in STORY.trends.items()},
    "trend with self-report": of_days.trend(STORY.trends["valence"], {DAY.on: [0.5, -0.5]}),
    "coverage": of_days.coverage(STORY.days),
    "shares": of_days.shares(STORY.days),
    "calendar": of_days.calendar(STORY.days),
    "coverage of nothing": of_days.coverage([empty_day()]),
    "shares of nothing": of_days.shares([empty_day()]),
    "calendar of nothing": of_days.calendar([empty_day()]),
}


@pytest.fixture(scope="module")
def drawing() -> Iterator[Drawing]:
    with Drawing() as made:
        yield made


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_chart_is_drawn_with_words_and_asks_for_nothing(option: Option, drawing: Drawing) -> None:
    assert json.loads(json.dumps(option)) == option
    svg = drawing.svg(option, 720, 160)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 30
    assert "NaN" not in svg
    assert not re.search(r"<script|<style|href=|@import|url\((?!#)|\bon\w+=", svg)


def test_a_day_without_data_has_no_bar_and_no_point() -> None:
    assert not [series for series in of_day.hours(empty_day())["series"] if series.get("stack")]
    assert "not known for any hour" in _words(of_day.valence(empty_day(), []))
    trend = of_days.trend(STORY.trends["valence"])
    line = next(series for series in trend["series"] if series.get("name") == "estimate")
    missing = [number for number, day in enumerate(STORY.days) if not day.heard_s]
    assert missing == [5, 6, 17]
    assert [line["data"][number]["value"] for number in missing] == [None] * 3
    hatched = next(series for series in trend["series"] if series.get("name") == "NO DATA")
    assert [number for number, there in enumerate(hatched["data"]) if there] == missing


def test_a_calendar_says_no_data_and_never_neutral_for_a_day_without() -> None:
    (cell,) = of_days.calendar([empty_day()])["series"][0]["data"]
    assert cell["label"]["formatter"] == "14\nNO DATA"
    assert cell["itemStyle"]["color"] == palette.NOT_HEARD.colour


def test_a_calendar_gives_no_day_the_colour_of_a_few_seconds() -> None:
    few = summarize(DAY, entries(count=3), coverage(), DAY.end)
    assert 0 < few.speech.sure.seconds < 60
    (cell,) = of_days.calendar([few])["series"][0]["data"]
    assert cell["label"]["formatter"].startswith("14\ntoo little")
    assert cell["itemStyle"]["color"] == palette.UNJUDGED.colour


@pytest.mark.parametrize(("name", "hours"), [("23 hours", 23), ("25 hours", 25), ("full", 24)])
def test_the_clock_axis_has_the_hours_of_the_day(name: str, hours: int) -> None:
    assert len(of_day.hours(DAYS[name])["xAxis"]["data"]) == hours


def test_a_corrected_segment_stands_in_the_row_the_person_named() -> None:
    said = [entry for entry in entries() if entry.correction]
    option = of_day.strip(summarize(DAY, said, coverage(), DAY.end), said)
    assert "Stretches of speech by emotion: sad " in _words(option)


def test_a_new_model_is_marked_where_it_begins() -> None:
    line = next(series for series in of_days.trend(STORY.trends["valence"])["series"] if "markLine" in series)
    assert line["markLine"]["data"] == [{"xAxis": 20}]


def test_every_emotion_and_every_kind_of_coverage_has_its_own_colour_or_pattern() -> None:
    for inks, all_of in ((palette.EMOTIONS, Emotion), (palette.COVERAGE, Coverage)):
        looks = [json.dumps(ink.item_style, sort_keys=True) for ink in inks.values()]
        assert set(inks) == set(all_of)
        assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("ink", [*palette.EMOTIONS.values(), *palette.COVERAGE.values()], ids=lambda ink: ink.colour)
def test_text_upon_a_colour_and_its_edge_upon_white_can_be_read(ink: palette.Ink) -> None:
    assert _contrast(ink.colour, ink.on) >= 4.5
    if ink.colour != "#ffffff":
        assert _contrast(ink.edge, "#ffffff") >= 3


def _words(option: Option) -> str:
    words: str = option["aria"]["label"]["description"]
    return words


def _contrast(first: str, second: str) -> float:
    """WCAG 2.2, 1.4.3."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
