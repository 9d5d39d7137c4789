"""From the end of a segment to its stored row, and how the cost grows with length, backlog and size of the timeline.

The demo goes through the daemon's own segmenter, timeline and inference. The clock starts before the segment is stored as
waiting and stops after its prediction is stored; the engine is embedded vLLM, loaded before.
"""

import statistics
import tempfile
import threading
import time
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from bench.harness import DEMO, best_time, markdown_table, time_once
from bench.hot_path import HotPath, add_segment
from bench.studies.timeline_size import command_time
from model.audio import SAMPLE_RATE, Int16, pcm16_to_float
from model.predictor import SpeechInput
from monitor.audio.segmenter import Segmenter
from monitor.audio.sources import FileSource
from monitor.audio.stream import StreamClock
from monitor.config import EngineConfig, SegmenterConfig, TimelineConfig
from monitor.inference.prosody import measure_prosody
from monitor.inference.protocol import EngineChanged, EngineState, Predicted, SupervisorEvent
from monitor.storage.cipher import connect
from monitor.storage.keys import KeyStore
from monitor.storage.records import InferenceResult
from monitor.storage.writer import TimelineWriter
from tests.support.days import SimulatedPerson, write_days
from tests.support.inference import DrivenSupervisor

_START_TIMEOUT_S = 300.0
# As it is heard (nearly two minutes), with seconds of silence before a segment in which caches forget; and with hardly any silence.
_PACES = (1.0, 4.0)
# A timeline has but one segment that begins at a sample.
_DAY = 24 * 3600 * SAMPLE_RATE


def latency_section(quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name."""
    rows, figures = [], {}
    for pace in _PACES:
        with tempfile.TemporaryDirectory() as folder:
            delays_s, lengths_s = _play(Path(folder), pace, 1 if quick else 2)
        median, worst = statistics.median(delays_s), statistics.quantiles(delays_s, n=20)[-1]
        length = statistics.median(lengths_s)
        rows.append([f"{pace:g} times", len(delays_s), 1000 * median, median / length, 1000 * worst, worst / length])
        if pace == 1:
            figures = {"stored_ms": 1000 * median, "stored_p95_ms": 1000 * worst}
    head = ["the demo at its pace", "segments", "median, ms", "ratio to a segment's median length", "95th percentile, ms", "ratio"]
    return ["## From the closing of a segment to its stored row (embedded vLLM)", "", *markdown_table(head, rows)], figures


def _play(folder: Path, pace: float, times: int) -> tuple[list[float], list[float]]:
    closed: dict[int, float] = {}
    delays: list[float] = []
    lengths: list[float] = []
    sounds: dict[int, Int16] = {}
    ready = threading.Event()
    with TimelineWriter.open(folder / "timeline.db", ZoneInfo("UTC"), KeyStore("file", folder)) as timeline:

        def handle(event: SupervisorEvent) -> None:
            match event:
                case Predicted(results):
                    timeline.judge(results)
                    delays.extend(time.perf_counter() - closed[entry] for entry in results)
                case EngineChanged(EngineState.READY):
                    ready.set()

        supervisor = DrivenSupervisor(EngineConfig(bundle="compact"), folder, sounds.pop, handle)
        supervisor.start()
        if not ready.wait(_START_TIMEOUT_S):
            raise RuntimeError(f"the engine was not ready after {_START_TIMEOUT_S} s")
        for play in range(times):
            clock, segmenter = StreamClock(datetime.now(UTC)), Segmenter(SegmenterConfig())
            with FileSource(DEMO, speed=pace) as source:
                for segment in (segment for chunk in source for segment in segmenter.push(chunk)):
                    now = time.perf_counter()
                    entry = timeline.add_segment(
                        start_sample=play * _DAY + segment.start,
                        end_sample=play * _DAY + segment.end,
                        start_at=clock.at(segment.start),
                        end_at=clock.at(segment.end),
                        sound=segment.pcm.tobytes(),
                    )
                    sounds[entry] = segment.pcm[play:]  # the same sound again would be in the prefix cache
                    closed[entry] = now
                    lengths.append(segment.duration_s)
                    supervisor.submit(entry)
        supervisor.finish(lambda: False)
    return delays, lengths


_LENGTHS_S = (1, 2, 4, 8, 15)
_BACKLOGS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SIZES = (10_000, 100_000, 1_000_000)
_A_DAY = 1400
_LAST = date(2026, 6, 30)
_STORED = 100


def growth_section(hot: HotPath, quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name."""
    report_s, sizes = _with_the_timeline(hot, _SIZES[:2] if quick else _SIZES)
    backlogs = [size for size in _BACKLOGS if not quick or size in (1, 8, 64, 512)]
    lines = ["## How it grows", "", *_with_length(hot, 3 if quick else 9), "", *_with_backlog(hot, backlogs, 2 if quick else 4), "", *sizes]
    return lines, {"report_cpu_s": report_s}


def _with_length(hot: HotPath, rounds: int) -> list[str]:
    rows, first = [], 0.0
    for seconds in _LENGTHS_S:
        found = best_time(lambda seconds=seconds: hot.predictor.predict([hot.sound(seconds)]), rounds)
        first = first or found.cpu_s
        rows.append([f"{seconds} s", 1000 * found.wall_s, 1000 * found.cpu_s, found.cpu_s / first, found.cpu_s / seconds])
    return markdown_table(["length of a segment, alone", "ms", "CPU ms", "ratio to 1 s", "CPU s for a second of speech"], rows)


def _with_backlog(hot: HotPath, backlogs: list[int], rounds: int) -> list[str]:
    """In batches of what the monitor asks at once."""
    rows, first = [], 0.0
    for waiting in backlogs:
        batches = [min(64, waiting - begin) for begin in range(0, waiting, 64)]
        found = best_time(lambda batches=batches: [hot.predictor.predict(hot.sounds(size)) for size in batches], rounds)
        pace = waiting / found.wall_s
        first = first or pace
        rows.append([waiting, pace, pace / first, 1000 * found.cpu_s / waiting])
    return markdown_table(["waiting", "segments per second", "ratio to one", "CPU ms a segment"], rows)


def _with_the_timeline(hot: HotPath, sizes: tuple[int, ...]) -> tuple[float, list[str]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = TimelineConfig(database=f"{folder}/timeline.db", key="file", zone="UTC")
        config = folder / "config.toml"
        config.write_text(f'[timeline]\ndatabase = "{folder}/timeline.db"\nkey = "file"\nzone = "UTC"\n', encoding="utf-8")
        TimelineWriter.open(settings.database_path(), settings.zone_info(), settings.keys()).close()
        rows, first, held, report_s = [], _LAST + timedelta(days=1), 0, 0.0
        for size in sizes:
            # Further back each time, so that the day that is looked at stays the same.
            days = max(2, (size - held) // _A_DAY)
            first -= timedelta(days=days)
            held += _timeline_size(settings, first, days)
            stored, judged = _write_time(settings, hot)
            report_s = (command_time(config, "report", "--day", str(_LAST)) - command_time(config, "--help")) / 1000
            rows.append([f"{held:,}", settings.database_path().stat().st_size / 2**20, stored, judged, 1000 * report_s])
    head = [
        "segments in the timeline",
        "MiB",
        "storing one, ms",
        "storing a judgement, ms",
        "`report` of a day beyond Python's start, CPU ms",
    ]
    return report_s, markdown_table(head, rows)


def _timeline_size(settings: TimelineConfig, first: date, days: int) -> int:
    path = settings.database_path()
    connection = connect(path, settings.keys().find(path), read_only=False, timeout_s=5.0)
    # A fifth more makes up for days without data and days of which little was heard.
    written = write_days(connection, settings.zone_info(), first, days, SimulatedPerson(segments=round(1.2 * _A_DAY)))
    connection.close()
    return written


def _write_time(settings: TimelineConfig, hot: HotPath) -> tuple[float, float]:
    """Milliseconds by the clock, medians."""
    pcm = hot.pcms[0]
    (answer,) = hot.predictor.predict([SpeechInput(pcm16_to_float(pcm))])
    result = InferenceResult(answer.prediction or hot.predictor.unknown(), None, measure_prosody(pcm))
    with TimelineWriter.open(settings.database_path(), settings.zone_info(), settings.keys()) as timeline:
        stored, judged = [], []
        for number in range(_STORED):
            entries: list[int] = []
            stored.append(time_once(partial(_add, timeline, number * SAMPLE_RATE, len(pcm), entries)).wall_s)
            judged.append(time_once(lambda entries=entries: timeline.judge({entries[0]: result})).wall_s)
    return 1000 * statistics.median(stored), 1000 * statistics.median(judged)


def _add(timeline: TimelineWriter, start: int, samples: int, entries: list[int]) -> None:
    entries.append(add_segment(timeline, start, samples))
