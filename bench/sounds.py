"""What the benchmarks judge: the segments that the monitor itself cuts out of the demo."""

from pathlib import Path

from model.audio import Int16, float_to_pcm16, read_audio
from monitor.config import SegmenterConfig
from monitor.segmenter import Segmenter
from monitor.types import AudioChunk

DEMO = Path(__file__).parent.parent / "examples" / "demo.opus"


def demo_segments() -> list[Int16]:
    """Mono int16 segments at SAMPLE_RATE."""
    segmenter = Segmenter(SegmenterConfig())
    segments = segmenter.push(AudioChunk(0, float_to_pcm16(read_audio(DEMO)))) + segmenter.flush()
    return [segment.pcm for segment in segments]
