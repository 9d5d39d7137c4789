"""Prompts to check in: at random but fixed times, shown on the desktop, stored with their answers, and silent when they should be."""

import os
import re
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.errors import DesktopError, TimelineError
from monitor.config import CheckInConfig, TimelineConfig
from monitor.control import ask
from monitor.day.days import Day
from monitor.desktop import notify
from monitor.prompting import TEXT, TITLE, Prompter, prompt_times
from monitor.store.reader import TimelineReader
from monitor.store.records import Prompt
from monitor.store.words import Words
from tests.commands import Running, configure
from tests.typed import typed

PARIS = ZoneInfo("Europe/Paris")
FIVE = CheckInConfig(prompts_per_day=5)
DAYS = [Day(date(2026, 1, 1) + timedelta(days=number), PARIS) for number in range(365)]
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notify-send that writes its arguments, one a line, into this file."""
    return _desktop(tmp_path, monkeypatch, 'printf "%s\\n" "$@" >>"$0.shown"')


def _desktop(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    program = folder / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program.with_name("notify-send.shown")


class Person:
    """Somebody who is or is not to be disturbed, and the clock that the prompter is shown."""

    def __init__(self, config: CheckInConfig = FIVE, disk: Callable[[datetime], object] = lambda _at: None) -> None:
        self.busy = False
        self.problems: list[str] = []
        self.asked: list[datetime] = []
        self._disk = disk
        self.prompter = Prompter(config, PARIS, lambda: self.busy, self._record, self.problems.append)

    def _record(self, at: datetime) -> None:
        self._disk(at)
        self.asked.append(at)

    def live(self, start: datetime, end: datetime, step: timedelta = timedelta(seconds=20)) -> None:
        now = start
        while now <= end:
            self.prompter.look(now)
            now += step


@pytest.mark.parametrize("count", [1, 5, 12])
def test_each_day_has_its_prompts_in_blocks_of_their_own_and_apart(count: int) -> None:
    config = CheckInConfig(prompts_per_day=count)
    for day in DAYS:
        times = prompt_times(day, config)
        start, end = (day.at(clock) for clock in config.window())
        block = (end - start) / count
        assert [int((moment - start) / block) for moment in times] == list(range(count))
        assert all(after - before >= min(block / 2, AN_HOUR) for before, after in pairwise(times))
        assert all(moment.tzinfo is UTC for moment in times)


def test_times_differ_from_day_to_day_and_not_from_start_to_start() -> None:
    times = [prompt_times(day, FIVE) for day in DAYS]
    assert times == [prompt_times(day, FIVE) for day in DAYS]
    clocks = {moment.astimezone(PARIS).time() for day in times for moment in day}
    assert len(clocks) == 5 * 365
    minutes = [(day[0] - on.at(FIVE.window()[0])) / timedelta(minutes=144) for day, on in zip(times, DAYS, strict=True)]
    assert sum(minutes) / len(minutes) == pytest.approx(0.5, abs=0.05), "anywhere in the block alike"


def test_without_prompts_there_are_no_times_and_no_thread() -> None:
    assert prompt_times(DAYS[0], CheckInConfig()) == []
    with Person(CheckInConfig()).prompter:
        assert "prompting" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("day", [DAYS[0], Day(date(2026, 3, 29), PARIS), Day(date(2026, 10, 25), PARIS)])
def test_a_day_is_asked_through_once_also_when_the_clock_is_changed(day: Day, shown: Path) -> None:
    person = Person()
    person.live(day.start, day.end)
    due = prompt_times(day, FIVE)
    assert len(person.asked) == 5
    assert all(timedelta() <= at - moment < timedelta(seconds=20) for at, moment in zip(person.asked, due, strict=True))
    assert shown.read_text().splitlines() == ["--app-name=emosllm-monitor", TITLE, TEXT] * 5
    assert set(person.problems) == {""}


def test_a_restart_neither_repeats_nor_moves_a_prompt(shown: Path) -> None:
    day = DAYS[0]
    before, after = Person(), Person()
    third = prompt_times(day, FIVE)[2]
    before.live(day.start, third + timedelta(seconds=20))
    after.live(third + timedelta(minutes=1), day.end)
    assert (len(before.asked), len(after.asked)) == (3, 2)


def test_a_time_that_was_slept_through_is_not_made_up_for(shown: Path) -> None:
    person, times = Person(), prompt_times(DAYS[0], FIVE)
    person.prompter.look(times[0] - AN_HOUR)
    person.prompter.look(times[0] + timedelta(minutes=10))
    assert person.asked == []
    person.prompter.look(times[1] - AN_HOUR / 60)
    person.prompter.look(times[1] + timedelta(minutes=4))
    assert len(person.asked) == 1, "a little late is in time"


def test_nobody_is_asked_while_paused_or_muted_and_it_is_not_counted(shown: Path) -> None:
    person, day = Person(), DAYS[0]
    person.busy = True
    person.live(day.start, day.end)
    assert person.asked == []
    assert not shown.exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'Cannot autolaunch D-Bus without X11 $DISPLAY' >&2; exit 1", "Cannot autolaunch D-Bus"), ("exit 3", "exit status 3")],
)
def test_without_a_desktop_nothing_is_counted_and_the_status_says_why(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _desktop(tmp_path, monkeypatch, script)
    person = Person()
    person.live(DAYS[0].start, DAYS[0].end)
    assert person.asked == []
    assert len(person.problems) == 5
    assert reason in person.problems[0]


def test_a_prompt_that_cannot_be_stored_is_a_problem_until_one_can(shown: Path) -> None:
    def full_until_the_second(at: datetime) -> None:
        if at < second:
            raise TimelineError("the disk is full")

    first, second = prompt_times(DAYS[0], FIVE)[:2]
    person = Person(disk=full_until_the_second)
    person.live(first - AN_HOUR / 6, second + AN_HOUR / 60)
    assert person.problems == ["the disk is full", ""]
    assert len(person.asked) == 1


def test_a_desktop_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.desktop._TIMEOUT_S", 0.1)
    _desktop(tmp_path, monkeypatch, "exec sleep 5")
    with pytest.raises(DesktopError, match="timed out"):
        notify(TITLE, TEXT)


def test_a_notification_says_nothing_about_the_person() -> None:
    assert not re.search(r"emotion|mood|feel|voice|speech|sad|angry", TITLE + TEXT.replace("emosllm-monitor", ""), re.IGNORECASE)


def test_a_prompt_and_its_answer_find_each_other_in_the_timeline(shown: Path) -> None:
    settings = TimelineConfig()
    now = datetime.now(UTC)
    with Words.open(settings.database_path(), PARIS, settings.keys()) as words:
        person = Person(disk=lambda _at: words.asked(now))
        person.live(DAYS[0].start, prompt_times(DAYS[0], FIVE)[0] + AN_HOUR / 60)
    typed("checkin", "--valence", "4", "--feeling", "neutral")
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        assert reader.prompts_between(now, now + AN_HOUR) == [Prompt(1, now, "Europe/Paris", 1)]


def test_a_running_monitor_says_when_it_cannot_ask(home: Path, tmp_path: Path) -> None:
    configure(home, engine={"kind": "transformers"}, checkin={"prompts_per_day": 5})
    running = Running(
        home, "--source", "-", stdin=subprocess.PIPE, environment={"PATH": str(tmp_path), "LANG": os.environ.get("LANG", "C")}
    )
    database = TimelineConfig().database_path()
    running.until(lambda: "listening" in running.output)
    running.until(lambda: any("notify-send is not installed" in problem for problem in ask(database, "status")["problems"]))
    running.process.terminate()
    assert running.process.wait(60) == 0
