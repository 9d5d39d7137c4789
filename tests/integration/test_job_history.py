"""When a job is due, and the stored history of what was done."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import TimelineError
from monitor.analysis.days import Day, TimeRange
from monitor.config import Config
from monitor.deletion import delete_everything, delete_range
from monitor.fileio import make_private_file
from monitor.paths import DatabaseFiles
from monitor.scheduler.job_store import DailyTrigger
from monitor.scheduler.jobs import (
    GIVEN_UP_DETAIL,
    MAX_RETRIES,
    REDO_DETAIL,
    RETRY_AFTER,
    DisabledJobs,
    JobOutcome,
    check_due,
    last_due_date,
    last_failure,
    next_time,
)
from monitor.storage.backup import Backups
from monitor.storage.reader import TimelineReader
from monitor.storage.records import JobRun
from monitor.storage.writer import INTERRUPTED, JobHistory, TimelineWriter
from tests.support.commands import run as command
from tests.support.paths import ROOT
from tests.support.storage import keys, of_version, raw

PARIS = ZoneInfo("Europe/Paris")
THREE = time(3)
NOON = datetime(2026, 7, 14, 10, tzinfo=UTC)
TODAY = date(2026, 7, 14)
ZONES = ("Europe/Paris", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia", "Asia/Beirut", "UTC")
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


def ran(outcome: JobOutcome | None, on: date = TODAY, at: datetime = NOON, number: int = 1, **details: object) -> JobRun:
    return JobRun(number, "retrain", on, at, at if outcome else None, outcome, "why", details)


# which date ------------------------------------------------------------------------------------------------------


def test_a_date_is_due_from_its_time_on_and_of_missed_ones_the_last_alone() -> None:
    assert check_due(Day(TODAY, PARIS).at(THREE), THREE, PARIS, []).due == TODAY
    assert check_due(Day(TODAY, PARIS).at(time(2, 59)), THREE, PARIS, []).due == TODAY - timedelta(days=1)
    long_ago = [ran(JobOutcome.DONE, TODAY - timedelta(days=40))]
    assert check_due(NOON, THREE, PARIS, long_ago).due == TODAY
    assert check_due(NOON, THREE, PARIS, [ran(JobOutcome.DONE), *long_ago]).due is None


@pytest.mark.parametrize(("on", "at", "utc"), [(SPRING, "02:30", "01:30"), (AUTUMN, "02:30", "00:30"), (SPRING, "03:30", "01:30")])
def test_a_time_that_the_clock_jumps_over_or_shows_twice_comes_once(on: date, at: str, utc: str) -> None:
    before, clock = Day(on, PARIS).start - timedelta(minutes=1), time.fromisoformat(at)
    moments, moment = [], before
    for _ in range(3):
        moment = next_time(moment, clock, PARIS)
        moments.append(moment)
    assert moments[0] == datetime.combine(on, time.fromisoformat(utc), UTC)
    assert [one.astimezone(PARIS).date() for one in moments] == [on + timedelta(days=number) for number in range(3)]
    done = [ran(JobOutcome.DONE, on, moments[0])]
    end = Day(on, PARIS).end
    looked_at = [moments[0] + number * timedelta(minutes=10) for number in range(200)]
    assert {check_due(now, clock, PARIS, done).due for now in looked_at if now < end} == {None}


clocks = st.times().map(lambda clock: clock.replace(second=0, microsecond=0))
moments = st.integers(0, 25 * 365 * 24 * 60).map(lambda minutes: datetime(2005, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))


@given(moments, clocks, st.sampled_from(ZONES))
def test_scheduler_and_plan_agree_on_days(now: datetime, at: time, zone_name: str) -> None:
    zone = ZoneInfo(zone_name)
    coming = next_time(now, at, zone)
    assert now < coming <= now + timedelta(hours=50)
    assert DailyTrigger(at, zone).get_next_fire_time(None, now) == coming
    assert DailyTrigger(at, zone).get_next_fire_time(coming, now) > coming
    on = last_due_date(now, at, zone)
    assert Day(on, zone).at(at) <= now or now.astimezone(zone).date() - on == timedelta(days=1)
    assert check_due(now, at, zone, []).look_at == coming


def test_the_trigger_comes_back_from_the_file_as_it_was() -> None:
    import pickle

    one = pickle.loads(pickle.dumps(DailyTrigger(time(2, 30), PARIS)))
    assert (one.at, str(one.zone), str(one)) == (time(2, 30), "Europe/Paris", "daily at 02:30 in Europe/Paris")


@given(st.lists(st.tuples(st.integers(-40, 90), st.sampled_from([*JobOutcome])), max_size=60), st.sampled_from(ZONES), clocks)
def test_no_date_is_done_twice_however_the_clock_moves(steps: list[tuple[int, JobOutcome]], zone_name: str, at: time) -> None:
    """A life in steps of hours, also back: whenever a job is due it is done, with any outcome."""
    zone, now = ZoneInfo(zone_name), datetime(2026, 3, 27, tzinfo=UTC)
    runs: list[JobRun] = []
    for hours, outcome in steps:
        now += timedelta(hours=hours)
        due = check_due(now, at, zone, runs).due
        if due is not None:
            assert not [run for run in runs if run.day == due and run.outcome in (JobOutcome.DONE, JobOutcome.NOTHING, JobOutcome.REFUSED)]
            assert sum(run.day == due and run.outcome == JobOutcome.FAILED for run in runs) <= MAX_RETRIES
            assert Day(due, zone).at(at) <= now
            runs.insert(0, ran(outcome, due, now, len(runs)))
        else:
            assert [run for run in runs if run.day == last_due_date(now, at, zone)], "nothing was done for it, and it is not due"


# failures --------------------------------------------------------------------------------------------------------


def test_what_failed_is_tried_again_hourly_three_times_and_then_waits_for_the_next_night() -> None:
    runs: list[JobRun] = []
    now = NOON
    for number in range(MAX_RETRIES + 1):
        assert check_due(now, THREE, PARIS, runs).due == TODAY
        runs.insert(0, ran(JobOutcome.FAILED, TODAY, now, number))
        if number < MAX_RETRIES:
            assert check_due(now + timedelta(minutes=59), THREE, PARIS, runs).due is None
            assert check_due(now, THREE, PARIS, runs).look_at == now + RETRY_AFTER
            now += RETRY_AFTER
    tomorrow = Day(TODAY + timedelta(days=1), PARIS).at(THREE)
    for hours in range(10):
        planned = check_due(now + hours * RETRY_AFTER, THREE, PARIS, runs)
        assert (planned.due, planned.look_at) == (None, tomorrow)
    assert check_due(tomorrow, THREE, PARIS, runs).due == TODAY + timedelta(days=1)


def test_a_failure_in_the_future_of_a_clock_that_was_set_back_holds_it_up_for_an_hour_at_most() -> None:
    runs = [ran(JobOutcome.FAILED, TODAY, NOON + timedelta(hours=9))]
    assert check_due(NOON, THREE, PARIS, runs).look_at == NOON + RETRY_AFTER


@pytest.mark.parametrize(
    ("run", "due"),
    [
        (ran(JobOutcome.DONE), False),
        (ran(JobOutcome.NOTHING), False),
        (ran(JobOutcome.REFUSED), False),
        (ran(JobOutcome.STOPPED), False),
        (ran(JobOutcome.STOPPED, **{REDO_DETAIL: True}), True),
        (ran(JobOutcome.FAILED, at=NOON - timedelta(hours=2)), True),
        (ran(JobOutcome.FAILED, at=NOON - timedelta(hours=2), **{GIVEN_UP_DETAIL: True}), False),
        (ran(None), True),
    ],
)
def test_what_settles_a_date(run: JobRun, due: bool) -> None:
    assert (check_due(NOON, THREE, PARIS, [run]).due is not None) == due


def test_a_failure_is_known_until_something_works() -> None:
    failed, fine, stopped = ran(JobOutcome.FAILED, number=2), ran(JobOutcome.NOTHING, number=3), ran(JobOutcome.STOPPED, number=4)
    assert last_failure([]) is last_failure([fine, failed]) is last_failure([ran(None), fine, failed]) is None
    assert last_failure([failed, fine]) == last_failure([stopped, failed]) == last_failure([ran(None), failed]) == failed


NIGHT = datetime(2026, 7, 14, 1, tzinfo=UTC)
DAY = date(2026, 7, 14)
DOER = """
import sys, time
from datetime import UTC, date, datetime
from pathlib import Path
from monitor.storage.writer import JobHistory
from tests.support.storage import keys
history = JobHistory.open(Path(sys.argv[1]), keys())
print(history.begin("retrain", date(2026, 7, 14), datetime(2026, 7, 14, 1, tzinfo=UTC)), flush=True)
time.sleep(600)
"""


@pytest.fixture
def database(home: Path) -> Path:
    path = Config().timeline.database_path()
    TimelineWriter.open(path, ZoneInfo("Europe/Paris"), keys()).close()
    return path


@pytest.fixture
def history(database: Path) -> Iterator[JobHistory]:
    with JobHistory.open(database, keys()) as opened:
        yield opened


def runs(database: Path, job: str | None = None, limit: int = 100) -> list[JobRun]:
    with closing(TimelineReader.open(database, keys())) as reader:
        return reader.job_runs(limit, job)


def begun(history: JobHistory, job: str = "backup", on: date = DAY, at: datetime = NIGHT) -> int:
    number = history.begin(job, on, at)
    assert number is not None
    return number


def test_what_is_written_is_read_newest_first_and_by_job(history: JobHistory, database: Path) -> None:
    first = begun(history)
    history.end(first, NIGHT + timedelta(seconds=90), "done", "a backup was made", {"bytes": 3})
    second = begun(history, "retrain")
    expected = JobRun(first, "backup", DAY, NIGHT, NIGHT + timedelta(seconds=90), "done", "a backup was made", {"bytes": 3})
    assert [run.id for run in runs(database)] == [second, first]
    assert runs(database, "backup") == [expected]
    assert expected.seconds == 90
    assert [run.id for run in runs(database, limit=1)] == [second]
    assert (runs(database, "retrain")[0].outcome, runs(database, "retrain")[0].seconds) == (None, None)
    with closing(TimelineReader.open(database, keys())) as reader:
        assert [run.id for run in reader.job_runs_between(NIGHT, NIGHT + timedelta(seconds=1))] == [first, second]
        assert reader.job_runs_between(NIGHT + timedelta(seconds=1), NIGHT + timedelta(days=9)) == []


def test_a_job_whose_conditions_do_not_hold_was_not_begun(history: JobHistory, database: Path) -> None:
    history.retract(begun(history))
    history.retract(999)
    assert runs(database) == []


def test_what_is_not_utc_is_refused(history: JobHistory) -> None:
    paris = NIGHT.astimezone(ZoneInfo("Europe/Paris"))
    with pytest.raises(ValueError, match="UTC"):
        history.begin("backup", DAY, paris)
    with pytest.raises(ValueError, match="UTC"):
        history.end(1, paris, "done", "", {})


def test_a_job_that_another_process_does_is_not_begun_until_that_is_killed(history: JobHistory, database: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DOER, str(database)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        there = int(other.stdout.readline())
        assert history.begin("retrain", DAY, NIGHT) is None
        assert history.fail_interrupted() == 0
        assert begun(history, "backup")
        other.send_signal(signal.SIGSTOP)
        assert history.begin("retrain", DAY, NIGHT) is None, "it is stopped, not dead"
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        here = begun(history, "retrain", at=NIGHT + timedelta(hours=1))
    found = {run.id: run for run in runs(database, "retrain")}
    dead = found[there]
    assert (dead.outcome, dead.reason, dead.seconds, dead.ended_at) == ("failed", INTERRUPTED, None, NIGHT)
    assert found[here].outcome is None


def test_what_this_process_left_open_is_open_for_as_long_as_it_lives(history: JobHistory, database: Path) -> None:
    begun(history)
    made_by_another_process(database)
    assert history.fail_interrupted() == 1, "the number is given to another process now"
    begun(history)
    assert history.fail_interrupted() == 0


def test_without_a_timeline_there_is_no_history_and_none_is_begun(home: Path) -> None:
    path = Config().timeline.database_path()
    with pytest.raises(TimelineError, match="no timeline"):
        JobHistory.open(path, keys())
    assert not path.exists()
    assert runs(path) == []


def test_a_timeline_of_the_tables_before_gets_the_history_and_keeps_what_it_has(home: Path) -> None:
    database = Config().timeline.database_path()
    make_private_file(database)
    of_version(database, "0003")
    with closing(raw(database)) as connection, connection:
        connection.execute("INSERT INTO checkin VALUES (1, '2026-07-14 01:00:00.000000', 'UTC', 0.5, 'H', NULL)")
    with pytest.raises(TimelineError, match="older version"):
        JobHistory.open(database, keys())
    TimelineWriter.open(database, ZoneInfo("UTC"), keys()).close()
    with JobHistory.open(database, keys()) as history:
        begun(history)
    with closing(TimelineReader.open(database, keys())) as reader:
        last = reader.last_checkin()
        assert last is not None
        assert last.emotion == "H"


def test_the_table_itself_refuses_a_run_that_ended_with_nothing(database: Path) -> None:
    from monitor.storage.cipher import DRIVER

    row = "INSERT INTO job_run (job, day, started_at, reason, outcome) VALUES ('a', '2026-07-14', '2026-07-14 01:00:00.000000', '', 'done')"
    with closing(raw(database)) as connection, pytest.raises(DRIVER.IntegrityError):
        connection.execute(row)


# the person's data and the monitor's ------------------------------------------------------------------------------


def test_a_forgotten_stretch_leaves_the_history_which_holds_counts_only(history: JobHistory, database: Path) -> None:
    history.end(begun(history), NIGHT, "done", "fine", {"bytes": 3})
    before = runs(database)
    Backups.of(Config().timeline).make(NIGHT)
    receipt = delete_range(Config(), TimeRange(NIGHT - timedelta(days=1), NIGHT + timedelta(days=1)))
    assert runs(database) == before
    assert not receipt.found


def test_forgetting_everything_takes_the_files_of_the_jobs_along(history: JobHistory, database: Path) -> None:
    begun(history)
    DisabledJobs(database).switch("retrain", False)
    DatabaseFiles(database).jobs.write_bytes(b"plans")
    history.close()
    receipt = delete_everything(Config())
    assert {DatabaseFiles(database).jobs.name, DatabaseFiles(database).disabled_jobs.name} <= set(receipt.removed)
    assert [path.name for path in database.parent.glob("timeline.db*")] == ["timeline.db.lock"]


def test_the_history_is_not_exported(history: JobHistory, tmp_path: Path) -> None:
    history.end(begun(history), NIGHT, "done", "a-reason-of-the-monitor", {})
    assert command("export", "--out", str(tmp_path / "all.jsonl")).returncode == 0
    assert "a-reason-of-the-monitor" not in (tmp_path / "all.jsonl").read_text()


def test_a_restored_backup_brings_its_history_and_what_it_held_open_has_ended(history: JobHistory, database: Path) -> None:
    history.end(begun(history, "summaries"), NIGHT, "done", "", {})
    number = begun(history, "backup")
    kept = Backups.of(Config().timeline)
    made = kept.make(NIGHT)
    history.end(number, NIGHT, "done", "", {})
    history.end(begun(history, "retrain"), NIGHT, "done", "", {})
    history.close()
    kept.restore(made, NIGHT)
    assert [(run.job, run.outcome) for run in runs(database)] == [("backup", None), ("summaries", "done")]
    made_by_another_process(database)
    with JobHistory.open(database, keys()) as restored:
        assert restored.fail_interrupted() == 1
    assert [(run.job, run.outcome) for run in runs(database)] == [("backup", "failed"), ("summaries", "done")]


def made_by_another_process(database: Path) -> None:
    """As if what is open had been begun by a process that has the same number and began at another time."""
    with closing(raw(database)) as connection, connection:
        connection.execute("UPDATE job_run SET details = replace(details, ?, ?)", (f'"{os.getpid()} ', f'"{os.getpid()} 9'))
