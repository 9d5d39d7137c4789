"""Jobs come at their times in the background: across starts, kills, changed settings, damaged files, full disks and clocks that are set."""

import logging
import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, tzinfo
from datetime import time as clock_time
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from model.errors import EmosllmError, TimelineError
from monitor.config import Config
from monitor.control import ControlServer, send_command
from monitor.daemon.app import job_commands
from monitor.fileio import make_private_file
from monitor.paths import DatabaseFiles
from monitor.scheduler.job_status import JobState
from monitor.scheduler.job_store import DailyTrigger
from monitor.scheduler.jobs import Job, JobOutcome, JobResult, next_time
from monitor.scheduler.runner import JobRunner
from monitor.scheduler.scheduler import HourlyTask, JobScheduler
from monitor.storage.reader import TimelineReader
from monitor.storage.records import JobRun
from monitor.storage.writer import TimelineWriter
from tests.support.paths import ROOT
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
A_MOMENT_S = 60.0
CANNOT_WRITE = "timeline.db.jobs cannot be written; scheduled jobs still run, and their times are kept in memory"
DOER = """
import sys, threading, time
from pathlib import Path
from tests.integration.test_scheduler import Night
def work(now):
    print("at it", flush=True)
    time.sleep(600)
with Night(Path(sys.argv[1]), work).jobs:
    time.sleep(600)
"""


def done(_now: datetime) -> JobResult:
    return JobResult(JobOutcome.DONE)


class Night:
    """One start of the monitor, as far as its jobs go: a job "retrain" that does `work`."""

    def __init__(
        self,
        database: Path,
        work: Callable[[datetime], JobResult] = done,
        times: Mapping[str, str] | None = None,
        hourly: Mapping[str, HourlyTask] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        first_s: float = 0.05,
    ) -> None:
        self.over = threading.Event()
        self.told: list[tuple[Sequence[JobState], str]] = []
        times = times or {"retrain": "03:00"}
        runner = JobRunner([Job(name, name, work) for name in times], times, PARIS, database, keys(), self.over, clock)
        tell = lambda states, problem: self.told.append((states, problem))  # noqa: E731
        self.jobs = JobScheduler(DatabaseFiles(database).jobs, runner, times, PARIS, hourly or {}, self.over, tell, first_s)

    def planned(self) -> datetime | None:
        """When APScheduler comes to the job next, wherever that is kept."""
        job = self.jobs._scheduler.get_job("retrain")
        return job and job.next_run_time


@pytest.fixture
def database(home: Path) -> Path:
    path = Config().timeline.database_path()
    TimelineWriter.open(path, PARIS, keys()).close()
    return path


def runs(database: Path) -> list[JobRun]:
    with closing(TimelineReader.open(database, keys())) as reader:
        return reader.job_runs(100)


def outcomes(database: Path) -> list[str | None]:
    return [run.outcome for run in runs(database)]


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + A_MOMENT_S
    while not happened():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def planned(database: Path) -> dict[str, datetime]:
    """What lies in the file."""
    with closing(sqlite3.connect(DatabaseFiles(database).jobs)) as connection:
        rows = connection.execute("SELECT id, next_run_time FROM apscheduler_jobs").fetchall()
    return {name: datetime.fromtimestamp(at, UTC) for name, at in rows}


def tonight(at: str = "03:00") -> datetime:
    return next_time(datetime.now(UTC), datetime.fromisoformat(f"2026-01-01T{at}").time(), PARIS)


@pytest.fixture(autouse=True)
def not_about_to_come() -> None:
    """The few seconds before a night begins are no time to say what comes next."""
    for at in ("03:00", "04:30"):
        while tonight(at) - datetime.now(UTC) < timedelta(seconds=20):
            time.sleep(1)


# starts ----------------------------------------------------------------------------------------------------------


def test_a_missed_night_is_made_up_after_the_start_once(database: Path) -> None:
    with Night(database).jobs:
        until(lambda: outcomes(database) == ["done"])
        until(lambda: planned(database) == {"retrain": tonight()})
    night = Night(database)
    with night.jobs:
        time.sleep(0.5)
    assert outcomes(database) == ["done"]
    assert planned(database) == {"retrain": tonight()}
    assert DatabaseFiles(database).jobs.stat().st_mode & 0o777 == 0o600
    state = night.told[-1][0][0]
    assert (state.next_at, state.due, state.running_since) == (tonight(), False, None)


def test_what_is_planned_holds_nothing_but_names_and_times(database: Path) -> None:
    with Night(database).jobs:
        until(lambda: outcomes(database) == ["done"])
    with closing(sqlite3.connect(DatabaseFiles(database).jobs)) as connection:
        ((state,),) = connection.execute("SELECT job_state FROM apscheduler_jobs").fetchall()
    stored = pickle.loads(state)
    assert stored["args"] == ("retrain",)
    assert stored["func"] == "monitor.scheduler.scheduler:run_scheduled_job"
    assert (stored["coalesce"], stored["misfire_grace_time"], stored["max_instances"]) == (True, None, 1)


def test_another_time_in_the_settings_moves_the_job_and_does_not_do_it_again(database: Path) -> None:
    with Night(database, times={"retrain": "03:00", "backup": "03:00"}).jobs:
        until(lambda: outcomes(database) == ["done", "done"])
    for times in ({"retrain": "04:30", "backup": ""}, {"retrain": "04:30"}):
        with Night(database, times=times).jobs:
            until(lambda: planned(database) == {"retrain": tonight("04:30")})
    if all(run.day == runs(database)[0].day for run in runs(database)):
        assert outcomes(database) == ["done", "done"]


def test_a_night_that_was_killed_is_said_and_done_again_an_hour_later(database: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DOER, str(database)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout is not None
        assert monitor.stdout.readline() == "at it\n"
        monitor.send_signal(signal.SIGKILL)
        monitor.wait()
    assert outcomes(database) == [None]
    night = Night(database)
    with night.jobs:
        until(lambda: night.told)
        assert [(run.outcome, run.reason) for run in runs(database)] == [("failed", "it was interrupted")]
        assert night.told[-1][0][0].problem.endswith("failed: it was interrupted")
        (interrupted,) = runs(database)
        again_at = min(tonight(), interrupted.started_at + timedelta(hours=1))
        until(lambda: abs(planned(database)["retrain"] - again_at) < timedelta(seconds=0.01))
        assert outcomes(database) == ["failed"]
    an_hour_before = f"{interrupted.started_at - timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}"
    with closing(raw(database)) as connection, connection:
        connection.execute("UPDATE job_run SET started_at = :at, ended_at = :at", {"at": an_hour_before})
    with Night(database).jobs:
        until(lambda: outcomes(database) == ["done", "failed"])


def test_starts_and_ends_in_the_middle_of_jobs_neither_hang_nor_repeat(database: Path) -> None:
    """Ends at once, then later and later, until the job came, however long that takes on this machine: its first run is the only one."""
    begun: list[datetime] = []

    def work(now: datetime) -> JobResult:
        begun.append(now)
        return JobResult(JobOutcome.DONE)

    deadline, pause_s, more = time.monotonic() + A_MOMENT_S, 0.0, 5
    while more:
        with Night(database, work).jobs:
            time.sleep(pause_s)
        assert time.monotonic() < deadline, "no start got as far as its job"
        pause_s += 0.01
        more -= bool(begun)
    assert len(begun) == 1
    assert outcomes(database) == ["done"]


def test_the_end_stops_a_long_job_which_is_done_again_at_the_next_start(database: Path) -> None:
    begun = threading.Event()

    def long(_now: datetime) -> JobResult:
        begun.set()
        assert night.over.wait(A_MOMENT_S)
        return JobResult(JobOutcome.STOPPED, "the monitor ended")

    night = Night(database, long)
    with night.jobs:
        assert begun.wait(A_MOMENT_S)
        assert night.jobs.states()[0].running_since is not None
        with pytest.raises(EmosllmError, match="being done already"):
            night.jobs.run("retrain")
        ended_at = time.monotonic()
    assert time.monotonic() - ended_at < 5
    assert outcomes(database) == ["stopped"]
    with Night(database).jobs:
        until(lambda: outcomes(database) == ["done", "stopped"])


# what does not work ----------------------------------------------------------------------------------------------


def test_what_the_version_before_planned_is_dropped_without_a_word(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as before:
        store_of_the_version_before(before, DatabaseFiles(database).jobs)
    assert set(planned(database)) == {"retrain", "backup"}
    with pytest.raises(ModuleNotFoundError):
        load_plan(database)
    night = Night(database)
    with night.jobs:
        until(lambda: outcomes(database) == ["done"])
        until(lambda: planned(database) == {"retrain": tonight()})
    assert load_plan(database)["func"] == "monitor.scheduler.scheduler:run_scheduled_job"
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert capfd.readouterr().err == ""
    assert {problem for _, problem in night.told} == {""}


def load_plan(database: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(DatabaseFiles(database).jobs)) as connection:
        (state,) = connection.execute("SELECT job_state FROM apscheduler_jobs WHERE id = 'retrain'").fetchone()
    plan: dict[str, Any] = pickle.loads(state)
    return plan


def store_of_the_version_before(patch: pytest.MonkeyPatch, path: Path) -> None:
    """As that version wrote it: its function is `monitor.jobs.schedule:come`, its trigger `monitor.jobs.daily.Daily`."""
    schedule, daily = ModuleType("monitor.jobs.schedule"), ModuleType("monitor.jobs.daily")
    for module in (ModuleType("monitor.jobs"), schedule, daily):
        patch.setitem(sys.modules, module.__name__, module)

    def come(_database: str, _name: str) -> None:
        raise AssertionError("it is not to be called")

    class Daily(DailyTrigger):
        pass

    come.__module__, come.__qualname__, schedule.come = schedule.__name__, "come", come  # type: ignore[attr-defined]
    Daily.__module__, Daily.__qualname__, daily.Daily = daily.__name__, "Daily", Daily  # type: ignore[attr-defined]
    make_private_file(path)
    scheduler = BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(f"sqlite:///{path}")}, timezone=UTC)
    scheduler.start(paused=True)
    for name in ("retrain", "backup"):
        scheduler.add_job(come, Daily(clock_time(3), PARIS), args=["/home/me/timeline.db", name], id=name)
    scheduler.shutdown()


@pytest.mark.parametrize("content", [b"no database at all " * 500, b"", b"SQLite format 3\0" + b"\x55" * 5000])
def test_a_damaged_file_is_made_anew(database: Path, content: bytes) -> None:
    DatabaseFiles(database).jobs.write_bytes(content)
    with Night(database).jobs:
        until(lambda: outcomes(database) == ["done"])
        until(lambda: planned(database) == {"retrain": tonight()})
    assert DatabaseFiles(database).jobs.stat().st_mode & 0o777 == 0o600


def test_what_another_version_planned_is_forgotten(database: Path) -> None:
    with Night(database).jobs:
        until(lambda: outcomes(database) == ["done"])
    with closing(sqlite3.connect(DatabaseFiles(database).jobs)) as connection, connection:
        connection.execute("UPDATE apscheduler_jobs SET job_state = ?", (pickle.dumps({"version": 99}),))
        connection.execute("INSERT INTO apscheduler_jobs VALUES ('sleep', 0, x'00')")
    with Night(database).jobs:
        until(lambda: planned(database) == {"retrain": tonight()})


def test_where_plans_cannot_be_written_down_jobs_come_all_the_same(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    often: list[datetime] = []
    night = Night(database, hourly={"retrain": often.append})
    # A folder where the file should be: it can neither be opened nor replaced.
    DatabaseFiles(database).jobs.mkdir()
    with night.jobs:
        until(lambda: outcomes(database) == ["done"])
        until(lambda: often)
        night.jobs.run("retrain")
        until(lambda: outcomes(database) == ["done", "done"])
        until(lambda: night.planned() == tonight())
        until(lambda: night.told)
        assert night.told[-1][1] == CANNOT_WRITE
        night.jobs.switch("retrain", False)
        assert night.planned() is None
    assert caplog.text.count("timeline.db.jobs cannot be used") == 2


def test_a_disk_that_is_full_for_a_while_ends_nothing(database: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    fail_at = [datetime.now(UTC)]

    def fills(_now: datetime) -> JobResult:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        fail_at.append(datetime.now(UTC))
        return JobResult(JobOutcome.DONE)

    night = Night(database, fills)
    try:
        with night.jobs:
            until(lambda: len(fail_at) == 2)
            until(lambda: night.jobs.states()[0].waits)
            assert "disk" in night.jobs.states()[0].waits
            until(lambda: night.jobs._problems)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert night.jobs.come("retrain") is None
            assert outcomes(database) == ["done"]
            assert night.told[-1][1] == CANNOT_WRITE
            until(lambda: night.planned() == tonight())
            night.jobs._retry_at = 0.0
            night.jobs._check_clock()
            assert night.told[-1][1] == "", "the file is used again"
            until(lambda: planned(database) == {"retrain": tonight()})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(fail_at) == 2, "it was done once"
    night = Night(database)
    with night.jobs:
        until(lambda: planned(database) == {"retrain": tonight()})
        until(lambda: night.told)
    assert (outcomes(database), night.told[-1][1]) == (["done"], "")


def test_a_file_that_fails_while_jobs_come_does_not_end_the_scheduler(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.scheduler.job_store._BUSY_TIMEOUT_S", 0.1)
    night = Night(database, first_s=2)
    with night.jobs:
        until(night.planned)
        with closing(sqlite3.connect(DatabaseFiles(database).jobs)) as other:
            other.execute("BEGIN IMMEDIATE")
            until(lambda: night.told and night.told[-1][1] == CANNOT_WRITE)
            until(lambda: outcomes(database) == ["done"])
        until(lambda: night.planned() == tonight())
        night.jobs.run("retrain")
        until(lambda: outcomes(database) == ["done", "done"])


def test_what_is_done_hourly_says_what_went_wrong_until_it_works(database: Path) -> None:
    problems = [TimelineError("the disk is full"), ZeroDivisionError("secret")]

    def act(_now: datetime) -> None:
        if problems:
            raise problems.pop(0)

    night = Night(database, hourly={"retrain": act})
    with night.jobs:
        until(lambda: night.told and night.told[-1][1] == "the disk is full")
        night.jobs.run_hourly_now("retrain")
        assert night.told[-1][1] == "an unforeseen error, ZeroDivisionError; the log says more"
        night.jobs.run_hourly_now("retrain")
        assert night.told[-1][1] == ""
        night.jobs.switch("retrain", False)
        problems.append(TimelineError("again"))
        night.jobs.run_hourly_now("retrain")
        assert problems, "it is switched off"


# clocks ----------------------------------------------------------------------------------------------------------


def test_after_sleep_and_when_the_clock_was_set_all_is_planned_anew(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.scheduler.scheduler._CLOCK_CHECK_S", 0.05)
    ahead = timedelta(days=-1)
    real = time.time
    monkeypatch.setattr("monitor.scheduler.scheduler.time.time", lambda: real() + ahead.total_seconds())

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + ahead

    for module in ("monitor.scheduler.scheduler", "apscheduler.schedulers.base", "apscheduler.triggers.date"):
        monkeypatch.setattr(f"{module}.datetime", Clock)
    often: list[datetime] = []
    night = Night(database, hourly={"retrain": often.append}, clock=lambda: Clock.now(UTC))
    with night.jobs:
        until(lambda: outcomes(database) == ["done"] and often)
        yesterday = runs(database)[0].day
        ahead = timedelta()
        until(lambda: outcomes(database) == ["done", "done"])
        assert runs(database)[0].day == yesterday + timedelta(days=1)
        until(lambda: len(often) == 2)
        ahead = timedelta(days=-1)
        until(lambda: len(often) == 3)
        assert outcomes(database) == ["done", "done"], "nothing is done twice"


# asked from another terminal -------------------------------------------------------------------------------------


def test_a_running_monitor_is_asked_by_its_socket(database: Path) -> None:
    with Night(database).jobs as jobs, ControlServer(DatabaseFiles(database).socket, job_commands(jobs)):
        until(lambda: outcomes(database) == ["done"])
        (listed,) = send_command(database, "jobs")["jobs"]
        assert (listed["job"], listed["time"], listed["last"]["outcome"]) == ("retrain", "03:00", "done")
        send_command(database, "run-job", name="retrain")
        until(lambda: outcomes(database) == ["done", "done"])
        send_command(database, "switch-job", name="retrain", on=False)
        assert planned(database) == {}
        send_command(database, "switch-job", name="retrain", on=True)
        assert planned(database) == {"retrain": tonight()}
        for command in ("run-job", "switch-job"):
            with pytest.raises(EmosllmError, match="no job 'sleep'"):
                send_command(database, command, name="sleep")
            with pytest.raises(EmosllmError, match="which job"):
                send_command(database, command, name=7)
    assert os.path.lexists(DatabaseFiles(database).jobs)
