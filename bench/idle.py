"""`python -m bench.idle [SECONDS]`: what listening costs while nobody speaks: processor and memory of the monitor and its engine.

A monitor with the default settings hears a faint hum from a virtual microphone. Processor time is what the kernel has counted for each
process, so other work on the machine changes it little.
"""

import signal
import sys
import time
from dataclasses import dataclass

import psutil

from bench.watched import home
from tests.commands import Running, configure, worker_of
from tests.virtual_microphone import VirtualMicrophone

_SETTLE_S = 5.0
_SECONDS, _QUICK_S = 120, 20


@dataclass(frozen=True, slots=True)
class _Cost:
    cpu_s: float
    resident_mb: float


def run(seconds: int = _QUICK_S) -> list[str]:
    """Markdown lines; shares are of one core."""
    if missing := VirtualMicrophone.missing():
        return ["## Listening while nobody speaks", "", missing]
    with home() as folder, VirtualMicrophone(hum=True) as microphone:
        configure(folder)
        running = Running(folder, environment=microphone.env)
        try:
            running.until(lambda: "engine ready" in running.output, 300)
            parts = _parts(running)
            time.sleep(_SETTLE_S)
            before = {name: _cost(processes) for name, processes in parts.items()}
            began = time.monotonic()
            time.sleep(seconds)
            after = {name: _cost(processes) for name, processes in parts.items()}
            passed_s = time.monotonic() - began
        finally:
            running.end(signal.SIGTERM)
    rows = [
        f"| {name} | {100 * (after[name].cpu_s - before[name].cpu_s) / passed_s:.2f} % | {after[name].resident_mb:.0f} |" for name in parts
    ]
    return [f"## {seconds} s of listening while nobody speaks", "", "| process | of one core | MB resident |", "|---|---|---|", *rows]


def _parts(running: Running) -> dict[str, list[psutil.Process]]:
    """What to call the processes of a monitor, and which they are."""
    monitor, engine = psutil.Process(running.process.pid), worker_of(running)
    return {
        "capture, segmentation and timeline (the monitor)": [monitor],
        "watching which microphone is the default (pactl)": [child for child in monitor.children() if child != engine],
        "embedded vLLM with nano, loaded and idle (the judging process)": [engine],
    }


def _cost(processes: list[psutil.Process]) -> _Cost:
    times = [process.cpu_times() for process in processes]
    return _Cost(sum(time.user + time.system for time in times), sum(process.memory_info().rss for process in processes) / 1e6)


if __name__ == "__main__":
    print("\n".join(run(int(sys.argv[1]) if len(sys.argv) > 1 else _SECONDS)))
