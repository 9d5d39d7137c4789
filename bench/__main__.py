"""`python -m bench [--quick]`: measures what a machine without a GPU can show in a quarter of an hour, and writes bench/RESULTS.md.

--quick takes about seven minutes. Each section compares ways or sizes side by side in one run, so its ratios hold on a busy machine too.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from monitor.config import LARGE_PAGES_ENVIRONMENT
from monitor.inference.worker_process import LIBRARY_ENVIRONMENT

os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", VLLM_LOGGING_LEVEL="ERROR")
if __name__ == "__main__" and not LIBRARY_ENVIRONMENT.keys() <= os.environ.keys():
    # As the judging process has them: Python and libc read some of them before anything of ours runs.
    os.execve(sys.executable, [sys.executable, "-m", "bench", *sys.argv[1:]], {**LIBRARY_ENVIRONMENT, **os.environ})

from bench import hot_path, latency, processes, report
from bench.hot_path import load_hot_path

RESULTS = Path(__file__).parent / "RESULTS.md"

_Section = Callable[[], tuple[list[str], dict[str, float]]]


def main() -> None:
    """Write the results, printing each section as it is known."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write to (default: bench/RESULTS.md)")
    asked = parser.parse_args()
    for name in LARGE_PAGES_ENVIRONMENT:
        # Python and libc have read them by now; commands that are measured shall run as a person runs them.
        os.environ.pop(name, None)
    load = os.getloadavg()
    sections: list[str] = []
    figures: dict[str, float] = {}

    def add(measure: _Section) -> None:
        lines, found = measure()
        print("\n".join(lines), end="\n\n", flush=True)
        sections.extend([*lines, ""])
        figures.update(found)

    add(lambda: latency.latency_section(asked.quick))
    add(lambda: processes.processes_section(asked.quick))
    if not asked.quick:
        add(processes.settings_section)
    with load_hot_path() as ready:
        add(lambda: hot_path.throughput_section(ready, asked.quick))
        add(lambda: hot_path.breakdown_section(ready, asked.quick))
        add(lambda: latency.growth_section(ready, asked.quick))
        add(lambda: report.hourly_costs(figures, ready.average_s))
    text = "\n".join([*report.results_head(report.describe_machine(load), figures, asked.quick), *sections, *report.results_foot()])
    asked.out.write_text(text, encoding="utf-8")
    print(f"written to {asked.out}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # vLLM leaves threads behind
