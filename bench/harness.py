"""What benchmarks share: the demo's audio and segments, timing on a quiet processor, and Markdown tables with targets."""

import csv
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.audio import Int16, float_to_pcm16, read_audio, s_to_samples
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk
from monitor.config import SegmenterConfig


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Markdown lines; floats keep three digits that count."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell_text(cell) for cell in row) + " |" for row in rows]


def _cell_text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    size = abs(cell)
    return f"{cell:.0f}" if size >= 100 else f"{cell:.1f}" if size >= 10 else f"{cell:.2f}" if size >= 0.1 or not size else f"{cell:.2g}"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure by its key, and the bound that it is to keep: at least, or at most."""

    what: str
    key: str
    bound: float
    unit: str
    at_least: bool = False

    def row(self, figures: dict[str, float]) -> list[object]:
        """Cells: what, bound, found, verdict."""
        bound = f"{'at least' if self.at_least else 'under'} {self.bound:g} {self.unit}".strip()
        if self.key not in figures:
            return [self.what, bound, "not measured in this run", ""]
        found = figures[self.key]
        reached = found >= self.bound if self.at_least else found < self.bound
        return [self.what, bound, f"{_cell_text(float(found))} {self.unit}".strip(), "reached" if reached else "**missed**"]


TimedWork = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds by the clock, and of processor time, of all threads of this process; each of the quickest of several rounds."""

    wall_s: float
    cpu_s: float


def time_once(work: TimedWork) -> Timing:
    """Of one round."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def best_time(work: TimedWork, rounds: int) -> Timing:
    """Of a few rounds, one after the other."""
    return time_side_by_side({"": work}, rounds)[""]


def time_side_by_side(works: Mapping[str, TimedWork], rounds: int) -> dict[str, Timing]:
    """Of a few rounds, in each of which everything is done once, so that what else the machine does falls on all of it."""
    found: dict[str, list[Timing]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(time_once(work))
    return {name: Timing(min(one.wall_s for one in many), min(one.cpu_s for one in many)) for name, many in found.items()}


def median_time(work: TimedWork, rounds: int, before: TimedWork = lambda: None) -> Timing:
    """The median of a few rounds. before: done before each, and not counted."""
    found = []
    for _ in range(rounds):
        before()
        found.append(time_once(work))
    return Timing(statistics.median(one.wall_s for one in found), statistics.median(one.cpu_s for one in found))


DEMO = Path(__file__).parent.parent / "examples" / "demo.opus"


def demo_segments() -> list[Int16]:
    """Mono int16 segments at SAMPLE_RATE."""
    segmenter = Segmenter(SegmenterConfig())
    segments = segmenter.push(AudioChunk(0, float_to_pcm16(read_audio(DEMO)))) + segmenter.flush()
    return [segment.pcm for segment in segments]


def spoken_clips() -> list[Int16]:
    """The demo's clips as they were placed in it, mono int16 at SAMPLE_RATE."""
    sound = float_to_pcm16(read_audio(DEMO))
    with DEMO.with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [sound[s_to_samples(float(row["start_s"])) : s_to_samples(float(row["end_s"]))] for row in rows]
