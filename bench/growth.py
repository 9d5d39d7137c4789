"""How the cost of a segment grows: with its length, with how many wait, and with what the timeline holds already."""

import statistics
import tempfile
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from bench.hot import Hot
from bench.shares import add_segment
from bench.studies.pages import of_command
from bench.tables import table
from bench.timing import best, taken
from model.audio import SAMPLE_RATE, pcm16_to_float
from model.predictor import Sound
from monitor.config import TimelineConfig
from monitor.judging.voice import measure
from monitor.store.cipher import connect
from monitor.store.records import Judgement
from monitor.store.timeline import Timeline
from tests.days import Person, live

_LENGTHS_S = (1, 2, 4, 8, 15)
_BACKLOGS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SIZES = (10_000, 100_000, 1_000_000)
_A_DAY = 1400
_LAST = date(2026, 6, 30)
_STORED = 100


def run(hot: Hot, quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name."""
    report_s, sizes = _with_the_timeline(hot, _SIZES[:2] if quick else _SIZES)
    backlogs = [size for size in _BACKLOGS if not quick or size in (1, 8, 64, 512)]
    lines = ["## How it grows", "", *_with_length(hot, 3 if quick else 9), "", *_with_backlog(hot, backlogs, 2 if quick else 4), "", *sizes]
    return lines, {"report_cpu_s": report_s}


def _with_length(hot: Hot, rounds: int) -> list[str]:
    rows, first = [], 0.0
    for seconds in _LENGTHS_S:
        found = best(lambda seconds=seconds: hot.predictor.predict([hot.sound(seconds)]), rounds)
        first = first or found.cpu_s
        rows.append([f"{seconds} s", 1000 * found.wall_s, 1000 * found.cpu_s, found.cpu_s / first, found.cpu_s / seconds])
    return table(["length of a segment, alone", "ms", "CPU ms", "ratio to 1 s", "CPU s for a second of speech"], rows)


def _with_backlog(hot: Hot, backlogs: list[int], rounds: int) -> list[str]:
    """In batches of what the monitor asks at once."""
    rows, first = [], 0.0
    for waiting in backlogs:
        batches = [min(64, waiting - begin) for begin in range(0, waiting, 64)]
        found = best(lambda batches=batches: [hot.predictor.predict(hot.sounds(size)) for size in batches], rounds)
        pace = waiting / found.wall_s
        first = first or pace
        rows.append([waiting, pace, pace / first, 1000 * found.cpu_s / waiting])
    return table(["waiting", "segments per second", "ratio to one", "CPU ms a segment"], rows)


def _with_the_timeline(hot: Hot, sizes: tuple[int, ...]) -> tuple[float, list[str]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = TimelineConfig(database=f"{folder}/timeline.db", key="file", zone="UTC")
        config = folder / "config.toml"
        config.write_text(f'[timeline]\ndatabase = "{folder}/timeline.db"\nkey = "file"\nzone = "UTC"\n', encoding="utf-8")
        Timeline.open(settings.database_path(), settings.zone_info(), settings.keys()).close()
        rows, first, held, report_s = [], _LAST + timedelta(days=1), 0, 0.0
        for size in sizes:
            # Further back each time, so that the day that is looked at stays the same.
            days = max(2, (size - held) // _A_DAY)
            first -= timedelta(days=days)
            held += _lived(settings, first, days)
            stored, judged = _written(settings, hot)
            report_s = (of_command(config, "report", "--day", str(_LAST)) - of_command(config, "--help")) / 1000
            rows.append([f"{held:,}", settings.database_path().stat().st_size / 2**20, stored, judged, 1000 * report_s])
    head = [
        "segments in the timeline",
        "MiB",
        "storing one, ms",
        "storing a judgement, ms",
        "`report` of a day beyond Python's start, CPU ms",
    ]
    return report_s, table(head, rows)


def _lived(settings: TimelineConfig, first: date, days: int) -> int:
    path = settings.database_path()
    connection = connect(path, settings.keys().find(path), read_only=False, timeout_s=5.0)
    # A fifth more makes up for days without data and days of which little was heard.
    written = live(connection, settings.zone_info(), first, days, Person(segments=round(1.2 * _A_DAY)))
    connection.close()
    return written


def _written(settings: TimelineConfig, hot: Hot) -> tuple[float, float]:
    """Milliseconds by the clock, medians."""
    pcm = hot.pcms[0]
    (answer,) = hot.predictor.predict([Sound(pcm16_to_float(pcm))])
    judgement = Judgement(answer.prediction or hot.predictor.unknown(), None, measure(pcm))
    with Timeline.open(settings.database_path(), settings.zone_info(), settings.keys()) as timeline:
        stored, judged = [], []
        for number in range(_STORED):
            entries: list[int] = []
            stored.append(taken(partial(_add, timeline, number * SAMPLE_RATE, len(pcm), entries)).wall_s)
            judged.append(taken(lambda entries=entries: timeline.judge({entries[0]: judgement})).wall_s)
    return 1000 * statistics.median(stored), 1000 * statistics.median(judged)


def _add(timeline: Timeline, start: int, samples: int, entries: list[int]) -> None:
    entries.append(add_segment(timeline, start, samples))
