"""A running monitor from outside: start-up time, memory and idle processor time; and what the inference worker's settings gain.

A monitor with the default settings records a faint hum from a virtual microphone. Processor time is what the kernel counts for each
process, so other work on the machine changes it little. The settings are compared on the same batches, each in a process of its own
(`python -m bench.processes` measures one).
"""

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil

from bench.harness import markdown_table
from bench.studies.fault_harness import temporary_home
from monitor.config import LARGE_PAGES_ENVIRONMENT
from monitor.inference.worker_process import LIBRARY_ENVIRONMENT
from tests.support.commands import COMMAND, Running, configure, worker_of
from tests.support.virtual_microphone import VirtualMicrophone

# After a start what was missed is made up: summaries, a backup.
_SETTLE_S = 25.0
_COMMAND_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class _Cost:
    """Megabytes: resident; without what others share a part in; of it alone."""

    cpu_s: float
    rss: float
    pss: float
    uss: float


def processes_section(quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name."""
    if missing := VirtualMicrophone.missing():
        return ["## A running monitor", "", missing], {}
    with temporary_home() as folder, VirtualMicrophone(hum=True) as microphone:
        configure(folder)
        began = time.monotonic()
        running = Running(folder, environment={**microphone.env, "PYTHONUNBUFFERED": "1"})
        try:
            running.until(lambda: "listening to" in running.output, 300)
            listening_s, listening_cpu_s = time.monotonic() - began, _cost([psutil.Process(running.process.pid)]).cpu_s
            running.until(lambda: "engine ready" in running.output, 300)
            ready_s, engine = time.monotonic() - began, worker_of(running)
            ready_cpu_s = _cost([engine]).cpu_s
            rows, figures = _idle(running, engine, 20 if quick else 60)
        finally:
            running.end(signal.SIGTERM)
        report_cpu_s, report_wall_s = _command("report", "--plain")
        python_cpu_s, _ = _command("--help")
    figures |= {"listening_s": listening_s, "listening_cpu_s": listening_cpu_s, "report_s": report_wall_s}
    starts = [
        ["`start` to listening", listening_s, listening_cpu_s],
        ["`start` to judging (segments wait until then)", ready_s, ready_cpu_s],
        ["`report` of an empty day, whole command", report_wall_s, report_cpu_s],
        ["of that, Python and the command line (`--help`)", "", python_cpu_s],
    ]
    lines = ["## A running monitor", "", *markdown_table(["start-up", "s", "CPU s"], starts), ""]
    return lines + markdown_table(["while nobody speaks", "of one core", "MB resident (RSS)", "PSS", "USS"], rows), figures


def tree_memory(process_id: int) -> float:
    """Megabytes (PSS) of a process and all that it started."""
    first = psutil.Process(process_id)
    return _cost([first, *first.children(recursive=True)]).pss


def _idle(running: Running, engine: psutil.Process, seconds: int) -> tuple[list[list[object]], dict[str, float]]:
    monitor = psutil.Process(running.process.pid)
    parts = {
        "capture, segmentation and timeline (the monitor)": [monitor],
        "watching which microphone is the default (pactl)": [child for child in monitor.children() if child != engine],
        "embedded vLLM with compact, loaded and idle (the judging process)": [engine],
    }
    time.sleep(_SETTLE_S)
    before, began = {name: _cost(processes) for name, processes in parts.items()}, time.monotonic()
    time.sleep(seconds)
    after, passed_s = {name: _cost(processes) for name, processes in parts.items()}, time.monotonic() - began
    shares = {name: (after[name].cpu_s - before[name].cpu_s) / passed_s for name in parts}
    rows: list[list[object]] = [[name, f"{shares[name]:.2%}", now.rss, now.pss, now.uss] for name, now in after.items()]
    first, *_, last = after.values()
    return rows, {"monitor_mb": first.rss, "engine_mb": last.rss, "idle_share": sum(shares.values())}


def _cost(processes: list[psutil.Process]) -> _Cost:
    times = [process.cpu_times() for process in processes]
    memory = [process.memory_full_info() for process in processes]
    sizes = (sum(getattr(one, kind) for one in memory) / 1e6 for kind in ("rss", "pss", "uss"))
    return _Cost(sum(one.user + one.system for one in times), *sizes)


def _command(*arguments: str) -> tuple[float, float]:
    """Seconds of processor time and by the clock; medians."""
    found = [_once(*arguments) for _ in range(_COMMAND_ROUNDS)]
    return statistics.median(cpu for cpu, _ in found), statistics.median(wall for _, wall in found)


def _once(*arguments: str) -> tuple[float, float]:
    began, before = time.monotonic(), _children_s()
    subprocess.run([COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return _children_s() - before, time.monotonic() - began


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


_WAYS = {
    "the monitor's settings": LIBRARY_ENVIRONMENT,
    "without large pages": {name: value for name, value in LIBRARY_ENVIRONMENT.items() if name not in LARGE_PAGES_ENVIRONMENT},
    "threads that spin while they wait": LIBRARY_ENVIRONMENT | {"OMP_WAIT_POLICY": "ACTIVE"},
    "one thread": LIBRARY_ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
}
_COUNTS = (1, 8, 64)
_SETTINGS_ROUNDS = 7
_SILENCE_S = 5.0
_TOO_LONG_S = 300


def settings_section() -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and no figures."""
    rows = [[name, *_measure_with(settings)] for name, settings in _WAYS.items()]
    counts = (f"{count} waiting, ms a segment" for count in _COUNTS)
    head = ["the judging process", *counts, f"one after {_SILENCE_S:.0f} s of silence, ms", "MB resident"]
    lines = ["## What its libraries are told", "", *markdown_table(head, rows), ""]
    pages = ", ".join(f"`{name}={value}`" for name, value in LARGE_PAGES_ENVIRONMENT.items())
    lines.append(f"Large pages: {pages}; asleep: `OMP_WAIT_POLICY=PASSIVE`.")
    return lines, {}


def _measure_with(settings: dict[str, str]) -> list[object]:
    own = {name: value for name, value in os.environ.items() if name not in LIBRARY_ENVIRONMENT and name != "OMP_NUM_THREADS"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.processes"], env=own | settings, capture_output=True, timeout=_TOO_LONG_S, check=True
        )
    except subprocess.TimeoutExpired:
        return [f"over {_TOO_LONG_S} s in all", *[""] * (len(_COUNTS) + 1)]
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure() -> list[float]:
    """Milliseconds by the clock of a segment, medians; and megabytes."""
    from bench.harness import median_time
    from bench.hot_path import load_hot_path

    with load_hot_path() as ready:

        def judge(count: int) -> object:
            return ready.predictor.predict(ready.sounds(count))

        dense = [1000 * median_time(lambda count=count: judge(count), _SETTINGS_ROUNDS).wall_s / count for count in _COUNTS]
        sparse = 1000 * median_time(lambda: judge(1), _SETTINGS_ROUNDS, lambda: time.sleep(_SILENCE_S)).wall_s
        return [*dense, sparse, tree_memory(os.getpid())]


if __name__ == "__main__":
    print(json.dumps(_measure()))
    sys.stdout.flush()
    os._exit(0)  # vLLM leaves threads behind
