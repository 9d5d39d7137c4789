"""What taking a timeline away, bringing it back and forgetting a day of it take, for two sizes in one run: time, memory, and size of files.

Memory is the resident peak of a process of its own for each, as the person would start it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitor.config import TimelineConfig
from monitor.store.cipher import connect
from monitor.store.timeline import Timeline

_SIZES = (100_000, 500_000)
_NOON = datetime(2024, 7, 1, 12, tzinfo=UTC)
_APART_S = 120
_ROW = (
    "INSERT INTO segment (stream, start_sample, end_sample, start_at, end_at, zone, state, emotion, confidence, unsure, posterior,"
    " bundle_version, judged_at, loudness_db, pitch_hz)"
    " VALUES ('one', ?, ?, ?, ?, 'Europe/Paris', 'judged', 'N', 0.7, 0, ?, 'compact', ?, -21.5, 143.2)"
)
_POSTERIOR = json.dumps(dict(zip("NASHUFD", (0.7, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05), strict=True)))


def run() -> list[str]:
    """Markdown lines."""
    taken = [_measure(size) for size in _SIZES]
    small, large = _SIZES
    lines = ["## Export, import and forgetting", ""]
    lines += [f"| done | {small} segments | {large} segments | ratio of time | resident peak, small and large |", "|---|---|---|---|---|"]
    for what in taken[0]:
        (first, first_mib), (second, second_mib) = taken[0][what], taken[1][what]
        lines.append(f"| {what} | {first:.1f} s | {second:.1f} s | {second / first:.1f} | {first_mib:.0f} and {second_mib:.0f} MiB |")
    return lines


def _measure(segments: int) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of each act."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = TimelineConfig(database=f"{folder}/timeline.db", key="file")
        _fill(settings, segments)
        day = (_NOON + timedelta(seconds=segments * _APART_S / 2)).date()
        acts = {
            "export as JSON lines": (home, f"export --format jsonl --out {folder}/out.jsonl"),
            "export as CSV": (home, f"export --format csv --out {folder}/out"),
            "export as Parquet": (home, f"export --format parquet --out {folder}/parquet"),
            "import of the JSON lines": (home / "new", f"import {folder}/out.jsonl"),
            "forget a day": (home, f"forget --day {day} --yes"),
        }
        return {what: _timed(*act) for what, act in acts.items()}


def _timed(home: Path, command: str) -> tuple[float, float]:
    home.mkdir(exist_ok=True)
    config = home / "config.toml"
    config.write_text(f'[timeline]\ndatabase = "{home}/timeline.db"\nkey = "file"\n')
    begin = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "monitor.cli", "--config", str(config), *command.split()],
        env={**os.environ, "XDG_STATE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, command
    return time.monotonic() - begin, used.ru_maxrss / 1024


def _fill(settings: TimelineConfig, segments: int) -> None:
    path = settings.database_path()
    os.environ["XDG_STATE_HOME"] = str(path.parent)
    Timeline.open(path, settings.zone_info(), settings.keys()).close()
    with closing(connect(path, settings.keys().find(path), read_only=False, timeout_s=5.0)) as connection:
        moments = (_NOON + timedelta(seconds=number * _APART_S) for number in range(segments))
        rows = (
            (number, number + 1, _text(at), _text(at + timedelta(seconds=4)), _POSTERIOR, _text(at)) for number, at in enumerate(moments)
        )
        connection.executemany(_ROW, rows)
        connection.commit()


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
