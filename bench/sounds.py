"""What the benchmarks hear: the demo's clips, and the segments that the monitor itself cuts out of it."""

import csv
from pathlib import Path

from model.audio import Int16, float_to_pcm16, read_audio, s_to_samples
from monitor.config import SegmenterConfig
from monitor.sound.segmenter import Segmenter
from monitor.sound.types import AudioChunk

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
