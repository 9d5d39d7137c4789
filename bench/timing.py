"""How long work takes when nothing else disturbs it, and how much of a processor."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds by the clock, and of processor time, of all threads of this process; each of the quickest of several rounds."""

    wall_s: float
    cpu_s: float


def taken(work: Work) -> Taken:
    """Of one round."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def best(work: Work, rounds: int) -> Taken:
    """Of a few rounds, one after the other."""
    return side_by_side({"": work}, rounds)[""]


def side_by_side(works: Mapping[str, Work], rounds: int) -> dict[str, Taken]:
    """Of a few rounds, in each of which everything is done once, so that what else the machine does falls on all of it."""
    found: dict[str, list[Taken]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(taken(work))
    return {name: Taken(min(one.wall_s for one in many), min(one.cpu_s for one in many)) for name, many in found.items()}


def middle(work: Work, rounds: int, before: Work = lambda: None) -> Taken:
    """The median of a few rounds. before: done before each, and not counted."""
    found = []
    for _ in range(rounds):
        before()
        found.append(taken(work))
    return Taken(statistics.median(one.wall_s for one in found), statistics.median(one.cpu_s for one in found))
