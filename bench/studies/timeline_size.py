"""What a large timeline costs: reports, the dashboard's pages, export, import and deletion, by the number of segments.

`python -m bench.studies.timeline_size` runs both studies: queries on one and two million segments over two years and more,
then export, import and deletion of a day on 100,000 and 500,000 segments. Times are processor time of whole commands.
"""

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx

from monitor.analysis.days import Day
from monitor.analysis.timeline_query import TimelineQuery
from monitor.config import TimelineConfig
from monitor.storage.cipher import connect
from monitor.storage.writer import TimelineWriter
from tests.support.days import SimulatedPerson, write_days

_REPORTS = {"a day": (), "a week": ("--week",), "a month": ("--month",)}
_PAGES = {
    "a day": "day/{on}",
    "the pieces of a day": "day/{on}/pieces",
    "a week": "week/{on}",
    "a month": "month/{on}",
}
_COMMAND_ROUNDS, _VISITS = 5, 20


def measure_pages(config: Path, on: date) -> dict[str, float]:
    """Milliseconds of work by what was asked for, medians and means. config: settings that name the timeline. on: a day that is over."""
    start_up = command_time(config, "--help")
    taken = {
        f"`report` of {name}, as text": command_time(config, "report", "--day", str(on), *options) - start_up
        for name, options in _REPORTS.items()
    }
    with _dashboard(config) as (process, visitor, place):
        for name, page in _PAGES.items():
            taken[f"page: {name}"] = _page_time(process, visitor, f"{place}{page.format(on=on)}")
    return taken


def command_time(config: Path, *arguments: str) -> float:
    """Milliseconds of work of a whole command, the median of a few."""

    def once() -> float:
        before = _children_s()
        subprocess.run([*_command(config), *arguments], check=True, stdout=subprocess.DEVNULL)
        return 1000 * (_children_s() - before)

    return statistics.median(once() for _ in range(_COMMAND_ROUNDS))


def _page_time(process: int, visitor: httpx.Client, address: str) -> float:
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
    return [sys.executable, "-m", "monitor.cli.main", "--config", str(config)]


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _worked_s(process: int) -> float:
    """User and system time, of proc_pid_stat(5), in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_YEARS_DAYS = 730
_SEGMENTS = 1_000_000
_LAST = date(2026, 6, 30)
_NOW = datetime(2026, 7, 1, 15, tzinfo=UTC)
_QUERY_ROUNDS = 7


def query_study() -> list[str]:
    """Markdown lines."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TimelineConfig(database=f"{folder}/timeline.db", key="file", zone="Europe/Paris")
        config = Path(folder) / "config.toml"
        config.write_text(f'[timeline]\ndatabase = "{folder}/timeline.db"\nkey = "file"\nzone = "Europe/Paris"\n', encoding="utf-8")
        TimelineWriter.open(settings.database_path(), settings.zone_info(), settings.keys()).close()
        first = _LAST - timedelta(days=_YEARS_DAYS - 1)
        _add(settings, first, _YEARS_DAYS, 1)
        _add(settings, _LAST + timedelta(days=1), 1, 1)
        one = _measure_queries(settings) | measure_pages(config, _LAST)
        # Two years further back: looking at the same days must not take longer for it.
        _add(settings, first - timedelta(days=_YEARS_DAYS), _YEARS_DAYS, 2)
        two = _measure_queries(settings) | measure_pages(config, _LAST)
        size_mib = Path(settings.database_path()).stat().st_size / 2**20
    lines = [f"## Looking at a timeline of a million segments, and of two ({size_mib:.0f} MiB)", ""]
    lines += ["| looked at | ms, one million | ms, two millions | ratio |", "|---|---|---|---|"]
    return lines + [f"| {name} | {one[name]:.1f} | {two[name]:.1f} | {two[name] / one[name]:.2f} |" for name in one]


def _add(settings: TimelineConfig, first: date, days: int, seed: int) -> None:
    path = settings.database_path()
    connection = connect(path, settings.keys().find(path), read_only=False, timeout_s=5.0)
    # A fifth more makes up for days without data and days of which little was heard.
    write_days(connection, settings.zone_info(), first, days, SimulatedPerson(segments=round(1.2 * _SEGMENTS / _YEARS_DAYS), seed=seed))
    connection.close()


def _measure_queries(settings: TimelineConfig) -> dict[str, float]:
    """Milliseconds of work of each way to look, by its name; medians, but for what happens once."""
    month = (_LAST.replace(day=1), _LAST)
    week = (_LAST - timedelta(days=6), _LAST)
    with TimelineQuery.open(settings, _NOW) as look:
        today, yesterday = Day(_NOW.date(), look.zone), Day(_LAST, look.zone)
        first = {"the month with trends, the first time": _time_once(lambda: look.story(*month))}
    return first | {
        "yesterday": _median_time(settings, lambda look: look.day(yesterday)),
        "today, so far": _median_time(settings, lambda look: look.day(today)),
        "the segments of yesterday": _median_time(settings, lambda look: look.entries(yesterday)),
        "the week with trends": _median_time(settings, lambda look: look.story(*week)),
        "the month with trends": _median_time(settings, lambda look: look.story(*month)),
    }


def _median_time(settings: TimelineConfig, see: Callable[[TimelineQuery], object]) -> float:
    """With opening and closing the timeline, as a command does."""

    def whole() -> None:
        with TimelineQuery.open(settings, _NOW) as look:
            see(look)

    return statistics.median(_time_once(whole) for _ in range(_QUERY_ROUNDS))


def _time_once(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


_SIZES = (100_000, 500_000)
_NOON = datetime(2024, 7, 1, 12, tzinfo=UTC)
_APART_S = 120
_ROW = (
    "INSERT INTO segment (stream, start_sample, end_sample, start_at, end_at, zone, state, emotion, confidence, unsure, posterior,"
    " bundle_version, judged_at, loudness_db, pitch_hz)"
    " VALUES ('one', ?, ?, ?, ?, 'Europe/Paris', 'judged', 'N', 0.7, 0, ?, 'compact', ?, -21.5, 143.2)"
)
_POSTERIOR = json.dumps(dict(zip("NASHUFD", (0.7, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05), strict=True)))


def export_study() -> list[str]:
    """Markdown lines."""
    taken = [_measure_export(size) for size in _SIZES]
    small, large = _SIZES
    lines = ["## Export, import and forgetting", ""]
    lines += [f"| done | {small} segments | {large} segments | ratio of time | resident peak, small and large |", "|---|---|---|---|---|"]
    for what in taken[0]:
        (first, first_mib), (second, second_mib) = taken[0][what], taken[1][what]
        lines.append(f"| {what} | {first:.1f} s | {second:.1f} s | {second / first:.1f} | {first_mib:.0f} and {second_mib:.0f} MiB |")
    return lines


def _measure_export(segments: int) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of each act."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = TimelineConfig(database=f"{folder}/timeline.db", key="file")
        _fill(settings, segments)
        day = (_NOON + timedelta(seconds=segments * _APART_S / 2)).date()
        acts = {
            "export as JSON lines": (home, f"export --format jsonl --out {folder}/out.jsonl"),
            "export as CSV": (home, f"export --format csv --out {folder}/out"),
            "export as Parquet": (home, f"export --format parquet --out {folder}/parquet"),
            "import of the JSON lines": (home / "new", f"import {folder}/out.jsonl"),
            "forget a day": (home, f"forget --day {day} --yes"),
        }
        return {what: _timed(*act) for what, act in acts.items()}


def _timed(home: Path, command: str) -> tuple[float, float]:
    home.mkdir(exist_ok=True)
    config = home / "config.toml"
    config.write_text(f'[timeline]\ndatabase = "{home}/timeline.db"\nkey = "file"\n')
    begin = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "monitor.cli.main", "--config", str(config), *command.split()],
        env={**os.environ, "XDG_STATE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, command
    return time.monotonic() - begin, used.ru_maxrss / 1024


def _fill(settings: TimelineConfig, segments: int) -> None:
    path = settings.database_path()
    os.environ["XDG_STATE_HOME"] = str(path.parent)
    TimelineWriter.open(path, settings.zone_info(), settings.keys()).close()
    with closing(connect(path, settings.keys().find(path), read_only=False, timeout_s=5.0)) as connection:
        moments = (_NOON + timedelta(seconds=number * _APART_S) for number in range(segments))
        rows = (
            (number, number + 1, _text(at), _text(at + timedelta(seconds=4)), _POSTERIOR, _text(at)) for number, at in enumerate(moments)
        )
        connection.executemany(_ROW, rows)
        connection.commit()


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"


if __name__ == "__main__":
    print("\n".join(query_study()))
