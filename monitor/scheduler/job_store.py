"""APScheduler's job store, a small SQLite file of the names and times of jobs, and the daily trigger.

Nothing is lost with the file, because the history in the timeline decides what is done: a damaged one is made anew. The trigger uses the
local days of `monitor/analysis/days.py`, so that scheduler and history agree on them. APScheduler's CronTrigger does not: it comes twice
where the clock shows a time twice, and may leave out a day around a jump of the clock.
"""

import logging
from datetime import datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.triggers.base import BaseTrigger
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import SQLAlchemyError

from model.errors import TimelineError
from monitor.fileio import make_private_file
from monitor.scheduler.jobs import next_time
from monitor.storage.snapshot import remove_database

_logger = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 5.0


class DailyTrigger(BaseTrigger):  # type: ignore[misc]
    """Comes once a day. at: the time of day. zone: in which."""

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


def open_job_store(path: Path) -> SQLAlchemyJobStore | None:
    """The store in that file, without jobs that this version does not know. A damaged file is made anew; None where that fails."""
    for damaged in (False, True):
        engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _BUSY_TIMEOUT_S})
        store = SQLAlchemyJobStore(engine=engine)
        try:
            if damaged:
                remove_database(path)
            make_private_file(path)
            store.jobs_t.create(engine, checkfirst=True)
            store.get_all_jobs()
        except (SQLAlchemyError, TimelineError, OSError) as error:
            _logger.warning("%s cannot be used: %s", path.name, type(error).__name__)
            engine.dispose()
        else:
            return store
    return None
