"""A training in a process of its own: fed with evidence, listened to, watched, and ended with all it started.

Its sound comes through its standard input, its progress is read from its standard error and goes to a log of the last run, its answer is
its standard output. It gets no key. Knows nothing of what it learns.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import psutil

from model.errors import TrainingError
from model.server_key import KEY_VARIABLE as SERVER_KEY_VARIABLE
from monitor.config import RetrainConfig
from monitor.large_pages import LARGE_PAGES
from monitor.store.key_places import VARIABLE as STORE_KEY_VARIABLE

_LOOK_EVERY_S = 0.25
_END_S = 10.0
_LONGEST_LINE, _LONGEST_ANSWER = 4096, 4 * 2**20
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class Halted(Exception):
    """It was ended in good order before it was ready, and can go on another time; says why."""


class TrainingProcess:
    """One run of `python -m train` with some arguments.

    feed: writes to its standard input, in a thread of its own. tell: is given its progress, line by line, from another thread.
    watch: is called about four times a second; what it raises ends the process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        limits: RetrainConfig,
        log: Path,
        feed: Callable[[BinaryIO], None],
        tell: Callable[[str], None],
        watch: Callable[[], None],
    ) -> None:
        self._limits, self._log, self._feed, self._tell, self._watch = limits, log, feed, tell, watch
        self._answer, self._complaint = b"", ""
        self._feeding: Exception | None = None
        # What ends with its parent ends with the very thread that started it, which is the one that waits below.
        try:
            self._process = subprocess.Popen(
                [*_lowly(limits.max_cores), sys.executable, "-P", "-m", "train", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(limits.max_cores),
                start_new_session=True,
            )
        except OSError as error:
            raise TrainingError(f"the training cannot be started: {error.strerror}") from error

    def run(self) -> bytes:
        """Its answer, once it is ready. To be called once, by the thread that made it.

        Raises TrainingError with its words or what became of it, Halted when its time is over, and what `feed` and `watch` raise.
        """
        threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read_progress, self._read_answer)]
        for thread in threads:
            thread.start()
        try:
            self._wait()
        finally:
            self._end()
            for thread in threads:
                thread.join(_END_S)
        if self._feeding is not None:
            raise self._feeding
        if self._process.returncode != 0:
            raise TrainingError(self._epitaph())
        return self._answer

    def _wait(self) -> None:
        deadline = time.monotonic() + 60 * self._limits.max_minutes
        while self._process.poll() is None:
            self._watch()
            if time.monotonic() > deadline:
                raise Halted(f"it was stopped after {self._limits.max_minutes} minutes ([retrain] max_minutes), and goes on next time")
            self._refuse_memory()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_EVERY_S)

    def _refuse_memory(self) -> None:
        used_mib = sum(_resident(process) for process in self._tree()) / 2**20
        if used_mib > self._limits.max_memory_mib:
            allowed = f"{self._limits.max_memory_mib} that it may take ([retrain] max_memory_mib)"
            raise TrainingError(f"the training was stopped: it took {used_mib:.0f} MiB of memory, more than the {allowed}")

    def _tree(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _end(self) -> None:
        """End it in good order if it has not ended, then whatever it left."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGTERM)
                self._process.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            # What broke off is recognised as such at the other end, and who has ended says why itself.
            with contextlib.suppress(OSError), self._process.stdin as file:
                self._feed(cast(BinaryIO, file))
        except Exception as error:  # it belongs to the thread that waits
            self._feeding = error

    def _read_answer(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as file:
            while part := file.read(_LONGEST_LINE):
                if len(self._answer) < _LONGEST_ANSWER:
                    self._answer += part

    def _read_progress(self) -> None:
        assert self._process.stderr is not None
        log = _Log(self._log)
        with self._process.stderr as file, log:
            while line := file.readline(_LONGEST_LINE):
                log.write(line)
                if text := line.decode(errors="replace").strip():
                    self._complaint = text
                    self._tell(text.removeprefix("error: "))

    def _epitaph(self) -> str:
        code = self._process.returncode
        if code > 0 and self._complaint.startswith("error: "):
            return self._complaint.removeprefix("error: ")
        ended = f"was ended by the signal {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        last = f"; the last it said was: {self._complaint}" if self._complaint else ""
        return f"the training {ended}{last} (see {self._log})"


class _Log:
    """What the last run said, for its owner alone. A disk that is full costs the log, not the training."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0)

    def write(self, line: bytes) -> None:
        """Add a line, if there is room for it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(line)

    def __exit__(self, *_raised: object) -> None:
        if self._file is not None:
            self._file.close()


def _lowly(cores: int) -> list[str]:
    return [sys.executable, "-P", "-m", "monitor.retraining.lowly", str(os.getpid()), str(cores)]


def _environment(cores: int) -> dict[str, str]:
    """As here, without keys, as it needs none and no network; nor large pages, as its memory is bounded and never at rest."""
    left_out = {STORE_KEY_VARIABLE, SERVER_KEY_VARIABLE, *LARGE_PAGES}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **dict.fromkeys(_THREADS, str(cores)), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
