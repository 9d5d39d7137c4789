"""`report` on the command line: which days are meant, which formats go together, and where the file goes."""

import csv
import io
import json
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from model.errors import DayError, EmosllmError, ReportError
from monitor.cli import app
from monitor.config import TimelineConfig
from monitor.day.wording import NOTICE
from monitor.report.asking import Format, choose_format, write_private
from monitor.report.period import Asked
from monitor.store.timeline import Timeline
from tests.days import Person, live
from tests.stores import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOW = datetime(2026, 7, 14, 19, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        (Asked(), "2026-07-14", "2026-07-14"),
        (Asked("yesterday"), "2026-07-13", "2026-07-13"),
        (Asked(week=True), "2026-07-08", "2026-07-14"),
        (Asked("2026-03-31", month=True), "2026-03-02", "2026-03-31"),
        (Asked(first="2026-07-01"), "2026-07-01", "2026-07-14"),
        (Asked(first="2026-03-01", last="2026-03-31"), "2026-03-01", "2026-03-31"),
        (Asked(first="yesterday", last="yesterday"), "2026-07-13", "2026-07-13"),
    ],
)
def test_the_days_that_are_meant(asked: Asked, first: str, last: str) -> None:
    period = asked.period(PARIS, NOW)
    assert (period.first.isoformat(), period.last.isoformat()) == (first, last)


def test_a_sheet_is_of_four_weeks_unless_said_otherwise() -> None:
    assert Asked().period(PARIS, NOW, 28).first == date(2026, 6, 17)
    assert Asked(week=True).period(PARIS, NOW, 28).first == date(2026, 7, 8)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(week=True, month=True), "--week and --month cannot be meant together"),
        (Asked(week=True, first="2026-07-01"), "--week and --from cannot be meant together"),
        (Asked("today", first="2026-07-01"), "--day and --from cannot be meant together"),
        (Asked(last="2026-07-01"), "say with --from where it begins"),
        (Asked(first="2026-07-02", last="2026-07-01"), "--from 2026-07-02 lies after --to 2026-07-01"),
        (Asked(first="2026-07-15"), "still to come"),
        (Asked(first="2019-07-15"), "at most 1098"),
        (Asked("the 14th"), "is no day"),
    ],
)
def test_days_that_cannot_be_meant_are_refused_with_a_way_out(asked: Asked, words: str) -> None:
    with pytest.raises(DayError, match=words):
        asked.period(PARIS, NOW)


@pytest.mark.parametrize(
    ("form", "out", "plain", "sheet", "chosen"),
    [
        (None, None, False, False, Format.TEXT),
        (None, "a.pdf", False, False, Format.PDF),
        (None, "a.HTML", False, True, Format.HTML),
        (None, "a.unknown", False, False, Format.TEXT),
        (None, None, False, True, Format.HTML),
        (Format.JSON, "a.pdf", False, False, Format.JSON),
        (None, "a.txt", True, False, Format.TEXT),
    ],
)
def test_the_format_is_what_was_asked_for_or_what_the_file_ends_with(
    form: Format | None, out: str | None, plain: bool, sheet: bool, chosen: Format
) -> None:
    assert choose_format(form, Path(out) if out else None, plain, sheet) is chosen


@pytest.mark.parametrize(
    ("form", "plain", "sheet"), [(Format.HTML, True, False), (Format.TEXT, False, True), (Format.PDF, False, False), (None, True, True)]
)
def test_what_does_not_go_together_is_refused(form: Format | None, plain: bool, sheet: bool) -> None:
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
    Timeline.open(path, PARIS, keys()).close()
    connection = raw(path)
    live(connection, PARIS, on - timedelta(days=11), 12, Person(segments=40))
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
    assert "What it cannot say" in out.read_text()


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
    assert "csv" in more or NOTICE in " ".join(shown.split())
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
