"""A running monitor as the system sees it: how soon it listens and judges, what its processes hold and cost while nobody speaks.

A monitor with the default settings hears a faint hum from a virtual microphone. Processor time is what the kernel has counted for each
process, so other work on the machine changes it little.
"""

import os
import resource
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass

import psutil

from bench.studies.watched import home
from bench.tables import table
from tests.commands import COMMAND, Running, configure, worker_of
from tests.virtual_microphone import VirtualMicrophone

# After a start what was missed is made up: summaries, a backup.
_SETTLE_S = 25.0
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class _Cost:
    """Megabytes: resident; without what others share a part in; of it alone."""

    cpu_s: float
    rss: float
    pss: float
    uss: float


def run(quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name."""
    if missing := VirtualMicrophone.missing():
        return ["## A running monitor", "", missing], {}
    with home() as folder, VirtualMicrophone(hum=True) as microphone:
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
    lines = ["## A running monitor", "", *table(["start-up", "s", "CPU s"], starts), ""]
    return lines + table(["while nobody speaks", "of one core", "MB resident (RSS)", "PSS", "USS"], rows), figures


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
    found = [_once(*arguments) for _ in range(_ROUNDS)]
    return statistics.median(cpu for cpu, _ in found), statistics.median(wall for _, wall in found)


def _once(*arguments: str) -> tuple[float, float]:
    began, before = time.monotonic(), _children_s()
    subprocess.run([COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return _children_s() - before, time.monotonic() - began


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
