"""`python -m bench.load [--monitors 50] [--minutes 10]`: prints Markdown. Needs Debian's PostgreSQL, as the tests do."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import psutil

from bench.harness import DEMO
from bench.load.report import WARM_UP_S, ClinicRows, Costs, Event, LoadResult, report_lines
from bench.load.simulated_monitors import MonitorSpec
from model.audio import audio_length_s
from monitor.server.clients import add_client
from tests.support.clinic import Clinic, Postgres, postgres
from tests.support.servers import SharedServer

_WORKERS = 2
_LEAD_S = 5.0
# Parts of the whole: when the servers are killed, and when strangers bother them.
_KILLED_AT, _CLINIC_GONE_AT, _HOSTILE_CLIENTS = (0.2, 0.45), 0.32, (0.65, 0.95)
_CLINIC_GONE_S = 20.0
_DRAINED_S = 600
_BEFORE_S = 5.0
# With less, nothing is left between the warm-up and the first kill.
_SHORTEST_MINUTES = 4.0


def run(monitors: int, seconds: float) -> list[str]:
    """Markdown lines."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emosllm-load-")))
        (folder / "server").mkdir()
        server = stack.enter_context(SharedServer(folder / "server"))
        database = stack.enter_context(postgres())
        clinic = database.clinic("load")
        places = [_monitor_spec(number, monitors, folder, server, clinic) for number in range(monitors)]
        workers = [_worker(folder, number, places[number::_WORKERS], seconds, stack) for number in range(_WORKERS)]
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        start = time.time() + _LEAD_S
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{start}\n")
            worker.stdin.flush()
        strangers = _hostile_clients(folder, server, start + _HOSTILE_CLIENTS[0] * seconds, start + _HOSTILE_CLIENTS[1] * seconds)
        costs = _costs({"vLLM": server.process_id, "PostgreSQL": database.process_id}, workers, start, seconds)
        events = _inject_faults(server, database, start, seconds)
        for process in (*workers, strangers):
            if process.wait(seconds + _DRAINED_S):
                raise RuntimeError(f"a process of the load test failed with status {process.returncode}")
        told = [one for number in range(_WORKERS) for one in json.loads((folder / f"told-{number}.json").read_text())]
        bothered = (start + _HOSTILE_CLIENTS[0] * seconds, start + _HOSTILE_CLIENTS[1] * seconds)
        answers = json.loads((folder / "strangers.json").read_text())
        return report_lines(LoadResult(start, seconds, told, events, bothered, answers, _clinic_rows(clinic), costs))


def _monitor_spec(number: int, monitors: int, folder: Path, server: SharedServer, clinic: Clinic) -> MonitorSpec:
    name = f"person{number:03}"
    (folder / name).mkdir(mode=0o700)
    return MonitorSpec(
        name=name,
        folder=str(folder / name),
        server=server.server.url,
        key=add_client(server.clients, name),
        ca_file=server.server.ca_file,
        clinic=clinic.add("subject", name),
        offset=number * audio_length_s(DEMO) / monitors,
    )


def _worker(folder: Path, number: int, places: Sequence[MonitorSpec], seconds: float, stack: ExitStack) -> "subprocess.Popen[str]":
    spec = folder / f"spec-{number}.json"
    spec.write_text(json.dumps({"places": [asdict(place) for place in places], "seconds": seconds}))
    command = [sys.executable, "-m", "bench.load.simulated_monitors", str(spec), str(folder / f"told-{number}.json")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.kill)
    return process


def _hostile_clients(folder: Path, server: SharedServer, begin: float, end: float) -> "subprocess.Popen[bytes]":
    keys = {name: add_client(server.clients, name) for name in ("flood", "broken")}
    spec = {"server": server.server.url, "ca_file": server.server.ca_file, "from": begin, "until": end, **keys}
    (folder / "strangers-spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "bench.load.hostile_clients", str(folder / "strangers-spec.json"), str(folder / "strangers.json")]
    return subprocess.Popen(command)


def _costs(servers: Mapping[str, int], workers: "Sequence[subprocess.Popen[str]]", start: float, seconds: float) -> Costs:
    """Processor time until shortly before the first kill."""
    time.sleep(max(0.0, start + WARM_UP_S - time.time()))
    watched = {name: [process] for name, process in servers.items()} | {"monitors": [worker.pid for worker in workers]}
    begin, before = time.time(), {name: _cpu_s(processes) for name, processes in watched.items()}
    time.sleep(max(0.0, start + _KILLED_AT[0] * seconds - _BEFORE_S - time.time()))
    return Costs(begin, time.time(), {name: _cpu_s(processes) - before[name] for name, processes in watched.items()})


def _cpu_s(process_ids: Iterable[int]) -> float:
    """Of processes and all that they started and that still runs."""
    firsts = [psutil.Process(process_id) for process_id in process_ids]
    times = [process.cpu_times() for first in firsts for process in (first, *first.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _inject_faults(server: SharedServer, database: Postgres, start: float, seconds: float) -> list[Event]:
    """Kill the vLLM server twice, and PostgreSQL once for a while. Returns what was done."""
    events = []
    for part, what in sorted([*((part, "vLLM killed") for part in _KILLED_AT), (_CLINIC_GONE_AT, "PostgreSQL killed")]):
        time.sleep(max(0.0, start + part * seconds - time.time()))
        at = time.time()
        if what == "vLLM killed":
            server.kill()
            server.start()
        else:
            database.stop()
            time.sleep(_CLINIC_GONE_S)
            database.start()
        events.append(Event(what, at, time.time()))
    return events


def _clinic_rows(clinic: Clinic) -> ClinicRows:
    """What the clinic has in the end."""
    counts = "count(*), count(DISTINCT (stream, start_sample)), count(*) FILTER (WHERE state = 'judged')"
    rows = clinic.rows(f"SELECT subject, {counts} FROM emosllm.segment GROUP BY subject")
    ((size,),) = clinic.rows("SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('emosllm.segment')")
    return ClinicRows({name: (total, different, judged) for name, total, different, judged in rows}, int(size))


def main() -> None:
    """Run it as long and as wide as asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--monitors", type=int, default=50, help="how many people are heard")
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long")
    options = parser.parse_args()
    if options.minutes < _SHORTEST_MINUTES:
        parser.error(f"--minutes must be at least {_SHORTEST_MINUTES:.0f}: with less, there is nothing undisturbed to compare with")
    print("\n".join(run(options.monitors, 60 * options.minutes)))


if __name__ == "__main__":
    main()
