"""How much sound the segmenter gets through on one core, by the size of the chunks it comes in.

Every figure of a round is taken one after the other on the same generated sound, so that ratios hold on a busy machine
too. webrtcvad alone, over the same frames, is the yardstick: what stands above it is this project's own cost.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import webrtcvad

from model.audio import SAMPLE_RATE, Int16, ms_to_samples, samples_to_s
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk
from monitor.config import SegmenterConfig
from tests.support.virtual_microphone import synthetic_voice

_CHUNKS_MS = (10, 30, 100, 1000)
_ROUNDS = 3


def run() -> list[str]:
    """Measure and return a markdown table; takes about 5 s of CPU."""
    config = SegmenterConfig(detector="webrtcvad")  # what Silero costs is in bench/studies/vad.py
    sound = _conversation(240)
    ways = {"webrtcvad alone": partial(_webrtcvad_alone, sound, config)}
    for chunk_ms in _CHUNKS_MS:
        ways[f"segmenter, chunks of {chunk_ms} ms"] = partial(_segment, sound, config, ms_to_samples(chunk_ms))
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            best[name] = min(best[name], _cpu_seconds(way))
    hours = samples_to_s(len(sound)) / 3600
    yardstick = best["webrtcvad alone"]
    rows = [f"| {name} | {hours / seconds:.2f} | {seconds / yardstick:.2f} |" for name, seconds in best.items()]
    return ["| | hours of sound per second of CPU | CPU against webrtcvad alone |", "|---|---|---|", *rows]


def _conversation(seconds: int) -> Int16:
    """Speech and quiet room in turns of 4 and 2 s."""
    voice = synthetic_voice(4)
    room = np.random.default_rng(0).integers(-3, 4, 2 * SAMPLE_RATE).astype(np.int16)
    return np.tile(np.concatenate([voice, room]), seconds // 6)


def _segment(sound: Int16, config: SegmenterConfig, size: int) -> None:
    segmenter = Segmenter(config)
    for start in range(0, len(sound), size):
        segmenter.push(AudioChunk(start, sound[start : start + size]))
    segmenter.flush()


def _webrtcvad_alone(sound: Int16, config: SegmenterConfig) -> None:
    vad, frame = webrtcvad.Vad(config.aggressiveness), ms_to_samples(config.frame_ms)
    for start in range(0, len(sound) - frame + 1, frame):
        vad.is_speech(sound[start : start + frame].tobytes(), SAMPLE_RATE)


def _cpu_seconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    print("\n".join(run()))
