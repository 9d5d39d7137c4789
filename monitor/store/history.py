"""Writes the history of what the monitor does by itself: that a job began, for which day, and what came of it.

A run that is begun and not ended names its process, so that one which a crash left open is told from one that goes on, in whichever
process. Knows nothing of what a job is.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Engine
from sqlmodel import col, select

from model.errors import TimelineError
from monitor.store.keys import Keys
from monitor.store.reader import current_key
from monitor.store.tables import JobRunRow
from monitor.store.writing import engine_of, writing

INTERRUPTED = "it was interrupted"
"""Why a run failed whose process is gone."""

_FAILED = "failed"
_PROCESS = "process"
_BUSY_TIMEOUT_S = 5.0


class History:
    """The runs of jobs, to be written. Any thread may call any method; every one raises TimelineError when the file cannot be written."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine

    @classmethod
    def open(cls, path: Path, keys: Keys) -> Self:
        """Open the timeline in `path`. Raises TimelineError where there is none, StoreKeyError when its key is not there."""
        key = current_key(path, keys)
        if key is None:
            raise TimelineError(f"there is no timeline in {path} yet; `emosllm-monitor start` begins one")
        return cls(path, engine_of(path, key, _BUSY_TIMEOUT_S))

    def begin(self, job: str, day: date, at: datetime) -> int | None:
        """Store that a job begins now, in this process, for a local date; returns the run's id. at: UTC.

        None when a process is doing that job. What a dead one left open is ended first.
        """
        _in_utc(at)
        with writing(self._path, self._engine) as session:
            if not all(_end_if_dead(row) for row in session.exec(_OPEN.where(JobRunRow.job == job)).all()):
                return None
            row = JobRunRow(job=job, day=day.isoformat(), started_at=at, reason="", details={_PROCESS: _this_process()})
            session.add(row)
            session.flush()
            return row.id

    def end(self, run_id: int, at: datetime, outcome: str, reason: str, details: Mapping[str, Any]) -> None:
        """Store what came of it. details: in JSON's types; counts and figures."""
        _in_utc(at)
        with writing(self._path, self._engine) as session:
            row = session.get(JobRunRow, run_id)
            if row is not None:
                row.ended_at, row.outcome, row.reason, row.details = at, outcome, reason, dict(details) or None

    def take_back(self, run_id: int) -> None:
        """Erase that a job began: its conditions do not hold, so it has not."""
        with writing(self._path, self._engine) as session:
            row = session.get(JobRunRow, run_id)
            if row is not None:
                session.delete(row)

    def end_interrupted(self) -> int:
        """End what dead processes left open; returns how many runs that were."""
        with writing(self._path, self._engine) as session:
            return sum(_end_if_dead(row) for row in session.exec(_OPEN).all())

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


_OPEN = select(JobRunRow).where(col(JobRunRow.ended_at).is_(None))


def _end_if_dead(row: JobRunRow) -> bool:
    """Whether nobody does it any more. When it ended is not known then, so its start stands for that."""
    if _lives(str((row.details or {}).get(_PROCESS, ""))):
        return False
    row.ended_at, row.outcome, row.reason, row.details = row.started_at, _FAILED, INTERRUPTED, {"interrupted": True}
    return True


def _this_process() -> str:
    return _process("self")


def _lives(process: str) -> bool:
    number = process.split(" ")[0]
    return number.isdecimal() and _process(number) == process


def _process(number: str) -> str:
    """A process by its number, its start, and the start of the machine it is of: numbers alone are given again. Empty where it is gone."""
    try:
        # The name in brackets may hold anything, spaces and brackets too.
        before, _, after = Path(f"/proc/{number}/stat").read_text().rpartition(")")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    fields = after.split()
    return "" if fields[0] in "ZX" else f"{before.split(' ')[0]} {fields[19]} {boot}"


def _in_utc(moment: datetime) -> None:
    if moment.tzinfo is not UTC:
        raise ValueError(f"moments must be aware and in UTC, this one is {moment!r}")
