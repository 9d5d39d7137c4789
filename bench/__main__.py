"""`python -m bench`: runs every benchmark and prints its tables. Ratios measured side by side in one run; no timed tests."""

import platform
import sys
from importlib.metadata import version

import torch

from bench import cached_states, days, exchange, faults, idle, latency, parts, segmenter, swaps, throughput


def main() -> None:
    """Print all results as Markdown."""
    print(f"Python {platform.python_version()}, torch {version('torch')}, {torch.get_num_threads()} threads, {platform.machine()}\n")
    for benchmark in (segmenter, parts, throughput, latency, swaps, cached_states, days, exchange, idle, faults):
        print("\n".join(benchmark.run()), end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
