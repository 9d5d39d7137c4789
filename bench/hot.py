"""What the benchmarks of the hot path share: the built-in bundle, one embedded engine, and segments of the demo. One of each, made once."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from bench.sounds import demo_segments
from model.audio import SAMPLE_RATE, Int16, pcm16_to_float, s_to_samples
from model.bundle import Bundle, open_bundle
from model.manifest import find_bundle
from model.predictor import Predictor, Sound
from monitor.config import EngineConfig, Precision
from monitor.judging.engine import EmbeddedEngine

# A sound that was heard before is in vLLM's prefix cache, speech and all, as no real one ever is: each begins a few samples later.
_SHIFTS = 1600


@dataclass(frozen=True)
class Hot:
    """pcms: the demo's own segments, each once. drawn: counts the segments that were handed out."""

    bundle: Bundle
    engine: EmbeddedEngine
    predictor: Predictor
    pcms: list[Int16]
    drawn: Iterator[int] = field(default_factory=itertools.count)

    def sounds(self, size: int) -> list[Sound]:
        """That many segments: the demo's, over and over, but none twice alike."""
        return [Sound(pcm16_to_float(self._fresh(self.pcms[number % len(self.pcms)]))) for number in range(size)]

    def sound(self, seconds: float) -> Sound:
        """One segment of that length, like no other."""
        return Sound(pcm16_to_float(self._fresh(np.concatenate(self.pcms))[: s_to_samples(seconds)]))

    def _fresh(self, pcm: Int16) -> Int16:
        return pcm[next(self.drawn) % _SHIFTS :]

    @property
    def average_s(self) -> float:
        """Length of a segment."""
        return sum(map(len, self.pcms)) / len(self.pcms) / SAMPLE_RATE


@contextmanager
def hot(precision: Precision = "auto") -> Iterator[Hot]:
    """Loaded and warm."""
    bundle = open_bundle(find_bundle("compact"))
    engine = EmbeddedEngine(bundle, EngineConfig().kv_cache_mib, precision)
    ready = Hot(bundle, engine, Predictor(bundle, engine), demo_segments())
    ready.predictor.predict(ready.sounds(64))
    yield ready
    engine.close()
