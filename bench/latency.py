"""From the closing of a segment to its stored row: the demo in real time through the daemon's own segmenter, timeline and judge.

The clock starts before the segment is stored as waiting and stops after its prediction is; the engine is embedded vLLM, loaded before.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

from bench.sounds import DEMO
from model.audio import Int16
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


def run() -> list[str]:
    """Markdown lines: median and 95th percentile in ms, apart and as shares of a segment's length."""
    with tempfile.TemporaryDirectory() as folder:
        delays_s, lengths_s = _play(Path(folder))
    median, worst = statistics.median(delays_s), statistics.quantiles(delays_s, n=20)[-1]
    length = statistics.median(lengths_s)
    return [
        f"## Closing of a segment to its stored row ({len(delays_s)} segments, embedded vLLM, real time)",
        "",
        "| | ms | ratio to a median segment's length |",
        "|---|---|---|",
        f"| median | {median * 1000:.0f} | {median / length:.3f} |",
        f"| 95th percentile | {worst * 1000:.0f} | {worst / length:.3f} |",
    ]


def _play(folder: Path) -> tuple[list[float], list[float]]:
    from datetime import UTC, datetime

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
        judge = Judge(EngineConfig(), BundleChoice("nano", folder / "bundles.json"), folder / "engine.log", listener, tireless=False)
        judge.start()
        if not ready.wait(_START_TIMEOUT_S):
            raise RuntimeError(f"the engine was not ready after {_START_TIMEOUT_S} s")
        clock, segmenter = StreamClock(datetime.now(UTC)), Segmenter(SegmenterConfig())
        with FileSource(DEMO, speed=1.0) as source:
            for chunk in source:
                for segment in segmenter.push(chunk):
                    now = time.perf_counter()
                    entry = timeline.add_segment(
                        start_sample=segment.start,
                        end_sample=segment.end,
                        start_at=clock.at(segment.start),
                        end_at=clock.at(segment.end),
                        sound=segment.pcm.tobytes(),
                    )
                    sounds[entry] = segment.pcm
                    closed[entry] = now
                    lengths.append(segment.duration_s)
                    judge.submit(entry)
        judge.finish(lambda: False)
    return delays, lengths


if __name__ == "__main__":
    print("\n".join(run()))
