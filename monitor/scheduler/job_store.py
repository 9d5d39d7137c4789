"""APScheduler's job store and trigger: a small SQLite file of its own with the names and times of jobs, and a daily trigger.

The file is a copy: the history in the timeline decides what is done. So a file that is damaged is made anew, and one that cannot be written
(a full disk) stops nothing: what is planned is then kept in memory until it can be written again. The trigger uses the local days of
`monitor/analysis/days.py`, so that scheduler and history agree on them.
"""

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.jobstores.base import BaseJobStore, JobLookupError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.triggers.base import BaseTrigger
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import SQLAlchemyError

from model.errors import TimelineError
from monitor.fileio import make_private_file
from monitor.scheduler.jobs import next_time
from monitor.storage.snapshot import remove_database


class DailyTrigger(BaseTrigger):  # type: ignore[misc]
    """at: the time of day. zone: in which. Days are those of `monitor.analysis.days`, so scheduler and history agree on them."""

    __slots__ = ("at", "zone")

    def __init__(self, at: time, zone: ZoneInfo) -> None:
        self.at, self.zone = at, zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The next such moment; of those that passed while nobody looked, none."""
        return next_time(max(previous_fire_time or now, now), self.at, self.zone)

    def __getstate__(self) -> dict[str, Any]:
        return {"at": f"{self.at:%H:%M}", "zone": str(self.zone)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.at, self.zone = time.fromisoformat(state["at"]), ZoneInfo(state["zone"])

    def __str__(self) -> str:
        return f"daily at {self.at:%H:%M} in {self.zone}"


_logger = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 5.0


class FallbackJobStore(SQLAlchemyJobStore):  # type: ignore[misc]
    """What is planned, in `path` as far as that can be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Jobs that could not be written, by id; None for those that could not be removed.
        self._unwritten: dict[str, Any] = {}
        self._failed = False
        super().__init__(
            engine=create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _BUSY_TIMEOUT_S}), metadata=None
        )

    def start(self, scheduler: Any, alias: str) -> None:
        """Open the file, anew where it makes no sense."""
        BaseJobStore.start(self, scheduler, alias)
        try:
            make_private_file(self._path)
            self.jobs_t.create(self.engine, checkfirst=True)
            super().get_all_jobs()
        except (SQLAlchemyError, TimelineError, OSError):
            _logger.warning("what is planned is written down anew: %s could not be used", self._path.name)
            self.engine.dispose()
            with self._written():
                remove_database(self._path)
                make_private_file(self._path)
                self.jobs_t.create(self.engine, checkfirst=True)

    def lookup_job(self, job_id: str) -> Any:
        """The job of that name, None where there is none."""
        if job_id in self._unwritten:
            return self._unwritten[job_id]
        with self._written():
            return super().lookup_job(job_id)
        return None

    def get_due_jobs(self, now: datetime) -> list[Any]:
        """Jobs whose time has come, by time."""
        return [job for job in self.get_all_jobs() if job.next_run_time is not None and job.next_run_time <= now]

    def get_next_run_time(self) -> datetime | None:
        """When the next job comes."""
        return min((job.next_run_time for job in self.get_all_jobs() if job.next_run_time is not None), default=None)

    def get_all_jobs(self) -> list[Any]:
        """All jobs, by time."""
        known: dict[str, Any] = {}
        with self._written():
            known = {job.id: job for job in super().get_all_jobs()}
        jobs = [job for job in {**known, **self._unwritten}.values() if job is not None]
        return sorted(jobs, key=lambda job: (job.next_run_time is None, job.next_run_time and job.next_run_time.timestamp()))

    def add_job(self, job: Any) -> None:
        """Plan a job that is new."""
        self._unwritten[job.id] = job
        with self._written():
            super().add_job(job)
            del self._unwritten[job.id]

    def update_job(self, job: Any) -> None:
        """Plan it for another time."""
        self._unwritten[job.id] = job
        with self._written():
            try:
                super().update_job(job)
            except JobLookupError:
                super().add_job(job)
            del self._unwritten[job.id]

    def remove_job(self, job_id: str) -> None:
        """Plan it no more."""
        self._unwritten[job_id] = None
        with self._written():
            with contextlib.suppress(JobLookupError):
                super().remove_job(job_id)
            del self._unwritten[job_id]

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """What the disk refuses goes no further; it is said once, until it works again."""
        try:
            yield
        except (SQLAlchemyError, TimelineError, OSError) as error:
            if not self._failed:
                _logger.warning("when jobs come next cannot be kept in %s for now: %s", self._path.name, type(error).__name__)
            self._failed = True
        else:
            self._failed = False
