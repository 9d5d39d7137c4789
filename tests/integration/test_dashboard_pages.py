"""The dashboard in a real browser, with a year of a made-up person: for every eye and hand, and against pages that mean harm."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from model.emotions import Emotion, Prediction
from monitor.analysis.days import Day
from monitor.storage.records import InferenceResult
from tests.support.dashboards import ZONE, Dashboard, raw_in, showing, timeline_in
from tests.support.days import SimulatedPerson, write_days

CHROMIUM = Path("/usr/bin/chromium")
TODAY = datetime.now(ZONE).date()
VIEWS = ("", "day/yesterday", "day/yesterday/pieces", "week/yesterday", "month/yesterday", "checkin", "about", "nights", "day/never")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1100, "height": 800}
PATIENCE_MS = 120_000
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("year")
    timeline_in(folder).close()
    connection = raw_in(folder)
    write_days(connection, ZONE, TODAY - timedelta(days=364), 364, SimulatedPerson(segments=60, no_data=4, seed=5))
    connection.close()
    with showing(folder) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Any name ends at this machine: what an attacker's DNS can do. Nothing else can be reached, as nothing else is there."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP * 127.0.0.1"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def session(browser: Browser, dashboard: Dashboard) -> dict[str, Any]:
    """The cookie of a person who followed a link, and the address of their first page."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(dashboard.link())
    state = {"storage_state": context.storage_state(), "place": page.url}
    context.close()
    return state


@contextmanager
def looking(browser: Browser, session: dict[str, Any], **options: Any) -> Iterator[tuple[Page, list[str]]]:
    """A page of its own, and what it complains about: errors in its console, and requests that leave the dashboard."""
    context = browser.new_context(storage_state=session["storage_state"], base_url=session["place"], viewport=DESK, **options)
    context.set_default_timeout(PATIENCE_MS)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith(session["place"]) else None)
    try:
        yield page, complaints
    finally:
        context.close()


def _serious(page: Page, *rules: str) -> list[str]:
    """What axe-core finds that keeps somebody out; by all its rules, or by those named."""
    # Not as a script element: the page's own policy would refuse it.
    page.evaluate(AXE)
    options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
    found = page.evaluate("(options) => axe.run(options)", options)["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shuts_nobody_out_and_asks_nothing_from_elsewhere(browser: Browser, session: dict[str, Any], view: str) -> None:
    with looking(browser, session) as (page, complaints):
        page.goto(view)
        for details in page.locator("details").all():
            details.locator("summary").click()
        assert _serious(page) == []
        page.emulate_media(color_scheme="dark")
        assert _serious(page, "color-contrast") == []
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert [one for one in complaints if "404" not in one] == []
        assert page.locator("h1").count() == 1
        assert page.locator("main").count() == 1


def test_charts_are_drawn_under_the_policy_and_told_in_words(browser: Browser, session: dict[str, Any]) -> None:
    with looking(browser, session) as (page, complaints):
        page.goto("month/yesterday")
        for chart in page.locator(".canvas").all():
            assert chart.locator("canvas").count() >= 1
            assert len(chart.get_attribute("aria-label") or "") > 40
        assert page.locator(".canvas").count() >= 3
        assert complaints == []


def test_without_scripts_everything_can_be_read_and_said(browser: Browser, session: dict[str, Any]) -> None:
    with looking(browser, session, java_script_enabled=False) as (page, complaints):
        page.goto("week/yesterday")
        assert page.locator("table tbody tr").first.is_visible()
        assert page.locator("figure").first.is_hidden()
        page.goto("checkin")
        page.get_by_label("slightly pleasant").check()
        page.get_by_label("neutral").check()
        page.get_by_role("button", name="Save").click()
        expect(page.locator("body")).to_contain_text("Your check-in is stored", timeout=PATIENCE_MS)
        assert complaints == []


def test_a_checkin_and_a_correction_need_no_mouse(browser: Browser, session: dict[str, Any], dashboard: Dashboard) -> None:
    with looking(browser, session) as (page, complaints):
        page.goto("checkin")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        for key in ("Space", "ArrowDown", "Tab", "Space", "Tab"):
            page.keyboard.press(key)
        page.keyboard.type("by keyboard")
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        expect(page.locator(".done")).to_be_focused(timeout=PATIENCE_MS)
        page.goto("day/yesterday/pieces")
        page.locator(".pieces select").first.focus()
        page.keyboard.type("fear")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator(".pieces .done")).to_be_focused(timeout=PATIENCE_MS)
        assert "your label: fear" in page.locator(".pieces").inner_text()
        assert complaints == []
    now = datetime.now(UTC)
    with dashboard.reader() as reader:
        (kept,) = [one for one in reader.checkins_between(now - timedelta(minutes=10), now) if one.note == "by keyboard"]
        yesterday = Day(TODAY - timedelta(days=1), ZONE)
        said = [entry.correction.emotion for entry in reader.segments_between(yesterday.start, yesterday.end) if entry.correction]
    assert (round(kept.valence, 2), kept.emotion) == (-0.67, Emotion.HAPPY)
    assert Emotion.FEAR in said


def test_what_is_heard_now_appears_by_itself(browser: Browser, session: dict[str, Any], dashboard: Dashboard) -> None:
    with looking(browser, session) as (page, complaints):
        page.goto("")
        before = page.locator("#day").inner_text()
        page.wait_for_timeout(1500)
        now = datetime.now(UTC)
        with timeline_in(dashboard.folder) as timeline:
            place = {"start_sample": 0, "end_sample": 1, "start_at": now - timedelta(seconds=3), "end_at": now}
            number = timeline.add_segment(**place, sound=b"\0\0")
            timeline.judge({number: InferenceResult(Prediction({Emotion.SURPRISE: 0.9, Emotion.SAD: 0.1}, False, "compact-1"))})
        expect(page.locator("#day")).to_contain_text("surprise 90 %", timeout=PATIENCE_MS)
        assert before != page.locator("#day").inner_text()
        assert complaints == []


_ATTACK = """
async (place) => {
  const got = [];
  const tell = (what) => got.push(what);
  const settled = (element, what) => new Promise((done) => {
    element.onload = () => { tell(what); done(); };
    element.onerror = done;
    setTimeout(done, 3000);
  });
  for (const mode of ["cors", "same-origin", "no-cors"])
    await fetch(place, { mode, credentials: "include" }).then(async (answer) => {
      if ((await answer.text()).length) tell("fetch " + mode);
    }).catch(() => null);
  await fetch(place + "checkin", { method: "POST", mode: "no-cors", credentials: "include",
    body: new URLSearchParams({ valence: "1", emotion: "C" }) }).catch(() => null);
  const image = new Image();
  image.src = place + "static/icon.svg";
  await settled(image, "image");
  const script = document.createElement("script");
  script.src = place + "static/app.js";
  document.head.append(script);
  await settled(script, "script");
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = place + "static/app.css";
  document.head.append(style);
  await settled(style, "style");
  const news = new EventSource(place + "live", { withCredentials: true });
  news.onopen = () => tell("events");
  try {
    const line = new WebSocket(place.replace("http", "ws") + "live");
    line.onopen = () => tell("websocket");
  } catch { }
  const frame = document.createElement("iframe");
  frame.src = place;
  document.body.append(frame);
  await new Promise((done) => setTimeout(done, 1500));
  try { if (frame.contentDocument.body.innerHTML) tell("frame"); } catch { }
  return got;
}
"""


class _Quiet(BaseHTTPRequestHandler):
    """An attacker's page, and what their server gets to see."""

    def __init__(self, seen: list[str], *arguments: Any) -> None:
        self._seen = seen
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._seen.append(self.headers.get("Cookie", ""))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><body>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def attacker() -> Iterator[tuple[int, list[str]]]:
    seen: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, seen)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, seen
        server.shutdown()


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1", "localhost"])
def test_a_page_from_elsewhere_gets_and_changes_nothing(
    browser: Browser, session: dict[str, Any], dashboard: Dashboard, attacker: tuple[int, list[str]], host: str
) -> None:
    port, seen = attacker
    context: BrowserContext = browser.new_context(storage_state=session["storage_state"])
    page = context.new_page()
    page.goto(f"http://{host}:{port}/")
    assert page.evaluate(_ATTACK, session["place"]) == []
    page.set_content(
        f'<form method="post" action="{session["place"]}checkin"><input name="valence" value="1"><input name="emotion" value="C">'
        "<button>Win</button></form>"
    )
    page.get_by_role("button").click()
    expect(page.locator("body")).to_contain_text("Access denied", timeout=PATIENCE_MS)
    context.close()
    assert not any(seen), "no other port gets the cookie"
    now = datetime.now(UTC)
    with dashboard.reader() as reader:
        assert Emotion.CONTEMPT not in [one.emotion for one in reader.checkins_between(now - timedelta(days=1), now)]


def test_another_name_that_leads_to_this_machine_gets_nothing(browser: Browser, session: dict[str, Any]) -> None:
    """DNS rebinding: the attacker's own name, at the dashboard's port, is the attacker's own origin."""
    context = browser.new_context(storage_state=session["storage_state"])
    page = context.new_page()
    port = session["place"].split(":")[2].split("/")[0]
    answer = page.goto(session["place"].replace("127.0.0.1", "rebound.example"))
    assert answer is not None
    assert (answer.status, f":{port}/" in page.url) == (403, True)
    assert "Access denied" in page.content()
    context.close()
