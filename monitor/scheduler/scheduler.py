"""Runs jobs at their times while the daemon runs: APScheduler in the background, and a JobRunner that decides and runs.

APScheduler only says when to look; the runner and the history in the timeline decide. A job whose night was missed, whose conditions do
not hold or which failed is looked at again when the runner says so. What is needed more often than nightly is done hourly, without a line
in the history.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from typing import Any, Self
from zoneinfo import ZoneInfo

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from model.errors import EmosllmError
from monitor.scheduler.job_status import JobState
from monitor.scheduler.job_store import DailyTrigger, FallbackJobStore
from monitor.scheduler.runner import JobRunner

_logger = logging.getLogger(__name__)

HourlyTask = Callable[[datetime], object]
ReportJobs = Callable[[Sequence[JobState], str], None]

_FIRST_S = 60.0
_HOUR = timedelta(hours=1)
_CLOCK_CHECK_S = 20.0
# What the scheduler's clock may differ from the machine's own between two looks, before all is planned anew.
_JUMP_S = 60.0
_MEMORY = "memory"
# Training goes on for an hour, and everything else shall not wait for it.
_WORKERS = 3

_running: dict[str, "JobScheduler"] = {}


def run_scheduled_job(database: str, name: str) -> None:
    """What APScheduler calls, by its name in the file: a job's time has come, of the monitor that writes `database`."""
    if (jobs := _running.get(database)) is not None:
        jobs.come(name)


class JobScheduler:
    """Does jobs while the block runs, beginning `first_s` after its start.

    database: the timeline's file, as the runner has it. times: of day, by job. hourly: what is done once an hour beside a job as long
    as that is not switched off; it may raise EmosllmError. over: set at the end, so that what takes long can stop.
    tell: gets how the jobs stand, and what went wrong in the last hour, whenever that changes.
    """

    def __init__(
        self,
        plans: FallbackJobStore,
        database: str,
        runner: JobRunner,
        times: Mapping[str, str],
        zone: ZoneInfo,
        hourly: Mapping[str, HourlyTask],
        over: threading.Event,
        tell: ReportJobs,
        first_s: float = _FIRST_S,
    ) -> None:
        self._database = database
        self._runner, self._times, self._zone = runner, times, zone
        self._hourly_tasks = hourly
        self._over = over
        self._tell = tell
        self._first_s = first_s
        self._problems: dict[str, str] = {}
        self._gate = threading.Lock()
        self._ending = False
        self._scheduler = BackgroundScheduler(
            jobstores={"default": plans, _MEMORY: MemoryJobStore()},
            executors={"default": ThreadPoolExecutor(_WORKERS)},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
            timezone=UTC,
        )
        self._watch = threading.Thread(target=self._watch_clock, name="jobs", daemon=True)

    def __enter__(self) -> Self:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        _running[self._database] = self
        # Nothing comes before what a crash left open is ended, and planned anew: what the file says is of before that. This follows in
        # the background, because looking into the timeline takes a second, and listening begins after this.
        self._scheduler.start(paused=True)
        self._watch.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._over.set()
        self._watch.join()
        with self._gate:
            self._ending = True
        self._scheduler.shutdown(wait=True)
        _running.pop(self._database, None)
        self._runner.close()

    def come(self, name: str) -> None:
        """Do a job if it is due, and plan when to come again."""
        if self._over.is_set() or not self._runner.is_scheduled(name):
            return
        again_at = self._runner.come(name)
        # The scheduler holds its lock while it waits for jobs to end: none may ask anything of it from then on.
        with self._gate, contextlib.suppress(JobLookupError):
            if not self._ending:
                self._scheduler.modify_job(name, "default", next_run_time=again_at)
        self.tell()

    def run(self, name: str) -> None:
        """Do a job now, in the background, whether it is due or not. Raises EmosllmError for one that there is not, or that goes on."""
        self._runner.find(name)
        if self._runner.is_running(name):
            raise EmosllmError(f"{name} is being done already; `emosllm-monitor schedule list` says since when")
        self._scheduler.add_job(self._do_now, DateTrigger(datetime.now(UTC)), args=[name], jobstore=_MEMORY)

    def planned(self, name: str) -> datetime | None:
        """When the scheduler looks at a job next; None for one that does not come."""
        job = self._scheduler.get_job(name, "default")
        return None if job is None else job.next_run_time.astimezone(UTC)

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
        self._schedule_job(name, timedelta())
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

    def _do_now(self, name: str) -> None:
        self._try(lambda: self._runner.run_now(name))
        self.tell()

    def _plan(self, first: timedelta) -> None:
        """Everything, from the present moment on; what is due comes after `first`."""
        for job in self._scheduler.get_jobs("default"):
            if job.id not in self._times:
                job.remove()
        for name in self._times:
            self._schedule_job(name, first)
        for name in self._hourly_tasks:
            self._scheduler.add_job(
                self.run_hourly_now,
                IntervalTrigger(seconds=_HOUR.total_seconds(), timezone=UTC),
                args=[name],
                # A name of its own: of one name the executors do one thing at a time, and leave the other out.
                id=f"{name}, hourly",
                jobstore=_MEMORY,
                replace_existing=True,
                next_run_time=datetime.now(UTC) + first,
            )

    def _schedule_job(self, name: str, first: timedelta) -> None:
        """A job by its time in the settings: another time than before moves it."""
        known = self._scheduler.get_job(name, "default")
        if not self._runner.is_scheduled(name):
            if known is not None:
                known.remove()
            return
        try:
            look_at = self._runner.look_at(name)
        except EmosllmError:
            look_at = datetime.now(UTC)
        self._scheduler.add_job(
            run_scheduled_job,
            DailyTrigger(clock_time.fromisoformat(self._times[name]), self._zone),
            args=[self._database, name],
            id=name,
            replace_existing=True,
            next_run_time=max(look_at, datetime.now(UTC) + first),
        )

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

    def _begin(self) -> None:
        self._try(self._runner.recover)
        self._plan(timedelta(seconds=self._first_s))
        self.tell()

    def _watch_clock(self) -> None:
        """A machine that slept, or whose clock was set, has the scheduler wait for the wrong moment: so it is woken now and then."""
        self._try(self._begin)
        self._scheduler.resume()
        ahead = time.time() - time.monotonic()
        while not self._over.wait(_CLOCK_CHECK_S):
            now_ahead = time.time() - time.monotonic()
            if abs(now_ahead - ahead) > _JUMP_S:
                self._try(lambda: self._plan(timedelta()))
                self.tell()
            ahead = now_ahead
            self._scheduler.wakeup()
