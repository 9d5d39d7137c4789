"""Does jobs when they are due and remembers what came of them. Knows no scheduler: somebody calls `come`, and is told when to call again.

Nothing that goes wrong in a job goes further: it becomes a run that failed, with its reason.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from model.errors import EmosllmError
from monitor.analysis.days import Day
from monitor.scheduler.job_status import RECENT_RUNS, JobState, job_state
from monitor.scheduler.jobs import (
    CONDITIONS_RETRY,
    GIVEN_UP_DETAIL,
    REDO_DETAIL,
    ConditionsNotMet,
    DisabledJobs,
    Job,
    JobOutcome,
    JobResult,
    check_due,
    last_due_date,
)
from monitor.storage.keys import KeyStore
from monitor.storage.reader import TimelineReader
from monitor.storage.records import JobRun
from monitor.storage.writer import JobHistory

_logger = logging.getLogger(__name__)

_ALREADY_RUNNING = "it is being done already"


@dataclass(frozen=True, slots=True)
class _Wait:
    """Why a job is not done now; until: when it is looked at again."""

    reason: str
    until: datetime


class JobRunner:
    """The jobs of one timeline. Any thread may call any method; each job is done once at a time, different ones beside each other.

    times: of day, by the names of jobs; empty for never. over: set when the monitor ends. clock: the present moment, in UTC.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        times: Mapping[str, str],
        zone: ZoneInfo,
        database: Path,
        keys: KeyStore,
        over: threading.Event,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._times = times
        self._zone = zone
        self._database, self._keys = database, keys
        self._history = JobHistory.open(database, keys)
        self._switches = DisabledJobs(database)
        self._over = over
        self._clock = clock
        self._turns = {name: threading.Lock() for name in self._jobs}
        self._running: dict[str, datetime] = {}
        self._waits: dict[str, _Wait] = {}
        # What could not be written down yet, by the number of the run.
        self._unwritten: dict[int, tuple[datetime, JobResult]] = {}

    @property
    def names(self) -> list[str]:
        """Of all jobs."""
        return list(self._jobs)

    def find(self, name: str) -> Job:
        """The job of that name. Raises EmosllmError."""
        if name not in self._jobs:
            raise EmosllmError(f"there is no job {name!r}; there are {', '.join(self._jobs)}")
        return self._jobs[name]

    def recover(self) -> int:
        """End what a crash left open; returns how many runs that were. Raises TimelineError."""
        return self._history.fail_interrupted()

    def is_scheduled(self, name: str) -> bool:
        """Whether it is done by itself: it has a time, and is not switched off."""
        return bool(self._times[name]) and name not in self._switches.disabled()

    def switch(self, name: str, on: bool) -> None:
        """Switch a job on or off, for good. Raises EmosllmError."""
        self.find(name)
        self._switches.switch(name, on)
        self._waits.pop(name, None)

    def come(self, name: str) -> datetime:
        """Do the job if it is due; returns when to come again. Never raises an EmosllmError."""
        now = self._clock()
        try:
            self._store_outcomes()
            planned = check_due(now, self._at(name), self._zone, self._runs(name))
            if planned.due is None:
                self._waits.pop(name, None)
                return planned.look_at
            if (wait := self._wait(name, now)) is not None:
                return wait.until
            self._do(name, planned.due, asked=False)
            return self._look_at(name)
        except EmosllmError as error:
            # Where the history cannot be read or written nothing is done: it might be for the second time.
            _logger.error("%s was not done: %s", name, error)
            wait = self._waits[name] = _Wait(str(error), self._clock() + CONDITIONS_RETRY)
            return wait.until

    def run_now(self, name: str) -> JobRun | None:
        """Do it now, whether it is due or not; returns its run. None where its conditions do not hold. Raises EmosllmError."""
        self.find(name)
        now = self._clock()
        at = self._times[name]
        on = last_due_date(now, self._at(name), self._zone) if at else now.astimezone(self._zone).date()
        run_id = self._do(name, on, asked=True)
        return next((run for run in self._runs(name) if run.id == run_id), None)

    def is_running(self, name: str) -> bool:
        """Whether it is being done here."""
        return name in self._running

    def waits(self, name: str) -> str:
        """Which condition it waits for; empty where it does not."""
        return self._waits[name].reason if name in self._waits else ""

    def states(self) -> list[JobState]:
        """How all jobs stand. Raises TimelineError."""
        now, disabled = self._clock(), self._switches.disabled()
        with TimelineReader.open(self._database, self._keys) as reader:
            runs = {name: reader.job_runs(RECENT_RUNS, name) for name in self._jobs}
        return [
            self._with_current_run(job_state(name, self._times[name], name not in disabled, now, self._zone, runs[name]), now)
            for name in self._jobs
        ]

    def close(self) -> None:
        """Let go of the timeline."""
        self._history.close()

    def _look_at(self, name: str) -> datetime:
        """When `come` has something to do next. Raises TimelineError."""
        now = self._clock()
        wait = self._wait(name, now)
        planned = check_due(now, self._at(name), self._zone, self._runs(name))
        if planned.due is None:
            return planned.look_at
        return wait.until if wait else now

    def _with_current_run(self, state: JobState, now: datetime) -> JobState:
        """What the history does not know: that it goes on, and what it waits for."""
        since = self._running.get(state.name)
        if since is not None:
            return replace(state, running_since=since, due=False)
        wait = self._waits.get(state.name)
        if wait is None or not (state.due or now < wait.until):
            return state
        return replace(state, waits=wait.reason, next_at=wait.until if state.due else state.next_at, due=False)

    def _do(self, name: str, on: date, asked: bool) -> int | None:
        """Do it; returns the number of its run, None where it was not done. Raises TimelineError when that cannot be written down."""
        turn = self._turns[name]
        if not turn.acquire(blocking=False):
            self._postpone(name, _ALREADY_RUNNING)
            return None
        try:
            self._store_outcomes()
            now = self._clock()
            run_id = self._history.begin(name, on, now)
            if run_id is None:
                self._postpone(name, _ALREADY_RUNNING)
                return None
            self._running[name] = now
            self._waits.pop(name, None)
            return self._run(self._jobs[name], run_id, on, asked)
        finally:
            self._running.pop(name, None)
            turn.release()

    def _run(self, job: Job, run_id: int, on: date, asked: bool) -> int | None:
        try:
            result = self._job_result(job)
        except ConditionsNotMet as condition:
            day_over = self._clock() + CONDITIONS_RETRY >= Day(on, self._zone).end
            if asked or not day_over:
                self._history.retract(run_id)
                self._postpone(job.name, str(condition))
                return None
            result = JobResult(JobOutcome.FAILED, f"it was not done all day: {condition}", {GIVEN_UP_DETAIL: True})
        except BaseException:
            # Ctrl-C, where it is done on the command line.
            self._unwritten[run_id] = self._clock(), JobResult(JobOutcome.STOPPED, "you stopped it", {REDO_DETAIL: True})
            self._store_outcomes()
            raise
        if result.outcome is JobOutcome.STOPPED and self._over.is_set():
            result = replace(result, details={**result.details, REDO_DETAIL: True})
        _logger.info("%s of %s: %s", job.name, on, result.outcome)
        self._unwritten[run_id] = self._clock(), result
        self._store_outcomes()
        return run_id

    def _job_result(self, job: Job) -> JobResult:
        try:
            return job.run(self._clock())
        except ConditionsNotMet:
            raise
        except EmosllmError as error:
            _logger.error("%s failed: %s", job.name, error)
            return JobResult(JobOutcome.FAILED, str(error))
        except Exception as error:
            _logger.exception("%s failed", job.name)
            return JobResult(JobOutcome.FAILED, f"an unforeseen error, {type(error).__name__}; the log says more")

    def _store_outcomes(self) -> None:
        for run_id, (at, result) in list(self._unwritten.items()):
            self._history.end(run_id, at, result.outcome, result.reason, result.details)
            self._unwritten.pop(run_id, None)

    def _postpone(self, name: str, reason: str) -> None:
        self._waits[name] = _Wait(reason, self._clock() + CONDITIONS_RETRY)

    def _wait(self, name: str, now: datetime) -> _Wait | None:
        """What holds a job back now. A clock that was set back does not make it wait for longer."""
        wait = self._waits.get(name)
        return wait if wait is not None and now < wait.until <= now + CONDITIONS_RETRY else None

    def _at(self, name: str) -> time:
        return time.fromisoformat(self._times[name] or "00:00")

    def _runs(self, name: str) -> list[JobRun]:
        with TimelineReader.open(self._database, self._keys) as reader:
            return reader.job_runs(RECENT_RUNS, name)
