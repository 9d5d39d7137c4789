"""Starts the monitor without a terminal, and ends it from another one. Talks to it through its control socket only."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from model.errors import EmosllmError, NotRunning
from monitor.control import Answer, ask
from monitor.large_pages import LARGE_PAGES
from monitor.store.lock import make_private

_START_S = 30.0
_POLL_S = 0.1


def start_detached(database: Path, arguments: Sequence[str], output: Path) -> Answer:
    """Start `emosllm-monitor` with `arguments` in a session of its own; returns its status once it is there.

    output: file that gets what it prints, which holds no emotion. Raises EmosllmError when one runs already, and with what it printed
    when it ends at once.
    """
    with contextlib.suppress(NotRunning):
        running = ask(database, "status")
        raise EmosllmError(f"the monitor runs already: process {running['pid']}, {running['state']}; `emosllm-monitor stop` ends it")
    make_private(output)
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "monitor.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**LARGE_PAGES, **os.environ},
        )
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EmosllmError(output.read_text(encoding="utf-8", errors="replace").strip().removeprefix("error: "))
        try:
            status = ask(database, "status")
        except NotRunning:
            time.sleep(_POLL_S)
            continue
        # Opening the source takes a moment; what is wrong with a microphone is told as a problem, a recording that is none ends it all.
        opening = status["state"] == "starting" or (status["state"] == "no microphone" and not status["problems"])
        if status["pid"] == process.pid and not opening:
            return status
        time.sleep(_POLL_S)
    process.terminate()
    raise EmosllmError(f"the monitor was not there after {_START_S:.0f} s; see {output}")


def stop(database: Path, patience_s: float) -> bool:
    """End the running monitor in good order and wait for it; False when it still judges what waited after `patience_s`.

    Raises NotRunning.
    """
    ask(database, "stop")
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            ask(database, "status")
        except NotRunning:
            return True
        time.sleep(_POLL_S)
    return False
