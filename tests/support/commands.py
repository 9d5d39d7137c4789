"""Run commands: as installed processes, in this process (saves an interpreter start), or at a real pseudo-terminal."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from model.errors import EmosllmError
from monitor.config import TimelineConfig
from monitor.storage.reader import TimelineReader
from monitor.storage.records import CoverageInterval, SegmentRecord

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


def stored(home: Path) -> tuple[list[SegmentRecord], list[CoverageInterval]]:
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
            found[:] = [child for child in children if "monitor.inference.worker" in child.cmdline()]
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


def typed(*arguments: str) -> Result:
    """One command with nobody there to answer; an error that a person would be told is raised."""
    from monitor.cli.main import app

    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, EmosllmError):
        raise done.exception
    return done


class AtTerminal:
    """A command with a person at its terminal, who reads and types."""

    def __init__(self, *arguments: str) -> None:
        self._terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "monitor.cli.main", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # What a shell starts in the background, these tests perhaps, is deaf to Ctrl-C, and so is what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        self.shown = ""

    def answer(self, prompt: str, text: str) -> None:
        """Wait for a prompt that was not answered yet, and type a line."""
        self._until(prompt)
        self.shown = self.shown.replace(prompt, "")
        os.write(self._terminal, text.encode())

    def end(self) -> int:
        """Read to the end; returns the exit status."""
        while self._read():
            pass
        os.close(self._terminal)
        return self._process.wait(10)

    def interrupt(self, prompt: str) -> int:
        """Ctrl-C at a prompt, not so soon that the line is not waited for yet; returns the exit status."""
        self._until(prompt)
        time.sleep(0.5)
        self._process.send_signal(signal.SIGINT)
        return self.end()

    def _until(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), f"it ended: {self.shown}"

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 30)[0]:
            raise AssertionError(f"nothing happens any more: {self.shown}")
        try:
            text = os.read(self._terminal, 4096).decode().replace("\r\n", "\n")
        except OSError:  # the other end was closed
            return False
        self.shown += text
        return bool(text)


def lines(done: Result) -> Sequence[str]:
    """What it printed, by line, without spaces at the ends."""
    return [line.rstrip() for line in done.stdout.splitlines()]
