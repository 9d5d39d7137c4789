"""A training in a process of its own, and the folder that an interrupted training leaves.

The audio goes to its standard input, progress comes from its standard error and goes to a log of the last run, the answer is its standard
output. It gets no key. The folder holds half-trained weights and says which segments they learned from, as a bundle does
(`learned_from.json`), so that deleting any of it deletes the folder; it has no labels and no audio in it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import psutil

from model.bundle_format import LEARNED_FROM_FILE
from model.errors import TrainingError
from model.remote import API_KEY_VARIABLE as SERVER_KEY_VARIABLE
from monitor.bundles.registry import learned_from_any
from monitor.config import LARGE_PAGES_ENVIRONMENT, RetrainConfig
from monitor.fileio import locked, make_private_folder, write_private_atomic
from monitor.paths import training_dir
from monitor.storage.keys import STORE_KEY_VARIABLE

if TYPE_CHECKING:
    from monitor.personalization.labels import LabelSet, SegmentLabel


MAX_RESUME_AGE = timedelta(days=3)
"""What was interrupted longer ago is not gone on with: there is more to learn from by now."""


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """folder: what is removed when it is over."""

    folder: Path

    @classmethod
    def of_this_machine(cls) -> "TrainingFolder":
        """The one there is."""
        return cls(training_dir())

    @property
    def weights(self) -> Path:
        """For the training's own use."""
        return self.folder / "weights"

    @property
    def out(self) -> Path:
        """Where the new bundle comes."""
        return self.folder / "new"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains while the block runs. Raises TrainingError when somebody does, or when it cannot be written."""
        try:
            make_private_folder(self.folder)
            held = contextlib.ExitStack()
            held.enter_context(locked(self.folder, wait=False))
        except BlockingIOError as error:
            raise TrainingError("another training is going on; wait for it, or end it first") from error
        except OSError as error:
            raise TrainingError(f"cannot use {self.folder}: {error.strerror}; check the permissions there") from error
        with held:
            yield

    def begun(self, material: "LabelSet", now: datetime) -> "LabelSet":
        """What an interrupted training was about, if it can go on: all of it still holds, and it is not too old. Else all there is."""
        try:
            told = json.loads((self.folder / LEARNED_FROM_FILE).read_text(encoding="utf-8"))
            segments, since = {int(number) for number in told["segments"]}, datetime.fromisoformat(told["since"])
            before = material.only(segments)
            if len(before.pieces) == len(segments) and timedelta() <= now - since < MAX_RESUME_AGE:
                return before
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.clear()
        return material

    def begin(self, pieces: "Sequence[SegmentLabel]", now: datetime) -> None:
        """Say what is learned from, before it is. Raises TrainingError."""
        path = self.folder / LEARNED_FROM_FILE
        if path.exists():
            return
        start, end = min(piece.start_at for piece in pieces), max(piece.end_at for piece in pieces)
        told = {"segments": [piece.segment for piece in pieces], "from": start.isoformat(), "to": end.isoformat()}
        try:
            write_private_atomic(path, json.dumps({**told, "since": now.astimezone(UTC).isoformat()}))
        except OSError as error:
            raise TrainingError(f"cannot write {path}: {error.strerror}; nothing was trained") from error

    def learned_from(self, segments: Collection[int], start: datetime, end: datetime) -> bool:
        """Whether what is here learned from one of the segments, or in that stretch of time, or does not say from what."""
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return False
        return not (self.folder / LEARNED_FROM_FILE).exists() or learned_from_any(self.folder, segments, start, end)

    def failed(self) -> None:
        """A training failed: once it may go on from here, after the second time what is here is taken to be the reason."""
        mark = self.folder / "failed"
        if mark.exists():
            self.clear()
        else:
            mark.touch(0o600)

    def clear(self) -> None:
        """Remove all that is in it; the folder stays, because it may be held."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


_WATCH_EVERY_S = 0.25
_TERMINATE_TIMEOUT_S = 10.0
_MAX_LINE_BYTES, _MAX_ANSWER_BYTES = 4096, 4 * 2**20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class TrainingHalted(Exception):
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
                [*_low_priority_command(limits.max_cores), sys.executable, "-P", "-m", "train", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_training_environment(limits.max_cores),
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
                thread.join(_TERMINATE_TIMEOUT_S)
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
                raise TrainingHalted(
                    f"it was stopped after {self._limits.max_minutes} minutes ([retrain] max_minutes), and goes on next time"
                )
            self._refuse_memory()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_WATCH_EVERY_S)

    def _refuse_memory(self) -> None:
        used_mib = sum(_resident_bytes(process) for process in self._tree()) / 2**20
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
                self._process.wait(_TERMINATE_TIMEOUT_S)
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
            while part := file.read(_MAX_LINE_BYTES):
                if len(self._answer) < _MAX_ANSWER_BYTES:
                    self._answer += part

    def _read_progress(self) -> None:
        assert self._process.stderr is not None
        log = _Log(self._log)
        with self._process.stderr as file, log:
            while line := file.readline(_MAX_LINE_BYTES):
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


def _low_priority_command(cores: int) -> list[str]:
    return [sys.executable, "-P", "-m", "monitor.personalization.low_priority", str(os.getpid()), str(cores)]


def _training_environment(cores: int) -> dict[str, str]:
    """As here, without keys, as it needs none and no network; nor large pages, as its memory is bounded and never at rest."""
    left_out = {STORE_KEY_VARIABLE, SERVER_KEY_VARIABLE, *LARGE_PAGES_ENVIRONMENT}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **dict.fromkeys(_THREAD_VARIABLES, str(cores)), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
