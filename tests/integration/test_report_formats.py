"""Charts, pages, PDF and FHIR: each stands alone, is valid and accessible, and shows what is missing."""

import json
import os
import re
import shutil
import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from axe_playwright_python.sync_playwright import Axe
from fhir.resources.R4B.bundle import Bundle
from playwright.sync_api import Browser, sync_playwright

from model.emotions import Emotion
from monitor.analysis.days import Day
from monitor.analysis.formatting import DISCLAIMER
from monitor.analysis.summarize import summarize
from monitor.analysis.summary import Amount
from monitor.reports.charts import day_charts, period_charts, style
from monitor.reports.charts.render import ChartRenderer
from monitor.reports.charts.style import ChartOption
from monitor.reports.clinician_sheet import to_clinician_sheet
from monitor.reports.data import ReportData
from monitor.reports.fhir import to_fhir
from monitor.reports.html_report import to_html
from monitor.reports.pdf import to_pdf
from monitor.storage.records import Coverage
from tests.support.days import CONTACTS, DAY, PARIS, checkins, coverage, empty_day, entries, full_day, of_days, of_one_day, story

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
OPTIONS: dict[str, ChartOption] = {
    **{f"strip, {name}": day_charts.timeline_chart(day, entries(day.day)) for name, day in DAYS.items()},
    **{f"hours, {name}": day_charts.speech_by_hour_chart(day) for name, day in DAYS.items()},
    **{f"valence, {name}": day_charts.valence_by_hour_chart(day, checkins(day.day)) for name, day in DAYS.items()},
    **{f"trend of {key}": period_charts.trend_chart(trend) for key, trend in STORY.trends.items()},
    "trend with self-report": period_charts.trend_chart(STORY.trends["valence"], {DAY.on: [0.5, -0.5]}),
    "coverage": period_charts.coverage_chart(STORY.days),
    "shares": period_charts.shares_chart(STORY.days),
    "calendar": period_charts.calendar_chart(STORY.days),
    "coverage of nothing": period_charts.coverage_chart([empty_day()]),
    "shares of nothing": period_charts.shares_chart([empty_day()]),
    "calendar of nothing": period_charts.calendar_chart([empty_day()]),
}


@pytest.fixture(scope="module")
def drawing() -> Iterator[ChartRenderer]:
    with ChartRenderer() as made:
        yield made


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_chart_is_drawn_with_words_and_asks_for_nothing(option: ChartOption, drawing: ChartRenderer) -> None:
    assert json.loads(json.dumps(option)) == option
    svg = drawing.svg(option, 720, 160)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 30
    assert "NaN" not in svg
    assert not re.search(r"<script|<style|href=|@import|url\((?!#)|\bon\w+=", svg)


def test_a_day_without_data_has_no_bar_and_no_point() -> None:
    assert not [series for series in day_charts.speech_by_hour_chart(empty_day())["series"] if series.get("stack")]
    assert "unknown for every hour" in _words(day_charts.valence_by_hour_chart(empty_day(), []))
    trend = period_charts.trend_chart(STORY.trends["valence"])
    line = next(series for series in trend["series"] if series.get("name") == "estimate")
    missing = [number for number, day in enumerate(STORY.days) if not day.heard_s]
    assert missing == [5, 6, 17]
    assert [line["data"][number]["value"] for number in missing] == [None] * 3
    hatched = next(series for series in trend["series"] if series.get("name") == "NO DATA")
    assert [number for number, there in enumerate(hatched["data"]) if there] == missing


def test_a_calendar_says_no_data_and_never_neutral_for_a_day_without() -> None:
    (cell,) = period_charts.calendar_chart([empty_day()])["series"][0]["data"]
    assert cell["label"]["formatter"] == "14\nNO DATA"
    assert cell["itemStyle"]["color"] == style.NOT_RECORDED_FILL.colour


def test_a_calendar_gives_no_day_the_colour_of_a_few_seconds() -> None:
    few = summarize(DAY, entries(count=3), coverage(), DAY.end)
    assert 0 < few.speech.sure.seconds < 60
    (cell,) = period_charts.calendar_chart([few])["series"][0]["data"]
    assert cell["label"]["formatter"].startswith("14\ntoo little")
    assert cell["itemStyle"]["color"] == style.UNJUDGED_FILL.colour


@pytest.mark.parametrize(("name", "hours"), [("23 hours", 23), ("25 hours", 25), ("full", 24)])
def test_the_clock_axis_has_the_hours_of_the_day(name: str, hours: int) -> None:
    assert len(day_charts.speech_by_hour_chart(DAYS[name])["xAxis"]["data"]) == hours


def test_a_corrected_segment_stands_in_the_row_the_person_named() -> None:
    said = [entry for entry in entries() if entry.correction]
    option = day_charts.timeline_chart(summarize(DAY, said, coverage(), DAY.end), said)
    assert "Speech segments by emotion: sad " in _words(option)


def test_a_new_model_is_marked_where_it_begins() -> None:
    line = next(series for series in period_charts.trend_chart(STORY.trends["valence"])["series"] if "markLine" in series)
    assert line["markLine"]["data"] == [{"xAxis": 20}]


def test_every_emotion_and_every_kind_of_coverage_has_its_own_colour_or_pattern() -> None:
    for inks, all_of in ((style.EMOTION_FILLS, Emotion), (style.COVERAGE_FILLS, Coverage)):
        looks = [json.dumps(ink.item_style, sort_keys=True) for ink in inks.values()]
        assert set(inks) == set(all_of)
        assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("ink", [*style.EMOTION_FILLS.values(), *style.COVERAGE_FILLS.values()], ids=lambda ink: ink.colour)
def test_text_upon_a_colour_and_its_edge_upon_white_can_be_read(ink: style.FillStyle) -> None:
    assert _contrast(ink.colour, ink.on) >= 4.5
    if ink.colour != "#ffffff":
        assert _contrast(ink.edge, "#ffffff") >= 3


def _words(option: ChartOption) -> str:
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


CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
FULL, WEEKS = of_one_day(said=checkins(), segments=entries()), of_days(story(14, change_at=8))
PAGE_DATA = {
    "full day": FULL,
    "no data": of_one_day(empty_day()),
    "one segment": of_one_day(summarize(DAY, entries(count=1), [], DAY.end), segments=entries(count=1)),
    "silent": of_one_day(summarize(DAY, [], coverage(), DAY.end)),
    "not over": of_one_day(summarize(DAY, entries(), coverage(), DAY.start + timedelta(hours=10)), segments=entries()),
    "23 hours": of_one_day(full_day(Day(date(2026, 3, 29), PARIS))),
    "25 hours": of_one_day(full_day(Day(date(2026, 10, 25), PARIS))),
    "weeks": WEEKS,
    "weeks of nothing": of_days(story(7, without=range(7), change_at=None)),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.mark.parametrize("material", PAGE_DATA.values(), ids=PAGE_DATA.keys())
def test_a_page_stands_alone_and_says_what_it_is_not(material: ReportData) -> None:
    page = to_html(material)
    assert not re.search(r"<script|<link|<img|https?://(?!www\.w3\.org/)|@import|url\((?!#)", page)
    assert DISCLAIMER in page
    assert all(contact in page for contact in CONTACTS)
    assert "private note" not in page


def test_a_day_without_data_shows_no_chart_and_no_emotion() -> None:
    page = to_html(PAGE_DATA["no data"])
    assert "NO DATA: nothing was recorded" in page
    assert "<svg" not in page
    assert not re.search("neutral|happy|sad", page)


def test_days_without_data_are_named_in_the_table_of_a_period() -> None:
    page = to_html(WEEKS)
    assert page.count('<tr class="nodata">') >= 2
    assert page.count("<svg") == 5


def test_text_of_the_person_cannot_become_markup() -> None:
    page = to_html(replace(FULL, contacts=("<script>alert(1)</script>",)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_sheet_tells_limits_accuracy_coverage_and_the_patient_only_if_named() -> None:
    sheet = to_clinician_sheet(WEEKS, "compact")
    for words in ("It does not transcribe", "95 % interval", "chance", "NO DATA", "whose accuracy is not known here", DISCLAIMER):
        assert words in sheet
    assert "Patient:" not in sheet
    assert "Patient: <strong>A. N. Other</strong>" in to_clinician_sheet(of_days(story(14), patient="A. N. Other"), "compact")
    assert "could not be read" in to_clinician_sheet(WEEKS, "/nowhere")


@needs_chromium
@pytest.mark.parametrize("kind", ["day", "weeks", "sheet"])
def test_a_browser_asks_for_nothing_complains_of_nothing_and_finds_no_barrier(kind: str, tmp_path: Path, browser: Browser) -> None:
    made = {"day": lambda: to_html(FULL), "weeks": lambda: to_html(WEEKS), "sheet": lambda: to_clinician_sheet(WEEKS, "compact")}[kind]()
    (tmp_path / "report.html").write_text(made, encoding="utf-8")
    page = browser.new_page(bypass_csp=True)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    found = Axe().run(page).response["violations"]
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()
    assert asked == [(tmp_path / "report.html").as_uri()]
    assert said == []
    assert [violation["id"] for violation in found if violation["impact"] in ("serious", "critical")] == []


PAGES: dict[str, Callable[[], str]] = {
    "full day": lambda: to_html(of_one_day(said=checkins(), segments=entries())),
    "25 hours": lambda: to_html(of_one_day(full_day(Day(date(2026, 10, 25), PARIS)), segments=entries(Day(date(2026, 10, 25), PARIS)))),
    "no data": lambda: to_html(of_one_day(empty_day())),
    "crowded day": lambda: _crowded(),
    "sheet": lambda: to_clinician_sheet(of_days(patient="A. N. Other"), "compact"),
}


def _crowded() -> str:
    """As much as can be on a day: every contact at its longest, many sentences, many reasons."""
    contacts = tuple(f"{number} " + "somebody with a long name, " * 3 for number in range(5))
    word = tuple(
        f"Sentence {number}, which goes on and on and on, as sentences of statistics do: {'1.00 to 2.00, ' * 5}." for number in range(6)
    )
    given_up = {f"reason {number}: the engine did not start": Amount(1, 20.0) for number in range(4)}
    day = full_day()
    crowded = replace(day, speech=replace(day.speech, unjudged=given_up))
    return to_html(replace(of_one_day(crowded, checkins(), entries()), contacts=contacts, self_report=word))


@pytest.mark.parametrize("made", PAGES.values(), ids=PAGES.keys())
def test_a_day_and_a_sheet_are_one_page_of_a4(made: Callable[[], str]) -> None:
    pdf = to_pdf(made(), one_sheet=True)
    assert pdf.startswith(b"%PDF-")
    assert _pages(pdf) == 1


def _pages(pdf: bytes) -> int:
    """How many pages are among its objects, which are compressed."""
    streams = [zlib.decompressobj().decompress(stream) for stream in re.findall(rb"stream\r?\n(x.*?)endstream", pdf, re.DOTALL)]
    return len(re.findall(rb"/Type ?/Page\b", b"\n".join([pdf, *streams])))


def test_a_page_that_asks_for_something_from_outside_does_not_get_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        assert to_pdf(f"<html lang=en><title>x</title><img src='{address}' alt='x'><img src='file:///etc/hostname' alt='y'>").startswith(
            b"%PDF-"
        )
        with pytest.raises(TimeoutError):
            server.accept()


FHIR_DATA = {
    "full day": of_one_day(said=checkins()),
    "no data": of_one_day(empty_day()),
    "one segment": of_one_day(summarize(DAY, entries(count=1), [], DAY.end)),
    "silent": of_one_day(summarize(DAY, [], coverage(), DAY.end)),
    "not over": of_one_day(summarize(DAY, entries(), coverage(), DAY.start + timedelta(hours=10))),
    "23 hours": of_one_day(full_day(Day(date(2026, 3, 29), PARIS))),
    "25 hours": of_one_day(full_day(Day(date(2026, 10, 25), PARIS))),
    "weeks": of_days(story(14)),
}
PHR = "http://hl7.org/fhir/uv/phr"
PROFILE = f"{PHR}/StructureDefinition/pghd-observation-state-of-mind"
every_material = pytest.mark.parametrize("material", FHIR_DATA.values(), ids=FHIR_DATA.keys())


def observations(material: ReportData) -> list[dict[str, Any]]:
    return _observations(to_fhir(material))


def _observations(text: str) -> list[dict[str, Any]]:
    resources = [entry["resource"] for entry in json.loads(text)["entry"]]
    return [resource for resource in resources if resource["resourceType"] == "Observation"]


def parts(observation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["code"]["coding"][0]["code"]: part for part in observation.get("component", [])}


@every_material
def test_every_bundle_is_valid_and_every_reference_leads_to_an_entry(material: ReportData) -> None:
    text = to_fhir(material)
    Bundle.model_validate_json(text)
    names = [entry["fullUrl"] for entry in json.loads(text)["entry"]]
    assert len(set(names)) == len(names)
    for observation in _observations(text):
        assert observation["subject"]["reference"] in names
        assert observation.get("device", observation["subject"])["reference"] in names


@every_material
def test_every_moment_carries_the_offset_of_its_zone(material: ReportData) -> None:
    for observation in observations(material):
        moments = [*observation.get("effectivePeriod", {}).values(), observation.get("effectiveDateTime"), observation["issued"]]
        for text in filter(None, moments):
            moment = datetime.fromisoformat(text)
            assert moment.utcoffset() == moment.astimezone(PARIS).utcoffset()


def test_a_day_of_25_hours_ends_with_another_offset_than_it_began() -> None:
    (day,) = observations(FHIR_DATA["25 hours"])
    assert day["effectivePeriod"] == {"start": "2026-10-25T00:00:00+02:00", "end": "2026-10-26T00:00:00+01:00"}


@every_material
def test_an_observation_has_a_valence_or_a_reason_why_not(material: ReportData) -> None:
    for observation in observations(material):
        assert ("dataAbsentReason" in observation) != ("valence" in parts(observation))
        for part in observation.get("component", []):
            assert sum(key.startswith("value") or key == "dataAbsentReason" for key in part) == 1


def test_a_day_without_data_has_a_reason_and_no_value_at_all() -> None:
    (day,) = observations(FHIR_DATA["no data"])
    assert day["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "component" not in day
    assert not [key for key in day if key.startswith("value")]
    (silent,) = observations(FHIR_DATA["silent"])
    assert silent["dataAbsentReason"]["coding"][0]["code"] == "unknown"
    assert set(parts(silent)) == {"heard", "speech"}


def test_only_what_the_person_said_claims_the_profile_with_all_its_parts() -> None:
    day, *said = observations(FHIR_DATA["full day"])
    assert "meta" not in day
    assert day["method"]["coding"][0]["code"] == "speech-emotion-recognition"
    assert parts(day)["kind"]["valueCodeableConcept"]["coding"][0]["code"] == "dailyMood"
    assert len(said) == 3
    for one in said:
        assert one["meta"]["profile"] == [PROFILE]
        assert one["category"][0]["coding"][0]["code"] == "survey"
        assert parts(one)["kind"]["valueCodeableConcept"]["coding"][0]["code"] == "momentaryEmotion"
        assert {"kind", "valence", "valenceClassification", "labels", "associations"} <= set(parts(one))
        assert "device" not in one
    labels = [parts(one)["labels"] for one in said]
    assert [label.get("valueCodeableConcept", {}).get("coding", [{}])[0].get("code") for label in labels] == ["happy", "sad", None]
    assert labels[2]["dataAbsentReason"]["coding"][0]["code"] == "unsupported"


@pytest.mark.parametrize(
    ("valence", "name"),
    [(-1, "veryUnpleasant"), (-0.5, "unpleasant"), (-0.2, "slightlyUnpleasant"), (0, "neutral"), (0.43, "pleasant"), (1, "veryPleasant")],
)
def test_valences_are_classified_in_seven_equal_parts(valence: float, name: str) -> None:
    said = replace(checkins()[0], valence=valence)
    found = parts(observations(of_one_day(said=[said]))[1])
    assert found["valenceClassification"]["valueCodeableConcept"]["coding"][0]["code"] == name


@pytest.mark.parametrize("emotion", list(Emotion))
def test_every_emotion_can_be_said(emotion: Emotion) -> None:
    one = observations(of_one_day(said=[replace(checkins()[0], emotion=emotion)]))[1]
    assert parts(one)["emotion"]["valueCodeableConcept"]["text"] == emotion.word


def test_nobody_is_named_and_no_note_is_told_unless_the_settings_name_somebody() -> None:
    text = to_fhir(FHIR_DATA["full day"])
    assert "private note" not in text
    assert json.loads(text)["entry"][0]["resource"] == {"resourceType": "Patient"}
    named = json.loads(to_fhir(of_days(story(7), patient="A. N. Other")))["entry"][0]["resource"]
    assert named["name"] == [{"text": "A. N. Other"}]


def test_the_device_is_the_model_that_judged() -> None:
    resources = [entry["resource"] for entry in json.loads(to_fhir(of_days()))["entry"]]
    versions = [device["version"][1]["value"] for device in resources if device["resourceType"] == "Device"]
    assert versions == ["compact-5c1ad689", "compact-77aa10bc"]
