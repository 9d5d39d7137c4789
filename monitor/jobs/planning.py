"""Whether a job is due, for which day, and when to look again: from its time of day and what was done so far. Pure; the history decides.

A job is for local dates. It is due from its time of day on until it is settled for that date; of several nights that were missed only
the last is made up. As a run counts for its date whatever the clock says afterwards, a date is never done twice: not after a restart,
nor when a clock was set back or changed for summer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from monitor.day.days import Day
from monitor.jobs.job import Outcome
from monitor.store.records import JobRun

RETRIES = 3
"""How often a job that failed is tried again for the same date."""

RETRY_AFTER = timedelta(hours=1)
ASK_AGAIN = timedelta(minutes=10)
"""How long to wait for the conditions of a job to hold."""

AGAIN = "again"
"""In the details of a run that was stopped: it is to be done again at the next start."""

GIVEN_UP = "given_up"
"""In the details of a run that failed: its conditions did not hold all day, so it is not tried again for that date."""

_TWO_DAYS = 3
_DAY = timedelta(days=1)
_WORKED = (Outcome.DONE, Outcome.NOTHING, Outcome.REFUSED)


@dataclass(frozen=True, slots=True)
class Plan:
    """due: the date for which the job is to be done now; None where it is not. look_at: when to look again, if it is not. UTC."""

    due: date | None
    look_at: datetime


def plan(now: datetime, at: time, zone: ZoneInfo, runs: Sequence[JobRun]) -> Plan:
    """now: UTC. at: the job's time of day in `zone`. runs: of this job, newest first, at least those of the last two dates."""
    on, coming = day_of(now, at, zone), next_time(now, at, zone)
    those = [run for run in runs if run.day == on and run.ended_at is not None]
    failures = [run for run in those if run.outcome == Outcome.FAILED]
    if any(_settles(run) for run in those) or len(failures) > RETRIES:
        return Plan(None, coming)
    if failures:
        ended_at = failures[0].ended_at or now
        # Where the clock was set back since, the failure lies in the future.
        again_at = min(ended_at + RETRY_AFTER, now + RETRY_AFTER)
        if again_at > now:
            return Plan(None, min(again_at, coming))
    return Plan(on, coming)


def day_of(now: datetime, at: time, zone: ZoneInfo) -> date:
    """The last local date whose time has come."""
    today = now.astimezone(zone).date()
    return today if Day(today, zone).at(at) <= now else today - _DAY


def next_time(after: datetime, at: time, zone: ZoneInfo) -> datetime:
    """The next moment, later than `after`, at which the clock shows `at` for the first time on its date. UTC."""
    first = after.astimezone(zone).date()
    moments = (Day(first + number * _DAY, zone).at(at) for number in range(_TWO_DAYS))
    return next(moment for moment in moments if moment > after)


def failing(runs: Sequence[JobRun]) -> JobRun | None:
    """Of a job's runs, newest first, the last that failed, where none has worked since."""
    ended = [run for run in runs if run.outcome is not None and run.outcome != Outcome.STOPPED]
    return ended[0] if ended and ended[0].outcome == Outcome.FAILED else None


def _settles(run: JobRun) -> bool:
    """Whether nothing is left to be done for the date of a run."""
    if run.outcome == Outcome.STOPPED:
        return not run.details.get(AGAIN)
    return run.outcome in _WORKED or bool(run.details.get(GIVEN_UP))
