"""`report`, `timeline` and `label`: which days, which formats, where the file goes, and the person's own labels."""

import csv
import io
import json
import re
import stat
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from model.emotions import Emotion, Prediction
from model.errors import DayError, EmosllmError, ReportError, UnknownSegment, WordError
from monitor.analysis.days import Day
from monitor.analysis.formatting import DISCLAIMER
from monitor.cli.main import app
from monitor.config import TimelineConfig
from monitor.reports.data import PeriodOptions
from monitor.reports.formats import ReportFormat, choose_format, write_private
from monitor.reports.segment_list import SegmentList
from monitor.storage.records import CheckIn, Correction, InferenceResult, SegmentRecord, SegmentState
from monitor.storage.writer import TimelineWriter
from tests.support.commands import lines, typed
from tests.support.days import SimulatedPerson, write_days
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOW = datetime(2026, 7, 14, 19, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        (PeriodOptions(), "2026-07-14", "2026-07-14"),
        (PeriodOptions("yesterday"), "2026-07-13", "2026-07-13"),
        (PeriodOptions(week=True), "2026-07-08", "2026-07-14"),
        (PeriodOptions("2026-03-31", month=True), "2026-03-02", "2026-03-31"),
        (PeriodOptions(first="2026-07-01"), "2026-07-01", "2026-07-14"),
        (PeriodOptions(first="2026-03-01", last="2026-03-31"), "2026-03-01", "2026-03-31"),
        (PeriodOptions(first="yesterday", last="yesterday"), "2026-07-13", "2026-07-13"),
    ],
)
def test_the_days_that_are_meant(asked: PeriodOptions, first: str, last: str) -> None:
    period = asked.period(PARIS, NOW)
    assert (period.first.isoformat(), period.last.isoformat()) == (first, last)


def test_a_sheet_is_of_four_weeks_unless_said_otherwise() -> None:
    assert PeriodOptions().period(PARIS, NOW, 28).first == date(2026, 6, 17)
    assert PeriodOptions(week=True).period(PARIS, NOW, 28).first == date(2026, 7, 8)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (PeriodOptions(week=True, month=True), "--week and --month exclude each other"),
        (PeriodOptions(week=True, first="2026-07-01"), "--week and --from exclude each other"),
        (PeriodOptions("today", first="2026-07-01"), "--day and --from exclude each other"),
        (PeriodOptions(last="2026-07-01"), "needs --from, the first day of the period"),
        (PeriodOptions(first="2026-07-02", last="2026-07-01"), "--from 2026-07-02 is after --to 2026-07-01"),
        (PeriodOptions(first="2026-07-15"), "is in the future"),
        (PeriodOptions(first="2019-07-15"), "at most 1098"),
        (PeriodOptions("the 14th"), "is not a day"),
    ],
)
def test_days_that_cannot_be_meant_are_refused_with_a_way_out(asked: PeriodOptions, words: str) -> None:
    with pytest.raises(DayError, match=words):
        asked.period(PARIS, NOW)


@pytest.mark.parametrize(
    ("form", "out", "plain", "sheet", "chosen"),
    [
        (None, None, False, False, ReportFormat.TEXT),
        (None, "a.pdf", False, False, ReportFormat.PDF),
        (None, "a.HTML", False, True, ReportFormat.HTML),
        (None, "a.unknown", False, False, ReportFormat.TEXT),
        (None, None, False, True, ReportFormat.HTML),
        (ReportFormat.JSON, "a.pdf", False, False, ReportFormat.JSON),
        (None, "a.txt", True, False, ReportFormat.TEXT),
    ],
)
def test_the_format_is_what_was_asked_for_or_what_the_file_ends_with(
    form: ReportFormat | None, out: str | None, plain: bool, sheet: bool, chosen: ReportFormat
) -> None:
    assert choose_format(form, Path(out) if out else None, plain, sheet) is chosen


@pytest.mark.parametrize(
    ("form", "plain", "sheet"),
    [(ReportFormat.HTML, True, False), (ReportFormat.TEXT, False, True), (ReportFormat.PDF, False, False), (None, True, True)],
)
def test_what_does_not_go_together_is_refused(form: ReportFormat | None, plain: bool, sheet: bool) -> None:
    with pytest.raises(ReportError):
        choose_format(form, None, plain, sheet)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ReportError, match="cannot write"):
        write_private(tmp_path / "there", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


@pytest.fixture
def yesterday() -> date:
    """Twelve days up to it are in this test's timeline."""
    on = datetime.now(PARIS).date() - timedelta(days=1)
    path = TimelineConfig().database_path()
    path.parent.mkdir(parents=True)
    TimelineWriter.open(path, PARIS, keys()).close()
    connection = raw(path)
    write_days(connection, PARIS, on - timedelta(days=11), 12, SimulatedPerson(segments=40))
    connection.commit()
    connection.close()
    return on


def report(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["report", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_format_of_a_day_and_of_a_week_says_what_it_is_not(tmp_path: Path, yesterday: date) -> None:
    for period in (["--day", "yesterday"], ["--day", "yesterday", "--week"]):
        shown = report(*period)
        assert max(map(len, shown.splitlines())) <= 80
        for more in ([], ["--plain"], ["--format", "json"], ["--format", "html"], ["--format", "fhir"]):
            assert "not a diagnosis" in " ".join(report(*period, *more).split()), more
        table = list(csv.DictReader(io.StringIO(report(*period, "--format", "csv"))))
        assert [row["day"] for row in table][-1] == yesterday.isoformat()
        assert len(table) == (7 if "--week" in period else 1)
    out = tmp_path / "sheet.html"
    report("--sheet", "--day", "yesterday", "--out", str(out))
    assert "What it cannot do" in out.read_text()


def test_a_file_is_for_its_owner_and_is_not_written_over_unasked(tmp_path: Path, yesterday: date) -> None:
    out = tmp_path / "day.json"
    report("--day", "yesterday", "--out", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert json.loads(out.read_text())["day"] == yesterday.isoformat()
    again = CliRunner().invoke(app, ["report", "--out", str(out)])
    assert isinstance(again.exception, EmosllmError)
    assert "--force" in str(again.exception)
    report("--out", str(out), "--force")
    assert json.loads(out.read_text())["state"] == "NO DATA"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("period", [[], ["--week"], ["--month"], ["--from", "2020-01-01", "--to", "2020-01-31"]])
@pytest.mark.parametrize("more", [[], ["--plain"], ["--format", "json"], ["--format", "csv"], ["--format", "fhir"], ["--format", "html"]])
def test_a_timeline_without_anything_is_no_data_in_every_format(period: list[str], more: list[str]) -> None:
    shown = report(*period, *more)
    assert "NO DATA" in shown
    assert "csv" in more or DISCLAIMER in " ".join(shown.split())
    if "--format" not in more:
        assert "neutral" not in shown


def test_contacts_are_in_every_report_for_people(home: Path) -> None:
    config = home / "config" / "emosllm-monitor" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[report]\ncontacts = ["Dr Weber <030 1234567>"]\n')
    for more in ([], ["--plain"], ["--week"], ["--format", "json"]):
        assert "Dr Weber <030 1234567>" in report(*more)
    for more in (["--format", "html"], ["--sheet"]):
        assert "Dr Weber &lt;030 1234567&gt;" in report(*more)


MORNING = datetime(2026, 1, 5, 8, 1, 13, tzinfo=UTC)
FEAR = Prediction({Emotion.FEAR: 0.84, Emotion.SAD: 0.16}, unsure=False, bundle_version="compact-1")
PERHAPS = Prediction({Emotion.FEAR: 0.41, Emotion.SAD: 0.34, Emotion.ANGRY: 0.25}, unsure=True, bundle_version="compact-1")
DAY = ("--day", "2026-01-05")


def fill(outcomes: Sequence[Prediction | str | None] = (PERHAPS, FEAR, "the engine did not start", None)) -> None:
    """A segment every ten seconds; a text: why it is not judged, None: it waits."""
    settings = TimelineConfig()
    with closing(TimelineWriter.open(settings.database_path(), PARIS, settings.keys())) as timeline:
        for number, outcome in enumerate(outcomes):
            start = MORNING + timedelta(seconds=10 * number)
            place = {"start_sample": number, "end_sample": number + 1, "start_at": start, "end_at": start + timedelta(seconds=2.1)}
            segment_id = timeline.add_segment(sound=b"12", **place)  # type: ignore[arg-type]
            if isinstance(outcome, Prediction):
                timeline.judge({segment_id: InferenceResult(outcome)})
            elif outcome:
                timeline.give_up([segment_id], outcome)


def test_a_day_in_full() -> None:
    fill()
    typed("checkin", "--valence", "3", "--feeling", "sad", "--note", "rain " * 20, "--at", "2026-01-05T09:01:20")
    typed("label", "2", "s")
    assert lines(typed("timeline", *DAY))[:16] == [
        "  Monday 5 January 2026                                           Europe/Paris",
        "  4 segments: 1 unsure, 1 sure, 1 not analysed, 1 waiting; 1 labelled by you;",
        "  1 check-in.",
        "",
        "  ID  from       length  estimate                    your label",
        "   1  09:01:13    2.1 s  unsure (fear 41 %)",
        "      09:01:20           check-in: slightly unpleasant, sad",
        "                         rain rain rain rain rain rain rain rain rain rain",
        "                         rain rain rain rain rain rain rain rain rain rain",
        "   2  09:01:23    2.1 s  fear 84 %                   sad",
        "   3  09:01:33    2.1 s  not analysed: the engine did not start",
        "   4  09:01:43    2.1 s  waiting for analysis",
        "",
        "  To label one: emosllm-monitor label ID LETTER, or label ID --confirm",
        "  A angry, S sad, H happy, U surprise, F fear, D disgust, C contempt,",
        "  N neutral, O other",
    ]


def test_every_list_says_what_it_is_not_and_fits() -> None:
    for outcomes in ([], [PERHAPS, "a reason that goes on and on, " * 9], [FEAR] * 3):
        fill(outcomes)
        shown = typed("timeline", *DAY).stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert DISCLAIMER in re.sub(r"\s+", " ", shown)
        assert "\x1b" not in shown


def test_an_empty_timeline_is_said_to_be_empty_and_stays_away(home: Path) -> None:
    for day in ("today", "yesterday", "2026-03-29", "2026-10-25"):
        shown = re.sub(r"\s+", " ", typed("timeline", "--day", day).stdout)
        assert "No speech and no check-ins are stored for this day." in shown
    assert json.loads(typed("timeline", "--format", "json").stdout)["segments"] == []
    with pytest.raises(UnknownSegment, match="no segment 1: no speech is stored yet"):
        typed("label", "1", "sad")
    assert not (home / "state").exists()


@pytest.mark.parametrize("day", ["2999-01-01", "someday"])
def test_a_day_that_is_none_or_still_to_come_is_refused(day: str) -> None:
    with pytest.raises(DayError, match=day):
        typed("timeline", "--day", day)


def test_only_the_unsure_ones_that_nobody_named() -> None:
    fill([PERHAPS, FEAR, PERHAPS, None])
    typed("label", "1", "angry")
    shown = typed("timeline", "--unsure", *DAY).stdout
    assert re.findall(r"(?m)^ +(\d)  \d\d:", shown) == ["3"]
    assert "showing 1 unsure and unlabelled" in re.sub(r"\s+", " ", shown)


def test_json_holds_the_same_facts() -> None:
    fill()
    typed("checkin", "--valence", "7", "--feeling", "happy", "--at", "2026-01-05T09:01:20")
    typed("label", "--confirm", "1")
    listing = json.loads(typed("timeline", *DAY, "--format", "json").stdout)
    assert (listing["day"], listing["zone"], listing["start"]) == ("2026-01-05", "Europe/Paris", "2026-01-04T23:00:00+00:00")
    first, second, third, fourth = listing["segments"]
    assert (first["id"], first["start"], first["seconds"], first["state"]) == (1, "2026-01-05T08:01:13+00:00", 2.1, "judged")
    assert first["estimate"] == {
        "letter": "F",
        "emotion": "fear",
        "confidence": 0.41,
        "unsure": True,
        "posterior": {"F": 0.41, "S": 0.34, "A": 0.25},
        "model": "compact-1",
    }
    assert (first["said"]["emotion"], first["said"]["confirmed"], second["said"]) == ("fear", True, None)
    assert (third["state"], third["reason"], third["estimate"], fourth["state"]) == (
        "unjudged",
        "the engine did not start",
        None,
        "waiting",
    )
    (checkin,) = listing["checkins"]
    assert (checkin["valence"], checkin["valence_words"], checkin["letter"], checkin["note"]) == (1, "very pleasant", "H", None)
    assert listing["notice"] == DISCLAIMER


@pytest.mark.parametrize(
    ("on", "change"),
    [(date(2026, 3, 29), "forward by 60"), (date(2026, 10, 25), "back by 60"), (date(2026, 7, 14), "")],
)
def test_where_the_clock_was_changed_the_list_says_so_once(on: date, change: str) -> None:
    day = Day(on, PARIS)
    starts = [day.start - timedelta(seconds=1), *(day.start + timedelta(minutes=20 * number) for number in range(60))]
    entries = [
        SegmentRecord(number, "s", number, number + 1, start, start + timedelta(seconds=2), "Europe/Paris", SegmentState.WAITING)
        for number, start in enumerate(starts)
    ]
    shown = SegmentList(day, day.end, entries, []).text()
    assert re.findall(r"clocks went (\w+ by \d+) minutes", shown) == ([change] if change else [])


def test_a_word_of_the_persons_own_holds_and_is_shown_with_the_estimate() -> None:
    fill()
    assert typed("label", "2", "Sad").stdout == "2  2026-01-05 09:01:23  2.1 s: fear 84 %; your label: sad\n"
    assert typed("label", "2", "S").stdout == typed("label", "2", "sad").stdout
    assert "your label: fear (confirmed)" in typed("label", "2", "--confirm").stdout
    assert "your label: fear (confirmed)" in typed("label", "--confirm", "2").stdout
    assert typed("label", "2", "--undo").stdout == "Undone. 2  2026-01-05 09:01:23  2.1 s: fear 84 %; your label: sad\n"
    assert "no label" in typed("label", "2", "--undo").stdout
    with pytest.raises(WordError, match="nothing of segment 2"):
        typed("label", "2", "--undo")


def test_a_letter_that_the_model_cannot_answer_counts_too() -> None:
    fill()
    shown = typed("label", "2", "contempt").stdout
    assert "your label: contempt\nThe model cannot predict contempt; your label counts anyway.\n" in shown
    assert "cannot predict" not in typed("label", "2", "sad").stdout


def test_what_was_not_judged_can_be_named_but_not_confirmed() -> None:
    fill()
    for segment_id in ("3", "4"):
        with pytest.raises(WordError, match=f"segment {segment_id} was not judged"):
            typed("label", segment_id, "--confirm")
        assert "your label: happy" in typed("label", segment_id, "h").stdout


def test_without_a_word_a_piece_is_shown_and_nothing_changes() -> None:
    fill()
    shown = typed("label", "1").stdout
    assert "unsure (fear 41 %); no label" in shown
    assert "A angry, S sad" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["99", "sad"], "there is no segment 99: there are segments 1 to 4"),
        (["99"], "there is no segment 99"),
        (["99", "--undo"], "there is no segment 99"),
        (["0", "sad"], "there is no segment 0"),
        (["99999999999999999999", "sad"], "there is no segment 99999999999999999999"),
        (["1", "x"], "unknown emotion 'x'"),
        (["1", "sad", "--confirm"], "exclude each other; pass only one"),
        (["1", "--undo", "--confirm"], "exclude each other; pass only one"),
    ],
)
def test_what_cannot_be_said_is_explained(arguments: list[str], reason: str) -> None:
    fill()
    with pytest.raises(WordError, match=reason):
        typed("label", *arguments)


def test_a_word_that_is_no_number_of_a_piece_is_a_wrong_command_line() -> None:
    done = typed("label", "sad", "1")
    assert done.exit_code == 2
    assert "'ID'" in done.stderr


def test_a_long_day_is_listed_at_once() -> None:
    day = Day(date(2026, 7, 14), PARIS)
    said = Correction(1, Emotion.SAD, False, day.start)
    entries = []
    for number in range(1400):
        start = day.start + timedelta(seconds=60 * number)
        end = start + timedelta(seconds=15)
        entries.append(
            SegmentRecord(number, "s", number, number + 1, start, end, "Europe/Paris", SegmentState.JUDGED, None, PERHAPS, end, said)
        )
    checkins = [
        CheckIn(number, day.start + timedelta(hours=number), "Europe/Paris", 0.0, Emotion.SAD, "rain " * 30) for number in range(20)
    ]
    began = time.process_time()
    assert len(SegmentList(day, day.end, entries, checkins).text().splitlines()) > 1400
    assert time.process_time() - began < 0.3
