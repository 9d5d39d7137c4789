"""From the closing of a segment to its stored row: the demo through the daemon's own segmenter, timeline and judge.

The clock starts before the segment is stored as waiting and stops after its prediction is; the engine is embedded vLLM, loaded before.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from bench.sounds import DEMO
from bench.tables import table
from model.audio import SAMPLE_RATE, Int16
from monitor.config import EngineConfig, SegmenterConfig
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.judge import Judge
from monitor.judging.listener import EngineState, Listener
from monitor.sound.segmenter import Segmenter
from monitor.sound.sources import FileSource
from monitor.sound.types import StreamClock
from monitor.store.keys import Keys
from monitor.store.records import Judgement
from monitor.store.timeline import Timeline

_START_TIMEOUT_S = 300.0
# As it is heard (nearly two minutes), with seconds of silence before a segment in which caches forget; and with hardly any silence.
_PACES = (1.0, 4.0)
# A timeline has but one segment that begins at a sample.
_DAY = 24 * 3600 * SAMPLE_RATE


def run(quick: bool) -> tuple[list[str], dict[str, float]]:
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
    return ["## From the closing of a segment to its stored row (embedded vLLM)", "", *table(head, rows)], figures


def _play(folder: Path, pace: float, times: int) -> tuple[list[float], list[float]]:
    closed: dict[int, float] = {}
    delays: list[float] = []
    lengths: list[float] = []
    sounds: dict[int, Int16] = {}
    ready = threading.Event()
    with Timeline.open(folder / "timeline.db", ZoneInfo("UTC"), Keys("file", folder)) as timeline:

        def judged(judgements: Mapping[int, Judgement]) -> None:
            timeline.judge(judgements)
            delays.extend(time.perf_counter() - closed[entry] for entry in judgements)

        changed = lambda state, _detail: ready.set() if state is EngineState.READY else None  # noqa: E731
        listener = Listener(lambda entry: sounds.pop(entry), judged, lambda *_: None, changed)
        judge = Judge(EngineConfig(), BundleChoice("compact", folder / "bundles.json"), folder / "engine.log", listener, tireless=False)
        judge.start()
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
                    judge.submit(entry)
        judge.finish(lambda: False)
    return delays, lengths
