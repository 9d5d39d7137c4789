"""A day and more through the whole monitor, as fast as it goes: does memory stay flat, and do stream and wall clock stay together?

    python -m bench.studies.soak [hours]

A synthetic day of a quiet home (room noise, now and then one of the demo's spoken clips) is piped into `start --source -` with
`--at`, and judged through transformers. Resident memory of both processes is read while it goes. At the end the last coverage must
lie where the number of samples says, and every clip's segment where it was placed.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil

from bench.harness import spoken_clips
from model.audio import SAMPLE_RATE, Int16
from model.errors import NotRunning
from monitor.config import TimelineConfig
from monitor.control import send_command
from monitor.storage.reader import TimelineReader
from monitor.storage.records import Coverage

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_BLOCK_S = 60
_CLIP_EVERY_S = 60.0
_NOISE = 20.0
_NEAR_S = 2.0
_TENTH = 0.1


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory of one process in MiB: when a tenth had been heard, the most after that, and at the end."""

    tenth: float
    most: float
    last: float

    @property
    def percent(self) -> float:
        """How much the most lies above the first tenth."""
        return 100 * (self.most / self.tenth - 1)


def run(hours: float = 24.0) -> list[str]:
    """Markdown lines."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_STATE_HOME": f"{folder}/state", "XDG_CONFIG_HOME": f"{folder}/config"}
        os.environ.update(environment)
        Path(folder, "config", "emosllm-monitor").mkdir(parents=True)
        Path(folder, "config", "emosllm-monitor", "config.toml").write_text('[engine]\nkind = "transformers"\n')
        began = time.monotonic()
        memory, placed = _play(hours, environment)
        took_s = time.monotonic() - began
        found, drift_s, heard_s = _compare(placed, hours)
    lines = [
        f"## Soak: {hours:.0f} h of sound in {took_s / 60:.0f} min ({hours * 3600 / took_s:.0f} times as fast as real time)",
        "",
        "| | after a tenth, MiB | the most after that | growth |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {one.tenth:.0f} | {one.most:.0f} | {one.percent:+.1f} % |" for name, one in memory.items()]
    return [
        *lines,
        "",
        f"Of {len(placed)} spoken clips {found} were found. Segments begin {drift_s[0]:+.3f} s from where their clips were placed in the "
        f"first tenth (median), {drift_s[1]:+.3f} s in the last. Stored as heard: {heard_s:.3f} s of {hours * 3600:.0f} s.",
    ]


def _play(hours: float, environment: dict[str, str]) -> tuple[dict[str, Growth], list[float]]:
    """Pipe the day in; memory by process, and where clips begin in seconds."""
    command = [str(Path(sys.executable).parent / "emosllm-monitor"), "start", "--source", "-", "--at", f"{_AT:%Y-%m-%dT%H:%M}+00:00"]
    placed: list[float] = []
    samples: dict[str, list[tuple[float, float]]] = {"listening": [], "judging": []}
    progress = [0.0]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as process:
        watcher = threading.Thread(target=_watch, args=(process.pid, samples, progress), daemon=True)
        watcher.start()
        assert process.stdin is not None
        blocks = round(hours * 3600 / _BLOCK_S)
        for number, (block, begins) in enumerate(_day(blocks)):
            process.stdin.write(block.tobytes())
            process.stdin.flush()
            if number == 0:
                _wait_for_engine()
            placed += begins
            progress[0] = (number + 1) / blocks
        process.stdin.close()
        if process.wait() != 0:
            raise RuntimeError(f"the monitor ended with {process.returncode}")
    return {name: _growth(series) for name, series in samples.items()}, placed


def _wait_for_engine() -> None:
    """Loading takes memory and time that are not what is looked for."""
    while True:
        try:
            if send_command(TimelineConfig().database_path(), "status")["engine"] == "ready":
                return
        except NotRunning:
            pass
        time.sleep(0.2)


def _day(blocks: int) -> Iterator[tuple[Int16, list[float]]]:
    """Minutes of room noise, with a clip in each."""
    spoken = spoken_clips()
    for number in range(blocks):
        rng = np.random.default_rng(number)
        block = rng.normal(scale=_NOISE, size=_BLOCK_S * SAMPLE_RATE)
        clip = spoken[number % len(spoken)]
        start_s = float(rng.uniform(5, _CLIP_EVERY_S - 15))
        start = round(start_s * SAMPLE_RATE)
        block[start : start + len(clip)] += clip
        yield block.clip(-32_768, 32_767).astype(np.int16), [number * _BLOCK_S + start_s]


def _watch(pid: int, samples: dict[str, list[tuple[float, float]]], progress: list[float]) -> None:
    main = psutil.Process(pid)
    while True:
        try:
            samples["listening"].append((progress[0], main.memory_info().rss / 2**20))
            for child in main.children():
                if "monitor.inference.worker" in child.cmdline():
                    samples["judging"].append((progress[0], child.memory_info().rss / 2**20))
        except psutil.Error:
            return
        time.sleep(1)


def _growth(series: list[tuple[float, float]]) -> Growth:
    tenth = max(rss for share, rss in series if share <= _TENTH)
    return Growth(tenth, max(rss for share, rss in series if share > _TENTH), series[-1][1])


def _compare(placed: list[float], hours: float) -> tuple[int, tuple[float, float], float]:
    """Clips found; the median distance between a clip and its segment in the first and last tenth; seconds stored as heard."""
    settings = TimelineConfig()
    with closing(TimelineReader.open(settings.database_path(), settings.keys())) as reader:
        span = _AT, _AT + timedelta(hours=hours, minutes=1)
        starts = np.array([(entry.start_at - _AT).total_seconds() for entry in reader.segments_between(*span)])
        coverage = reader.coverage_between(*span)
    distances = [
        float(starts[nearest] - begin) for begin in placed if abs(starts[nearest := int(np.abs(starts - begin).argmin())] - begin) < 2
    ]
    tenth = max(1, len(distances) // 10)
    heard_s = sum((part.end_at - part.start_at).total_seconds() for part in coverage if part.kind is Coverage.HEARD)
    return len(distances), (float(np.median(distances[:tenth])), float(np.median(distances[-tenth:]))), heard_s


if __name__ == "__main__":
    print("\n".join(run(float(sys.argv[1]) if len(sys.argv) > 1 else 24.0)))
