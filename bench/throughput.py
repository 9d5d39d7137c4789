"""Segments per second with 1, 8 and 64 waiting: vLLM embedded and served, one at a time, and the plain loop (bench/plain_loop.py)."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.hot import Hot
from bench.plain_loop import PlainLoop
from bench.processes import tree_memory
from bench.tables import table
from bench.timing import Taken, side_by_side
from model.predictor import Predictor, Sound
from tests.servers import SharedServer

WAITING = (1, 8, 64)
_EMBEDDED, _SERVED, _ALONE, _PLAIN = (
    "vLLM embedded, batched",
    "vLLM served (`serve`, TLS), batched",
    "vLLM embedded, one at a time",
    "plain transformers loop",
)
# The plain loop keeps nothing between two segments, so its pace does not depend on how many wait.
_PLAIN_SEGMENTS = 8

_Judge = Callable[[list[Sound]], object]


def run(hot: Hot, quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name. Raises AssertionError where the ways do not agree."""
    plain = PlainLoop(hot.bundle)
    _agree(hot, plain)
    with tempfile.TemporaryDirectory() as folder, SharedServer(Path(folder)) as shared:
        engine = shared.server.engine(hot.bundle)
        served = Predictor(hot.bundle, engine)
        ways: dict[str, _Judge] = {
            _EMBEDDED: hot.predictor.predict,
            _SERVED: served.predict,
            _ALONE: lambda sounds: [hot.predictor.predict([sound]) for sound in sounds],
            _PLAIN: lambda sounds: [plain.answer(sound) for sound in sounds[:_PLAIN_SEGMENTS]],
        }
        found = {waiting: _measured(hot, ways, waiting, 2 if quick else 5) for waiting in WAITING}
        memory = tree_memory(shared.process_id)
        engine.close()
    return _told(hot, found), _figures(found) | {"server_mb": memory}


def _agree(hot: Hot, plain: PlainLoop) -> None:
    """The yardstick does the same work: the letter it writes is the one that is most probable here."""
    sounds = hot.sounds(len(hot.pcms))
    ours = [answer.prediction.emotion for answer in hot.predictor.predict(sounds) if answer.prediction]
    theirs = [plain.answer(sound) for sound in sounds]
    assert ours == theirs, f"the plain loop says {theirs}, we say {ours}"


def _measured(hot: Hot, ways: dict[str, _Judge], waiting: int, rounds: int) -> dict[str, Taken]:
    """By segment."""
    whole = side_by_side({name: lambda way=way: way(hot.sounds(waiting)) for name, way in ways.items()}, rounds)
    counts = {name: min(waiting, _PLAIN_SEGMENTS) if name == _PLAIN else waiting for name in ways}
    return {name: Taken(one.wall_s / counts[name], one.cpu_s / counts[name]) for name, one in whole.items()}


def _told(hot: Hot, found: dict[int, dict[str, Taken]]) -> list[str]:
    rows = [
        [
            name,
            *(1 / found[waiting][name].wall_s for waiting in WAITING),
            *(found[waiting][_PLAIN].wall_s / found[waiting][name].wall_s for waiting in WAITING),
            "" if name == _SERVED else 1000 * found[64][name].cpu_s,
        ]
        for name in found[64]
    ]
    head = ["segments per second with so many waiting", "1", "8", "64", "ratio to the plain loop: 1", "8", "64", "CPU ms a segment, 64"]
    return [f"## Throughput (segments of {hot.average_s:.1f} s on average)", "", *table(head, rows)]


def _figures(found: dict[int, dict[str, Taken]]) -> dict[str, float]:
    most = found[64]
    return {
        "backlog_per_s": 1 / most[_EMBEDDED].wall_s,
        "backlog_ratio": most[_PLAIN].wall_s / most[_EMBEDDED].wall_s,
        "backlog_cpu_ms": 1000 * most[_EMBEDDED].cpu_s,
        "alone_cpu_ms": 1000 * found[1][_EMBEDDED].cpu_s,
        "plain_cpu_ms": 1000 * most[_PLAIN].cpu_s,
        "served_ms": 1000 * found[1][_SERVED].wall_s,
        "embedded_ms": 1000 * found[1][_EMBEDDED].wall_s,
    }
