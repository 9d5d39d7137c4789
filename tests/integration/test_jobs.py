"""Jobs are done once for a date whatever happens to them, wait for their conditions, and what goes wrong in one goes no further."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.emotions import Emotion, Prediction
from model.errors import EmosllmError, TimelineError
from monitor.analysis.days import Day
from monitor.config import Config
from monitor.daemon.jobs import hourly_tasks, maintenance_jobs
from monitor.scheduler.job_status import JobState, list_job_problems, summarize_jobs
from monitor.scheduler.jobs import CONDITIONS_RETRY, RETRY_AFTER, ConditionsNotMet, DisabledJobs, Job, JobOutcome, JobResult
from monitor.scheduler.runner import JobRunner
from monitor.storage.backup import Backups
from monitor.storage.reader import TimelineReader
from monitor.storage.records import InferenceResult, JobRun
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 10, tzinfo=UTC)
TODAY = date(2026, 7, 14)
NIGHT = Day(TODAY + timedelta(days=1), PARIS).at(datetime(2026, 1, 1, 3).time())  # noqa: DTZ001


class Life:
    """A job whose ways are set by a test, its runner, and the clock that both look at."""

    def __init__(self, database: Path, now: datetime = NOON) -> None:
        self.database = database
        self.now = now
        self.acts: list[Callable[[], JobResult]] = []
        self.done_at: list[datetime] = []
        self.over = threading.Event()
        self.runner = self.start()

    def start(self) -> JobRunner:
        job = Job("retrain", "learn", self._run)
        self.runner = JobRunner([job], {"retrain": "03:00"}, PARIS, self.database, keys(), self.over, lambda: self.now)
        self.runner.recover()
        return self.runner

    def come(self, **later: float) -> datetime:
        self.now += timedelta(**later)
        return self.runner.come("retrain")

    @property
    def runs(self) -> list[tuple[date, str | None, str]]:
        with closing(TimelineReader.open(self.database, keys())) as reader:
            return [(run.day, run.outcome, run.reason) for run in reversed(reader.job_runs(1000, "retrain"))]

    @property
    def state(self) -> JobState:
        return self.runner.states()[0]

    def _run(self, now: datetime) -> JobResult:
        assert now == self.now
        self.done_at.append(now)
        return self.acts.pop(0)() if self.acts else JobResult(JobOutcome.DONE)


def fails(error: Exception) -> Callable[[], JobResult]:
    def act() -> JobResult:
        raise error

    return act


@pytest.fixture
def database(home: Path) -> Path:
    path = Config().timeline.database_path()
    TimelineWriter.open(path, PARIS, keys()).close()
    return path


@pytest.fixture
def life(database: Path) -> Iterator[Life]:
    life = Life(database)
    yield life
    life.runner.close()


# once for a date -------------------------------------------------------------------------------------------------


def test_a_missed_night_is_made_up_once_and_the_next_comes_at_its_time(life: Life) -> None:
    assert life.come() == NIGHT
    assert life.come(hours=1) == life.come(hours=3) == NIGHT
    assert life.runs == [(TODAY, "done", "")]
    life.come(days=9)
    assert [day for day, _, _ in life.runs] == [TODAY, TODAY + timedelta(days=9)], "of nine nights the last"


def test_a_restart_and_a_clock_set_back_do_nothing_twice(life: Life) -> None:
    life.come(days=-1)
    life.come(days=1)
    life.runner.close()
    life.start()
    for hours in (0, -2, -30, 29, 3):
        life.come(hours=hours)
    assert [(day, outcome) for day, outcome, _ in life.runs] == [(TODAY - timedelta(days=1), "done"), (TODAY, "done")]


def test_a_restored_timeline_knows_what_was_done_until_its_backup(life: Life) -> None:
    life.come()
    kept = Backups.of(Config().timeline)
    made = kept.make(NOON)
    life.come(days=1)
    life.runner.close()
    kept.restore(made, NOON)
    life.start()
    assert [day for day, _, _ in life.runs] == [TODAY]
    assert life.come() > life.now + timedelta(hours=1)
    assert [day for day, _, _ in life.runs] == [TODAY, TODAY + timedelta(days=1)], "what it does not hold is done in it"
    life.come(hours=1)
    assert len(life.done_at) == 3


# what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EmosllmError("the bundle is damaged"), "the bundle is damaged"),
        (ZeroDivisionError("secret words"), "an unforeseen error, ZeroDivisionError; the log says more"),
        (MemoryError(), "an unforeseen error, MemoryError; the log says more"),
    ],
)
def test_an_error_of_any_kind_is_a_run_that_failed(life: Life, error: Exception, reason: str) -> None:
    life.acts = [fails(error)]
    assert life.come() == NOON + RETRY_AFTER
    assert life.runs == [(TODAY, "failed", reason)]
    assert list_job_problems([life.state]) == [f"retrain of 2026-07-14 failed: {reason}"]
    assert life.come(hours=1) == NIGHT
    assert list_job_problems([life.state]) == [], "it worked"


def test_after_three_retries_it_waits_for_the_next_night_and_the_failure_stays_known(life: Life) -> None:
    life.acts = [fails(EmosllmError(f"number {number}")) for number in range(9)]
    comings = [life.come()] + [life.come(hours=1) for _ in range(5)]
    assert comings == [*(NOON + number * RETRY_AFTER for number in (1, 2, 3)), NIGHT, NIGHT, NIGHT]
    assert len(life.runs) == 4
    assert life.state.problem == "retrain of 2026-07-14 failed: number 3"
    life.now = NIGHT
    life.come()
    assert life.state.problem == "retrain of 2026-07-15 failed: number 4"


def test_an_interrupted_night_is_a_failed_one_and_is_tried_again(life: Life) -> None:
    with closing(raw(life.database)) as connection, connection:
        row = "('retrain', '2026-07-14', '2026-07-14 09:30:00.000000', '', '{\"process\": \"1 1 of an earlier start of the machine\"}')"
        connection.execute(f"INSERT INTO job_run (job, day, started_at, reason, details) VALUES {row}")
    life.runner.close()
    life.start()
    assert life.runs == [(TODAY, "failed", "it was interrupted")]
    assert life.come() == NOON + timedelta(minutes=30)
    life.come(minutes=30)
    assert [outcome for _, outcome, _ in life.runs] == ["failed", "done"]


def test_where_the_history_cannot_be_written_nothing_is_done_until_it_can(life: Life) -> None:
    with closing(raw(life.database)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert life.come() == NOON + CONDITIONS_RETRY
        assert "another program holds it" in life.state.waits
        assert life.done_at == []
    life.come(minutes=10)
    assert [outcome for _, outcome, _ in life.runs] == ["done"]


def test_what_was_done_while_the_disk_was_full_is_written_down_later_and_not_done_again(life: Life) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_the_disk() -> JobResult:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        return JobResult(JobOutcome.DONE, "as far as it goes", {"bytes": 3})

    life.acts = [fills_the_disk]
    try:
        assert life.come() == NOON + CONDITIONS_RETRY
        assert life.come(minutes=10) == life.now + CONDITIONS_RETRY
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [outcome for _, outcome, _ in life.runs] == [None]
    life.come(minutes=10)
    assert life.runs == [(TODAY, "done", "as far as it goes")]
    assert len(life.done_at) == 1


# conditions ------------------------------------------------------------------------------------------------------


def test_conditions_are_looked_at_every_ten_minutes_and_said_until_they_hold(life: Life) -> None:
    life.acts = [fails(ConditionsNotMet("the machine is on battery")), fails(ConditionsNotMet("somebody speaks"))]
    assert life.come() == NOON + CONDITIONS_RETRY
    assert life.come(minutes=3) == NOON + CONDITIONS_RETRY, "not before its time"
    assert summarize_jobs([life.state])["waiting"] == [
        {"job": "retrain", "for": "the machine is on battery", "again_at": "2026-07-14T10:10:00+00:00"}
    ]
    life.come(minutes=7)
    assert life.state.waits == "somebody speaks"
    assert life.runs == []
    assert life.come(minutes=10) == NIGHT
    assert (life.state.waits, life.runs) == ("", [(TODAY, "done", "")])


def test_conditions_that_did_not_hold_all_day_are_a_failure_of_that_day_alone(life: Life) -> None:
    life.acts = [fails(ConditionsNotMet("the machine is on battery"))] * 500
    while (again_at := life.come()) < Day(TODAY, PARIS).end:
        life.now = again_at
    assert life.runs == [(TODAY, "failed", "it was not done all day: the machine is on battery")]
    tries = len(life.done_at)
    assert tries == 12 * 6
    assert life.come(hours=2) == NIGHT
    assert len(life.done_at) == tries
    life.acts = []
    life.now = NIGHT
    life.come()
    assert [outcome for _, outcome, _ in life.runs] == ["failed", "done"]


def test_a_clock_that_is_set_back_does_not_make_a_condition_wait_for_longer(life: Life) -> None:
    life.acts = [fails(ConditionsNotMet("busy"))]
    life.come()
    life.come(hours=-3)
    assert [outcome for _, outcome, _ in life.runs] == ["done"]


def test_what_the_end_of_the_monitor_stopped_is_done_at_the_next_start(life: Life) -> None:
    def stopped() -> JobResult:
        life.over.set()
        return JobResult(JobOutcome.STOPPED, "the monitor ended", {"steps": 7})

    life.acts = [stopped]
    life.come()
    life.runner.close()
    life.over.clear()
    life.start().come("retrain")
    assert [outcome for _, outcome, _ in life.runs] == ["stopped", "done"]
    life.acts = [lambda: JobResult(JobOutcome.STOPPED, "it took too long")]
    life.come(days=1)
    life.come(hours=5)
    assert [outcome for _, outcome, _ in life.runs] == ["stopped", "done", "stopped"], "it goes on the next night"


# asked for -------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_done_though_it_was_done_and_counts_for_its_date(life: Life) -> None:
    first, second = life.runner.run_now("retrain"), life.runner.run_now("retrain")
    assert isinstance(first, JobRun)
    assert isinstance(second, JobRun)
    assert life.come() == NIGHT
    assert life.runs == [(TODAY, "done", "")] * 2
    life.acts = [fails(ConditionsNotMet("the machine is on battery"))]
    assert life.runner.run_now("retrain") is None
    assert life.runner.waits("retrain") == life.state.waits == "the machine is on battery"
    assert life.state.next_at == NIGHT
    life.now += timedelta(hours=1)
    assert life.state.waits == ""
    with pytest.raises(EmosllmError, match="no job 'sleep'; there are retrain"):
        life.runner.run_now("sleep")


def test_one_that_goes_on_is_not_begun_a_second_time(life: Life) -> None:
    inner: list[object] = []

    def act() -> JobResult:
        inner.extend([life.runner.run_now("retrain"), life.runner.waits("retrain"), life.state.running_since])
        return JobResult(JobOutcome.DONE)

    life.acts = [act]
    life.come()
    assert inner == [None, "it is being done already", NOON]
    assert len(life.runs) == 1


def test_ctrl_c_on_the_command_line_is_written_down_and_settles_nothing(life: Life) -> None:
    def act() -> JobResult:
        raise KeyboardInterrupt

    life.acts = [act]
    with pytest.raises(KeyboardInterrupt):
        life.runner.run_now("retrain")
    assert life.runs == [(TODAY, "stopped", "you stopped it")]
    life.come()
    assert [outcome for _, outcome, _ in life.runs] == ["stopped", "done"]


def test_a_job_that_is_switched_off_stays_off_for_good(life: Life) -> None:
    life.runner.switch("retrain", False)
    assert not life.runner.is_scheduled("retrain")
    assert not life.state.is_scheduled
    assert (life.state.next_at, summarize_jobs([life.state])["next"]) == (None, None)
    assert DisabledJobs(life.database).disabled() == {"retrain"}
    assert life.database.with_name("timeline.db.schedule").stat().st_mode & 0o777 == 0o600
    life.runner.close()
    assert not life.start().is_scheduled("retrain")
    life.runner.switch("retrain", True)
    assert life.state.due
    life.database.with_name("timeline.db.schedule").write_text("[")
    assert DisabledJobs(life.database).disabled() == frozenset()


# the jobs of every timeline --------------------------------------------------------------------------------------


def test_kept_sound_goes_after_its_days_and_a_backup_is_made_a_day(database: Path) -> None:
    start = datetime.now(UTC) - timedelta(days=2)
    with closing(TimelineWriter.open(database, PARIS, keys())) as timeline:
        entry = timeline.add_segment(start_sample=0, end_sample=1, start_at=start, end_at=start + timedelta(seconds=1), sound=b"12")
        timeline.judge({entry: InferenceResult(Prediction({Emotion.SAD: 1.0}, False, "compact-1"))}, keep_audio=True)
        jobs = {job.name: job for job in maintenance_jobs(timeline, Config())}
        results = [
            {name: job.run(datetime.now(UTC) + timedelta(days=days)).outcome.value for name, job in jobs.items()}
            for days in (0, 29, 31, 31)
        ]
    assert [one["retention"] for one in results] == ["nothing", "nothing", "done", "nothing"]
    assert [one["backup"] for one in results] == ["done", "done", "done", "nothing"]
    assert [one["summaries"] for one in results] == ["done", "done", "done", "nothing"]
    assert len(Backups.of(Config().timeline).found()) == 3
    with closing(raw(database)) as connection:
        assert connection.execute("SELECT count(*) FROM sound").fetchone()[0] == 0


def test_what_a_day_is_too_long_for_is_done_hourly(database: Path) -> None:
    start = datetime.now(UTC) - timedelta(days=2)
    with closing(TimelineWriter.open(database, PARIS, keys())) as timeline:
        entry = timeline.add_segment(start_sample=0, end_sample=1, start_at=start, end_at=start + timedelta(seconds=1), sound=b"12")
        timeline.judge({entry: InferenceResult(Prediction({Emotion.SAD: 1.0}, False, "compact-1"))}, keep_audio=True)
        often = hourly_tasks(timeline, Config())
        for act in often.values():
            act(datetime.now(UTC) + timedelta(days=30, minutes=1))
    with closing(raw(database)) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("sound", "day_summary", "job_run")]
    assert counts[0] == 0
    assert counts[1] > 0
    assert counts[2] == 0, "it fills no history"


def test_a_timeline_that_cannot_be_read_is_said_where_it_is_asked_about(life: Life) -> None:
    os.truncate(life.database, 0)
    life.database.write_bytes(b"not a database" * 999)
    with pytest.raises(TimelineError):
        life.runner.states()
    assert life.come() == NOON + CONDITIONS_RETRY
