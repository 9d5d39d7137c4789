"""One thread, several that sleep while they wait, and several that spin, as by default: the same batches, each in a process of its own."""

import json
import os
import subprocess
import sys

from bench.tables import table

_WAYS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "a thread a core, asleep while it waits (the monitor's setting)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "a thread a core, spinning while it waits": {"OMP_WAIT_POLICY": "ACTIVE"},
}
_COUNTS = (1, 8, 64)
_ROUNDS = 7
_TOO_LONG_S = 240


def run() -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and no figures."""
    rows = [[name, *_asked(settings)] for name, settings in _WAYS.items()]
    head = ["threads of the judging process", *(f"{count} waiting, ms a segment" for count in _COUNTS)]
    return ["## Threads", "", *table(head, rows)], {}


def _asked(settings: dict[str, str]) -> list[object]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.threads"], env=own | settings, capture_output=True, timeout=_TOO_LONG_S, check=True
        )
    except subprocess.TimeoutExpired:
        return [f"over {_TOO_LONG_S} s in all", "", ""]
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure() -> list[float]:
    """Milliseconds by the clock of a segment, medians."""
    from bench.hot import hot
    from bench.timing import middle

    with hot() as ready:
        return [
            1000 * middle(lambda count=count: ready.predictor.predict(ready.sounds(count)), _ROUNDS).wall_s / count for count in _COUNTS
        ]


if __name__ == "__main__":
    print(json.dumps(_measure()))
    sys.stdout.flush()
    os._exit(0)  # vLLM leaves threads behind
