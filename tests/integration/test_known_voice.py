"""What a person is told of how well their voice is known, where a change of it is marked, and how they have it learned anew."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model.bundle_format import read_bundle_manifest
from model.errors import VoiceError
from monitor.analysis.days import TimeRange
from monitor.analysis.summarize import summarize
from monitor.analysis.summary import dump_summary, load_summary
from monitor.analysis.timeline_query import TimelineQuery
from monitor.analysis.trend import compute_trends
from monitor.config import Config, EngineConfig
from monitor.control import ControlServer
from monitor.deletion import delete_range, receipt_lines
from monitor.doctor.checks import check_voice as examined
from monitor.doctor.findings import Verdict
from monitor.fileio import DatabaseLock
from monitor.paths import DatabaseFiles
from monitor.personalization.voice import format_voice, renew_voice_reference, voice_json, voice_lines, voice_states
from monitor.reports import sentences
from monitor.reports.clinician_sheet import to_clinician_sheet
from monitor.reports.data import ReportPeriod, load_report_data
from monitor.reports.html_report import to_html
from monitor.reports.json_report import to_json
from monitor.reports.text_report import to_plain
from tests.support.bundle_variants import normalising
from tests.support.bundles import NANO
from tests.support.commands import configure, run
from tests.support.days import DAY, entries, full_day, of_days, of_one_day
from tests.support.spoken_timeline import FIRST, PARIS, SpokenTimeline
from tests.unit.test_trend import a_day, sadness, wobbling

KNOWN, LEARNING = "knows your voice since 6 March 2026", "still learning your voice: 4 min of speech on 1 day; needs"
NEEDS = "5 days with a minute of speech, 200 segments and 20 min of speech"


class Person(SpokenTimeline):
    """One whose monitor uses a bundle that normalises."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.bundle = normalising(home / "mine")
        self.space = str(read_bundle_manifest(self.bundle).voice_space)
        self.config = Config(engine=EngineConfig(bundle=str(self.bundle)))
        self.home = home

    def learning(self, microphone: str = "desk") -> None:
        self.say(FIRST, 45, space=self.space, microphone=microphone)

    def known(self, microphone: str = "desk") -> None:
        self.days(5, space=self.space, microphone=microphone)

    def material(self, days: int = 1) -> Any:
        on = FIRST.date()
        with TimelineQuery.open(self.config.timeline, FIRST + timedelta(days=20), str(self.bundle)) as look:
            return load_report_data(look, ReportPeriod(on, on + timedelta(days=days - 1), PARIS), self.config.report)


@pytest.fixture
def person(home: Path) -> Iterator[Person]:
    made = Person(home)
    yield made
    made.timeline.close()


# in words --------------------------------------------------------------------------------------------------------


def test_it_says_since_when_the_voice_is_known_or_what_is_missing(person: Person) -> None:
    assert format_voice(voice_json(None), PARIS) == f"still learning your voice; needs {NEEDS}"
    person.learning()
    assert format_voice(voice_json(person.reference()), PARIS) == f"{LEARNING} {NEEDS}"
    person.days(5, space=person.space)
    known = person.reference()
    assert format_voice(voice_json(known), PARIS) == KNOWN
    assert format_voice(voice_json(replace(known, days=4)), PARIS) == (
        f"{KNOWN}, from 24 min of speech on 4 days; it should be 5 days with a minute of speech, but some was erased"
    )
    longer = replace(known, frozen=False, speech_s=3000.0, days=4)
    assert format_voice(voice_json(longer), PARIS) == (
        "still learning your voice: 50 min of speech on 4 days; needs 5 days with a minute of speech"
    )


def test_the_command_shows_it_and_learns_it_anew_after_asking(person: Person) -> None:
    configure(person.home, engine={"bundle": str(person.bundle)})
    person.known()
    shown = run("voice")
    assert shown.stdout.splitlines()[:2] == ["desk", f"  {KNOWN}"]
    assert "learned from 20 min of speech in 200 segments on 5 days, from 2 March 2026 on" in shown.stdout
    (told,) = json.loads(run("voice", "--json").stdout)
    assert (told["state"], told["microphone"], told["segments"], told["days"]) == ("known", "desk", 200, 5)
    asked = run("voice", "renew")
    assert (asked.returncode, person.reference().frozen) == (1, True)
    assert "pass --yes" in asked.stderr
    done = run("voice", "renew", "--yes")
    assert (done.returncode, done.stdout) == (0, "relearning your voice, through desk\n")
    assert person.references() == []
    assert run("voice").stdout.startswith("nothing is known of your voice yet")


def test_one_microphone_can_be_meant_and_one_that_is_none_is_named(person: Person) -> None:
    with pytest.raises(VoiceError, match="nothing is known of your voice yet"):
        renew_voice_reference(person.config, None)
    with pytest.raises(VoiceError, match="hears every voice alike"):
        renew_voice_reference(Config(engine=EngineConfig(bundle=str(NANO))), None)
    person.learning()
    person.learning("headset")
    with pytest.raises(VoiceError, match=r"through 'mic'; it is through (desk, headset|headset, desk)"):
        renew_voice_reference(person.config, "mic")
    assert renew_voice_reference(person.config, "desk") == ["desk"]
    assert [one["microphone"] for one in voice_states(person.config) or ()] == ["headset"]


def test_what_another_model_learned_is_not_shown_as_known(person: Person) -> None:
    person.say(FIRST, 3, space="that of another encoder")
    assert voice_states(person.config) == []
    assert voice_states(Config(engine=EngineConfig(bundle=str(NANO)))) is None
    assert voice_lines(None, PARIS) == ["the model in use hears every voice alike: it learns nothing of yours"]


def test_a_running_monitor_lets_go_of_what_it_holds_when_it_is_renewed_or_forgotten(person: Person) -> None:
    person.learning()
    heard: list[str] = []

    def told(name: str) -> Any:
        return lambda _arguments: heard.append(name) or {}

    time_range = TimeRange(FIRST, FIRST + timedelta(minutes=1))
    commands = {"voice-changed": told("voice"), "forget": told("forget")}
    with DatabaseLock(person.path, "mic"), ControlServer(DatabaseFiles(person.path).socket, commands):
        receipt = delete_range(person.config, time_range)
        assert (heard, receipt.left) == (["forget", "voice"], [])
        person.learning()
        renew_voice_reference(person.config, None)
        assert heard == ["forget", "voice", "voice"]
        person.learning()
    with DatabaseLock(person.path, "mic"), ControlServer(DatabaseFiles(person.path).socket, {"forget": told("forget")}):
        receipt = delete_range(person.config, time_range)
    assert "memory of your voice" in "\n".join(receipt_lines(receipt, "", remote=False))


def test_doctor_tells_it_and_warns_where_too_little_is_left(person: Person) -> None:
    assert examined(Config()).verdict is Verdict.OK
    assert "nothing is known" in examined(person.config).detail
    person.learning()
    assert (examined(person.config).verdict, LEARNING in examined(person.config).detail) == (Verdict.OK, True)
    person.known()
    assert (examined(person.config).verdict, KNOWN in examined(person.config).detail) == (Verdict.OK, True)
    delete_range(person.config, TimeRange(FIRST, FIRST + timedelta(days=1)))
    found = examined(person.config)
    assert found.verdict is Verdict.WARN
    assert "`emosllm-monitor voice renew`" in found.detail


# in reports ------------------------------------------------------------------------------------------------------


def test_every_report_says_since_when_the_voice_is_known(person: Person) -> None:
    begun = person.material()
    assert f"The monitor is still learning your voice; needs {NEEDS}." in sentences.day_sentences(begun)
    person.learning()
    assert f"The monitor is {LEARNING} {NEEDS}." in sentences.day_sentences(person.material())
    person.known()
    told = f"The monitor {KNOWN}."
    day, week = person.material(), person.material(7)
    assert told in sentences.day_sentences(day)
    assert told in sentences.period_sentences(week)
    assert told in to_plain(week)
    assert told in to_html(week)
    assert told in to_clinician_sheet(week, str(person.bundle))
    (voice,) = json.loads(to_json(week))["voice_references"]
    assert (voice["state"], voice["days"]) == ("known", 5)
    assert datetime.fromisoformat(voice["known_since"]) > FIRST.astimezone(UTC) + timedelta(days=4)
    person.learning("headset")
    several = sentences.period_sentences(person.material(7))
    assert f"The monitor {KNOWN}, through desk." in several
    assert any(one.endswith("through headset.") for one in several)


def test_where_a_model_has_no_use_for_it_nothing_is_said() -> None:
    assert not [one for one in sentences.period_sentences(of_days()) if "your voice since" in one or "learning your voice" in one]
    assert json.loads(to_json(of_one_day()))["voice_references"] is None


def test_a_day_counts_what_was_heard_against_which_reference_and_keeps_that() -> None:
    assert full_day().references == {}
    assert "references" not in json.loads(dump_summary(full_day())), "what was kept before stays as it is"
    day = full_day(voice_version="0badcafe")
    assert day.references == {"0badcafe": day.speech.judged.segments}
    assert load_summary(dump_summary(day), DAY, day.now).references == day.references
    half = [replace(entry, voice_version=None) if number % 2 else entry for number, entry in enumerate(entries(voice_version="1"))]
    assert set(summarize(DAY, half, [], day.now).references) == {"1", ""}


def _against(number: int, value: float, *versions: tuple[str, int]) -> Any:
    return replace(a_day(number, value), references=dict(versions))


def test_a_voice_that_becomes_known_is_no_mood() -> None:
    """Once the voice is known, it is heard as twice as sad: nothing is outside, the point says so, and what is usual begins anew."""
    learning = [_against(i, value, ("a", 100)) for i, value in enumerate(wobbling(30))]
    mixed = _against(30, 0.4, ("a", 50), ("b", 50))
    known = [_against(31 + i, value, ("b", 100)) for i, value in enumerate(wobbling(12, 0.6))]
    days = [*learning, mixed, *known]
    trend = sadness(days)
    assert [point.voice_changed for point in trend.points] == [False] * 30 + [True] + [False] * 12
    assert not any(point.model_changed for point in trend.points)
    assert all(point.outside == 0 for point in trend.points[30:])
    assert all(point.band is None for point in trend.points[31:38])
    assert trend.points[38].band is not None
    assert trend.change is None
    speech = compute_trends(days)["speech_per_hour"]
    assert speech.points[31].band is not None, "what the model has no say in goes on"
    (told,) = sentences._voice_changes([trend], "the dates named")
    assert told.startswith("The reference of your voice changed on Saturday 31 January 2026: differences before and after may come from")


def test_a_second_microphone_is_marked_once_and_hardly_used_does_not_count() -> None:
    days = [_against(i, value, ("a", 95), ("b", 5)) for i, value in enumerate(wobbling(10))]
    days += [_against(10 + i, 0.2, *((("a", 50), ("b", 50)) if i % 2 else (("a", 100),))) for i in range(10)]
    trend = sadness(days)
    assert [point.voice_changed for point in trend.points] == [False] * 11 + [True] + [False] * 8
    assert trend.points[12].band is not None, "days of the first microphone alone go on"


def test_where_another_model_begins_that_is_told_and_not_twice() -> None:
    days = [a_day(i, 0.2) for i in range(5)]
    days += [replace(a_day(5 + i, 0.2, bundles=("compact-2",)), references={"a": 100}) for i in range(3)]
    days += [replace(a_day(8, 0.2, bundles=("compact-3",)), references={"b": 100})]
    told = sadness(days)
    assert [point.voice_changed for point in told.points[-4:]] == [False, False, False, True]
    assert sentences._voice_changes([told], "the dates named") == []
