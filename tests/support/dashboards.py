"""A dashboard as a person starts it: the installed command, with a terminal to press Enter in, and a timeline of its own."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from monitor.storage.cipher import Connection, connect
from monitor.storage.feedback import FeedbackStore
from monitor.storage.keys import KeyStore
from monitor.storage.reader import TimelineReader
from monitor.storage.writer import TimelineWriter
from tests.support.commands import COMMAND
from tests.support.days import zone_by_day

ZONE = zone_by_day()
_PATIENCE_S = 60.0


@dataclass
class Dashboard:
    """A running dashboard. terminal: the side of the person."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    terminal: int
    output: str = ""

    @property
    def database(self) -> Path:
        """The timeline that it shows."""
        return database_in(self.folder)

    @property
    def keys(self) -> KeyStore:
        """Where the timeline's key is."""
        return keys_in(self.folder)

    def link(self) -> str:
        """A fresh link."""
        seen = len(self.output)
        os.write(self.terminal, b"\n")
        return self.until(r"http://\S+\r?\n", seen).strip()

    def until(self, pattern: str, seen: int = 0) -> str:
        """The first match in what it has printed since; waits for it."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (found := re.search(pattern, self.output[seen:])):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            if select.select([self.terminal], [], [], 0.2)[0]:
                self.output += os.read(self.terminal, 65_536).decode()
        return found[0]

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return self.until(r"http://127\.0\.0\.1:\d+")

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A browser that came in by a link of its own; relative addresses are below the dashboard's place."""
        with httpx.Client(follow_redirects=True, headers={"Origin": self.origin}, timeout=30) as client:
            arrived = client.get(self.link())
            assert arrived.status_code == 200, arrived.text
            client.base_url = arrived.url
            yield client

    def reader(self) -> TimelineReader:
        """What is stored."""
        return TimelineReader.open(self.database, self.keys)

    def words(self) -> FeedbackStore:
        """The person's word by another way, such as the command line."""
        return FeedbackStore.open(self.database, ZONE, self.keys)


def database_in(folder: Path) -> Path:
    return folder / "state" / "emosllm-monitor" / "timeline.db"


def keys_in(folder: Path) -> KeyStore:
    return KeyStore("file", folder / "state" / "emosllm-monitor")


def timeline_in(folder: Path) -> TimelineWriter:
    """The timeline that a dashboard in this folder will show, created where it is missing."""
    return TimelineWriter.open(database_in(folder), ZONE, keys_in(folder))


def raw_in(folder: Path) -> Connection:
    """The same, past all rules of the program."""
    return connect(database_in(folder), keys_in(folder).find(database_in(folder)), read_only=False, timeout_s=5.0)


@contextmanager
def showing(folder: Path, settings: str = "") -> Iterator[Dashboard]:
    """Run `dashboard` with its home in a folder, ended as by Ctrl-C. settings: more lines for its settings file."""
    config = folder / "config.toml"
    config.write_text(f'[timeline]\nzone = "{ZONE}"\nkey = "file"\n{settings}', encoding="utf-8")
    environment: Mapping[str, str] = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "--config", str(config), "dashboard"], env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    running = Dashboard(folder, process, person)
    try:
        running.until(r"Press Enter")
        yield running
    finally:
        process.send_signal(2)
        try:
            assert process.wait(_PATIENCE_S) == 0, running.output
        finally:
            process.kill()
            os.close(person)
