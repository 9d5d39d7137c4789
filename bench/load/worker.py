"""A process of some of the monitors: `python -m bench.load.worker SPEC OUT`. They share one encoder and one thread of torch."""

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bench.load.monitor import Heard, Place, SimulatedMonitor
from bench.sounds import DEMO
from model.audio import float_to_pcm16, read_audio
from model.bundle import open_bundle
from model.manifest import find_bundle


def main() -> None:
    """Run them, and write what each tells."""
    spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    bundle, heard = open_bundle(find_bundle("compact")), Heard.of(float_to_pcm16(read_audio(DEMO)))
    monitors = [SimulatedMonitor(Place(**place), bundle, heard) for place in spec["places"]]
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    with ThreadPoolExecutor(len(monitors)) as pool:
        told = list(pool.map(lambda monitor: monitor.run(start, start + spec["seconds"]), monitors))
    out.write_text(json.dumps([one.as_json() for one in told]))


if __name__ == "__main__":
    main()
