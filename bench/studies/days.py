"""A day, a week and a month of a timeline with a million segments over two years, and with a further million: what looking at them takes.

Time is what a core works for it, with the cipher's work and without starting Python; ratios compare the two sizes in one run.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from bench.studies import pages
from monitor.config import TimelineConfig
from monitor.day.days import Day
from monitor.look import Look
from monitor.store.cipher import connect
from monitor.store.timeline import Timeline
from tests.days import Person, live

_YEARS_DAYS = 730
_SEGMENTS = 1_000_000
_LAST = date(2026, 6, 30)
_NOW = datetime(2026, 7, 1, 15, tzinfo=UTC)
_ROUNDS = 7


def run() -> list[str]:
    """Markdown lines."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TimelineConfig(database=f"{folder}/timeline.db", key="file", zone="Europe/Paris")
        config = Path(folder) / "config.toml"
        config.write_text(f'[timeline]\ndatabase = "{folder}/timeline.db"\nkey = "file"\nzone = "Europe/Paris"\n', encoding="utf-8")
        Timeline.open(settings.database_path(), settings.zone_info(), settings.keys()).close()
        first = _LAST - timedelta(days=_YEARS_DAYS - 1)
        _add(settings, first, _YEARS_DAYS, 1)
        _add(settings, _LAST + timedelta(days=1), 1, 1)
        one = _measure(settings) | pages.measure(config, _LAST)
        # Two years further back: looking at the same days must not take longer for it.
        _add(settings, first - timedelta(days=_YEARS_DAYS), _YEARS_DAYS, 2)
        two = _measure(settings) | pages.measure(config, _LAST)
        size_mib = Path(settings.database_path()).stat().st_size / 2**20
    lines = [f"## Looking at a timeline of a million segments, and of two ({size_mib:.0f} MiB)", ""]
    lines += ["| looked at | ms, one million | ms, two millions | ratio |", "|---|---|---|---|"]
    return lines + [f"| {name} | {one[name]:.1f} | {two[name]:.1f} | {two[name] / one[name]:.2f} |" for name in one]


def _add(settings: TimelineConfig, first: date, days: int, seed: int) -> None:
    path = settings.database_path()
    connection = connect(path, settings.keys().find(path), read_only=False, timeout_s=5.0)
    # A fifth more makes up for days without data and days of which little was heard.
    live(connection, settings.zone_info(), first, days, Person(segments=round(1.2 * _SEGMENTS / _YEARS_DAYS), seed=seed))
    connection.close()


def _measure(settings: TimelineConfig) -> dict[str, float]:
    """Milliseconds of work of each way to look, by its name; medians, but for what happens once."""
    month = (_LAST.replace(day=1), _LAST)
    week = (_LAST - timedelta(days=6), _LAST)
    with Look.open(settings, _NOW) as look:
        today, yesterday = Day(_NOW.date(), look.zone), Day(_LAST, look.zone)
        first = {"the month with trends, the first time": _once(lambda: look.story(*month))}
    return first | {
        "yesterday": _often(settings, lambda look: look.day(yesterday)),
        "today, so far": _often(settings, lambda look: look.day(today)),
        "the segments of yesterday": _often(settings, lambda look: look.entries(yesterday)),
        "the week with trends": _often(settings, lambda look: look.story(*week)),
        "the month with trends": _often(settings, lambda look: look.story(*month)),
    }


def _often(settings: TimelineConfig, see: Callable[[Look], object]) -> float:
    """With opening and closing the timeline, as a command does."""

    def whole() -> None:
        with Look.open(settings, _NOW) as look:
            see(look)

    return statistics.median(_once(whole) for _ in range(_ROUNDS))


def _once(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


if __name__ == "__main__":
    print("\n".join(run()))
