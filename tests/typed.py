"""Commands as typed, in this process, which spares each the start of an interpreter; and as typed at a real terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from typer.testing import CliRunner, Result

from model.errors import EmosllmError


def typed(*arguments: str) -> Result:
    """One command with nobody there to answer; an error that a person would be told is raised."""
    from monitor.cli import app

    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, EmosllmError):
        raise done.exception
    return done


class AtTerminal:
    """A command with a person at its terminal, who reads and types."""

    def __init__(self, *arguments: str) -> None:
        self._terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "monitor.cli", *arguments],
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
