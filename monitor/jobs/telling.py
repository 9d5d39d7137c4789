"""How the jobs stand and what became of them, in words: for terminals and pages. From the JSON that a running monitor answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

Json = Mapping[str, Any]


def table(jobs: Sequence[Json], zone: ZoneInfo, running: bool) -> Iterator[str]:
    """A line a job, and one below it for why it waits or failed. jobs: as JobState.as_json. running: whether a monitor runs."""
    rows = [(job["job"], next_words(job, zone, running), last_words(job["last"], zone)) for job in jobs]
    widths = [max(len(row[column]) for row in [*rows, _HEAD]) for column in (0, 1)]
    for row, job in zip([_HEAD, *rows], [None, *jobs], strict=True):
        yield f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip()
        if job is not None:
            yield from (f"{'':<{widths[0]}}  {line}" for line in _more(job))


_HEAD = ("job", "next", "last")


def next_words(job: Json, zone: ZoneInfo, running: bool = True) -> str:
    """When it comes next."""
    if job["running_since"]:
        return f"goes on since {clock(job['running_since'], zone)}"
    if not job["enabled"]:
        return "switched off"
    if not job["time"]:
        return "never, say the settings"
    if not running:
        return "when the monitor runs" if job["due"] else f"{moment(job['next_at'], zone)}, if the monitor runs"
    return "in a moment" if job["due"] else moment(job["next_at"], zone)


def last_words(run: Json | None, zone: ZoneInfo) -> str:
    """What came of a run, and when."""
    if run is None:
        return "not done yet"
    return f"{run['outcome'] or 'goes on'}, {moment(run['started_at'], zone)}{took(run['seconds'])}"


def took(seconds: float | None) -> str:
    """How long it took, as an addition; empty where that is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f", took {seconds:.0f} s" if seconds >= 1 else ", took under a second"
    return f", took {seconds / 60:.0f} min" if seconds < 3600 else f", took {seconds / 3600:.1f} h"


def summary_lines(summary: Json, zone: ZoneInfo) -> Iterator[str]:
    """What `status` says of all jobs together; failures are told among the problems."""
    for one in summary["running"]:
        yield f"{one['job']} goes on since {clock(one['since'], zone)}"
    for one in summary["waiting"]:
        yield f"{one['job']} waits: {one['for']}"
    if summary["next"]:
        yield f"next is {summary['next']['job']}, {moment(summary['next']['at'], zone)}"


def run_words(run: Json) -> str:
    """One run in one line, for who asked for it."""
    return f"{run['job']} of {run['day']}: {run['outcome']}" + (f"; {run['reason']}" if run["reason"] else "")


def moment(text: str, zone: ZoneInfo) -> str:
    """A moment of the JSON on the wall's clock and calendar."""
    return f"{datetime.fromisoformat(text).astimezone(zone):%Y-%m-%d %H:%M}"


def clock(text: str, zone: ZoneInfo) -> str:
    """A moment of the JSON on the wall's clock."""
    return f"{datetime.fromisoformat(text).astimezone(zone):%H:%M}"


def _more(job: Json) -> Iterable[str]:
    if job["waits"]:
        yield f"waits: {job['waits']}"
    if job["failed"]:
        yield f"failed for {job['failed']['day']}: {job['failed']['reason']}"
    elif job["last"] and job["last"]["reason"]:
        yield job["last"]["reason"]
