"""Segments judged per second with batching against one at a time, on embedded vLLM, and the same with transformers."""

from collections.abc import Callable

from bench.sounds import demo_segments
from bench.timing import best_seconds
from model.audio import SAMPLE_RATE, pcm16_to_float
from model.bundle import open_bundle
from model.manifest import find_bundle
from model.predictor import Predictor, Sound
from monitor.judging.engine import EmbeddedEngine, TransformersEngine

_BACKLOG = 64
_ROUNDS = 3


def run() -> list[str]:
    """Markdown lines; ratios are to the first row of the same run."""
    bundle = open_bundle(find_bundle("nano"))
    sounds = [Sound(pcm16_to_float(pcm)) for pcm in (demo_segments() * _BACKLOG)[:_BACKLOG]]
    rows: list[tuple[str, float]] = []
    for name, engine in (("embedded vLLM", EmbeddedEngine(bundle, 64)), ("transformers", TransformersEngine(bundle))):
        predictor = Predictor(bundle, engine)
        predictor.predict(sounds[:8])  # warm: the first call allocates
        rows.append((f"{name}, one at a time", best_seconds(lambda p=predictor: [p.predict([sound]) for sound in sounds], _ROUNDS)))
        rows += [(f"{name}, {size} at a time", best_seconds(_batched(predictor, sounds, size), _ROUNDS)) for size in (8, _BACKLOG)]
        engine.close()
    first = rows[0][1]
    average_s = sum(len(sound.audio) for sound in sounds) / SAMPLE_RATE / _BACKLOG
    lines = [f"## {_BACKLOG} waiting segments of speech ({average_s:.1f} s each on average)", ""]
    lines += ["| predictor | segments per second | ratio |", "|---|---|---|"]
    return lines + [f"| {name} | {_BACKLOG / seconds:.1f} | {first / seconds:.2f} |" for name, seconds in rows]


def _batched(predictor: Predictor, sounds: list[Sound], size: int) -> Callable[[], object]:
    return lambda: [predictor.predict(sounds[i : i + size]) for i in range(0, len(sounds), size)]


if __name__ == "__main__":
    print("\n".join(run()))
