"""Who gets into the dashboard, who does not, and what the person can change there."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import httpx
import pytest

from model.emotions import Emotion, Prediction
from monitor.control import ControlServer
from monitor.dashboard.auth import LINK_LIFETIME_S, SECURITY_HEADERS, SESSION_IDLE_S, Sessions
from monitor.dashboard.view_models import PeriodLength, page_period
from monitor.paths import DatabaseFiles
from monitor.storage.records import Coverage, InferenceResult
from tests.support.commands import own_address
from tests.support.dashboards import ZONE, Dashboard, showing, timeline_in

YESTERDAY = datetime.now(ZONE).date() - timedelta(days=1)
SPOKEN_AT = datetime.combine(YESTERDAY, time(12), ZONE).astimezone(UTC)
A_WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """Yesterday has three pieces of speech: sad, sad, and one that waits."""
    folder = tmp_path_factory.mktemp("dashboard")
    with timeline_in(folder) as timeline:
        ids = [
            timeline.add_segment(
                start_sample=number,
                end_sample=number + 1,
                start_at=SPOKEN_AT + timedelta(seconds=10 * number),
                end_at=SPOKEN_AT + timedelta(seconds=10 * number + 4),
                sound=b"\0\0",
            )
            for number in range(3)
        ]
        timeline.cover(Coverage.HEARD, SPOKEN_AT, SPOKEN_AT + timedelta(minutes=5))
        timeline.judge(
            {number: InferenceResult(Prediction({Emotion.SAD: 0.8, Emotion.NEUTRAL: 0.2}, False, "compact-1")) for number in ids[:2]}
        )
    with showing(folder, '[report]\ncontacts = ["Dr. A. Example, 01 23 45"]\n') as running:
        yield running


@pytest.fixture
def client(dashboard: Dashboard) -> Iterator[httpx.Client]:
    with dashboard.client() as entered:
        yield entered


def _cookie(client: httpx.Client) -> str:
    return f"emosllm={client.cookies['emosllm']}"


def _piece(segment: int, seen: int | None) -> dict[str, str]:
    return {"segment": str(segment), "seen": "" if seen is None else str(seen), "day": str(YESTERDAY), "hour": "12"}


def test_a_link_lets_one_browser_in_once_and_is_gone_from_its_address(dashboard: Dashboard) -> None:
    link = dashboard.link()
    entered = httpx.get(link)
    assert entered.status_code == 303
    secret = link.split("=")[1]
    assert secret not in entered.headers["location"]
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert f"Path={entered.headers['location'].rstrip('/')}" in cookie
    assert "Max-Age" not in cookie
    assert secret not in cookie
    assert httpx.get(link).status_code == 403
    assert httpx.get(link[:-1]).status_code == 403


def test_without_a_session_there_is_nothing_not_even_a_page_that_is_missing(dashboard: Dashboard, client: httpx.Client) -> None:
    place = client.base_url.path
    answers = [
        httpx.get(f"{dashboard.origin}{path}", headers=headers)
        for path in ("/", "/docs", place, f"{place}static/app.css", f"{place}live", f"{place}nowhere", "/enter", "/enter?link=guess")
        for headers in ({}, {"Cookie": "emosllm=guess"}, {"Cookie": 'emosllm="\\'})
    ]
    answers.append(httpx.get(f"{dashboard.origin}/elsewhere/", headers={"Cookie": _cookie(client)}))
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize("path", ["", "static/app.css", "charts/echarts.min.js", "nowhere", "day/2999-01-01", "openapi.json", "docs"])
def test_every_answer_is_kept_by_nobody_and_may_load_nothing_from_elsewhere(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.headers.items() >= {name.lower(): value for name, value in SECURITY_HEADERS.items()}.items()
    assert answer.status_code == (404 if path in ("nowhere", "day/2999-01-01", "openapi.json", "docs") else 200)
    assert not {"server", "date", "access-control-allow-origin"} & set(answer.headers)


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_another_name_for_this_machine_gets_nothing(client: httpx.Client, host: str) -> None:
    name = host.format(port=client.base_url.port)
    answer = client.get("", headers={"Host": name, "Origin": f"http://{name}"})
    assert answer.status_code in (400, 403)
    assert "emosllm-monitor</title>" not in answer.text


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_what_another_page_causes_is_refused(client: httpx.Client, site: str) -> None:
    assert client.get("", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert client.get("", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://attacker.example", "null", "http://127.0.0.1:1", "https://{host}", "http://{host}.attacker.example", None]
)
def test_a_change_must_come_from_a_page_of_the_dashboard(dashboard: Dashboard, client: httpx.Client, origin: str | None) -> None:
    del client.headers["Origin"]
    headers = {} if origin is None else {"Origin": origin.format(host=client.base_url.netloc.decode())}
    answer = client.post("checkin", data={"valence": "1", "emotion": "H"}, headers=headers)
    assert answer.status_code == 403
    with dashboard.reader() as reader:
        now = datetime.now(UTC)
        assert not [one for one in reader.checkins_between(now - A_WEEK, now + A_WEEK) if one.emotion is Emotion.HAPPY]


def test_it_listens_on_the_loopback_address_only(dashboard: Dashboard, client: httpx.Client) -> None:
    for address in (own_address(), "127.0.0.2"):
        with socket.socket() as outside, pytest.raises(ConnectionRefusedError):
            outside.connect((address, client.base_url.port or 0))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_of_this_machine_gets_nothing_even_with_the_link_or_the_cookie(dashboard: Dashboard, client: httpx.Client) -> None:
    code = (
        "import http.client, sys\n"
        "port, path, cookie = sys.argv[1:]\n"
        "asking = http.client.HTTPConnection('127.0.0.1', int(port))\n"
        "asking.request('GET', path, headers={'Cookie': cookie})\n"
        "print(asking.getresponse().status)"
    )
    link = httpx.URL(dashboard.link())
    for path, user in ((client.base_url.path, 65_534), (link.raw_path.decode(), 65_534), (client.base_url.path, 0)):
        done = subprocess.run(
            ["/usr/bin/python3", "-c", code, str(client.base_url.port), path, _cookie(client)], user=user, capture_output=True, text=True
        )
        assert done.stdout.strip() == ("200" if user == 0 else "403"), done.stderr
    assert httpx.get(link).status_code == 303, "the link still waits for whom it is meant for"


def test_locked_pages_answer_no_more(client: httpx.Client) -> None:
    assert client.get("").status_code == 200
    left = client.post("leave")
    assert "Locked" in left.text
    assert left.headers["clear-site-data"]
    assert client.get("").status_code == 403


def test_sessions_end_when_nobody_does_anything_and_links_when_nobody_follows_them() -> None:
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    late = sessions.invite()
    session = sessions.enter(sessions.invite())
    assert session is not None
    now[0] += LINK_LIFETIME_S + 1
    assert sessions.enter(late) is None
    now[0] += SESSION_IDLE_S - LINK_LIFETIME_S - 2
    assert sessions.lasts(session, used=True)
    now[0] += SESSION_IDLE_S - 1
    assert sessions.lasts(session), "news for an open page keep no session"
    now[0] += 2
    assert not sessions.lasts(session, used=True)
    assert not sessions.lasts("")


def test_what_is_printed_tells_links_and_nothing_of_who_looked_at_what(dashboard: Dashboard, client: httpx.Client) -> None:
    client.get("day/yesterday")
    client.get("nowhere?on=2026-01-01")
    dashboard.link()
    assert "yesterday" not in dashboard.output
    assert "nowhere" not in dashboard.output
    assert "GET" not in dashboard.output


def test_every_page_says_what_it_is_not_and_whom_to_call(client: httpx.Client) -> None:
    for page in ("", "day/yesterday", "day/yesterday/pieces", "week/today", "month/today", "checkin", "about", "nights", "nowhere"):
        text = client.get(page).text
        assert "are not a diagnosis" in text
        assert "Dr. A. Example, 01 23 45" in text
        assert "Not running" in text
        assert 'lang="en"' in text


def test_a_checkin_is_kept_as_it_was_said_and_can_be_erased(dashboard: Dashboard, client: httpx.Client) -> None:
    note = "<script>alert(1)</script> & a walk"
    answer = client.post("checkin", data={"valence": "-0.6667", "emotion": "S", "note": note})
    assert "Your check-in is stored" in answer.text
    assert "<script>alert" not in answer.text
    now = datetime.now(UTC)
    with dashboard.reader() as reader:
        (kept,) = [one for one in reader.checkins_between(now - A_WEEK, now + A_WEEK) if one.emotion is Emotion.SAD]
    assert (kept.valence, kept.note) == (-0.6667, note)
    assert client.post("checkin/erase", data={"checkin": str(kept.id)}).status_code == 200
    with dashboard.reader() as reader:
        assert kept.id not in [one.id for one in reader.checkins_between(now - A_WEEK, now + A_WEEK)]


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"valence": "2", "emotion": "S"},
        {"valence": "nan", "emotion": "S"},
        {"valence": "0", "emotion": "Z"},
        {"valence": "0", "emotion": "S", "note": "x" * 3000},
    ],
)
def test_a_form_that_makes_no_sense_is_answered_plainly_and_keeps_nothing(client: httpx.Client, form: dict[str, str]) -> None:
    before = client.get("checkin").text.count("Erase the check-in")
    answer = client.post("checkin", data=form)
    assert answer.status_code == 422
    assert "Something went wrong" in answer.text
    assert client.get("checkin").text.count("Erase the check-in") == before


def test_a_segment_is_corrected_confirmed_and_left_alone_again(dashboard: Dashboard, client: httpx.Client) -> None:
    answer = client.post("piece/correct", data={**_piece(1, None), "emotion": "H"})
    assert "your label: happy" in client.get(f"day/{YESTERDAY}/pieces").text, answer.text
    assert "Your label counts" in answer.text
    with dashboard.reader() as reader:
        first = reader.segment(1)
    assert first
    assert first.correction
    client.post("piece/undo", data=_piece(1, first.correction.id))
    client.post("piece/confirm", data=_piece(1, None))
    with dashboard.reader() as reader:
        again = reader.segment(1)
    assert again
    assert again.correction
    assert (again.correction.emotion, again.correction.confirmed) == (Emotion.SAD, True)


def test_who_did_not_see_the_last_correction_is_told_so_and_changes_nothing(dashboard: Dashboard, client: httpx.Client) -> None:
    with dashboard.words() as words:
        other = words.correct(2, Emotion.FEAR)
    answer = client.post("piece/correct", data={**_piece(2, None), "emotion": "H"})
    assert answer.status_code == 409
    assert "changed somewhere else" in answer.text
    with dashboard.reader() as reader:
        segment = reader.segment(2)
    assert segment
    assert segment.correction == other


@pytest.mark.parametrize(
    ("segment", "action", "status"), [(999, "correct", 404), (999, "confirm", 404), (3, "confirm", 422), (3, "undo", 422)]
)
def test_what_cannot_be_said_of_a_segment_is_explained(client: httpx.Client, segment: int, action: str, status: int) -> None:
    answer = client.post(f"piece/{action}", data={**_piece(segment, None), "emotion": "H"})
    assert answer.status_code == status
    assert "Something went wrong" in answer.text


@pytest.mark.parametrize("page", ["day/never", "day/2999-01-01", "week/2026-02-30", "month/1900-01-01"])
def test_days_that_are_none_are_answered_plainly(client: httpx.Client, page: str) -> None:
    answer = client.get(page)
    assert answer.status_code == 404
    assert "Something went wrong" in answer.text


def test_pausing_reaches_a_running_monitor_and_says_so_when_there_is_none(dashboard: Dashboard, client: httpx.Client) -> None:
    assert client.post("pause", data={"span": "15m"}).status_code == 409
    asked = []
    status = {"state": "paused", "paused_until": None, "engine": "ready", "problems": ["the disk is full"], "pid": 1}
    commands = {
        "status": lambda _arguments: status,
        "pause": lambda arguments: asked.append(dict(arguments)) or {"until": None},
        "resume": lambda _arguments: asked.append("resume") or {},
    }
    with ControlServer(DatabaseFiles(dashboard.database).socket, commands):
        text = client.post("pause", data={"span": "15m"}).text
        assert "The microphone is closed" in text
        assert "the disk is full" in text
        assert "Resume" in text
        client.post("pause", data={"span": ""})
        client.post("resume")
    assert asked == [{"for": "15m"}, {}, "resume"]


def test_news_come_as_they_are_stored_and_end_with_the_session(dashboard: Dashboard, client: httpx.Client) -> None:
    with client.stream("GET", "live") as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": there"
        with dashboard.words() as words:
            words.check_in(datetime.now(UTC), 0.0, Emotion.NEUTRAL)
        assert next(line for line in lines if line.startswith("event")) == "event: stored"
        commands = {"status": lambda _arguments: {"state": "muted", "paused_until": None, "engine": "loading", "problems": [], "pid": 1}}
        with ControlServer(DatabaseFiles(dashboard.database).socket, commands):
            assert next(line for line in lines if line.startswith("event")) == "event: microphone"
            assert json.loads(next(lines).removeprefix("data: ")).startswith("Muted. The microphone is open but")
        client.post("leave")
        assert [line for line in lines if line.startswith("event")][-1] == "event: over"


def test_an_empty_home_has_pages_that_say_that_nothing_is_known(tmp_path: Path) -> None:
    with showing(tmp_path) as empty, empty.client() as client:
        assert "NO DATA" in client.get("").text
        assert "No speech was recorded" in client.get("day/today/pieces").text
        assert "Your usual range is not known yet" in client.get("month/today").text
        assert "Check-ins: none" not in client.get("checkin").text
        assert not empty.database.exists(), "looking creates nothing"
        assert client.post("checkin", data={"valence": "0", "emotion": "N"}).status_code == 200
        assert empty.database.exists(), "what the person says is kept also without a monitor"


def test_a_port_that_is_taken_is_named(dashboard: Dashboard, client: httpx.Client) -> None:
    port = str(client.base_url.port)
    done = subprocess.run(
        [sys.executable, "-m", "monitor.cli.main", "dashboard", "--port", port], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "it is in use" in done.stderr


@pytest.mark.parametrize(
    ("length", "on", "first", "last", "after"),
    [
        (PeriodLength.WEEK, date(2026, 7, 14), date(2026, 7, 13), date(2026, 7, 15), None),
        (PeriodLength.WEEK, date(2026, 7, 12), date(2026, 7, 6), date(2026, 7, 12), date(2026, 7, 13)),
        (PeriodLength.MONTH, date(2026, 2, 28), date(2026, 2, 1), date(2026, 2, 28), date(2026, 3, 1)),
        (PeriodLength.MONTH, date(2026, 7, 1), date(2026, 7, 1), date(2026, 7, 15), None),
    ],
)
def test_weeks_and_months_end_with_today(length: PeriodLength, on: date, first: date, last: date, after: date | None) -> None:
    shown = page_period(length, on, today=date(2026, 7, 15))
    assert (shown.first, shown.last, shown.after) == (first, last, after)
    assert shown.before == first - timedelta(days=1)
