"""What a person sees of the monitor's nights: by commands, in status, in reports and on the dashboard, also where none runs."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from monitor.config import Config
from monitor.control import send_command
from monitor.daemon.client import format_status
from monitor.daemon.status import DaemonStatus
from monitor.reports import sentences
from monitor.reports.clinician_sheet import to_clinician_sheet
from monitor.reports.html_report import to_html
from monitor.reports.json_report import to_json
from monitor.reports.text_report import to_plain
from monitor.scheduler.job_status import JobState, list_job_problems, summarize_jobs
from monitor.storage.reader import TimelineReader
from monitor.storage.records import JobRun
from monitor.storage.writer import JobHistory, TimelineWriter
from tests.support.commands import Running, configure, run
from tests.support.dashboards import database_in, keys_in, showing, timeline_in
from tests.support.days import of_days, of_one_day
from tests.support.storage import keys

PARIS = ZoneInfo("Europe/Paris")
NAMES = ["summaries", "backup", "retention", "retrain"]


def fill(database: Path, *rows: tuple[str, str, str], found: JobHistory | None = None) -> None:
    """Runs of today: job, outcome, reason."""
    with found or JobHistory.open(database, keys()) as history:
        for job, outcome, reason in rows:
            now = datetime.now(UTC)
            number = history.begin(job, now.astimezone(PARIS).date(), now)
            assert number is not None
            history.end(number, now + timedelta(seconds=61), outcome, reason, {})


@pytest.fixture
def database(home: Path) -> Path:
    path = Config().timeline.database_path()
    TimelineWriter.open(path, PARIS, keys()).close()
    return path


def last_outcome(database: Path, job: str) -> str | None:
    with closing(TimelineReader.open(database, keys())) as reader:
        runs = reader.job_runs(1, job)
    return runs[0].outcome if runs else None


# commands where no monitor runs ----------------------------------------------------------------------------------


def test_jobs_are_listed_before_there_is_a_timeline(home: Path) -> None:
    listed = run("schedule", "list")
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0].split() == ["job", "next", "last"]
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == NAMES
    assert "when the monitor runs" in listed.stdout
    refused = run("schedule", "run", "backup")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "there is no timeline" in refused.stderr
    assert not Config().timeline.database_path().exists()


def test_a_job_is_done_here_where_no_monitor_runs(database: Path) -> None:
    done = run("schedule", "run", "backup")
    assert (done.returncode, done.stderr) == (0, "")
    assert "backup of" in done.stdout
    assert "done; a backup of" in done.stdout
    again = json.loads(run("schedule", "run", "backup", "--json").stdout)
    assert (again["outcome"], again["reason"]) == ("nothing", "there is a backup of this day already")
    listed = json.loads(run("schedule", "list", "--json").stdout)
    assert not listed["running"]
    assert [job["job"] for job in listed["jobs"]] == NAMES
    assert listed["jobs"][1]["last"]["id"] == again["id"]
    history = json.loads(run("schedule", "history", "backup", "--json").stdout)
    assert [one["outcome"] for one in history] == ["nothing", "done"]
    assert history[1]["details"]["bytes"] > 0
    assert len(run("schedule", "history", "--limit", "1").stdout.splitlines()) == 1


def test_a_job_that_fails_says_why_and_exits_with_one(database: Path) -> None:
    backups = database.parent / "backups"
    backups.write_text("in the way")
    failed = run("schedule", "run", "backup")
    assert failed.returncode == 1
    assert "backup of" in failed.stdout
    assert "failed; cannot read the backups" in failed.stdout
    assert "failed for" in run("schedule", "list").stdout
    backups.unlink()
    assert run("schedule", "run", "backup").returncode == 0
    assert "failed for" not in run("schedule", "list").stdout


def test_switching_a_job_off_lasts_and_settings_may_say_never(home: Path, database: Path) -> None:
    assert "is disabled" in run("schedule", "disable", "retrain").stdout
    assert "switched off" in run("schedule", "list").stdout
    assert "runs daily at 03:00" in run("schedule", "enable", "retrain").stdout
    assert "switched off" not in run("schedule", "list").stdout
    configure(home, schedule={"retrain": ""})
    assert "never, say the settings" in run("schedule", "list").stdout
    assert '[schedule] retrain is "" in the settings, so it never runs' in run("schedule", "enable", "retrain").stdout
    unknown = run("schedule", "disable", "sleep")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "error: unknown job 'sleep'; choose from summaries, backup, retention, retrain\n",
    )


# a running monitor -----------------------------------------------------------------------------------------------


@pytest.fixture
def monitor(home: Path, database: Path) -> Iterator[Running]:
    """One that hears nothing, from standard input."""
    configure(home, engine={"kind": "transformers"})
    fill(database, ("retrain", "failed", "the bundle is damaged"))
    running = Running(home, "--source", "-", stdin=subprocess.PIPE)
    running.until(lambda: "listening" in running.output)
    yield running
    running.end(signal.SIGTERM)


def test_a_running_monitor_does_lists_and_switches_its_jobs_and_shows_what_failed(monitor: Running, database: Path) -> None:
    listed = json.loads(run("schedule", "list", "--json").stdout)
    assert listed["running"]
    monitor.until(lambda: send_command(database, "status")["jobs"]["failed"])
    status = json.loads(run("status", "--json").stdout)
    (failed,) = status["jobs"]["failed"]
    assert (failed["job"], failed["reason"]) == ("retrain", "the bundle is damaged")
    assert status["problems"] == [f"retrain of {failed['day']} failed: the bundle is damaged"]
    text = run("status").stdout
    assert "Problem     retrain of" in text
    assert "\nJobs        next is " in text

    done = run("schedule", "run", "backup")
    assert (done.returncode, done.stderr) == (0, "")
    assert "done; a backup of" in done.stdout
    assert last_outcome(database, "backup") == "done"
    assert "runs daily" not in run("schedule", "disable", "retrain").stdout
    assert json.loads(run("status", "--json").stdout)["problems"] == [], "who switched it off knows"
    run("schedule", "enable", "retrain")
    run("schedule", "run", "retrain")
    assert last_outcome(database, "retrain") == "nothing"
    assert send_command(database, "status")["jobs"]["failed"] == []
    monitor.process.kill()
    monitor.process.wait()
    assert "if the monitor runs" in run("schedule", "list").stdout


# status ----------------------------------------------------------------------------------------------------------


NOW = datetime(2026, 7, 14, 20, tzinfo=UTC)
RAN = JobRun(1, "retrain", NOW.date(), NOW, NOW + timedelta(seconds=61), "failed", "the disk is full")


def test_status_says_what_comes_what_goes_on_what_waits_and_what_failed() -> None:
    states = [
        JobState("summaries", "", "00:10", True, next_at=NOW + timedelta(hours=2, minutes=10)),
        JobState("backup", "", "00:30", True, next_at=NOW + timedelta(hours=2, minutes=30), running_since=NOW),
        JobState("retrain", "", "03:00", True, next_at=NOW + timedelta(minutes=10), waits="the machine is on battery", failed=RAN),
        JobState("retention", "", "", True, failed=RAN),
    ]
    status = DaemonStatus("mic", True)
    status.report_jobs(states, "the backups cannot be read")
    answer = {"pid": 1, **status.as_json()}
    assert answer["problems"] == ["the backups cannot be read", "retrain of 2026-07-14 failed: the disk is full"]
    lines = format_status(answer, PARIS).splitlines()
    assert "Jobs        backup goes on since 22:00; retrain waits: the machine is on battery; next is summaries, 2026-07-15 00:10" in lines
    assert lines[-1] == "Problem     retrain of 2026-07-14 failed: the disk is full"
    assert json.loads(json.dumps(answer)) == answer
    assert summarize_jobs([]) == {"next": None, "running": [], "waiting": [], "failed": []}
    assert list_job_problems([]) == []


# reports ---------------------------------------------------------------------------------------------------------


def night(outcome: str, reason: str = "", hour: int = 1, **details: object) -> JobRun:
    day = of_one_day().day.day
    start = day.start + timedelta(hours=hour)
    return JobRun(hour, "retrain", day.on, start, start + timedelta(minutes=9), outcome, reason, details)


def test_a_report_says_that_the_last_retraining_failed_and_that_a_new_model_is_in_use() -> None:
    failed = replace(of_one_day(), retrainings=(night("failed", "the disk is full."),))
    (said,) = [one for one in sentences.day_sentences(failed) if "retraining" in one]
    assert said.endswith("failed: the disk is full. The model in use is unchanged.")
    assert sentences.day_sentences(replace(failed, retrainings=(*failed.retrainings, night("refused", hour=2)))) == sentences.day_sentences(
        of_one_day()
    )
    live = replace(of_one_day(), retrainings=(night("done", version="compact-night-1"),))
    (said,) = [one for one in sentences.day_sentences(live) if "compact-night-1" in one]
    assert said.startswith("A new model, compact-night-1, trained on your labels, has been in use since ")
    nested = replace(of_one_day(), retrainings=(night("done", decision={"version": "compact-night-2"}),))
    assert any("compact-night-2" in one for one in sentences.day_sentences(nested))
    assert sentences.day_sentences(replace(live, retrainings=(night("refused", version="compact-night-1"),))) == sentences.day_sentences(
        of_one_day()
    )


def test_every_form_of_a_report_has_that_line_but_the_sheet_for_a_clinician() -> None:
    for material in (of_one_day(), of_days()):
        failed = replace(material, retrainings=(night("failed", "the disk is full"),))
        for text in (to_plain(failed), to_html(failed)):
            assert "failed: the disk is full" in text
        told = json.loads(to_json(failed))
        assert told["retrainings"][0]["outcome"] == "failed"
        assert told["retrainings"][0]["seconds"] == 540
        assert any("failed: the disk is full" in one for one in told["sentences"])
        assert json.loads(to_json(material))["retrainings"] == []
    assert "the disk is full" not in to_clinician_sheet(replace(of_days(), retrainings=(night("failed", "the disk is full"),)), "compact")


def test_a_report_finds_it_in_the_timeline(database: Path) -> None:
    fill(database, ("retrain", "failed", "the disk is full"), ("backup", "failed", "of no interest here"))
    text = run("report", "--plain").stdout
    assert "failed: the disk is full." in text
    assert "of no interest" not in text


# the dashboard ---------------------------------------------------------------------------------------------------


def test_a_page_shows_what_was_done_and_what_comes(tmp_path: Path) -> None:
    with timeline_in(tmp_path):
        pass
    rows = (("backup", "done", "a backup of 1.0 MiB was made"), ("retrain", "failed", "<b>the disk is full</b>"))
    fill(database_in(tmp_path), *rows, found=JobHistory.open(database_in(tmp_path), keys_in(tmp_path)))
    with showing(tmp_path) as dashboard, dashboard.client() as client:
        page = client.get("nights").text
        assert "The monitor is not running" in page
        assert "a backup of 1.0 MiB was made" in page
        assert "1 min" in page
        assert "&lt;b&gt;the disk is full&lt;/b&gt;" in page
        assert page.count("Failed for") == 1
        assert "/nights" in client.get("about").text
