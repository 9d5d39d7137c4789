"""Pages: they stand alone, can be read by everybody, show what is missing, and hold nothing that was said."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from monitor.day.days import Day
from monitor.day.summarizing import summarize
from monitor.day.wording import NOTICE
from monitor.report.material import Material
from monitor.report.page import to_page
from monitor.report.sheet import to_sheet
from tests.some_days import CONTACTS, DAY, PARIS, checkins, coverage, empty_day, entries, full_day, of_days, of_one_day, story

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
FULL, WEEKS = of_one_day(said=checkins(), segments=entries()), of_days(story(14, change_at=8))
MATERIALS = {
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


@pytest.mark.parametrize("material", MATERIALS.values(), ids=MATERIALS.keys())
def test_a_page_stands_alone_and_says_what_it_is_not(material: Material) -> None:
    page = to_page(material)
    assert not re.search(r"<script|<link|<img|https?://(?!www\.w3\.org/)|@import|url\((?!#)", page)
    assert NOTICE in page
    assert all(contact in page for contact in CONTACTS)
    assert "private note" not in page


def test_a_day_without_data_shows_no_chart_and_no_emotion() -> None:
    page = to_page(MATERIALS["no data"])
    assert "NO DATA: nothing was heard" in page
    assert "<svg" not in page
    assert not re.search("neutral|happy|sad", page)


def test_days_without_data_are_named_in_the_table_of_a_period() -> None:
    page = to_page(WEEKS)
    assert page.count('<tr class="nodata">') >= 2
    assert page.count("<svg") == 5


def test_text_of_the_person_cannot_become_markup() -> None:
    page = to_page(replace(FULL, contacts=("<script>alert(1)</script>",)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_sheet_tells_limits_accuracy_coverage_and_the_patient_only_if_named() -> None:
    sheet = to_sheet(WEEKS, "compact")
    for words in ("It does not transcribe.", "95 % interval", "by chance", "NO DATA", "whose figures are not known here", NOTICE):
        assert words in sheet
    assert "About:" not in sheet
    assert "About: <strong>A. N. Other</strong>" in to_sheet(of_days(story(14), patient="A. N. Other"), "compact")
    assert "could not be read" in to_sheet(WEEKS, "/nowhere")


@needs_chromium
@pytest.mark.parametrize("kind", ["day", "weeks", "sheet"])
def test_a_browser_asks_for_nothing_complains_of_nothing_and_finds_no_barrier(kind: str, tmp_path: Path, browser: Browser) -> None:
    made = {"day": lambda: to_page(FULL), "weeks": lambda: to_page(WEEKS), "sheet": lambda: to_sheet(WEEKS, "compact")}[kind]()
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
