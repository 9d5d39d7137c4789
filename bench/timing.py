"""How long work takes when nothing else disturbs it."""

import time
from collections.abc import Callable


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the quickest of a few rounds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
