"""What the judging process tells its libraries, against what they would do: the same batches, each way in a process of its own."""

import json
import os
import subprocess
import sys
import time

from bench.tables import table
from monitor.judging.process import LIBRARY_SETTINGS
from monitor.large_pages import LARGE_PAGES

_WAYS = {
    "the monitor's settings": LIBRARY_SETTINGS,
    "without large pages": {name: value for name, value in LIBRARY_SETTINGS.items() if name not in LARGE_PAGES},
    "threads that spin while they wait": LIBRARY_SETTINGS | {"OMP_WAIT_POLICY": "ACTIVE"},
    "one thread": LIBRARY_SETTINGS | {"OMP_NUM_THREADS": "1"},
}
_COUNTS = (1, 8, 64)
_ROUNDS = 7
_SILENCE_S = 5.0
_TOO_LONG_S = 300


def run() -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and no figures."""
    rows = [[name, *_asked(settings)] for name, settings in _WAYS.items()]
    counts = (f"{count} waiting, ms a segment" for count in _COUNTS)
    head = ["the judging process", *counts, f"one after {_SILENCE_S:.0f} s of silence, ms", "MB resident"]
    lines = ["## What its libraries are told", "", *table(head, rows), ""]
    pages = ", ".join(f"`{name}={value}`" for name, value in LARGE_PAGES.items())
    lines.append(f"Large pages: {pages}; asleep: `OMP_WAIT_POLICY=PASSIVE`.")
    return lines, {}


def _asked(settings: dict[str, str]) -> list[object]:
    own = {name: value for name, value in os.environ.items() if name not in LIBRARY_SETTINGS and name != "OMP_NUM_THREADS"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.settings"], env=own | settings, capture_output=True, timeout=_TOO_LONG_S, check=True
        )
    except subprocess.TimeoutExpired:
        return [f"over {_TOO_LONG_S} s in all", *[""] * (len(_COUNTS) + 1)]
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure() -> list[float]:
    """Milliseconds by the clock of a segment, medians; and megabytes."""
    from bench.hot import hot
    from bench.processes import tree_memory
    from bench.timing import middle

    with hot() as ready:

        def judge(count: int) -> object:
            return ready.predictor.predict(ready.sounds(count))

        dense = [1000 * middle(lambda count=count: judge(count), _ROUNDS).wall_s / count for count in _COUNTS]
        sparse = 1000 * middle(lambda: judge(1), _ROUNDS, lambda: time.sleep(_SILENCE_S)).wall_s
        return [*dense, sparse, tree_memory(os.getpid())]


if __name__ == "__main__":
    print(json.dumps(_measure()))
    sys.stdout.flush()
    os._exit(0)  # vLLM leaves threads behind
