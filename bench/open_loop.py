"""Many monitors and one engine: segments come when people speak, whether the engine is ready or not. Knows no engine."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Of the machine, unless a test has one of its own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


def arrivals(monitors: int, every_s: float, lasts_s: float, seed: int = 0) -> list[float]:
    """Seconds at which segments close, in order: each monitor has one every so often on average, none knows of another (Poisson)."""
    generator, at, found = random.Random(seed), 0.0, []
    while (at := at + generator.expovariate(monitors / every_s)) < lasts_s:
        found.append(at)
    return found


def delays(judge: Callable[[int], object], due: Sequence[float], most: int, clock: Clock = Clock()) -> list[float]:
    """Seconds from the closing of each segment to its answer. judge: is told how many are judged now, at most `most`: all that wait."""
    began, waited, done = clock.now(), [], 0
    while done < len(due):
        passed = clock.now() - began
        if due[done] > passed:
            clock.sleep(due[done] - passed)
            continue
        waiting = sum(1 for at in due[done : done + most] if at <= passed)
        judge(waiting)
        answered = clock.now() - began
        waited += [answered - at for at in due[done : done + waiting]]
        done += waiting
    return waited


def most_monitors(p95_s: Callable[[int], float], limit_s: float, start: int = 1) -> int:
    """The largest number of monitors found whose 95th percentile is under the limit, to a tenth; 0 where one is too many."""
    good, bad = 0, start
    while p95_s(bad) < limit_s:
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 10):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if p95_s(middle) < limit_s else (good, middle)
    return good


def percentile_95(values: Sequence[float]) -> float:
    """Of at least two values; of fewer the value, or 0."""
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else sum(values)
