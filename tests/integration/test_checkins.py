"""Check-ins: prompts at random fixed times, two questions, stored in the timeline only, and undone on request."""

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

from model.emotions import Emotion
from model.errors import DayError, DesktopError, TimelineError, WordError
from monitor.analysis.days import Day
from monitor.analysis.formatting import VALENCE_SCALE, format_valence, parse_emotion, parse_valence_step, step_of, valence_of
from monitor.config import CheckInConfig, TimelineConfig
from monitor.control import send_command
from monitor.daemon.checkin_prompts import PROMPT_TEXT, PROMPT_TITLE, CheckInPrompter, prompt_times, show_notification
from monitor.storage.feedback import FeedbackStore
from monitor.storage.reader import TimelineReader
from monitor.storage.records import CheckIn, Prompt
from tests.support.commands import AtTerminal, Running, configure, typed

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
        self.checkin_prompter = CheckInPrompter(config, PARIS, lambda: self.busy, self._record, self.problems.append)

    def _record(self, at: datetime) -> None:
        self._disk(at)
        self.asked.append(at)

    def live(self, start: datetime, end: datetime, step: timedelta = timedelta(seconds=20)) -> None:
        now = start
        while now <= end:
            self.checkin_prompter.look(now)
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
    with Person(CheckInConfig()).checkin_prompter:
        assert "prompting" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("day", [DAYS[0], Day(date(2026, 3, 29), PARIS), Day(date(2026, 10, 25), PARIS)])
def test_a_day_is_asked_through_once_also_when_the_clock_is_changed(day: Day, shown: Path) -> None:
    person = Person()
    person.live(day.start, day.end)
    due = prompt_times(day, FIVE)
    assert len(person.asked) == 5
    assert all(timedelta() <= at - moment < timedelta(seconds=20) for at, moment in zip(person.asked, due, strict=True))
    assert shown.read_text().splitlines() == ["--app-name=emosllm-monitor", PROMPT_TITLE, PROMPT_TEXT] * 5
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
    person.checkin_prompter.look(times[0] - AN_HOUR)
    person.checkin_prompter.look(times[0] + timedelta(minutes=10))
    assert person.asked == []
    person.checkin_prompter.look(times[1] - AN_HOUR / 60)
    person.checkin_prompter.look(times[1] + timedelta(minutes=4))
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
    monkeypatch.setattr("monitor.daemon.checkin_prompts._NOTIFY_TIMEOUT_S", 0.1)
    _desktop(tmp_path, monkeypatch, "exec sleep 5")
    with pytest.raises(DesktopError, match="timed out"):
        show_notification(PROMPT_TITLE, PROMPT_TEXT)


def test_a_notification_says_nothing_about_the_person() -> None:
    assert not re.search(
        r"emotion|mood|feel|voice|speech|sad|angry", PROMPT_TITLE + PROMPT_TEXT.replace("emosllm-monitor", ""), re.IGNORECASE
    )


def test_a_prompt_and_its_answer_find_each_other_in_the_timeline(shown: Path) -> None:
    settings = TimelineConfig()
    now = datetime.now(UTC)
    with FeedbackStore.open(settings.database_path(), PARIS, settings.keys()) as words:
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
    running.until(lambda: any("notify-send is not installed" in problem for problem in send_command(database, "status")["problems"]))
    running.process.terminate()
    assert running.process.wait(60) == 0


STEP, FEELING = "Number, 1 to 7: ", "Letter or word: "


def stored() -> list[CheckIn]:
    settings = TimelineConfig()
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        return reader.checkins_between(datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def test_two_options_are_a_check_in_and_begin_the_timeline(home: Path) -> None:
    before = datetime.now(UTC)
    done = typed("checkin", "--valence", "2", "--feeling", "Sad", "--note", "the letter did not come")
    assert re.fullmatch(r"Stored: \d{4}-\d\d-\d\d \d\d:\d\d, unpleasant, sad\. Thank you for checking in\.\n", done.stdout)
    assert "created your encrypted timeline" in done.stderr
    (checkin,) = stored()
    assert before <= checkin.at <= datetime.now(UTC)
    assert (checkin.zone, checkin.valence, checkin.emotion, checkin.note) == (
        "Europe/Paris",
        pytest.approx(-2 / 3),
        Emotion.SAD,
        "the letter did not come",
    )
    assert typed("checkin", "--valence", "7", "--feeling", "h").stderr == "", "it is begun once"
    for path in home.rglob("*"):
        if path.is_file():
            assert b"letter did not" not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0


def test_the_hardest_answer_is_told_where_help_is() -> None:
    assert "someone you trust" in typed("checkin", "--valence", "1", "--feeling", "F").stdout
    assert "someone you trust" not in typed("checkin", "--valence", "2", "--feeling", "F").stdout


def test_a_person_at_a_terminal_is_asked_two_questions_and_may_mistype() -> None:
    person = AtTerminal("checkin")
    person.answer(STEP, "eight\n")
    person.answer(STEP, "8\n")
    person.answer(STEP, " 5\n")
    person.answer(FEELING, "x\n")
    person.answer(FEELING, "calm\n")
    assert person.end() == 0, person.shown
    for part in ("'eight' is not on the scale", "'8' is not on the scale", "unknown emotion 'x'", "slightly pleasant, neutral"):
        assert part in person.shown
    (checkin,) = stored()
    assert (checkin.valence, checkin.emotion, checkin.note) == (pytest.approx(1 / 3), Emotion.NEUTRAL, None)


def test_only_what_is_missing_is_asked_one_choice_a_line() -> None:
    person = AtTerminal("checkin", "--valence", "4")
    person.answer(FEELING, "o\n")
    assert person.end() == 0
    assert "How does it feel" not in person.shown
    assert [line[2] for line in person.shown.splitlines() if line.startswith("  ")] == [emotion.value for emotion in Emotion]


def test_a_note_can_be_typed_where_no_shell_keeps_it() -> None:
    for typing, kept in (("the letter came\n", "the letter came"), ("\n", None)):
        person = AtTerminal("checkin", "--valence", "4", "--feeling", "h", "--note", "-")
        person.answer("Note: ", typing)
        assert person.end() == 0, person.shown
        assert stored()[-1].note == kept


def test_ctrl_c_between_the_questions_leaves_nothing(home: Path) -> None:
    person = AtTerminal("checkin")
    person.answer(STEP, "2\n")
    assert person.interrupt(FEELING) == 130
    assert "Nothing was stored." in person.shown
    assert "Traceback" not in person.shown
    assert not (home / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "not a terminal"),
        (["--valence", "3"], "not a terminal"),
        (["--valence", "0", "--feeling", "sad"], "'0' is not on the scale: use 1 (very unpleasant)"),
        (["--valence", "8"], "'8' is not on the scale"),
        (["--feeling", "gloomy"], "unknown emotion 'gloomy'; choose from A angry, S sad"),
        (["--valence", "3", "--feeling", ""], "unknown emotion ''"),
        (["--undo"], "there is no check-in to erase"),
    ],
)
def test_what_is_no_check_in_is_explained_and_creates_nothing(arguments: list[str], reason: str, home: Path) -> None:
    with pytest.raises(WordError, match=re.escape(reason)):
        typed("checkin", *arguments)
    assert not (home / "state").exists()


@pytest.mark.parametrize("at", ["noon", "2999-01-01T12:00"])
def test_a_moment_that_is_none_or_still_to_come_is_refused(at: str, home: Path) -> None:
    with pytest.raises(DayError, match="--at"):
        typed("checkin", "--valence", "3", "--feeling", "sad", "--at", at)
    assert not (home / "state").exists()


def test_an_earlier_moment_is_in_the_persons_zone() -> None:
    for at in ("2026-01-05T09:00", "2025-10-26T02:30+01:00"):
        typed("checkin", "--valence", "4", "--feeling", "neutral", "--at", at)
    assert [one.at for one in stored()] == [datetime(2025, 10, 26, 1, 30, tzinfo=UTC), datetime(2026, 1, 5, 8, tzinfo=UTC)]


def test_undo_erases_what_was_entered_last_and_an_old_one_only_by_its_minute() -> None:
    typed("checkin", "--valence", "4", "--feeling", "neutral", "--at", "2025-10-26T02:30+01:00")
    typed("checkin", "--valence", "6", "--feeling", "happy", "--note", "sun")
    assert typed("checkin", "--undo").stdout.endswith("pleasant, happy, and its note.\n")
    with pytest.raises(WordError, match=r"more than a day old.*checkin --undo --at 2025-10-26T02:30\+01:00"):
        typed("checkin", "--undo")
    with pytest.raises(WordError, match="no check-in was made in that minute"):
        typed("checkin", "--undo", "--at", "2025-10-26T02:30+02:00")
    assert len(stored()) == 1
    assert "Erased: 2025-10-26 02:30" in typed("checkin", "--undo", "--at", "2025-10-26T02:30+01:00").stdout
    assert stored() == []


def test_undo_means_what_was_entered_last_not_what_happened_last() -> None:
    typed("checkin", "--valence", "6", "--feeling", "happy")
    earlier = datetime.now(UTC) - timedelta(hours=3)
    typed("checkin", "--valence", "2", "--feeling", "sad", "--at", earlier.isoformat())
    typed("checkin", "--undo")
    assert [one.emotion for one in stored()] == [Emotion.HAPPY]


def test_steps_and_valence_are_each_others_inverse() -> None:
    valences = [valence_of(parse_valence_step(str(step))) for step in range(1, 8)]
    assert (valences[0], valences[3], valences[6]) == (-1, 0, 1)
    assert [step_of(valence) for valence in valences] == [1, 2, 3, 4, 5, 6, 7]
    assert [format_valence(valence) for valence in valences] == list(VALENCE_SCALE)
    assert [step_of(valence) for valence in (-0.84, -0.82, 0.1)] == [1, 2, 4]


@pytest.mark.parametrize("emotion", Emotion)
def test_letters_and_words_name_emotions_in_any_case(emotion: Emotion) -> None:
    for text in (emotion.value, emotion.value.lower(), emotion.word, f" {emotion.word.title()} "):
        assert parse_emotion(text) is emotion
