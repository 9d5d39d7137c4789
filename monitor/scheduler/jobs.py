"""A scheduled job, when it is due, and whether it is disabled. Pure but for one small file; knows no scheduler.

A job is for local dates. It is due from its time of day on until it is settled for that date; of several nights that were missed only
the last is made up. A run counts for its date whatever the clock says afterwards, so no date is done twice: not after a restart, nor when
a clock was set back or changed for summer.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from model.errors import EmosllmError
from monitor.analysis.days import Day
from monitor.fileio import write_private_atomic
from monitor.paths import DatabaseFiles
from monitor.storage.records import JobRun


class JobOutcome(StrEnum):
    """done: what it is for was done. nothing: there was nothing to do. refused: it was done, and its result was not good enough to be
    used. stopped: the person, or the end of the monitor, ended it. failed: it could not be done."""

    DONE = "done"
    NOTHING = "nothing"
    REFUSED = "refused"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobResult:
    """reason: one sentence for people. details: what else is to be remembered, in JSON's types; counts and figures, no words."""

    outcome: JobOutcome
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class ConditionsNotMet(Exception):
    """The conditions for a job do not hold at the moment; says which."""


@dataclass(frozen=True, slots=True)
class Job:
    """name: of the command line and the settings. what: in words.

    run: does it, at a moment in UTC; raises ConditionsNotMet, EmosllmError.
    """

    name: str
    what: str
    run: Callable[[datetime], JobResult]


MAX_RETRIES = 3
"""How often a job that failed is tried again for the same date."""

RETRY_AFTER = timedelta(hours=1)
CONDITIONS_RETRY = timedelta(minutes=10)
"""How long to wait for the conditions of a job to hold."""

REDO_DETAIL = "again"
"""In the details of a run that was stopped: it is to be done again at the next start."""

GIVEN_UP_DETAIL = "given_up"
"""In the details of a run that failed: its conditions did not hold all day, so it is not tried again for that date."""

_TWO_DAYS = 3
_DAY = timedelta(days=1)
_WORKED = (JobOutcome.DONE, JobOutcome.NOTHING, JobOutcome.REFUSED)


@dataclass(frozen=True, slots=True)
class DueCheck:
    """due: the date for which the job is to be done now; None where it is not. look_at: when to look again, if it is not. UTC."""

    due: date | None
    look_at: datetime


def check_due(now: datetime, at: time, zone: ZoneInfo, runs: Sequence[JobRun]) -> DueCheck:
    """now: UTC. at: the job's time of day in `zone`. runs: of this job, newest first, at least those of the last two dates."""
    on, coming = last_due_date(now, at, zone), next_time(now, at, zone)
    those = [run for run in runs if run.day == on and run.ended_at is not None]
    failures = [run for run in those if run.outcome == JobOutcome.FAILED]
    if any(_settles(run) for run in those) or len(failures) > MAX_RETRIES:
        return DueCheck(None, coming)
    if failures:
        ended_at = failures[0].ended_at or now
        # Where the clock was set back since, the failure lies in the future.
        again_at = min(ended_at + RETRY_AFTER, now + RETRY_AFTER)
        if again_at > now:
            return DueCheck(None, min(again_at, coming))
    return DueCheck(on, coming)


def last_due_date(now: datetime, at: time, zone: ZoneInfo) -> date:
    """The last local date whose time has come."""
    today = now.astimezone(zone).date()
    return today if Day(today, zone).at(at) <= now else today - _DAY


def next_time(after: datetime, at: time, zone: ZoneInfo) -> datetime:
    """The next moment, later than `after`, at which the clock shows `at` for the first time on its date. UTC."""
    first = after.astimezone(zone).date()
    moments = (Day(first + number * _DAY, zone).at(at) for number in range(_TWO_DAYS))
    return next(moment for moment in moments if moment > after)


def last_failure(runs: Sequence[JobRun]) -> JobRun | None:
    """Of a job's runs, newest first, the last that failed, where none has worked since."""
    ended = [run for run in runs if run.outcome is not None and run.outcome != JobOutcome.STOPPED]
    return ended[0] if ended and ended[0].outcome == JobOutcome.FAILED else None


def _settles(run: JobRun) -> bool:
    """Whether nothing is left to be done for the date of a run."""
    if run.outcome == JobOutcome.STOPPED:
        return not run.details.get(REDO_DETAIL)
    return run.outcome in _WORKED or bool(run.details.get(GIVEN_UP_DETAIL))


_DISABLED = "disabled"


class DisabledJobs:
    """database: the timeline beside which the file lies. What cannot be read counts as nothing switched off."""

    def __init__(self, database: Path) -> None:
        self._path = DatabaseFiles(database).disabled_jobs

    def disabled(self) -> frozenset[str]:
        """The names of jobs that are switched off."""
        try:
            return frozenset(str(name) for name in json.loads(self._path.read_text(encoding="utf-8"))[_DISABLED])
        except (OSError, ValueError, KeyError, TypeError):
            return frozenset()

    def switch(self, name: str, on: bool) -> None:
        """Switch a job on or off, for good. Raises EmosllmError when that cannot be kept."""
        before = self.disabled()
        self._write(before - {name} if on else before | {name})

    def _write(self, disabled: Iterable[str]) -> None:
        try:
            write_private_atomic(self._path, json.dumps({_DISABLED: sorted(disabled)}))
        except OSError as error:
            raise EmosllmError(f"cannot write {self._path}: {error.strerror}; check the disk and the permissions there") from error
