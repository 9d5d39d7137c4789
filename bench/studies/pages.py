"""What `report` and the dashboard's pages take of a core, beside a timeline's size: the whole commands, as a person runs them.

For days.py, which makes the timeline. A report's figure is without what `--help` takes, which is Python and the command line.
"""

import os
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx

_REPORTS = {"a day": (), "a week": ("--week",), "a month": ("--month",)}
_PAGES = {
    "a day": "day/{on}",
    "the pieces of a day": "day/{on}/pieces",
    "a week": "week/{on}",
    "a month": "month/{on}",
}
_ROUNDS, _VISITS = 5, 20


def measure(config: Path, on: date) -> dict[str, float]:
    """Milliseconds of work by what was asked for, medians and means. config: settings that name the timeline. on: a day that is over."""
    start_up = of_command(config, "--help")
    taken = {
        f"`report` of {name}, as text": of_command(config, "report", "--day", str(on), *options) - start_up
        for name, options in _REPORTS.items()
    }
    with _dashboard(config) as (process, visitor, place):
        for name, page in _PAGES.items():
            taken[f"page: {name}"] = _of_page(process, visitor, f"{place}{page.format(on=on)}")
    return taken


def of_command(config: Path, *arguments: str) -> float:
    """Milliseconds of work of a whole command, the median of a few."""

    def once() -> float:
        before = _children_s()
        subprocess.run([*_command(config), *arguments], check=True, stdout=subprocess.DEVNULL)
        return 1000 * (_children_s() - before)

    return statistics.median(once() for _ in range(_ROUNDS))


def _of_page(process: int, visitor: httpx.Client, address: str) -> float:
    """The mean of many, because the kernel counts a process's work in hundredths of a second."""
    visitor.get(address).raise_for_status()  # once for nothing: imports, and templates that are read once
    before = _worked_s(process)
    for _ in range(_VISITS):
        visitor.get(address)
    return 1000 * (_worked_s(process) - before) / _VISITS


@contextmanager
def _dashboard(config: Path) -> Iterator[tuple[int, httpx.Client, str]]:
    """A dashboard that was entered: its process, a browser of a kind, and where its pages are."""
    command = [*_command(config), "dashboard", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, httpx.Client(follow_redirects=True) as visitor:
        assert process.stdout is not None
        link = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        try:
            yield process.pid, visitor, str(visitor.get(link).url)
        finally:
            process.terminate()


def _command(config: Path) -> list[str]:
    return [sys.executable, "-m", "monitor.cli", "--config", str(config)]


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _worked_s(process: int) -> float:
    """User and system time, of proc_pid_stat(5), in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
