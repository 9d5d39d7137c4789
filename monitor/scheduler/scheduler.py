"""Runs jobs at their times while the daemon runs: APScheduler says when, a JobRunner and the history in the timeline whether.

Each job comes daily, and once after every start; where it cannot be done yet or failed, it is put off. The times lie in APScheduler's own
job store, a file beside the timeline. What is needed more often than nightly is done hourly, without a line in the history.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from typing import Any, ClassVar, Self
from zoneinfo import ZoneInfo

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.exc import SQLAlchemyError

from model.errors import EmosllmError
from monitor.scheduler.job_status import JobState
from monitor.scheduler.job_store import DailyTrigger, open_job_store
from monitor.scheduler.runner import JobRunner

_logger = logging.getLogger(__name__)

HourlyTask = Callable[[datetime], object]
ReportJobs = Callable[[Sequence[JobState], str], None]

_HOUR = timedelta(hours=1)
_NOT_AT_ONCE = timedelta(seconds=1)
_CLOCK_CHECK_S = 20.0
# What the wall clock may move against the machine's own between two rounds, before all is planned anew.
_JUMP_S = 60.0
_FILE, _MEMORY = "file", "default"
# Training goes on for an hour, and everything else shall not wait for it.
_WORKERS = 3


def run_scheduled_job(name: str) -> None:
    """What APScheduler calls, by its name in the file: a job's time has come."""
    if (jobs := JobScheduler.current) is not None:
        jobs.come(name)


class _RobustScheduler(BackgroundScheduler):  # type: ignore[misc]
    """Survives a job store that fails, which would end APScheduler's thread, and wakes often: a wait does not count the machine's sleep.

    before_round: called before each look at the jobs. store_failed: called when the job store cannot be read or written.
    """

    def __init__(self, before_round: Callable[[], None], store_failed: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._before_round, self._store_failed = before_round, store_failed

    def _process_jobs(self) -> float:
        self._before_round()
        try:
            wait_s = super()._process_jobs()
        except SQLAlchemyError as error:
            _logger.error("the times of jobs cannot be kept: %s", error)
            self._store_failed()
            return 0.0
        except JobLookupError:
            # Raised when `shutdown` begins meanwhile: APScheduler then no longer finds the job that it has just started.
            return 0.0
        return _CLOCK_CHECK_S if wait_s is None else min(wait_s, _CLOCK_CHECK_S)


class JobScheduler:
    """Does jobs while the block runs, beginning `first_s` after its start.

    store: the file of APScheduler's job store. times: of day, by job. hourly: what is done once an hour beside a job as long as that is
    not switched off; it may raise EmosllmError. over: set at the end, so that what takes long can stop. tell: gets how the jobs stand,
    and what went wrong in the last hour or with the file, whenever that changes.
    """

    current: ClassVar["JobScheduler | None"] = None
    """The one that runs: functions in APScheduler's file are found by name, so they cannot belong to an object."""

    def __init__(
        self,
        store: Path,
        runner: JobRunner,
        times: Mapping[str, str],
        zone: ZoneInfo,
        hourly: Mapping[str, HourlyTask],
        over: threading.Event,
        tell: ReportJobs,
        first_s: float,
    ) -> None:
        self._path = store
        self._runner, self._times, self._zone = runner, times, zone
        self._hourly_tasks = hourly
        self._over = over
        self._tell = tell
        self._first_s = first_s
        self._problems: dict[str, str] = {}
        self._gate = threading.RLock()
        self._ending = False
        # Which of APScheduler's stores the daily jobs are in; None until `_begin` has opened it.
        self._store: str | None = None
        # When a file that could not be used is tried again, on the monotonic clock: ever later, up to an hour.
        self._retry_at, self._retry_s = 0.0, _CLOCK_CHECK_S
        self._clock_lead_s = _clock_lead_s()
        self._scheduler = _RobustScheduler(
            self._check_clock,
            self._store_failed,
            executors={"default": ThreadPoolExecutor(_WORKERS)},
            # A night that was missed comes once, however late.
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
            timezone=UTC,
        )

    def __enter__(self) -> Self:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        # What another version planned is dropped without a word, and planned anew.
        logging.getLogger("apscheduler.jobstores").setLevel(logging.CRITICAL)
        JobScheduler.current = self
        # In the background, because looking into the timeline takes a second, and listening begins after this.
        self._scheduler.add_job(self._begin)
        self._scheduler.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._over.set()
        with self._gate:
            self._ending = True
        self._scheduler.shutdown(wait=True)
        JobScheduler.current = None
        self._runner.close()

    def come(self, name: str) -> None:
        """Do a job if it is due, and plan when to come again."""
        if self._over.is_set() or not self._runner.is_scheduled(name):
            return
        again_at = self._runner.come(name)
        self.tell()
        # Last, and not at once: APScheduler leaves out what comes while the run before has not ended.
        not_before = datetime.now(UTC) + _NOT_AT_ONCE
        self._change(lambda: self._scheduler.modify_job(name, next_run_time=max(again_at, not_before)))

    def run(self, name: str) -> None:
        """Do a job now, in the background, whether it is due or not. Raises EmosllmError for one that there is not, or that goes on."""
        self._runner.find(name)
        if self._runner.is_running(name):
            raise EmosllmError(f"{name} is being done already; `emosllm-monitor schedule list` says since when")
        self._change(lambda: self._scheduler.add_job(self._do_now, args=[name]))

    def run_hourly_now(self, name: str) -> None:
        """What is done hourly beside a job, if that is not switched off."""
        if self._over.is_set() or not self._runner.is_scheduled(name):
            return
        before = self._problems.get(name, "")
        self._problems[name] = self._try(lambda: self._hourly_tasks[name](datetime.now(UTC)))
        if self._problems[name] != before:
            self.tell()

    def switch(self, name: str, on: bool) -> None:
        """Switch a job on or off, for good. Raises EmosllmError."""
        self._runner.switch(name, on)
        self._change(lambda: self._schedule_job(name, timedelta()))
        self.tell()

    def states(self) -> list[JobState]:
        """How the jobs stand. Raises TimelineError."""
        return self._runner.states()

    def tell(self) -> None:
        """Say how the jobs stand."""
        try:
            self._tell(self._runner.states(), "; ".join(problem for problem in self._problems.values() if problem))
        except EmosllmError as error:
            _logger.error("how the jobs stand cannot be read: %s", error)

    def _begin(self) -> None:
        """End what a crash left open, before any job comes; then plan."""
        self._try(self._runner.recover)
        self._problems["begin"] = self._try(lambda: self._change(self._open_store))
        self.tell()

    def _open_store(self) -> None:
        first, store = timedelta(seconds=self._first_s), open_job_store(self._path)
        if store is None:
            self._use_memory(first)
            return
        for job in store.get_all_jobs():
            if job.id not in self._times:
                store.remove_job(job.id)
        self._scheduler.add_jobstore(store, _FILE)
        self._store = _FILE
        self._plan(first)

    def _use_memory(self, first: timedelta) -> None:
        """Keep the times in memory until the file can be used."""
        self._problems[_FILE] = f"{self._path.name} cannot be written; scheduled jobs still run, and their times are kept in memory"
        self._retry_later()
        with contextlib.suppress(KeyError):
            self._scheduler.remove_jobstore(_FILE)
        self._store = _MEMORY
        self._plan(first)

    def _use_file_again(self) -> None:
        if (store := open_job_store(self._path)) is None:
            self._retry_later()
            return
        self._scheduler.add_jobstore(store, _FILE)
        self._store, self._problems[_FILE] = _FILE, ""
        self._plan(timedelta())
        for name in self._times:
            if self._scheduler.get_job(name, _MEMORY):
                self._scheduler.remove_job(name, _MEMORY)

    def _retry_later(self) -> None:
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _HOUR.total_seconds())

    def _store_failed(self) -> None:
        with self._gate:
            if self._ending or self._store == _MEMORY:
                return
            self._use_memory(timedelta())
        self.tell()

    def _change(self, change: Callable[[], object]) -> None:
        """Change what is planned, but not at the end: the scheduler then holds its lock until the last job has ended."""
        with self._gate, contextlib.suppress(JobLookupError):
            if self._ending:
                return
            try:
                change()
            except SQLAlchemyError as error:
                _logger.error("the times of jobs cannot be kept: %s", error)
                self._store_failed()

    def _plan(self, first: timedelta) -> None:
        """Everything, from the present moment on, beginning after `first`."""
        for name in self._times:
            self._schedule_job(name, first)
        for name in self._hourly_tasks:
            self._scheduler.add_job(
                self.run_hourly_now,
                IntervalTrigger(seconds=_HOUR.total_seconds(), timezone=UTC),
                args=[name],
                # A name of its own: of one name the executors do one thing at a time, and leave the other out.
                id=f"{name}, hourly",
                replace_existing=True,
                next_run_time=datetime.now(UTC) + first,
            )

    def _schedule_job(self, name: str, first: timedelta) -> None:
        """A job comes daily, and once after `first`: a night may have been missed, interrupted, or undone by a restored backup."""
        if self._store is None:
            return
        if self._runner.is_scheduled(name):
            self._scheduler.add_job(
                run_scheduled_job,
                DailyTrigger(clock_time.fromisoformat(self._times[name]), self._zone),
                args=[name],
                id=name,
                jobstore=self._store,
                replace_existing=True,
                next_run_time=datetime.now(UTC) + first,
            )
        elif self._scheduler.get_job(name, self._store):
            self._scheduler.remove_job(name, self._store)

    def _check_clock(self) -> None:
        """Plan everything anew after sleep, and when the clock was set: set back a year, the next night would be a year away.

        Also look whether a file that could not be written can be used again.
        """
        lead_s, before_s = _clock_lead_s(), self._clock_lead_s
        self._clock_lead_s = lead_s
        if abs(lead_s - before_s) > _JUMP_S and self._store is not None:
            self._change(lambda: self._plan(timedelta()))
            self.tell()
        elif self._store == _MEMORY and time.monotonic() >= self._retry_at:
            self._change(self._use_file_again)
            self.tell()

    def _do_now(self, name: str) -> None:
        self._try(lambda: self._runner.run_now(name))
        self.tell()

    def _try(self, act: Callable[[], Any]) -> str:
        """What went wrong, in words; empty for nothing."""
        try:
            act()
        except EmosllmError as error:
            _logger.error("a job: %s", error)
            return str(error)
        except Exception as error:
            _logger.exception("a job failed")
            return f"an unforeseen error, {type(error).__name__}; the log says more"
        return ""


def _clock_lead_s() -> float:
    """How far the wall clock is ahead of a clock that is never set, and stands still while the machine sleeps."""
    return time.time() - time.monotonic()
