"""Runs the installed command as a process, as a person does."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from monitor.config import TimelineConfig
from monitor.store.reader import TimelineReader
from monitor.store.records import CoverageInterval, TimelineEntry

COMMAND = str(Path(sys.executable).parent / "emosllm-monitor")


def run(*arguments: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
    """One command to its end; output as text."""
    done = subprocess.run(
        [COMMAND, *arguments], input=stdin, capture_output=True, env={**os.environ, **(environment or {})}, timeout=300, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def configure(home: Path, **sections: Mapping[str, object]) -> None:
    """Write the person's own settings file into a test's home."""
    lines = []
    for section, settings in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path = home / "config" / "emosllm-monitor" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def stored(home: Path) -> tuple[list[TimelineEntry], list[CoverageInterval]]:
    """All segments and coverage of a test's timeline."""
    from datetime import UTC, datetime

    ever = (datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    with TimelineReader.open(home / "state" / "emosllm-monitor" / "timeline.db", TimelineConfig().keys()) as reader:
        return reader.segments_between(*ever), reader.coverage_between(*ever)


class Running:
    """A `start` that is going on; its output goes to a file so that nothing ever blocks."""

    def __init__(self, home: Path, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any) -> None:
        self._output = home / f"start-{time.monotonic_ns()}.txt"
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [COMMAND, "start", *arguments], env={**os.environ, **(environment or {})}, stdout=file, stderr=subprocess.STDOUT, **options
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def until(self, happened: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for something while it runs."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"it ended:\n{self.output}"
            assert time.monotonic() < deadline, f"waited too long:\n{self.output}"
            time.sleep(0.05)

    def end(self, *signals: signal.Signals, seconds: float = 120) -> int:
        """Send signals, a little apart, and return the exit status."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        return self.process.wait(seconds)


def worker_of(running: Running) -> psutil.Process:
    """The judging process of a monitor, once there is one."""
    found: list[psutil.Process] = []

    def there() -> bool:
        children = psutil.Process(running.process.pid).children()
        # One that was killed has no command line any more until the monitor has seen its end.
        with contextlib.suppress(psutil.NoSuchProcess):
            found[:] = [child for child in children if "monitor.judging.worker" in child.cmdline()]
        return bool(found)

    running.until(there)
    return found[0]


def own_address() -> str:
    """An address of this machine that is not loopback. Nothing is sent to find it: connecting a datagram socket only asks for a route."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family is socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    pytest.skip("this machine has loopback addresses only")
