"""Worker processes, and the logging and progress bars that work in them too. Everything goes to stderr.

Workers end when the process that started them ends, however it ended.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


def log_to_stderr(who: str = "") -> None:
    """Times and messages from here on, each after `who`; libraries say only what is wrong."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=bool(who))
    for noisy in ("accelerate", "httpx", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def worker_pool(count: int, begin: Callable[..., None], arguments: tuple[Any, ...]) -> ProcessPoolExecutor:
    """`count` fresh processes, in each of which `begin(*arguments)` is called first.

    They are spawned, because a process that has used torch's threads must not be forked. Without the watch, workers of a killed parent
    would train on for nobody, or wait for ever.
    """
    return ProcessPoolExecutor(count, get_context("spawn"), _start_worker, (begin, arguments))


def is_worker() -> bool:
    """Whether this process was started by another one of this program."""
    return parent_process() is not None


def _start_worker(begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


logger = logging.getLogger(__name__)

_LINE_EVERY_S = 15.0


class Progress:
    """A stage of `total` steps. `shown` is False on all but one of several processes."""

    def __init__(self, name: str, total: int, done: int = 0, shown: bool = True) -> None:
        self._name, self._total, self._shown = name, total, shown
        self._line_at = 0.0
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            # Bars of several processes on one terminal would overwrite each other.
            disable=not shown or not sys.stderr.isatty() or is_worker(),
        )
        self._task = self._bar.add_task(name, total=total, completed=done, detail="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, step: int, loss: float | None = None) -> None:
        """Step `step`, counted from 0, is done."""
        detail = "" if loss is None else f"loss {loss:.3f}"
        self._bar.update(self._task, completed=step + 1, detail=detail)
        now = time.monotonic()
        if self._shown and self._bar.disable and (now - self._line_at > _LINE_EVERY_S or step + 1 == self._total):
            self._line_at = now
            logger.info("%s: %d of %d %s", self._name, step + 1, self._total, detail)
